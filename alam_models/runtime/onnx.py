"""The two graphs of a bundle in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class OnnxBackend:
    """See Backend in policy.py."""

    def __init__(self, bundle: Path, roles: tuple[str, ...], threads: int) -> None:
        """Raises ValueError when ONNX Runtime is not installed or refuses a graph."""
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("runtime onnxruntime: wanted the package onnxruntime, got none; pip install it") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning worker threads would take the cores from cameras and control.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._roles = roles
        try:
            self._prefix = onnxruntime.InferenceSession(bundle / "prefix.onnx", options, ["CPUExecutionProvider"])
            self._step = onnxruntime.InferenceSession(bundle / "step.onnx", options, ["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"bundle {bundle}: ONNX Runtime refused a graph: {str(error).splitlines()[0]}") from None
        shape = next(i.shape for i in self._step.get_inputs() if i.name == "latents")
        self.latent_shape = (int(shape[1]), int(shape[2]), int(shape[3]))
        self._keys_values: dict[str, np.ndarray] = {}

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        inputs = {role: images[role] for role in self._roles}
        keys, values = self._prefix.run(["keys", "values"], {**inputs, "text": text, "state": state})
        self._keys_values = {"keys": keys, "values": values}

    def velocity(self, latents: np.ndarray, actions: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"latents": latents, "actions": actions, "tau": np.array([tau], np.float32), **self._keys_values}
        v_latents, v_actions = self._step.run(["latent_velocity", "action_velocity"], inputs)
        return v_latents, v_actions
