"""Shared settings: hypothesis without deadlines, one seed a test, GPU tests only with a GPU."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    """Nine images, each of its own constant colour, in three classes of 5, 3 and 1."""
    images = (torch.arange(9.0) / 10).view(9, 1, 1, 1).expand(9, 3, 20, 28).contiguous()
    return images, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
