"""The two graphs of a bundle as TensorRT engines on an NVIDIA GPU: no torch, all memory taken at the start.

Engines are built at the first start, for this GPU, this TensorRT and these graphs, and kept in `engine_folder()`. Their
types are those of the graphs: a bundle that was exported in fp16 computes in float16, in bf16 in bfloat16."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alam_models.runtime.onnx import engine_folder
from alam_models.runtime.policy import Shape, fill, latent_shape

NEEDS = "it needs an NVIDIA GPU and the packages of docker/requirements-gpu.txt; or take runtime onnxruntime"
PREFIX, STEP = "prefix.onnx", "step.onnx"


def build_engine(
    trt: Any,
    graph: Path,
    text: tuple[int, int],
    prefix: tuple[int, int],
    timing: Path | None = None,
    configure: Callable[[Any], None] = lambda config: None,
) -> bytes:
    """An ONNX graph -> its serialised engine, fastest at the longest instruction.

    trt: the module `tensorrt`; text, prefix: fewest and most tokens, where their number varies; timing: file in which
    TensorRT notes what it measured, for the next engine; configure: what else to set. Raises ValueError when TensorRT
    refuses the graph."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ValueError(f"{graph}: wanted a graph that TensorRT reads, got: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    configure(config)
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        if -1 in tensor.shape:
            fewest, most = (_sized(tensor.shape, n) for n in (text if tensor.name == "text" else prefix))
            profile.set_shape(tensor.name, fewest, most, most)
    config.add_optimization_profile(profile)
    if timing is not None:
        config.set_timing_cache(config.create_timing_cache(timing.read_bytes() if timing.is_file() else b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"{graph}: wanted an engine of TensorRT {trt.__version__}, got none; its log says why")
    if timing is not None:
        write(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def engine_file(folder: Path, graph: str, gpu: str, version: str, digest: str) -> Path:
    """-> where the engine of a graph is kept: another GPU, TensorRT or graph has another name."""
    return folder / (re.sub(r"[^\w.]+", "-", f"{graph} {gpu} {version} {digest[:16]}") + ".engine")


def write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


class TensorrtBackend:
    """See Backend in policy.py. What the prefix engine computes stays on the GPU, where the step engine reads it."""

    def __init__(self, bundle: Path, hashes: dict[str, str], text: tuple[int, int], prefix: tuple[int, int]) -> None:
        """hashes: of each graph with its weights; text, prefix: as build_engine.

        Raises ValueError where a package or the GPU is missing, or TensorRT refuses a graph."""
        trt, self._cuda = module("tensorrt"), module("cuda.bindings.runtime")
        gpu = self._call("cudaGetDeviceProperties", 0).name.split(b"\0")[0].decode()
        self._stream = self._call("cudaStreamCreate")
        folder = engine_folder()
        folder.mkdir(parents=True, exist_ok=True)
        timing = engine_file(folder, "timing", gpu, trt.__version__, "").with_suffix(".cache")
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._contexts: dict[str, Any] = {}
        self._memory: dict[str, int] = {}  # on the GPU, by the name of an input or output
        self._host: dict[str, np.ndarray] = {}  # of what comes from outside or goes there
        self.shapes: dict[str, Shape] = {}
        handed_on: set[str] = set()
        for graph, file_hash in hashes.items():
            path = engine_file(folder, graph, gpu, trt.__version__, file_hash)
            if not path.is_file():
                write(path, build_engine(trt, bundle / graph, text, prefix, timing))
            engine = runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise ValueError(f"{path}: wanted an engine of TensorRT {trt.__version__}, got another file; delete it")
            self._contexts[graph] = context = engine.create_execution_context()
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
                shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
                most = _sized(shape, text[1] if name == "text" else prefix[1])
                if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT and graph == PREFIX:
                    handed_on.add(name)
                elif engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and name not in handed_on:
                    self.shapes[name] = tuple(None if n == -1 else n for n in shape)
                if name not in self._memory:
                    self._memory[name] = self._call("cudaMalloc", int(np.prod(most)) * kind.itemsize)
                if name not in handed_on:
                    # An instruction of no words: the first one then has another length.
                    self._host[name] = np.zeros(_sized(shape, 0), trt.nptype(kind))
                context.set_tensor_address(name, self._memory[name])
        self._follow = sorted(handed_on)
        self._gives: list[str] = [name for name in ("latent_velocity", "action_velocity") if name in self._host]
        self.latent_shape = latent_shape(self.shapes)

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        if self.shapes["text"][1] is None and text.shape != self._host["text"].shape:
            self._host["text"] = np.zeros((1, text.shape[1]), np.int64)
            self._contexts[PREFIX].set_input_shape("text", text.shape)
            for name in self._follow:
                self._contexts[STEP].set_input_shape(name, tuple(self._contexts[PREFIX].get_tensor_shape(name)))
        self._run(PREFIX, {**images, "text": text, "state": state}, [])

    def velocity(
        self, latents: np.ndarray, actions: np.ndarray, tau_latents: np.ndarray, tau_actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        given = {"latents": latents, "actions": actions, "tau": tau_actions, "tau_latents": tau_latents}
        self._run(STEP, {name: values for name, values in given.items() if name in self._host}, self._gives)
        said = [self._host[name] for name in self._gives]
        return said[0] if len(said) == 2 else latents, said[-1]

    def _run(self, graph: str, given: dict[str, np.ndarray], wanted: list[str]) -> None:
        """One engine: what is given goes to the GPU, what is wanted comes back to `_host`."""
        kinds = self._cuda.cudaMemcpyKind
        for name, values in given.items():
            fill(self._host[name], values, name)
            self._copy(self._memory[name], self._host[name].ctypes.data, name, kinds.cudaMemcpyHostToDevice)
        if not self._contexts[graph].execute_async_v3(self._stream):
            raise RuntimeError(f"TensorRT could not run {graph}; its log says why")
        for name in wanted:
            self._copy(self._host[name].ctypes.data, self._memory[name], name, kinds.cudaMemcpyDeviceToHost)
        self._call("cudaStreamSynchronize", self._stream)

    def _copy(self, to: int, source: int, name: str, kind: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, self._host[name].nbytes, kind, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """One function of CUDA's runtime -> what it gives. Raises ValueError for its error."""
        error, *values = getattr(self._cuda, name)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise ValueError(f"runtime tensorrt: wanted {name} of CUDA to succeed, got {error.name}; {NEEDS}")
        return values[0] if values else None


def module(name: str) -> Any:
    """-> a package of the GPU image. Raises ValueError when it is not there or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"runtime tensorrt: wanted the package {name}, got: {error}; {NEEDS}") from None


def _sized(shape: Any, tokens: int) -> tuple[int, ...]:
    """A shape with `tokens` where it varies."""
    return tuple(tokens if n == -1 else int(n) for n in shape)
