"""What a training says of itself: words once, not once a process, and figures for TensorBoard."""

from __future__ import annotations

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.distributed import is_first


def say(words: str) -> None:
    """Prints them, in the first process."""
    if is_first():
        print(words)


def figures(scores: dict[str, float]) -> str:
    """-> them in a line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def log(
    writer: SummaryWriter | None, group: str, figures: dict[str, float], step: int, picture: Tensor | None = None
) -> None:
    """-> TensorBoard, by the process that has a writer."""
    if writer:
        for name, value in figures.items():
            writer.add_scalar(f"{group}/{name}", value, step)
        if picture is not None:
            writer.add_image(f"{group}/reconstruction", picture, step)
        writer.flush()
