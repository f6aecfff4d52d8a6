"""By what code and packages a result was made."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("spmix-aug", "torch", "torchvision", "kornia", "timm", "torchmetrics", "numpy")


def commit() -> str:
    """Name the commit of this code, with a + when files differ from it, or say it is unknown."""
    # The repository around the code may be another one, which tells nothing about it.
    ours = _git("ls-files", Path(__file__).name)
    return (ours and _git("describe", "--always", "--dirty=+", "--abbrev=7")) or "unknown"


def versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that decide a run."""
    found = {package: _version(package) for package in PACKAGES}
    # torch's own name of it tells the build too, such as +cu130.
    return {"python": platform.python_version(), **found, "torch": torch.__version__}


def _git(*arguments: str) -> str:
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""
    return found.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
