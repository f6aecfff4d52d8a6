"""Step 1: saliency maps of images, by methods that need a model and methods that do not."""

from collections.abc import Callable
from typing import Any

from spmix_aug._checks import as_choice, as_function, expect_type
from spmix_aug.saliency.base import SaliencyProvider
from spmix_aug.saliency.border import BorderContrast
from spmix_aug.saliency.cam import GradCAM
from spmix_aug.saliency.finegrained import FineGrained
from spmix_aug.saliency.gradient import InputGradient
from spmix_aug.saliency.spectral import SpectralResidual

__all__ = [
    "PROVIDERS",
    "BorderContrast",
    "FineGrained",
    "GradCAM",
    "InputGradient",
    "SaliencyProvider",
    "SpectralResidual",
]

PROVIDERS: dict[str, Callable[[], SaliencyProvider]] = {
    "spectral_residual": SpectralResidual,
    "fine_grained": FineGrained,
    "border_contrast": BorderContrast,
    "input_gradient": InputGradient,
    "grad_cam": GradCAM,
}


# Those whose maps a mix takes at the resolution at which they are computed.
LOW_RES = (BorderContrast, FineGrained, SpectralResidual)
MODEL_BASED = (GradCAM, InputGradient)


def find_provider(saliency: Any) -> Any:
    """Make the provider of that name; a callable is its own provider.

    Raises:
        TypeError: if `saliency` is neither a name nor callable with what providers are.
        ValueError: if there is no provider of that name.
    """
    a_class = isinstance(saliency, type)
    expect_type(
        not a_class, "saliency", "to be a provider", saliency, "make one by calling the class"
    )
    if callable(saliency):
        return as_function("saliency", saliency, "images, labels, model")
    return PROVIDERS[as_choice("saliency", saliency, PROVIDERS, " or a callable")]()
