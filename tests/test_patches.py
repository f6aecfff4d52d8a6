"""Patch scores, ratios and the way between patch grid and pixels."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from spmix_aug.functional import patches

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


def random_maps(batch, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, *size, generator=generator, dtype=torch.float64)


@given(st.sampled_from([0, 1, 2, 3]), sizes, st.integers(1, 16), st.integers(0, 99))
def test_patch_scores_agree_with_a_slow_loop(batch, size, patch_size, seed):
    maps = random_maps(batch, size, seed)
    expected = reference.patch_scores(maps, patch_size)
    scores = patches.patch_scores(maps, patch_size, size)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


@given(st.sampled_from([0, 1, 3]), sizes, sizes, st.integers(1, 16), st.integers(0, 99))
def test_coarse_maps_stand_for_their_interpolation(batch, coarse, size, patch_size, seed):
    maps = random_maps(batch, coarse, seed)
    scores = patches.patch_scores(maps, patch_size, size)
    if batch:
        maps = F.interpolate(maps.unsqueeze(1), size, mode="bilinear").squeeze(1)
        expected = reference.patch_scores(maps, patch_size)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    assert scores.shape == (batch, *patches.patch_grid(size, patch_size))


def test_coarse_maps_are_scored_in_full_precision_wherever_tensors_are_made_by_default():
    maps = random_maps(2, (8, 8), 0).float()
    expected = patches.patch_scores(maps, 4, (30, 50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(patches.patch_scores(maps, 4, (30, 50)), expected)
    with torch.device("meta"):
        assert torch.equal(patches.patch_scores(maps, 4, (30, 50)), expected)


@given(
    st.sampled_from([0, 1, 2, 5]),
    sizes,
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["min_max", "soft_threshold"]),
    st.integers(0, 99),
)
def test_ratios_agree_with_a_slow_loop(batch, grid, floor, alpha, normalize, seed):
    scores = random_maps(batch, grid, seed)
    scores[::2] *= 1e-4  # the scale of a map must not matter
    partner = torch.randint(max(batch, 1), (batch,))
    lifted = patches.raise_floor(patches.NORMALIZATIONS[normalize](scores), floor)
    ratios = patches.mix_ratios(lifted, lifted[partner], alpha)
    ratios[partner == torch.arange(batch)] = 1
    expected = reference.ratios(scores, partner, floor, alpha, normalize)
    torch.testing.assert_close(ratios, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalize", patches.NORMALIZATIONS)
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.3, 1e6, -2.0])
def test_a_map_without_contrast_counts_as_salient_everywhere(value, normalize):
    scores = torch.full((1, 3, 3), value)
    scores[0, 1, 1] += abs(value) * 1e-6  # rounding noise
    assert torch.equal(patches.NORMALIZATIONS[normalize](scores), torch.ones(1, 3, 3))
    single = scores[:, :1, :1]
    assert torch.equal(patches.NORMALIZATIONS[normalize](single), torch.ones(1, 1, 1))


def test_small_contrast_is_contrast():
    scores = torch.tensor([[[1.0, 1.0001]]])
    torch.testing.assert_close(patches.min_max_scores(scores), torch.tensor([[[0.0, 1.0]]]))
    thresholded = patches.soft_threshold_scores(scores)
    torch.testing.assert_close(thresholded, torch.tensor([[[-4.0, 4.0]]]).sigmoid())


@pytest.mark.parametrize("normalize", patches.NORMALIZATIONS)
def test_neither_scale_nor_offset_nor_batch_mates_of_a_map_matter(normalize):
    scores = torch.rand(3, 5, 6, dtype=torch.float64)
    expected = patches.NORMALIZATIONS[normalize](scores)
    changed = torch.stack([scores[0], 1e30 * scores[1], 3 + 1e-3 * scores[2]])
    torch.testing.assert_close(patches.NORMALIZATIONS[normalize](changed), expected)
    assert bool((expected.flatten(1).argsort() == scores.flatten(1).argsort()).all())


def test_a_soft_threshold_tells_patches_apart_beside_an_outlier():
    scores = torch.full((1, 4, 4), 0.1)
    scores[0, :, 2:] = 0.2
    scores[0, 0, 3] = 1.0

    def step(normalized):
        return float(normalized[0, 1, 2] - normalized[0, 1, 1])

    assert step(patches.min_max_scores(scores)) == pytest.approx(1 / 9, abs=1e-4)
    assert step(patches.soft_threshold_scores(scores)) > 0.2


@given(sizes, st.integers(1, 16))
def test_every_pixel_gets_the_ratio_of_its_patch(size, patch_size):
    grid = patches.patch_grid(size, patch_size)
    ratios = torch.rand(2, *grid)
    pixels = patches.expand_to_pixels(ratios, patch_size, size)
    assert pixels.shape == (2, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            assert torch.equal(pixels[:, y, x], ratios[:, y // patch_size, x // patch_size])
    strips = patches.ratios_per_row(ratios, patch_size, size).shape[1]
    assert strips == (size[0] if size[0] % patch_size else grid[0])


@given(sizes, st.integers(1, 16))
def test_own_share_is_the_mean_over_pixels(size, patch_size):
    ratios = torch.rand(3, *patches.patch_grid(size, patch_size), dtype=torch.float64)
    pixels = patches.expand_to_pixels(ratios, patch_size, size)
    share = patches.mean_ratio(ratios, patch_size, size)
    torch.testing.assert_close(share, pixels.mean(dim=(1, 2)), rtol=0, atol=1e-12)


def test_jitter_is_measured_in_the_spread_of_each_image():
    scores = random_maps(2, (40, 40), 0)
    scores[1] *= 1000
    noise = torch.randn(2, 40, 40, dtype=torch.float64)
    change = patches.add_noise(scores, noise, 0.5) - scores
    relative = change.std(dim=(1, 2)) / scores.std(dim=(1, 2))
    torch.testing.assert_close(relative, torch.full((2,), 0.5).double(), rtol=0.1, atol=0)


def test_jitter_adds_the_noise_itself_in_the_dtype_of_the_scores():
    scores, noise = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1.0, -3.0]]])  # spread 1
    jittered = patches.add_noise(scores, noise.double(), 0.5)
    assert torch.equal(jittered, torch.tensor([[[0.5, 0.5]]]))
    assert jittered.dtype == torch.float32


def test_jitter_leaves_a_flat_map_flat():
    single = torch.tensor([[[0.7]]])
    assert torch.equal(patches.add_noise(single, torch.ones(1, 1, 1), 1.0), single)
    jittered = patches.add_noise(torch.full((1, 4, 4), 0.7), torch.randn(1, 4, 4), 1.0)
    assert torch.equal(patches.min_max_scores(jittered), torch.ones(1, 4, 4))


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 13),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 99),
)
def test_resized_ratios_agree_with_a_slow_loop(size, patch_size, grid, seed):
    generator = torch.Generator().manual_seed(seed)
    ratios = torch.rand(
        2, *patches.patch_grid(size, patch_size), generator=generator, dtype=torch.float64
    )
    assert patches.resize_ratios(ratios[:0], patch_size, size, grid).shape == (0, *grid)
    if tuple(ratios.shape[1:]) == grid:
        assert patches.resize_ratios(ratios, patch_size, size, grid) is ratios
        return
    found = patches.resize_ratios(ratios, patch_size, size, grid)
    expected = reference.resized_ratios(ratios, patch_size, size, grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_resized_ratios_are_exact_where_all_are_1_and_under_autocast():
    ratios = torch.full((2, 14, 14), 0.8)
    ratios[1] = 1
    plain = patches.resize_ratios(ratios, 16, (224, 224), (9, 9))
    with torch.autocast("cpu", torch.bfloat16):
        inside = patches.resize_ratios(ratios, 16, (224, 224), (9, 9))
    assert torch.equal(plain, inside)
    with torch.device("meta"):
        assert torch.equal(patches.resize_ratios(ratios, 16, (224, 224), (9, 9)), plain)
    torch.testing.assert_close(plain[0], torch.full((9, 9), 0.8))
    for cells in range(1, 30):
        resized = patches.resize_ratios(ratios[1:], 16, (224, 224), (cells, cells))
        assert bool((resized == 1).all())
