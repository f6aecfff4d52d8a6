"""What tells the classes of the phantom, and what its backgrounds are tied to."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.isic2018 import phantom
from examples.isic2018.data import CLASSES, folds_of, hold_out, read_lesion_mask, read_records
from examples.isic2018.phantom import (
    BACKGROUNDS,
    OWN_BACKGROUND,
    TOTALS,
    draw_lesion,
    draw_phantom,
)

SIZE = (48, 64)
INPUT = "ISIC2018_Task3_Training_Input"


def draw(root: Path, rho: float) -> Path:
    draw_phantom(
        root,
        train_images=150,
        test_per_class=12,
        spurious_correlation=rho,
        size=SIZE,
        progress=False,
    )
    return root


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("free") / "set", 0.0)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("tied") / "set", 1.0)


def skin_colour(root: Path, image: str) -> np.ndarray:
    """Return the mean colour of the skin in the middle of the image's sides, in [0, 1]."""
    pixels = np.asarray(Image.open(next((root / INPUT).glob(f"{image}.*"))), float) / 255
    skin = ~read_lesion_mask(root, image).numpy()
    skin[:, [*range(8), *range(-8, 0)]] = False  # corners may be dark
    return pixels[skin].mean(axis=0)


def background(root: Path, image: str) -> int:
    """Tell the background by hue, which the light does not change."""
    hues = np.array([colour for colour, _ in BACKGROUNDS])
    hues /= hues.sum(axis=1, keepdims=True)
    found = skin_colour(root, image)
    return int(np.linalg.norm(hues - found / found.sum(), axis=1).argmin())


def backgrounds_by_class(root: Path) -> dict[str, dict[str, list[int]]]:
    records = read_records(root)
    train, test = hold_out(records, folds_of(root, records, split_file=None, seed=0), "test")
    return {
        part: {
            name: [background(root, r.image) for r in held if r.label == label]
            for label, name in enumerate(CLASSES)
        }
        for part, held in (("train", train), ("test", test))
    }


def test_classes_are_the_readers() -> None:
    assert tuple(TOTALS) == CLASSES


def test_backgrounds_are_tied_in_training_to_rare_classes_alone(tied: Path) -> None:
    found = backgrounds_by_class(tied)
    for name, own in OWN_BACKGROUND.items():
        assert set(found["train"][name]) == {own}
        assert len(set(found["test"][name])) > 1
    for name in set(CLASSES) - set(OWN_BACKGROUND):
        assert len(set(found["train"][name])) > 1


def test_nothing_is_tied_by_default(free: Path) -> None:
    found = backgrounds_by_class(free)
    assert all(len(set(of_class)) > 1 for of_class in found["train"].values())


def test_the_strength_is_the_share_of_tied_lesions() -> None:
    for rho in (0.0, 0.3, 0.9):
        rare = {
            p.lesion: p.background
            for p in phantom._plan(40_000, 5, rho, seed=0)
            if p.split == "train" and p.diagnosis in OWN_BACKGROUND
        }
        share = np.mean([own is not None for own in rare.values()])
        assert share == pytest.approx(rho, abs=0.05)


def test_tying_changes_nothing_but_the_skin_of_tied_lesions(free: Path, tied: Path) -> None:
    for name in ("splits/lesion_disjoint.csv", "ISIC2018_Task3_Training_LesionGroupings.csv"):
        assert (free / name).read_bytes() == (tied / name).read_bytes()
    with (free / "splits/lesion_disjoint.csv").open(newline="") as file:
        test = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"]
    for image in test:
        name = f"{INPUT}/{image}.jpg"
        assert (free / name).read_bytes() == (tied / name).read_bytes()
    for record in read_records(free):
        assert read_lesion_mask(free, record.image).equal(read_lesion_mask(tied, record.image))


def test_the_background_is_outside_the_lesion_alone() -> None:
    one, mask = draw_lesion("BKL", lesion=3, background=0, size=SIZE)
    for other in range(1, len(BACKGROUNDS)):
        image, same = draw_lesion("BKL", lesion=3, background=other, size=SIZE)
        assert np.array_equal(mask, same)
        differs = (image != one).any(axis=2)
        assert differs[~mask].mean() > 0.9
        assert differs[mask].mean() < 0.2  # the soft edge


def test_an_own_background_leaves_the_rest_as_it_was() -> None:
    for lesion in range(4):
        drawn, _ = draw_lesion("VASC", lesion=lesion, size=SIZE)
        given = [
            draw_lesion("VASC", lesion=lesion, background=number, size=SIZE)[0]
            for number in range(len(BACKGROUNDS))
        ]
        assert sum(np.array_equal(drawn, image) for image in given) == 1


@pytest.mark.parametrize("background", [-1, 4])
def test_backgrounds_that_there_are_not_are_refused(background: int) -> None:
    with pytest.raises(ValueError, match=f"background must be below 4, got {background}; choose"):
        draw_lesion("NV", lesion=0, background=background, size=SIZE)


def test_texture_tells_classes_that_mean_colours_do_not() -> None:
    """Lesions of one number share pigment and skin, so that classes differ by texture alone."""
    means, textures = {}, {}
    for name in CLASSES:
        drawn = [draw_lesion(name, lesion=n, background=0, size=(64, 64)) for n in range(30)]
        inside = [image[mask].astype(float) for image, mask in drawn]
        means[name] = np.mean([pixels.mean(axis=0) for pixels in inside], axis=0)
        textures[name] = np.mean([pixels.std(axis=0) for pixels in inside])
    middle = np.mean(list(means.values()), axis=0)
    assert max(np.abs(mean - middle).max() for mean in means.values()) < 6
    assert min(textures.values()) > 15
