"""Views and their maps: aligned, reproducible, cached whole."""

import pytest
import torch

pytest.importorskip("timm")
from torchvision.io import decode_image

from examples.isic2018 import data, views
from examples.isic2018.phantom import draw_phantom
from spmix_aug.saliency import FineGrained


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("views") / "phantom"
    draw_phantom(root, train_images=30, test_per_class=1, size=(40, 56), progress=False)
    return data.read_records(root)


def disc(size=(90, 120), centre=(40, 66), radius=18):
    """A bright disc on dark ground, and a map that is white on the disc."""
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    image = torch.where(inside, 200, 90).expand(3, -1, -1).byte()
    return image, 255 * inside.byte().unsqueeze(0)


def best_shift(view, saliency, reach=4):
    """By how much a map must move for the closest fit to its image, in pixels."""
    grey, inside = view.float().mean(dim=0), saliency[0] > 127
    scores = {}
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            moved = inside.roll((dy, dx), (0, 1))[reach:-reach, reach:-reach]
            seen = grey[reach:-reach, reach:-reach]
            pair = torch.stack([moved.float().flatten(), seen.flatten()])
            scores[dy, dx] = float(torch.corrcoef(pair)[0, 1].abs().nan_to_num(0))
    return max(scores, key=scores.__getitem__), max(scores.values())


@pytest.mark.parametrize("make", [views.PlainView, views.strong_view, views.weak_view])
def test_a_map_stays_on_its_image_to_within_a_pixel(make):
    torch.manual_seed(0)
    view, aligned = make(64), 0
    for _ in range(40):
        image, saliency = view(*disc())
        assert image.shape == (3, 64, 64)
        assert saliency.shape == (1, 64, 64)
        assert image.dtype == saliency.dtype == torch.uint8
        share = float((saliency > 127).float().mean())
        (dy, dx), score = best_shift(image, saliency)
        if not 0.03 < share < 0.9 or score < 0.6:
            continue  # the disc is out of the crop, or its contrast gone
        assert max(abs(dy), abs(dx)) <= 1
        aligned += 1
    assert aligned >= 20


@pytest.mark.parametrize("make", [views.PlainView, views.strong_view, views.weak_view])
def test_maps_change_no_draw_and_seeds_repeat(make):
    image, saliency = disc()
    drawn = []
    for given in (saliency, None, saliency):
        torch.manual_seed(3)
        drawn.append(make(32)(image, given))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[1][1] is None
    assert torch.equal(drawn[0][1], drawn[2][1])


def test_a_data_set_gives_views_maps_and_label(records, tmp_path):
    place = views.cache_maps(records, tmp_path, "fine_grained")
    dataset = views.LesionViews(records, [views.strong_view(32), views.weak_view(32)], place)
    drawn, maps, label = dataset[1]
    assert [v.shape for v in drawn] == [(3, 32, 32)] * 2
    assert [m.shape for m in maps] == [(1, 32, 32)] * 2
    assert label == records[1].label
    assert len(dataset) == len(records)
    assert views.LesionViews(records, [views.PlainView(32)])[0][1] == []


def test_maps_are_computed_once(records, tmp_path):
    place = views.cache_maps(records[:3], tmp_path, "fine_grained")
    files = sorted(place.iterdir())
    assert [file.stem for file in files] == sorted(record.image for record in records[:3])
    stored = decode_image(str(place / f"{records[0].image}.png"))
    image, _ = data.LesionImages(records)[0]
    expected = FineGrained()(image.unsqueeze(0))
    expected = 255 * expected / expected.max()
    torch.testing.assert_close(stored.float(), expected, rtol=0, atol=0.51)
    files[0].write_bytes(files[1].read_bytes())
    views.cache_maps(records[:3], tmp_path, "fine_grained")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_maps_that_cannot_be_used_are_refused(records, tmp_path):
    dataset = views.LesionViews(records[:1], [views.PlainView(32)], tmp_path)
    with pytest.raises(data.DataError, match=r"png: cannot be read as a map .*; delete it"):
        dataset[0]
    other = records[0].image + ".png"
    views.write_png(torch.zeros(1, 4, 5, dtype=torch.uint8), str(tmp_path / other))
    with pytest.raises(data.DataError, match=r"a map of \(4, 5\) pixels, but its image has"):
        dataset[0]
