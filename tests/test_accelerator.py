"""No host synchronisation and no device mix-up, on a fake accelerator and on a real one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from spmix_aug import SaliencyPatchMix

SCRIPT = Path(__file__).with_name("fake_accelerator.py")


def levels(*size):
    """Images in whole grey levels: elsewhere the last bit may decide how a level is rounded."""
    return torch.randint(256, size).float() / 255


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make a device of Python's believe",
)
@pytest.mark.parametrize(
    "options",
    [
        ("spectral_residual", "own", "relative"),
        ("fine_grained", "ratio", "any"),
        ("border_contrast", "own", "relative"),
        ("input_gradient", "ratio", "any"),
        ("grad_cam", "own", "relative"),
    ],
    ids=" ".join,
)
def test_mixing_neither_syncs_nor_mixes_devices(options):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "clean", result.stderr[-2000:]


@pytest.mark.cuda
@pytest.mark.parametrize("pairing", ["relative", "any"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"saliency": "spectral_residual"},
        {"saliency": "fine_grained", "target": "ratio"},
        {"normalize": "soft_threshold", "jitter": 0.1},
        {"floor": 0.8, "alpha": 0.8},
    ],
)
def test_a_gpu_plans_what_the_cpu_plans(settings, pairing):
    images, labels = levels(64, 3, 96, 112), torch.arange(64) % 3
    plans = []
    for device in ("cpu", "cuda"):
        mixer = SaliencyPatchMix(
            num_classes=3, pairing=pairing, generator=torch.Generator().manual_seed(0), **settings
        )
        plans.append(mixer.plan(images.to(device), labels.to(device)).to("cpu"))
    one, other = plans
    assert torch.equal(one.partner, other.partner)
    torch.testing.assert_close(one.ratios, other.ratios, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("saliency", ["spectral_residual", "fine_grained", "border_contrast"])
def test_a_gpu_mixes_like_the_cpu_and_does_not_wait(saliency):
    images, labels = levels(8, 3, 64, 64), torch.arange(8) % 3
    results = []
    for device in ("cpu", "cuda"):
        mixer = SaliencyPatchMix(
            num_classes=3, saliency=saliency, generator=torch.Generator().manual_seed(0)
        )
        batch = images.to(device), labels.to(device)
        mode = "error" if device == "cuda" else "default"
        torch.cuda.set_sync_debug_mode(mode)
        try:
            results.append(mixer(*batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(results[0][0], results[1][0].cpu(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1].cpu())
