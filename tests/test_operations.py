"""How many operations a plan runs, each of which is a launch on an accelerator; no timing."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spmix_aug import SaliencyPatchMix

# What only describes memory anew, and launches nothing.
VIEWS = {
    "alias",
    "as_strided",
    "detach",
    "diagonal",
    "expand",
    "lift_fresh",
    "permute",
    "select",
    "slice",
    "split",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "view_as_real",
    "_unsafe_view",
}
# Labels are looked at on the CPU alone: their extremes, read as two numbers.
VALUE_CHECKS = ["aminmax", "_local_scalar_dense", "_local_scalar_dense"]


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        if name not in VIEWS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def fourth_plan(saliency, given=None):
    images, labels = torch.rand(64, 3, 224, 224), torch.arange(64) % 7
    counts = [60, 50, 4, 3, 2, 10, 9]
    mixer = SaliencyPatchMix(class_counts=counts, p=1.0, saliency=saliency)
    for _ in range(3):  # which look for mistakes
        mixer.plan(images, labels, saliency=given)
    with Operations() as ran:
        plan = mixer.plan(images, labels, saliency=given)
    return images, plan, ran.names


@pytest.mark.parametrize(
    ("saliency", "most"), [("border_contrast", 110), ("spectral_residual", 80), ("given", 35)]
)
def test_a_plan_runs_few_operations(saliency, most):
    given = torch.rand(64, 224, 224) if saliency == "given" else None
    _, _, names = fourth_plan("border_contrast" if saliency == "given" else saliency, given)
    assert names[:3] == VALUE_CHECKS
    assert not set(VALUE_CHECKS[1:]) & set(names[3:])  # nothing else is read
    assert len(names[3:]) <= most, names


def test_applying_a_plan_as_accelerators_do_runs_few_operations():
    images, plan, _ = fourth_plan("spectral_residual")
    images.requires_grad_()  # which rules out the CPU's way, sample by sample
    with Operations() as ran:
        plan.images(images)
    assert "index" in ran.names
    assert len(ran.names) <= 8, ran.names
