"""Shared settings: hypothesis without deadlines, one seed a test, GPU tests only with a GPU.

`pytest --device cuda -m cuda` runs all that a GPU has to show: its own tests, and those that take
the fixture `device`.
"""

import pytest
import torch
from hypothesis import HealthCheck, settings

# Warnings of torch's own, once a process, of which no test is guilty.
CUDA_SAYS = (
    "Synchronization debug mode is a prototype",
    "Attempting to run cuBLAS, but there was no current CUDA context",  # in a backward pass
)

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


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests run that take a device")


def pytest_configure(config):
    if torch.device(config.getoption("--device")).type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # of convolutions, ten bits are no oracle
        torch.backends.cudnn.deterministic = True  # what is compared to the bit
    for said in CUDA_SAYS:
        config.addinivalue_line("filterwarnings", f"ignore:{said}")


@pytest.fixture(scope="session")
def device(request):
    """The device of `--device`, as tensors there name it."""
    return torch.empty(0, device=request.config.getoption("--device")).device


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config, items):
    on_gpu = torch.device(config.getoption("--device")).type == "cuda"
    for item in items:
        if on_gpu and "device" in getattr(item, "fixturenames", ()):
            item.add_marker("cuda")
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
