"""Draw a small long-tailed set of synthetic skin lesions in the folder layout of ISIC 2018 task 3.

A lesion is a pigmented blob whose class shows in its texture and outline alone: pigment, size, pose
and light vary alike for all classes, and no texture changes the mean colour of a lesion. The skin
around it has one of a few backgrounds, whatever the class. `--spurious-correlation` ties one of
them to each rare class of the training part, as if its few patients had been seen by one camera;
the test part keeps any background. The set says nothing about real skin.

Example:
    python -m examples.isic2018.phantom --out data/phantom --spurious-correlation 0.9
"""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from .data import Record, make_folds

Floats = npt.NDArray[np.floating[Any]]
Generator = np.random.Generator

# Images per diagnosis in ISIC 2018 task 3, in the challenge's column order.
TOTALS = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}
IMAGES_PER_LESION = 1.34
FOLDS = 5
PHANTOM_FILE = "phantom.json"
# Raise it whenever the drawing changes, so that an older folder is not taken for a current one.
VERSION = 2

# Red, green and blue of the skin in [0, 1], and how much light its corners lack.
BACKGROUNDS = (
    ((0.90, 0.74, 0.68), 0.0),
    ((0.86, 0.76, 0.52), 0.0),  # a yellow cast
    ((0.72, 0.68, 0.78), 0.0),  # a blue cast
    ((0.70, 0.50, 0.40), 0.8),  # darker skin through a lens with dark corners
)
OWN_BACKGROUND = {"AKIEC": 1, "DF": 2, "VASC": 3}  # where backgrounds are tied to rare classes


def _ramp(values: Floats, low: float, high: float) -> Floats:
    """Return 0 below `low`, 1 above `high` and a smooth step between them."""
    step: Floats = np.clip((values - low) / (high - low), 0, 1)
    return step * step * (3 - 2 * step)


def _noise(rng: Generator, xy: Floats, period: float) -> Floats:
    """Return smooth noise of mean 0 and variance 1: eight plane waves about `period` long."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 8))
    waves = np.stack([np.cos(angle), np.sin(angle)]) * 2 * np.pi / period / rng.uniform(0.7, 1.4, 8)
    return np.asarray(np.cos(xy @ np.float32(waves) + np.float32(phase)).sum(axis=2) / 2)


def _spots(rng: Generator, xy: Floats, number: int, radius: float) -> Floats:
    """Return the cover in [0, 1] of round spots scattered over the lesion."""
    far, angle = 0.85 * np.sqrt(rng.uniform(size=number)), rng.uniform(0, 2 * np.pi, number)
    places = np.float32(far * np.stack([np.cos(angle), np.sin(angle)])).T
    nearest = np.min([np.hypot(*np.moveaxis(xy - place, 2, 0)) for place in places], axis=0)
    return 1 - _ramp(nearest, 0.7 * radius, 1.2 * radius)


def _blotches(rng: Generator, xy: Floats) -> Floats:
    return np.tanh(2 * _noise(rng, xy, 0.9))


def _network(rng: Generator, xy: Floats) -> Floats:
    bent = xy + 0.04 * np.stack([_noise(rng, xy, 1.0), _noise(rng, xy, 1.0)], axis=2)
    return 1 - _ramp(np.abs(np.sin(np.pi / 0.33 * bent)).min(axis=2), 0.1, 0.7)


def _vessels(rng: Generator, xy: Floats) -> Floats:
    return 1 - _ramp(np.abs(_noise(rng, xy, 1.2)), 0.1, 0.4)


def _centre(rng: Generator, xy: Floats) -> Floats:
    return 1 - _ramp(np.hypot(xy[..., 0], xy[..., 1]), 0.25, 0.7)


class _Look(NamedTuple):
    """What tells a class."""

    pattern: Callable[[Generator, Floats], Floats]  # of lesion coordinates (H, W, 2), radius 1
    ink: tuple[float, float, float]  # what the pattern adds to red, green and blue
    roughness: float  # of the outline
    softness: float  # width of the edge, in radii


# Blotches, a network, vessels, pale scales, dark plugs, a pale centre, large lacunae.
_LOOKS = {
    "MEL": _Look(_blotches, (-0.7, -0.6, -0.4), 0.14, 0.15),
    "NV": _Look(_network, (-0.8, -0.9, -0.8), 0.05, 0.25),
    "BCC": _Look(_vessels, (0.0, -1.0, -0.8), 0.06, 0.15),
    "AKIEC": _Look(partial(_spots, number=12, radius=0.15), (0.9, 1.0, 0.9), 0.12, 0.5),
    "BKL": _Look(partial(_spots, number=20, radius=0.1), (-1.0, -1.0, -0.9), 0.08, 0.1),
    "DF": _Look(_centre, (0.8, 0.9, 0.9), 0.05, 0.35),
    "VASC": _Look(partial(_spots, number=7, radius=0.28), (-0.5, -1.0, -0.6), 0.08, 0.1),
}


def draw_lesion(
    diagnosis: str,
    *,
    lesion: int,
    view: int = 0,
    background: int | None = None,
    size: tuple[int, int] = (128, 171),
    seed: int = 0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw one view of one synthetic lesion.

    The result depends on nothing but the arguments. Views of one lesion share its structure and
    skin and differ in pose, zoom, place and light.

    Args:
        diagnosis: One of `TOTALS`.
        lesion: Number of the lesion, at least 0.
        view: Number of the view, at least 0.
        background: Index into `BACKGROUNDS`; None draws one.
        size: Height and width in pixels, each at least 32.
        seed: Seed of the whole set, at least 0.

    Returns:
        The image `(H, W, 3)` in [0, 255] and the lesion's mask `(H, W)`.

    Raises:
        ValueError: If `diagnosis` is unknown or a number is out of its range.
    """
    if diagnosis not in _LOOKS:
        raise ValueError(f"diagnosis must be one of {', '.join(TOTALS)}, got {diagnosis!r}")
    if background is not None and background not in range(len(BACKGROUNDS)):
        raise ValueError(
            f"background must be below {len(BACKGROUNDS)}, got {background}; choose one, or None"
        )
    _check_at_least(0, lesion=lesion, view=view, seed=seed)
    _check_at_least(32, height=size[0], width=size[1])
    look, (height, width), short = _LOOKS[diagnosis], size, min(size)
    # The second number keeps the streams apart: NumPy takes [seed] and [seed, 0] for the same.
    rng = np.random.default_rng([seed, 1, lesion])
    camera = np.random.default_rng([seed, 2, lesion, view])

    # Lesion coordinates: the mean outline has radius 1 around the origin.
    radius = short * rng.uniform(0.2, 0.36) * camera.uniform(0.9, 1.1)
    angle, place = camera.uniform(0, 2 * np.pi), camera.normal(0, 0.07 * short, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    down, across = np.mgrid[:height, :width] + 0.5
    centred = np.stack([across - width / 2, down - height / 2], axis=2)
    stretch = np.array([1, rng.uniform(0.72, 1)])
    xy = ((centred - place) @ turn / (radius * stretch)).astype(np.float32)
    reach, around = np.hypot(xy[..., 0], xy[..., 1]), np.arctan2(xy[..., 1], xy[..., 0])
    outline = np.ones_like(reach)
    for waves in range(2, 7):
        high = look.roughness * rng.normal() * 2 / waves
        outline += high * np.cos(waves * around + rng.uniform(0, 2 * np.pi))
    depth = 1 - reach / np.clip(outline, 0.5, 1.5)
    inside = _ramp(depth, -look.softness / 2, look.softness / 2)

    any_background = int(rng.integers(len(BACKGROUNDS)))  # drawn in any case: the rest stays equal
    colour, darkness = BACKGROUNDS[any_background if background is None else background]
    skin = colour + rng.normal(0, 0.02, 3) + 0.015 * _noise(rng, xy, 1.5)[..., None]
    corners = np.hypot(*np.moveaxis(centred / (width, height), 2, 0))
    skin *= 1 - darkness * _ramp(corners, 0.4, 0.65)[..., None]
    pigment = np.array((0.62, 0.45, 0.38)) * rng.uniform(0.75, 1.15) + rng.normal(0, 0.03, 3)
    pattern = look.pattern(rng, xy)
    pattern = pattern - (inside * pattern).sum() / inside.sum()  # the mean colour tells no class
    blob = pigment + 0.03 * _noise(rng, xy, 1.5)[..., None]
    blob += rng.uniform(0.12, 0.3) * pattern[..., None] * np.array(look.ink)

    light = camera.uniform(0.9, 1.08) + centred / (width, height) @ camera.normal(0, 0.08, 2)
    image = (skin + inside[..., None] * (blob - skin)) * light[..., None]
    image += 0.015 * camera.standard_normal(image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), depth > 0


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}; pass a larger one")


class _Picture(NamedTuple):
    """A row of the set: which view of which lesion, and where it belongs."""

    diagnosis: str
    lesion: int
    view: int
    background: int | None
    split: str


def _plan(train_images: int, test_per_class: int, rho: float, seed: int) -> list[_Picture]:
    """Choose the pictures of the set, in shuffled order so that no name tells a diagnosis."""
    rng, lesions, pictures = np.random.default_rng([seed, 0]), count(), []
    for diagnosis, total in TOTALS.items():
        share = max(FOLDS, round(train_images * total / sum(TOTALS.values())))
        for split, images in (("test", test_per_class), ("train", share)):
            # One to three views a lesion, and lesions for every fold.
            number = max(min(FOLDS, images), round(images / IMAGES_PER_LESION))
            extra = rng.permutation(np.repeat(np.arange(number), 2))[: images - number]
            tied = rng.random(number) < (rho if split == "train" else 0)
            for index, more in enumerate(np.bincount(extra, minlength=number).tolist()):
                lesion = next(lesions)
                own = OWN_BACKGROUND.get(diagnosis) if tied[index] else None
                pictures += [_Picture(diagnosis, lesion, v, own, split) for v in range(1 + more)]
    return [pictures[place] for place in rng.permutation(len(pictures))]


def draw_phantom(
    out: Path,
    *,
    train_images: int = 1400,
    test_per_class: int = 20,
    spurious_correlation: float = 0.0,
    size: tuple[int, int] = (128, 171),
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Draw the whole set into the folder `out`, which appears complete or not at all.

    A folder that already holds the same set is left as it is.

    Args:
        out: Folder to create.
        train_images: About how many training images; the diagnoses share them as in ISIC 2018,
            with at least 5 each.
        test_per_class: Test images of each diagnosis.
        spurious_correlation: Probability in [0, 1] with which a training lesion of a rare class
            (AKIEC, DF, VASC) has the background of its class; all others have any background.
        size: Height and width in pixels, each at least 32.
        seed: Seed of the whole set, at least 0; the same seed gives the same files.
        progress: Whether to show a progress bar where the output is a terminal.

    Raises:
        ValueError: If a number is out of its range, or `out` holds anything else.
    """
    _check_at_least(1, train_images=train_images, test_per_class=test_per_class)
    _check_at_least(0, seed=seed)
    if not 0 <= spurious_correlation <= 1:
        raise ValueError(
            f"spurious_correlation must be in [0, 1], got {spurious_correlation}; pass a share"
        )
    settings = {"version": VERSION, "train_images": train_images, "test_per_class": test_per_class}
    settings |= {"spurious_correlation": float(spurious_correlation)}
    settings |= {"height": size[0], "width": size[1], "seed": seed}
    marker = json.dumps(settings, indent=2) + "\n"
    root = Path(out).resolve()
    if (root / PHANTOM_FILE).is_file() and (root / PHANTOM_FILE).read_text() == marker:
        print(f"{root} already holds this phantom; nothing to draw")
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(
            f"out must be new, empty or a phantom of the same settings, but {root} holds "
            "something else; delete it or choose another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    pictures = _plan(train_images, test_per_class, spurious_correlation, seed)
    # A sibling is on the same file system, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / "draft"
        _write(draft, pictures, size, seed, progress)
        (draft / PHANTOM_FILE).write_text(marker)
        os.replace(draft, root)


def _write(
    root: Path, pictures: Sequence[_Picture], size: tuple[int, int], seed: int, progress: bool
) -> None:
    """Write images, masks and tables of the planned pictures into the new folder `root`."""
    stem = "ISIC2018_Task3_Training"
    inputs, masks = root / f"{stem}_Input", root / "lesion_masks"
    inputs.mkdir(parents=True)
    masks.mkdir()
    rows = {f"PHANTOM_{number:07d}": picture for number, picture in enumerate(pictures)}
    for name, p in tqdm(rows.items(), desc="drawing", disable=None if progress else True):
        image, mask = draw_lesion(
            p.diagnosis, lesion=p.lesion, view=p.view, background=p.background, size=size, seed=seed
        )
        Image.fromarray(image).save(inputs / f"{name}.jpg", quality=92)
        Image.fromarray(mask).convert("L").save(masks / f"{name}.png")
    trained = [
        Record(name, inputs / f"{name}.jpg", list(TOTALS).index(p.diagnosis), str(p.lesion))
        for name, p in rows.items()
        if p.split == "train"
    ]
    folds = dict(zip([r.image for r in trained], make_folds(trained, seed=seed), strict=True))
    _write_table(
        root / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv",
        ["image", *TOTALS],
        ([name, *(str(float(p.diagnosis == d)) for d in TOTALS)] for name, p in rows.items()),
    )
    _write_table(
        root / f"{stem}_LesionGroupings.csv",
        ["image", "lesion_id", "diagnosis_confirm_type"],
        ([name, f"PHANTOM_L{p.lesion:06d}", "synthetic"] for name, p in rows.items()),
    )
    _write_table(
        root / "splits" / "lesion_disjoint.csv",
        ["image", "split", "fold"],
        ([name, p.split, str(folds.get(name, ""))] for name, p in rows.items()),
    )


def _write_table(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a set as the command line says."""
    import tyro  # here, as the documentation draws single lesions without it

    try:
        tyro.cli(draw_phantom, prog="python -m examples.isic2018.phantom", args=arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
