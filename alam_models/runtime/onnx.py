"""The two graphs of a bundle in ONNX Runtime: on the CPU, or on an NVIDIA GPU through CUDA or TensorRT."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from alam_models.runtime.policy import fill, latent_shape

PROVIDERS = {  # what a person asks for: what ONNX Runtime calls it
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}  # of what comes from outside
GPU = "it needs an NVIDIA GPU and the packages of docker/requirements-gpu.txt in place of onnxruntime; or take cpu"


def execution_providers(provider: str, available: list[str]) -> list[Any]:
    """A key of PROVIDERS, and what the installed ONNX Runtime was built with -> the `providers` of a session.

    Raises ValueError for a provider that is not one of them, or that this ONNX Runtime lacks."""
    if provider not in PROVIDERS:
        raise ValueError(f"provider: wanted one of {tuple(PROVIDERS)}, got {provider!r}")
    if PROVIDERS[provider] not in available:
        got = ", ".join(available) or "none"
        raise ValueError(f"provider {provider}: wanted {PROVIDERS[provider]} in ONNX Runtime, got {got}; {GPU}")
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0"})  # full float32, as on the CPU
    if provider == "cuda":
        return [cuda, PROVIDERS["cpu"]]
    if provider == "tensorrt":
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engine_folder())}
        return [(PROVIDERS["tensorrt"], cache), cuda, PROVIDERS["cpu"]]
    return [PROVIDERS["cpu"]]


def engine_folder() -> Path:
    """-> where TensorRT keeps the engines that it builds; not in the bundle, which may be read-only."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alam-tensorrt"


class OnnxBackend:
    """See Backend in policy.py. What the prefix graph computes, the step graph reads where it lies."""

    def __init__(self, bundle: Path, threads: int, provider: str = "cpu") -> None:
        """provider: a key of PROVIDERS. Raises ValueError when ONNX Runtime or the provider is not there, or refuses a
        graph."""
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("runtime onnxruntime: wanted the package onnxruntime, got none; pip install it") from None
        providers = execution_providers(provider, onnxruntime.get_available_providers())
        if provider != "cpu":
            onnxruntime.preload_dlls()  # CUDA's libraries, from the packages that pip installed
        if provider == "tensorrt":
            _load_tensorrt()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Worker threads spin between the operators of a run, and sleep when it ends: the cores then belong to cameras
        # and control. With fewer cores than threads they would wait for one another.
        spin = len(os.sched_getaffinity(0)) >= threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._prefix = onnxruntime.InferenceSession(bundle / "prefix.onnx", options, providers)
            self._step = onnxruntime.InferenceSession(bundle / "step.onnx", options, providers)
        except Exception as error:
            raise ValueError(f"bundle {bundle}: ONNX Runtime refused a graph: {str(error).splitlines()[0]}") from None
        used = self._step.get_providers()
        if PROVIDERS[provider] not in used:  # it falls back by itself where libraries or the GPU are missing
            raise ValueError(
                f"provider {provider}: wanted {PROVIDERS[provider]} to start, got {', '.join(used)}; {GPU}"
            )
        self._on_host = onnxruntime.OrtValue.ortvalue_from_numpy  # without a copy
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._handed_on = [output.name for output in self._prefix.get_outputs()]
        inputs = [i for i in (*self._prefix.get_inputs(), *self._step.get_inputs()) if i.name not in self._handed_on]
        self.shapes = {i.name: tuple(n if isinstance(n, int) else None for n in i.shape) for i in inputs}
        self._buffers = {i.name: np.zeros([n or 0 for n in self.shapes[i.name]], DTYPES[i.type]) for i in inputs}
        self._said = [np.zeros(output.shape, np.float32) for output in self._step.get_outputs()]
        self._bindings: tuple[Any, Any] | None = None  # of both graphs
        self.latent_shape = latent_shape(self.shapes)

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        if self.shapes["text"][1] is None and text.shape != self._buffers["text"].shape:
            self._buffers["text"], self._bindings = np.zeros((1, text.shape[1]), np.int64), None
        for name, values in {**images, "text": text, "state": state}.items():
            fill(self._buffers[name], values, name)
        if self._bindings is None:
            self._bindings = self._bind()
        else:
            self._prefix.run_with_iobinding(self._bindings[0])

    def velocity(
        self, latents: np.ndarray, actions: np.ndarray, tau_latents: np.ndarray, tau_actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._bindings is not None, "the prefix comes first"
        if len(self.shapes["tau"]) == 1:  # as in bundles whose card has no `sampler`
            tau_actions = tau_actions[:, 0]
        given = {"latents": latents, "actions": actions, "tau": tau_actions, "tau_latents": tau_latents}
        for name, values in given.items():
            if name in self._buffers:
                fill(self._buffers[name], values, name)
        self._step.run_with_iobinding(self._bindings[1])
        return self._said[0] if len(self._said) == 2 else latents, self._said[-1]

    def _bind(self) -> tuple[Any, Any]:
        """The first prefix of this length -> both graphs, bound to buffers that stay."""
        prefix, step = self._prefix.io_binding(), self._step.io_binding()
        for binding, session in ((prefix, self._prefix), (step, self._step)):
            for name in (i.name for i in session.get_inputs() if i.name in self._buffers):
                binding.bind_ortvalue_input(name, self._on_host(self._buffers[name]))
        for name in self._handed_on:
            prefix.bind_output(name, self._device)  # ONNX Runtime makes it; its size is known after the run
        self._prefix.run_with_iobinding(prefix)
        for name, value in zip(self._handed_on, prefix.get_outputs(), strict=True):
            prefix.bind_ortvalue_output(name, value)
            step.bind_ortvalue_input(name, value)
        for output, values in zip(self._step.get_outputs(), self._said, strict=True):
            step.bind_ortvalue_output(output.name, self._on_host(values))
        return prefix, step


def _load_tensorrt() -> None:
    """Load TensorRT's libraries, which ONNX Runtime then finds, and make the folder of its engines."""
    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise ValueError(f"provider tensorrt: wanted the package tensorrt, got: {error}; {GPU}") from None
    engine_folder().mkdir(parents=True, exist_ok=True)
