"""Border contrast: right against slow loops, and good at finding lesions."""

import numpy as np
import pytest
import real_images
import reference
import torch
from kornia.color import rgb_to_lab
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from spmix_aug.saliency import BorderContrast, border
from spmix_aug.saliency.border import (
    border_pixels,
    centred_gaussian,
    distance_from_border,
    lab,
    shrink,
)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("size", "width"), [((7, 9), 1), ((12, 8), 2), ((5, 5), 3), ((1, 4), 1)])
def test_distances_agree_with_a_slow_loop(channels, size, width):
    colours = 50 * torch.rand(2, channels, *size, dtype=torch.float64)
    colours[:, :, : size[0] // 2, :2] += 30  # something that crosses the border
    maps = distance_from_border(colours, width)
    expected = torch.stack([reference.border_contrast(image, width) for image in colours])
    torch.testing.assert_close(maps.squeeze(1), expected, rtol=1e-6, atol=1e-6)


def test_the_border_is_the_outermost_pixels_once_each():
    places = torch.arange(6 * 7).view(1, 1, 6, 7)
    outer = border_pixels(places, 2).flatten()
    inner = places[:, :, 2:-2, 2:-2].flatten()
    assert sorted(torch.cat([outer, inner]).tolist()) == list(range(42))


@pytest.mark.parametrize(("size", "width"), [((5, 5), 3), ((7, 4), 4), ((1, 6), 1)])
def test_a_border_wider_than_half_the_image_is_all_of_it(size, width):
    places = torch.arange(size[0] * size[1]).view(1, 1, *size)
    outer = border_pixels(places, width).flatten()
    assert sorted(outer.tolist()) == list(range(size[0] * size[1]))


def test_many_channels_take_little_memory():
    images = torch.rand(2, 300, 24, 24)
    assert bool(BorderContrast()(images).isfinite().all())


def test_one_channel_far_stronger_than_many_others_is_safe():
    generator = torch.Generator().manual_seed(1174)
    images = torch.randn(2, 300, 70, 64, generator=generator)
    images[1, 0, :, :9] *= 1e3
    assert bool(BorderContrast()(images).isfinite().all())


def test_the_maps_stay_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert BorderContrast(center_prior=0.3)(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_channels_of_images_without_three_count_in_hundredths():
    # as far apart as black and white in Lab, so that the same variance is rounding
    grey = (0.4 + 0.2 * disc((40, 40))).view(1, 1, 40, 40)
    contrast = BorderContrast()(grey).amax()
    assert float(contrast) == pytest.approx(20 / 0.1**0.5, rel=1e-3)


def test_lab_is_that_of_kornia():
    # whose conversion makes an accelerator wait
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(lab(images), rgb_to_lab(images), rtol=0, atol=2e-3)


def disc(size=(64, 80), centre=(0.0, 0.0), radius=0.5):
    y, x = (torch.linspace(-1, 1, side) for side in size)
    return ((y.view(-1, 1) - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).float()


def auc(saliency, mask):
    return roc_auc_score(mask.flatten().bool(), saliency.flatten())


def test_a_border_of_one_colour_is_safe():
    images = (0.8 - 0.3 * disc()).expand(1, 3, -1, -1)
    maps = BorderContrast()(images)
    assert bool(maps.isfinite().all())
    assert float(maps[0, 0].max()) == pytest.approx(0, abs=0.01)
    assert auc(maps[0], disc()) > 0.995  # but for what a coarse pixel mixes


def test_rounds_find_an_object_that_crosses_the_border(monkeypatch):
    # Skin with two colours beside it, an object over a third of the border, and a dark corner.
    mask = disc((32, 40), centre=(0.0, -0.9), radius=0.9)
    generator = torch.Generator().manual_seed(0)
    images = 0.7 - 0.1 * mask + 0.03 * torch.randn(1, 3, *mask.shape, generator=generator)
    images[:, 0] += 0.2 * mask
    images[:, :, -10:, -10:] -= 0.3
    found = []
    for rounds in (0, 3):
        monkeypatch.setattr(border, "ROUNDS", rounds)
        found.append(auc(BorderContrast()(images)[0], mask))
    assert found[0] < 0.9
    assert found[1] > found[0] + 0.05


def test_channels_count_as_they_are_when_there_are_not_three():
    two = torch.zeros(1, 2, 40, 40)
    two[:, 0] = 0.5 + 0.2 * disc((40, 40))
    two[:, 1] = 0.5 - 0.2 * disc((40, 40))  # the mean of the channels shows nothing
    assert auc(BorderContrast()(two)[0], disc((40, 40))) == 1


def test_the_centre_prior_multiplies():
    images = torch.rand(2, 3, 48, 60)
    plain, prior = BorderContrast()(images), BorderContrast(center_prior=0.3)(images)
    y, x = np.meshgrid((np.arange(48) + 0.5) / 48, (np.arange(60) + 0.5) / 60, indexing="ij")
    gaussian = np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.3**2))
    torch.testing.assert_close(prior, plain * torch.from_numpy(gaussian).float())
    torch.testing.assert_close(
        centred_gaussian(images[:, :1], 0.3), torch.from_numpy(gaussian).float()
    )


@pytest.mark.parametrize(("share", "width"), [(None, 4), (0.5, 24), (0, 1)])
def test_the_border_is_a_share_of_the_shorter_side(share, width):
    images = torch.rand(2, 3, 48, 60)
    provider = BorderContrast() if share is None else BorderContrast(share)
    expected = distance_from_border(lab(images), width).squeeze(1)
    torch.testing.assert_close(provider(images), expected)


def test_the_centre_prior_is_made_where_the_maps_are():
    assert centred_gaussian(torch.rand(1, 1, 4, 5, device="meta"), 0.3).device.type == "meta"


def test_large_images_are_looked_at_small():
    images = F.interpolate(torch.rand(2, 3, 16, 20), (256, 320), mode="bilinear")
    small = shrink(images)
    expected = F.interpolate(BorderContrast()(small).unsqueeze(1), (256, 320), mode="bilinear")
    torch.testing.assert_close(BorderContrast()(images), expected.squeeze(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("size", "step"), [((31, 70), 1), ((64, 81), 2), ((250, 224), 7)])
def test_shrinking_takes_three_pixels_of_the_diagonal_of_each_square(size, step, dtype):
    images = (255 * torch.rand(2, 3, *size)).to(dtype)
    rows, columns = (side // step for side in size)
    top, left = (side % step // 2 for side in size)
    expected = torch.zeros(2, 3, rows, columns)
    for i in range(rows):
        for j in range(columns):
            y, x = top + i * step, left + j * step
            square = images[:, :, y : y + step, x : x + step].float()
            places = {step // 6, step // 2, step * 5 // 6}
            expected[:, :, i, j] = torch.stack([square[:, :, k, k] for k in places]).mean(0)
    expected = expected / 255 if dtype == torch.uint8 else expected
    torch.testing.assert_close(shrink(images), expected)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"border": 0.6}, ValueError, r"`border` to be in \[0, 0.5\], but got 0.6"),
        ({"border": "wide"}, TypeError, "`border` to be a number, but got str"),
        ({"center_prior": 0}, ValueError, "`center_prior` to be finite, at least 0.01, but got 0"),
        ({"center_prior": True}, TypeError, "`center_prior` to be a number, but got bool"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        BorderContrast(**kwargs)


@pytest.mark.parametrize(
    ("center_prior", "mean", "tenth_percentile"), [(None, 0.91, 0.80), (0.3, 0.935, 0.90)]
)
@pytest.mark.parametrize(
    ("folds", "count"),
    [([0], 300), pytest.param([0, 1, 2, 3, 4], None, marks=pytest.mark.slow)],
)
def test_real_lesions_are_found(center_prior, mean, tenth_percentile, folds, count):
    images, masks = real_images.load(folds, count)
    provider = BorderContrast(center_prior=center_prior)
    maps = torch.cat([provider(part) for part in images.split(256)])
    found = [
        auc(scores, lesion)
        for scores, lesion in zip(patches_of(maps), patches_of(masks.float()) > 0.5, strict=True)
        if lesion.any() and not lesion.all()
    ]
    assert len(found) > 0.99 * len(images)
    assert np.mean(found) >= mean
    assert np.quantile(found, 0.1) >= tenth_percentile


def patches_of(maps):
    return F.avg_pool2d(maps.unsqueeze(1), 8, ceil_mode=True).flatten(1)
