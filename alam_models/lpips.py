"""Perceptual distance with the published linear heads (LPIPS, Zhang et al. 2018), when its backbone is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

_BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
_operators: list[torch.library.Library] = []


def backbone_path(name: str) -> Path:
    """Where torch keeps the backbone's weights. Raises ValueError for an unknown backbone."""
    if name not in _BACKBONES:
        raise ValueError(f"lpips backbone: wanted one of {sorted(_BACKBONES)}, got {name!r}")
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "torch"
    )
    return Path(home) / "hub" / "checkpoints" / _BACKBONES[name]


class PerceptualDistance(nn.Module):
    """LPIPS between frames in [0, 1]. Its own weights are frozen; gradients flow to the frames."""

    def __init__(self, backbone: str = "vgg") -> None:
        """Raises ValueError, saying where the file belongs, when the backbone's weights are not on this machine."""
        super().__init__()
        path = backbone_path(backbone)
        if not path.is_file():
            raise ValueError(
                f"LPIPS: wanted the {backbone} backbone at {path}, got no such file; put it there, "
                "or switch the term off with --model.weights.perc 0"
            )
        define_torchvision_operators()
        import lpips

        self.distance = lpips.LPIPS(net=backbone, verbose=False).eval().requires_grad_(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1] twice -> (B,)."""
        return self.distance(2 * prediction - 1, 2 * target - 1).flatten()

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Always in evaluation mode: dropout in the linear heads would make the distance random."""
        return super().train(False)


def define_torchvision_operators() -> None:
    """torchvision's wheel for CUDA fails to import beside a CPU build of torch unless its two operators exist."""
    if _operators or torch.cuda.is_available():
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)  # kept alive: the definition ends with the object
