"""Parameters and topics of the policy node."""

from __future__ import annotations

from alam_common.parameters import Parameter
from alam_common.topics import CHUNK, CONTRACT, DIAGNOSTICS, IMAGES, LATENTS, STATE

PARAMETERS = (
    Parameter("bundle", "checkpoints/metaworld-mini", "folder of the exported policy to serve", form="path"),
    Parameter("runtime", "onnxruntime", "library that runs the bundle", choices=("onnxruntime", "tensorrt")),
    Parameter("provider", "cpu", "where ONNX Runtime computes", choices=("cpu", "cuda", "tensorrt")),
    Parameter("threads", 2, "CPU threads of one inference", unit="1", low=1, high=256),
    Parameter("steps", 0, "Euler steps from noise to actions; 0: as the bundle says", unit="1", low=0, high=100),
    Parameter(
        "seed",
        0,
        "of the policy's noise; with the observation's id it decides every bit",
        unit="1",
        low=0,
        high=2**31 - 1,
    ),
    Parameter(
        "max_skew",
        0.0,
        "how far apart images and state of one observation may be stamped; 0: equal stamps, as simulators give",
        unit="s",
        low=0.0,
        high=0.5,
    ),
    Parameter("delay", 0.0, "answers are held back this long, to try a slower policy", unit="s", low=0.0, high=1.0),
    Parameter("autostart", True, "configure and activate at start; false: wait for lifecycle commands"),
)
PUBLISHED = (CHUNK, LATENTS, DIAGNOSTICS)
SUBSCRIBED = (*IMAGES.values(), STATE, CONTRACT)
