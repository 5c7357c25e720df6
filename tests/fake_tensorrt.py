"""TensorRT and CUDA's runtime as far as alam_models/runtime/tensorrt_runtime.py uses them, on the CPU: an engine is its
ONNX graph, run by ONNX Runtime on memory that only its addresses name."""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class Mode(enum.Enum):
    """Of a tensor of an engine."""

    INPUT = 0
    OUTPUT = 1


class Engine:
    """An ONNX graph with the interface of an engine, its execution context and their addresses."""

    def __init__(self, path: bytes) -> None:
        self._session = onnxruntime.InferenceSession(path.decode(), providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._ends = {**self._inputs, **{o.name: o for o in self._session.get_outputs()}}
        self.num_io_tensors = len(self._ends)
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def get_tensor_name(self, number: int) -> str:
        return list(self._ends)[number]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self._inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> np.dtype:
        return np.dtype(NUMPY[self._ends[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        shape = tuple(n if isinstance(n, int) else -1 for n in self._ends[name].shape)
        if -1 in shape and name not in self._inputs and None not in self._shapes.values() and self._shapes:
            return self._run()[name].shape  # TensorRT infers it
        return shape

    def create_execution_context(self) -> Engine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self._shapes[name] = tuple(shape)

    def execute_async_v3(self, stream: int) -> bool:
        for name, values in self._run().items():
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return True

    def _run(self) -> dict[str, np.ndarray]:
        given = {}
        for name in self._inputs:
            values = np.empty(self.get_tensor_shape(name), self.get_tensor_dtype(name))
            ctypes.memmove(values.ctypes.data, self._addresses[name], values.nbytes)
            given[name] = values
        return dict(zip((o.name for o in self._session.get_outputs()), self._session.run(None, given), strict=True))


class Builder:
    """Builds an engine, which is the name of the parsed file, and counts."""

    built: list[str] = []  # noqa: RUF012

    def __init__(self, logger: object) -> None:
        self.file = ""

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(builder=self, num_inputs=0, get_input=None)

    def create_builder_config(self) -> Any:
        cache = SimpleNamespace(serialize=lambda: b"times")
        return SimpleNamespace(
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=lambda data: cache,
            set_timing_cache=lambda *_: True,
            get_timing_cache=lambda: cache,
        )

    def create_optimization_profile(self) -> None:
        return None

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        Builder.built.append(self.file)
        return self.file.encode()


class OnnxParser:
    """Takes every file."""

    def __init__(self, network: Any, logger: object) -> None:
        self._builder = network.builder

    def parse_from_file(self, path: str) -> bool:
        self._builder.file = path
        return True


def logger(severity: int) -> None:
    return None


logger.ERROR = 0  # type: ignore[attr-defined]


def tensorrt(version: str = "10.0") -> Any:
    return SimpleNamespace(
        __version__=version,
        Logger=logger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=Engine),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        TensorIOMode=Mode,
        nptype=lambda dtype: dtype,
    )


class Cuda:
    """cuda.bindings.runtime: memory on the host, every call a success."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, gpu: str = "A GPU 4000") -> None:
        self._gpu = gpu
        self.memory: list[Any] = []

    def cudaGetDeviceProperties(self, number: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=self._gpu.encode() + b"\0\0")

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 7

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        self.memory.append(ctypes.create_string_buffer(size))
        return 0, ctypes.addressof(self.memory[-1])

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        ctypes.memmove(to, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)
