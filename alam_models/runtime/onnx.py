"""The two graphs of a bundle in ONNX Runtime: on the CPU, or on an NVIDIA GPU through CUDA or TensorRT."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

PROVIDERS = {  # what a person asks for: what ONNX Runtime calls it
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
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
    """See Backend in policy.py."""

    def __init__(self, bundle: Path, roles: tuple[str, ...], threads: int, provider: str = "cpu") -> None:
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
        # Spinning worker threads would take the cores from cameras and control.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._roles = roles
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
        self._shapes = {i.name: i.shape for i in self._step.get_inputs()}
        horizon = int(self._shapes["actions"][1])
        _, _, views, width = self._shapes.get("latents", (1, horizon, len(roles), 0))
        self.latent_shape = (horizon, int(views), int(width))
        self._context: dict[str, np.ndarray] = {}  # what the prefix gave, by the names that the step takes

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        inputs = {role: images[role] for role in self._roles}
        given = self._prefix.run(None, {**inputs, "text": text, "state": state})
        self._context = dict(zip((output.name for output in self._prefix.get_outputs()), given, strict=True))

    def velocity(
        self, latents: np.ndarray, actions: np.ndarray, tau_latents: np.ndarray, tau_actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        given = {"latents": latents, "actions": actions, "tau_latents": tau_latents, **self._context}
        one_for_all = len(self._shapes["tau"]) == 1  # as in bundles whose card has no `sampler`
        given["tau"] = tau_actions[:, 0] if one_for_all else tau_actions
        said = self._step.run(None, {name: given[name] for name in self._shapes})
        return (said[0], said[1]) if len(said) == 2 else (latents, said[0])


def _load_tensorrt() -> None:
    """Load TensorRT's libraries, which ONNX Runtime then finds, and make the folder of its engines."""
    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise ValueError(f"provider tensorrt: wanted the package tensorrt, got: {error}; {GPU}") from None
    engine_folder().mkdir(parents=True, exist_ok=True)
