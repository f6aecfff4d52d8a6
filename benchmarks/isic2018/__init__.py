"""The study: what mixing does for the tail on real lesions; see REPORT.md in this folder."""

from .predict import predict

__all__ = ["predict"]
