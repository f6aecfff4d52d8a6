"""What mixing does for the tail on real lesions: the study."""

from .predict import predict

__all__ = ["predict"]
