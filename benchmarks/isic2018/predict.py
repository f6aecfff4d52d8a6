"""Score images with a network that the study trained."""

from pathlib import Path

import torch
from torch import Tensor, nn

from examples.isic2018.data import CLASSES

from .engine import predict_with
from .models import build_model


def save_weights(model: nn.Module, name: str, path: Path) -> None:
    """Write the weights of the study's model `name`, floats in half precision."""
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": name, "state": state}, path)


def predict(weights: str | Path, images: Tensor) -> Tensor:
    """Predict whole dermoscopic images with the weights of a run.

    Args:
        weights: File that the study wrote with `--weights`.
        images: uint8 `(N,3,H,W)`, of the challenge's 4:3; scaled so that the shorter side has 73
            pixels and cut to the central 64, as in the study.

    Returns:
        Probabilities `(N,7)` in the order MEL, NV, BCC, AKIEC, BKL, DF, VASC; rows sum to 1.

    Raises:
        TypeError: if `images` are not uint8.
        ValueError: if `images` are not `(N,3,H,W)`.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"Expected `images` in uint8, 0 to 255, but got {images.dtype}.")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected `images` of shape (N,3,H,W), but got {tuple(images.shape)}.")
    if not len(images):
        return torch.empty(0, len(CLASSES))
    saved = torch.load(weights, map_location="cpu", weights_only=True)
    model = build_model(saved["model"], len(CLASSES))
    model.load_state_dict(saved["state"])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return predict_with(model, images)
