"""The blend of images is its equation, by whichever way it is computed."""

import importlib

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from spmix_aug.functional import blend_images, expand_to_pixels, patch_grid, ratios_per_row

module = importlib.import_module("spmix_aug.functional.blend")  # not the function of that name
ONE_BY_ONE, GATHERED = 0, 2**62  # values from which samples are blended one by one
both_ways = pytest.mark.parametrize("large", [ONE_BY_ONE, GATHERED], ids=["one by one", "gathered"])
in_place_or_not = pytest.mark.parametrize("inplace", [False, True])


def mixed_by(large, images, partner, ratios, patch_size, inplace=False):
    """Blend by ratios of patches `(B,gh,gw)`, one by one for images of at least `large` values."""
    rows = ratios_per_row(ratios, patch_size, tuple(images.shape[2:]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "LARGE", large)
        mixed = blend_images(images, partner, rows, inplace=inplace)
    assert (mixed is images) == inplace
    return mixed


@both_ways
@in_place_or_not
@given(
    batch=st.integers(0, 8),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    patch_size=st.integers(1, 10),
    ones=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 999),
)
def test_it_agrees_with_a_slow_loop(large, inplace, batch, channels, size, patch_size, ones, seed):
    torch.manual_seed(seed)
    images = torch.rand(batch, channels, *size, dtype=torch.float64)
    partner = torch.randint(max(batch, 1), (batch,))  # chains and circles of any length
    ratios = torch.rand(batch, *patch_grid(size, patch_size), dtype=torch.float64)
    ratios[torch.rand_like(ratios) < ones] = 1
    ratios[torch.rand(batch) < ones] = 1
    before = images.clone()
    expected = reference.blend(images, partner, ratios, patch_size)
    mixed = mixed_by(large, images, partner, ratios, patch_size, inplace)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
    assert inplace or torch.equal(images, before)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8]


@both_ways
@in_place_or_not
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_come_back_rounded_once_and_what_has_ratio_1_is_selected(large, inplace, dtype):
    ratios = torch.rand(5, 2, 3)
    ratios[1], ratios[2, 0, 0] = 1, 1
    partner = torch.tensor([1, 3, 3, 0, 4])
    images = torch.rand(5, 3, 12, 20, dtype=torch.float64)
    images = (255 * images).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    if dtype.is_floating_point:
        images[3, :, 0, 0], images[3, :, 1, 0] = float("nan"), float("inf")
        images[1, :, 0, 0] = float("nan")
    mixed = mixed_by(large, images.clone(), partner, ratios, 8, inplace)
    exact = reference.blend(images.double(), partner, ratios.double(), 8)
    selected = expand_to_pixels(ratios == 1, 8, (12, 20)).unsqueeze(1)
    exact = torch.where(selected, images.double(), exact)
    assert mixed.dtype == dtype
    assert torch.equal(mixed.isfinite(), exact.isfinite())
    found, wanted = mixed.double().nan_to_num(0, 0, 0), exact.nan_to_num(0, 0, 0)
    assert torch.equal(found[selected.expand_as(found)], wanted[selected.expand_as(found)])
    if dtype == torch.uint8:
        assert float((found - wanted).abs().max()) <= 0.5 + 1e-3
    else:
        torch.testing.assert_close(found, wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)


@in_place_or_not
def test_both_ways_agree(inplace):
    images, ratios = torch.rand(9, 3, 12, 20), torch.rand(9, 3, 5)
    ratios[:3, 0] = 1
    partner = torch.tensor([1, 0, 3, 2, 5, 6, 7, 4, 8])
    one, other = (
        mixed_by(large, images.clone(), partner, ratios, 4, inplace)
        for large in (ONE_BY_ONE, GATHERED)
    )
    assert torch.equal(one, other)


def test_in_place_an_image_is_copied_for_each_circle_of_partners_alone(monkeypatch):
    images, ratios = torch.rand(11, 3, 4, 4), torch.full((11, 1, 1), 0.25)
    partner = torch.tensor([1, 0, 3, 2, 5, 6, 7, 4, 0, 8, 10])  # two, two, four; a chain; itself
    copied, clone = [], torch.Tensor.clone
    expected = torch.lerp(images[partner], images, 0.25)
    monkeypatch.setattr(torch.Tensor, "clone", lambda t: copied.append(t.shape) or clone(t))
    mixed = mixed_by(ONE_BY_ONE, images, partner, ratios, 4, inplace=True)
    assert len(copied) == 3
    assert copied[0].numel() == images[0].numel()
    torch.testing.assert_close(mixed, expected)


class Tagged(torch.Tensor):
    """A subclass of tensors, as torchvision's `tv_tensors` are."""


@pytest.mark.parametrize(
    ("images", "inplace", "one_by_one"),
    [
        (torch.rand(2, 1, 128, 256), False, True),
        (torch.rand(2, 1, 128, 256), True, True),
        (torch.rand(2, 1, 151, 217), False, False),  # one value less
        (torch.rand(2, 1, 128, 256).as_subclass(Tagged), False, False),
        (torch.rand(2, 1, 128, 256, requires_grad=True), False, False),
        (torch.rand(2, 1, 128, 256, requires_grad=True), True, True),
    ],
)
def test_large_plain_images_on_a_cpu_are_blended_one_by_one(
    images, inplace, one_by_one, monkeypatch
):
    blended, blend_sample = [], module._blend_sample
    monkeypatch.setattr(
        module, "_blend_sample", lambda *each: blended.append(each) or blend_sample(*each)
    )
    ratios, partner = torch.full((2, 1, images.shape[3]), 0.5), torch.tensor([1, 0])
    for grad in (torch.enable_grad, torch.no_grad):
        blended.clear()
        with grad():
            blend_images(images, partner, ratios, inplace=inplace)
        plain = type(images) is torch.Tensor and images[0].numel() >= 2**15
        assert bool(blended) == (one_by_one or (grad is torch.no_grad and plain))


@both_ways
@pytest.mark.parametrize("batch", [0, 1, 2, 4])
@pytest.mark.parametrize("side", [8, 12])  # rows of patches, and of pixels
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(large, batch, side, gradients, form):
    images = torch.rand(batch, 3, side, side).to(memory_format=form).requires_grad_(gradients)
    partner, ratios = torch.arange(batch).roll(1), torch.rand(batch, 2, 2)
    ratios[partner == torch.arange(batch)] = 1
    mixed = mixed_by(large, images, partner, ratios, 8)
    assert torch.equal(mixed, mixed_by(large, images.contiguous(), partner, ratios, 8))
    assert mixed.stride() == images.stride()
    assert mixed.requires_grad == gradients
    assert mixed.data_ptr() != images.data_ptr() or batch == 0


@both_ways
@pytest.mark.parametrize(
    "images",
    [
        torch.rand(4, 20, 3, 12).permute(0, 2, 3, 1),
        torch.rand(8, 3, 24, 60)[::2, :, ::2, ::3],
        torch.rand(3, 4, 12, 20).transpose(0, 1),
        torch.rand(4, 3, 12, 20, requires_grad=True),
    ],
)
def test_images_of_any_strides_and_leaves_are_written_in_place(large, images):
    partner, ratios = torch.tensor([1, 2, 0, 0]), torch.rand(4, 3, 5)
    expected = mixed_by(large, images, partner, ratios, 4).detach()
    assert torch.equal(mixed_by(large, images, partner, ratios, 4, inplace=True), expected)
    assert images.is_leaf


@both_ways
def test_gradients_reach_own_partner_and_ratios(large):
    images = torch.rand(3, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    ratios = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    partner = torch.tensor([1, 2, 2])

    def mix(images, ratios):
        return mixed_by(large, images, partner, ratios, 3)

    assert torch.autograd.gradcheck(mix, (images, ratios))
    assert torch.autograd.gradcheck(lambda ratios: mix(images.detach(), ratios), (ratios,))


def test_what_is_broken_in_one_sample_stays_out_of_the_gradients_of_the_others():
    ratios = torch.tensor([0.5, 0.5, 1.0, 1.0]).view(4, 1, 1).expand(4, 2, 2)
    images = torch.rand(4, 1, 4, 4, dtype=torch.float64)
    images[0, 0, 1, 1], images[0, 0, 2, 2] = float("nan"), float("inf")
    images.requires_grad_()
    partner = torch.tensor([1, 0, 0, 3])
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        mixed_by(GATHERED, images, partner, ratios, 2)[2:].square().sum().backward()
    assert torch.equal(images.grad[2:], 2 * images.detach()[2:])
    assert torch.equal(images.grad[:2], torch.zeros(2, 1, 4, 4, dtype=torch.float64))
