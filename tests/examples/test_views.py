"""Views and their maps: aligned, reproducible, cached whole."""

import os

import pytest
import torch

pytest.importorskip("timm")
from PIL import Image

from examples.isic2018 import data, views
from examples.isic2018.phantom import draw_phantom
from spmix_aug.saliency import FineGrained


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("views") / "phantom"
    draw_phantom(root, train_images=30, test_per_class=1, size=(40, 56), progress=False)
    return data.read_records(root)


def blob(size=(90, 120), centre=(40, 66), width=14.0):
    """A bright blob on dark ground, and a map that is like it."""
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    distance = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
    bump = torch.exp(-distance / (2 * width**2))
    return (40 + 200 * bump).expand(3, -1, -1).byte(), (255 * bump).byte().unsqueeze(0)


def middle(values):
    """Centre of what is bright, in pixels."""
    bright = (values.float() - 200).clamp(min=0)  # above what fills where nothing is
    rows, columns = torch.meshgrid(*map(torch.arange, bright.shape), indexing="ij")
    return torch.stack([(bright * rows).sum(), (bright * columns).sum()]) / bright.sum()


@pytest.mark.parametrize("name", views._GEOMETRIC)
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_that_move_pixels_move_the_map_alike(name, sign):
    image, saliency = blob(centre=(28, 85), width=10)
    params = {"operations": [(name, sign * 0.35 * views._GEOMETRIC[name])]}
    operation = views.RandAugment()
    moved = operation.transform(image, params)
    along = operation.transform(views.tv_tensors.Mask(saliency), params)
    places = middle(moved[0]), middle(along[0])
    assert float((places[0] - places[1]).abs().max()) < 1
    assert float((places[0] - middle(image[0])).abs().max()) > 1


@pytest.mark.parametrize("name", views._COLOURS)
def test_other_operations_leave_the_map_and_change_the_image(name):
    torch.manual_seed(0)
    image = torch.randint(60, 160, (3, 20, 20), dtype=torch.uint8)
    saliency = views.tv_tensors.Mask(image[:1])
    operation, params = views.RandAugment(), {"operations": [(name, views._COLOURS[name])]}
    assert torch.equal(operation.transform(saliency, params), saliency)
    changed = operation.transform(image, params)
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, image) == (name == "nothing")


def test_every_operation_is_drawn_and_moves_go_both_ways():
    torch.manual_seed(0)
    drawn = [o for _ in range(300) for o in views.RandAugment(2).make_params([])["operations"]]
    assert {name for name, _ in drawn} == {*views._GEOMETRIC, *views._COLOURS}
    for name, amount in views._GEOMETRIC.items():
        assert {a for n, a in drawn if n == name} == {amount, -amount}


@pytest.mark.parametrize("make", [views.plain_view, views.weak_view])
def test_a_map_stays_on_its_image_to_within_a_pixel(make):
    torch.manual_seed(0)
    view = make(64)
    view.transform.transforms = [
        step
        for step in view.transform.transforms
        if "Color" not in type(step).__name__ and "Gray" not in type(step).__name__
    ]
    seen = 0
    for _ in range(60):
        image, saliency = view(*blob())
        assert image.shape == (3, 64, 64)
        assert saliency.shape == (1, 64, 64)
        assert image.dtype == saliency.dtype == torch.uint8
        bright = saliency[0] > 180
        if not bright.any() or bright[:2].any() or bright[-2:].any():
            continue  # the blob is out of the crop, or cut by it
        if bright[:, :2].any() or bright[:, -2:].any():
            continue
        assert float((middle(image[0]) - middle(saliency[0])).abs().max()) < 1
        seen += 1
    assert seen >= 20


@pytest.mark.parametrize("make", [views.plain_view, views.strong_view, views.weak_view])
def test_maps_change_no_draw_and_seeds_repeat(make):
    image, saliency = blob()
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
    assert views.LesionViews(records, [views.plain_view(32)])[0][1] == []


def test_maps_are_computed_once(records, tmp_path):
    place = views.cache_maps(records[:3], tmp_path, "fine_grained")
    files = sorted(place.iterdir())
    assert [file.stem for file in files] == sorted(record.image for record in records[:3])
    stored = views.load_pixels(place / f"{records[0].image}.png", "L")[0]
    image, _ = data.LesionImages(records)[0]
    expected = FineGrained()(image.unsqueeze(0))
    expected = 255 * expected / expected.max()
    torch.testing.assert_close(torch.from_numpy(stored)[None].float(), expected, rtol=0, atol=0.51)
    files[0].write_bytes(files[1].read_bytes())
    views.cache_maps(records[:3], tmp_path, "fine_grained")
    assert files[0].read_bytes() == files[1].read_bytes()
    os.utime(files[0], (0, 0))  # older than its image
    views.cache_maps(records[:3], tmp_path, "fine_grained")
    assert files[0].read_bytes() != files[1].read_bytes()


def test_maps_that_cannot_be_used_are_refused(records, tmp_path):
    dataset = views.LesionViews(records[:1], [views.plain_view(32)], tmp_path)
    with pytest.raises(data.DataError, match=r"png: cannot be read as an image"):
        dataset[0]
    other = records[0].image + ".png"
    Image.new("L", (5, 4)).save(tmp_path / other)
    with pytest.raises(data.DataError, match=r"a map of \(4, 5\) pixels, but its image has"):
        dataset[0]
