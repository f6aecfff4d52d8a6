"""Room 1: saliency maps of images, by methods that need a model and methods that do not."""

from collections.abc import Callable
from typing import Any

from spmix_aug import _checks
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


def find_provider(saliency: Any) -> Any:
    """Make the provider of that name; a callable is its own provider.

    Raises:
        TypeError: if `saliency` is neither a name nor callable.
        ValueError: if there is no provider of that name.
    """
    if isinstance(saliency, type):
        raise TypeError(
            f"Expected `saliency` to be a provider, but got the class {saliency.__name__}; "
            f"make one with {saliency.__name__}()."
        )
    if callable(saliency):
        return saliency
    _checks.choice("saliency", saliency, PROVIDERS, " or a callable")
    return PROVIDERS[saliency]()
