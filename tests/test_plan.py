"""A plan blends what it says, and nothing else."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from spmix_aug import MixPlan
from spmix_aug.patches import patch_grid


def make_plan(batch, size, patch_size, seed=0, ratios=None, partner=None):
    generator = torch.Generator().manual_seed(seed)
    if partner is None:
        partner = torch.randint(max(batch, 1), (batch,), generator=generator)
    if ratios is None:
        grid = patch_grid(size, patch_size)
        ratios = torch.rand(batch, *grid, generator=generator, dtype=torch.float64)
        ratios[partner == torch.arange(batch)] = 1
    return MixPlan(partner, ratios, torch.ones(batch, 1), patch_size, size)


@given(
    st.sampled_from([0, 1, 2, 3]),
    st.integers(1, 4),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 10),
    st.integers(0, 99),
)
def test_blend_agrees_with_a_slow_loop(batch, channels, size, patch_size, seed):
    images = torch.rand(batch, channels, *size, dtype=torch.float64)
    plan = make_plan(batch, size, patch_size, seed)
    expected = reference.blend(images, plan.partner, plan.ratios, patch_size)
    torch.testing.assert_close(plan.images(images), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_dtypes_come_back_rounded_once(dtype):
    images = torch.rand(4, 3, 12, 20).to(dtype)
    plan = make_plan(4, (12, 20), 4)
    expected = plan.images(images.double()).to(dtype)
    mixed = plan.images(images)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_bytes_are_rounded_to_the_nearest():
    images = torch.randint(0, 256, (4, 3, 12, 20), dtype=torch.uint8)
    plan = make_plan(4, (12, 20), 4)
    exact = plan.images(images.double())
    mixed = plan.images(images)
    assert mixed.dtype == torch.uint8
    assert float((mixed.double() - exact).abs().max()) <= 0.5 + 1e-3


def test_what_passes_through_is_bit_identical_and_safe_from_its_partner():
    images = torch.rand(3, 1, 4, 8)
    images[0, 0, 0, 0] = float("nan")
    images[2] = float("inf")
    ratios = torch.tensor([[[1.0, 1.0]], [[1.0, 0.5]], [[0.5, 1.0]]])
    plan = make_plan(3, (4, 8), 4, ratios=ratios, partner=torch.tensor([0, 2, 1]))
    mixed = plan.images(images)
    assert torch.equal(mixed[0].nan_to_num(7), images[0].nan_to_num(7))
    assert torch.equal(mixed[1, :, :, :4], images[1, :, :, :4])
    assert bool(mixed[1, :, :, 4:].isinf().all())


def test_memory_format_is_kept():
    plan = make_plan(4, (12, 20), 4)
    images = torch.rand(4, 3, 12, 20)
    assert plan.images(images).is_contiguous()
    last = images.to(memory_format=torch.channels_last)
    assert plan.images(last).is_contiguous(memory_format=torch.channels_last)


def test_the_input_is_left_alone_unless_inplace():
    images = torch.rand(4, 3, 12, 20)
    before, plan = images.clone(), make_plan(4, (12, 20), 4)
    mixed = plan.images(images)
    assert torch.equal(images, before)
    assert not torch.equal(mixed, before)
    assert plan.images(images, inplace=True) is images
    assert torch.equal(images, mixed)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 1, 12, 20).expand(-1, 3, -1, -1), r"share memory .* images.clone\(\)"),
        (torch.inference_mode()(torch.rand)(4, 3, 12, 20), r"torch.inference_mode\(\); give"),
    ],
)
def test_images_that_cannot_be_written_are_refused_in_place(images, message):
    plan = make_plan(4, (12, 20), 4)
    with pytest.raises(ValueError, match=message):
        plan.images(images, inplace=True)
    assert plan.images(images).shape == images.shape


def test_gradients_flow_to_own_and_partner():
    plan = make_plan(3, (4, 6), 3)
    images = torch.rand(3, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plan.images, images)


def test_a_plan_cannot_be_changed():
    plan = make_plan(2, (4, 4), 2)
    with pytest.raises(AttributeError, match="cannot assign"):
        plan.patch_size = 3


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([1], TypeError, r"`images` to be a tensor of shape \(B,C,H,W\), but got list"),
        (torch.zeros(4, 3, 12, 20, dtype=torch.int64), TypeError, "but got torch.int64"),
        (torch.zeros(4, 12, 20), ValueError, r"\(B,C,H,W\).*got shape \(4, 12, 20\)"),
        (torch.zeros(3, 3, 12, 20), ValueError, r"plan's shape \(4, C, 12, 20\).*\(3, 3, 12, 20\)"),
        (torch.zeros(4, 3, 20, 12), ValueError, r"plan's shape .*\(4, 3, 20, 12\)"),
        (torch.zeros(4, 3, 12, 20, device="meta"), ValueError, "device cpu, but got meta"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        make_plan(4, (12, 20), 4).images(images)
