"""Draw a small long-tailed set of synthetic skin lesions in the folder layout of ISIC 2018 task 3.

The seven diagnoses differ by local structure (network, vessels, plugs, lacunae, ...); position,
size, skin tone, light, hair and the camera vary in the same way for all of them. The set stands in
for the real images where those are absent. It is stylised: it says nothing about real skin.

Example:
    python -m examples.isic2018.phantom --out data/phantom
"""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

Floats = npt.NDArray[np.floating[Any]]
Generator = np.random.Generator

# Images per diagnosis in ISIC 2018 task 3, in the challenge's column order.
TOTALS = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}
IMAGES_PER_LESION = 1.34
FOLDS = 5
MARKER = "phantom.json"
# Raise it whenever the drawing changes, so that an older folder is not taken for a current one.
VERSION = 1

# What a unit of each pigment takes from red, green and blue light.
MELANIN = (0.55, 0.95, 1.25)
BLOOD = (0.08, 0.75, 0.55)
KERATIN = (0.12, 0.35, 0.80)
# Opaque colours.
BLUE_GREY = (0.36, 0.40, 0.52)
WHITE = (0.97, 0.91, 0.88)
SCALE = (0.98, 0.93, 0.78)
PEARL = (0.96, 0.78, 0.79)
BLACK = (0.09, 0.06, 0.06)
RED = (0.72, 0.10, 0.16)
PURPLE = (0.27, 0.06, 0.20)


def _ramp(values: Floats, low: float, high: float) -> Floats:
    """Return 0 below `low`, 1 above `high` and a smooth step between them."""
    step: Floats = np.clip((values - low) / (high - low), 0, 1)
    return step * step * (3 - 2 * step)


def _noise(rng: Generator, x: Floats, y: Floats, scale: float) -> Floats:
    """Return smooth noise about in [-1, 1] with `scale` cells a unit of the coordinates."""
    lattice = rng.uniform(-1.3, 1.3, (64, 64)).astype(np.float32)
    # The offset keeps the lattice nodes, where the noise is flattest, off the lesion's centre.
    x, y = x * scale + 31.4, y * scale + 32.7
    left, top = np.floor(x), np.floor(y)
    a, b = _ramp(x - left, 0, 1), _ramp(y - top, 0, 1)
    i, j = left.astype(np.int32), top.astype(np.int32)
    i, j, i1, j1 = i & 63, j & 63, (i + 1) & 63, (j + 1) & 63
    upper = lattice[j, i] * (1 - a) + lattice[j, i1] * a
    lower = lattice[j1, i] * (1 - a) + lattice[j1, i1] * a
    return np.asarray(upper * (1 - b) + lower * b)


def _cover(
    size: tuple[int, int],
    shapes: Iterable[Floats],
    opacities: Iterable[int],
    widths: Iterable[float] | Iterable[None],
) -> Floats:
    """Return the anti-aliased cover `(H, W)` in [0, 1] of polygons (no width) or lines.

    A shape is its corners `(points, 2)` across and down, in pixels like the widths; opacities are
    in [0, 255]. The shortest of the three ends the drawing, so any may be `repeat(...)`.
    """
    # Pillow draws hard edges; a sheet of twice the size softens them.
    sheet = Image.new("L", (2 * size[1], 2 * size[0]))
    pen = ImageDraw.Draw(sheet)
    for shape, fill, width in zip(shapes, opacities, widths, strict=False):
        corners = (2 * shape).ravel().tolist()
        if width is None:
            pen.polygon(corners, fill=fill)
        else:
            pen.line(corners, fill=fill, width=max(1, round(2 * width)))
    return np.asarray(sheet.reduce(2), dtype=np.float32) / 255


@dataclass
class _Canvas:
    """One view of one lesion: the colours, and where each pixel lies on the lesion.

    Attributes:
        image: Colours `(H, W, 3)` in [0, 1].
        x: Lesion coordinate `(H, W)`; the mean outline has radius 1 around the origin.
        y: The other lesion coordinate `(H, W)`.
        centre: Pixel position (across, down) of the lesion's origin.
        axes: Pixels `(2, 2)` per lesion unit: the rotation times the radius.
        depth: `(H, W)`, positive inside the outline, 1 at the origin.
        inside: Soft cover `(H, W)` of the lesion in [0, 1].
    """

    image: Floats
    x: Floats
    y: Floats
    centre: Floats
    axes: Floats
    depth: Floats
    inside: Floats

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def radius(self) -> float:
        """Pixels per lesion unit."""
        return float(np.hypot(*self.axes[0]))

    def stain(self, pigment: Sequence[float], amount: Floats) -> None:
        """Let a pigment absorb light, so that it shows on every skin tone as it would."""
        self.image *= np.exp(-amount[..., None] * np.array(pigment, dtype=np.float32))

    def paint(self, colour: Sequence[float], cover: Floats) -> None:
        """Blend an opaque colour in, `cover` `(H, W)` in [0, 1]."""
        self.image += cover[..., None] * (np.array(colour, dtype=np.float32) - self.image)

    def noise(self, rng: Generator, scale: float) -> Floats:
        """Return noise `(H, W)` that sticks to the lesion in all its views."""
        return _noise(rng, self.x, self.y, scale)

    def outline(self, rng: Generator, roughness: float, softness: float) -> None:
        """Set `depth` and `inside` for a random outline with the given unevenness and edge."""
        angle, border = np.arctan2(self.y, self.x), np.ones_like(self.x)
        for waves in range(2, 7):
            height = roughness * rng.normal() * 1.6 / waves
            border += height * np.cos(waves * angle + np.float32(rng.uniform(0, 2 * np.pi)))
        border += roughness * self.noise(rng, 3.5)
        self.depth = 1 - np.hypot(self.x, self.y) / np.clip(border, 0.4, 1.7)
        self.inside = _ramp(self.depth, -softness / 2, softness / 2)

    def network(self, rng: Generator, period: float, disorder: float) -> Floats:
        """Return the lines `(H, W)` in [0, 1] of a honeycomb mesh with holes `period` apart."""
        x = self.x + disorder * period * self.noise(rng, 2.5)
        y = self.y + disorder * period * self.noise(rng, 2.5)
        waves, turn = np.zeros_like(x), rng.uniform(0, np.pi)
        # Three plane waves at 60 degrees peak on a triangular lattice, sqrt(3) / 2 of it a row.
        for angle in (turn, turn + np.pi / 3, turn - np.pi / 3):
            along, down = 4 * np.pi / np.sqrt(3) / period * np.array([np.cos(angle), np.sin(angle)])
            waves += np.cos(np.float32(along) * x + np.float32(down) * y)
        return 1 - _ramp(waves, -1.5, 0.5)

    def blobs(
        self, rng: Generator, count: int, radius: tuple[float, float], reach: float = 0.8
    ) -> Floats:
        """Return the cover `(H, W)` of uneven round spots scattered up to `reach` of the way out.

        Radii are in lesion units, and a spot's opacity varies between 0.6 and 1.
        """
        far, angle = reach * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
        middle = np.stack([far * np.cos(angle), far * np.sin(angle)], axis=1)
        turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        uneven = rng.uniform(*radius, (count, 1)) * (1 + 0.06 * rng.normal(size=(count, 12)))
        wide, high = rng.uniform(0.75, 1.25, (2, count, 1))
        corners = np.stack([wide * uneven * np.cos(turn), high * uneven * np.sin(turn)], axis=2)
        pixels = self.centre + (middle[:, None] + corners) @ self.axes
        return _cover(self.size, pixels, rng.integers(150, 256, count).tolist(), repeat(None))

    def vessels(self, rng: Generator, trees: int) -> Floats:
        """Return the cover `(H, W)` of branching vessels that grow inwards from the edge."""
        paths, widths = [], []
        for _ in range(trees):
            angle = rng.uniform(0, 2 * np.pi)
            start = 0.95 * np.array([np.cos(angle), np.sin(angle)])
            tips = [(start, angle + np.pi + rng.normal() * 0.5, 0.05)]
            while tips:
                place, heading, width = tips.pop()
                headings = heading + np.cumsum(rng.normal(0, 0.45, 6))
                steps = 0.08 * np.stack([np.cos(headings), np.sin(headings)], axis=1)
                path = np.vstack([place, place + np.cumsum(steps, axis=0)])
                paths.append(self.centre + path @ self.axes)
                widths.append(width * self.radius)
                if width > 0.015:
                    forks = headings[-1] + np.array([-0.6, 0.6]) + rng.normal(0, 0.2, 2)
                    tips += [(path[-1], fork, 0.65 * width) for fork in forks]
        return _cover(self.size, paths, repeat(255), widths)


def _nevus(canvas: _Canvas, rng: Generator) -> None:
    """Paint an even brown oval with a regular network that fades to the edge."""
    canvas.outline(rng, rng.uniform(0.02, 0.17), rng.uniform(0.08, 0.4))
    body = canvas.inside * (1 + 0.2 * canvas.noise(rng, 2))
    canvas.stain(MELANIN, rng.uniform(0.25, 0.9) * body)
    canvas.stain(BLOOD, rng.uniform(0, 0.6) * body)
    mesh = canvas.network(rng, rng.uniform(0.14, 0.21), 0.5) * _ramp(canvas.depth, 0, 0.5)
    canvas.stain(MELANIN, rng.uniform(0.05, 0.9) * mesh)
    canvas.stain(MELANIN, rng.uniform(-0.3, 0.5) * _ramp(canvas.depth, 0.2, 0.8))


def _melanoma(canvas: _Canvas, rng: Generator) -> None:
    """Paint an uneven many-coloured patch with notches, dots and a blue-grey veil."""
    canvas.outline(rng, rng.uniform(0.06, 0.26), rng.uniform(0.06, 0.3))
    inside = canvas.inside
    canvas.stain(MELANIN, rng.uniform(0.25, 0.9) * inside)
    canvas.stain(BLOOD, rng.uniform(0, 0.8) * inside * _ramp(canvas.noise(rng, 1.2), -0.2, 0.6))
    mesh = canvas.network(rng, rng.uniform(0.16, 0.28), 1.2)
    patchy = _ramp(canvas.noise(rng, 1.2), -0.2, 1)
    canvas.stain(MELANIN, rng.uniform(0.1, 0.8) * inside * mesh * patchy)
    canvas.stain(MELANIN, rng.uniform(0.1, 1.6) * inside * _ramp(canvas.noise(rng, 1.7), 0, 0.6))
    veil = _ramp(canvas.noise(rng, 1.3) + 0.3 * canvas.noise(rng, 5), -0.1, 1)
    canvas.paint(BLUE_GREY, rng.uniform(0, 0.8) * veil * _ramp(canvas.depth, 0, 0.3))
    dots = canvas.blobs(rng, int(rng.integers(3, 20)), (0.025, 0.09), 0.95)
    canvas.paint(BLACK, rng.uniform(0.1, 0.85) * dots * inside)


def _basal_cell_carcinoma(canvas: _Canvas, rng: Generator) -> None:
    """Paint a pearly pink nodule with branching vessels and blue-grey ovoid nests."""
    canvas.outline(rng, rng.uniform(0.04, 0.2), rng.uniform(0.1, 0.5))
    inside = canvas.inside
    canvas.stain(BLOOD, rng.uniform(0.2, 0.8) * inside * (1 + 0.4 * canvas.noise(rng, 2)))
    canvas.paint(PEARL, rng.uniform(0.1, 0.5) * inside * _ramp(canvas.noise(rng, 1.5), -0.6, 0.8))
    canvas.stain(MELANIN, rng.uniform(0, 0.4) * inside * _ramp(canvas.noise(rng, 2), 0, 0.7))
    nests = canvas.blobs(rng, int(rng.integers(0, 7)), (0.07, 0.24), 0.85)
    canvas.paint(BLUE_GREY, rng.uniform(0.15, 0.8) * nests * inside)
    vessels = canvas.vessels(rng, int(rng.integers(1, 5))) * _ramp(canvas.depth, -0.1, 0.1)
    canvas.paint(RED, rng.uniform(0.15, 0.8) * vessels)


def _actinic_keratosis(canvas: _Canvas, rng: Generator) -> None:
    """Paint a rough red ill-defined patch with white and yellowish scales."""
    canvas.outline(rng, rng.uniform(0.06, 0.25), rng.uniform(0.3, 0.8))
    rough = np.clip(0.8 + 0.4 * canvas.noise(rng, 3) + 0.4 * canvas.noise(rng, 9), 0, 2)
    canvas.stain(BLOOD, rng.uniform(0.25, 1.0) * canvas.inside * rough)
    canvas.stain(MELANIN, rng.uniform(0, 0.5) * canvas.inside * _ramp(canvas.noise(rng, 2), 0, 0.7))
    for colour in (WHITE, SCALE):
        flakes = canvas.blobs(rng, int(rng.integers(5, 28)), (0.03, 0.14), 0.9)
        ragged = _ramp(canvas.noise(rng, 12), -0.7, 0.2)
        canvas.paint(colour, rng.uniform(0.1, 0.75) * flakes * ragged * canvas.inside)


def _benign_keratosis(canvas: _Canvas, rng: Generator) -> None:
    """Paint a sharply bordered waxy plaque with pale milia and dark plugs."""
    canvas.outline(rng, rng.uniform(0.03, 0.22), rng.uniform(0.04, 0.25))
    waxy = canvas.inside * (1 + 0.25 * canvas.noise(rng, 4) + 0.2 * canvas.noise(rng, 10))
    canvas.stain(MELANIN, rng.uniform(0.15, 0.9) * waxy)
    canvas.stain(KERATIN, rng.uniform(0, 0.8) * waxy)
    milia = canvas.blobs(rng, int(rng.integers(3, 24)), (0.03, 0.075), 0.9)
    plugs = canvas.blobs(rng, int(rng.integers(3, 18)), (0.035, 0.1), 0.9)
    canvas.paint(SCALE, rng.uniform(0.1, 0.75) * milia * canvas.inside)
    canvas.stain(MELANIN, rng.uniform(0.2, 1.8) * plugs * canvas.inside)


def _dermatofibroma(canvas: _Canvas, rng: Generator) -> None:
    """Paint a white scar-like centre in a ring of delicate brown network."""
    canvas.outline(rng, rng.uniform(0.03, 0.15), rng.uniform(0.2, 0.6))
    canvas.stain(BLOOD, rng.uniform(0, 0.6) * canvas.inside)
    uneven = canvas.depth + 0.12 * canvas.noise(rng, 4)
    width = rng.uniform(0.35, 0.65)
    ring = canvas.inside * (1 - 0.8 * _ramp(uneven, width - 0.15, width + 0.2))
    mesh = canvas.network(rng, rng.uniform(0.14, 0.21), 0.6)
    canvas.stain(MELANIN, ring * (rng.uniform(0.2, 0.6) + rng.uniform(0.1, 0.6) * mesh))
    canvas.paint(WHITE, rng.uniform(0.12, 0.7) * _ramp(uneven, width - 0.2, width + 0.35))


def _vascular_lesion(canvas: _Canvas, rng: Generator) -> None:
    """Paint a cluster of sharp red to purple-black lacunae on a reddish ground."""
    canvas.outline(rng, rng.uniform(0.05, 0.2), rng.uniform(0.06, 0.3))
    canvas.stain(BLOOD, rng.uniform(0.3, 1.2) * canvas.inside)
    canvas.paint(PEARL, rng.uniform(0, 0.4) * canvas.inside)
    dark = rng.uniform()
    for _ in range(2):
        lacunae = canvas.blobs(rng, int(rng.integers(5, 14)), (0.1, 0.26), 0.8) * canvas.inside
        colour = (1 - dark) * np.array(RED) + dark * np.array(PURPLE)
        canvas.paint(colour.tolist(), rng.uniform(0.4, 0.9) * lacunae)
        dark = np.clip(dark + rng.uniform(-0.5, 0.5), 0, 1)


_PAINTERS: dict[str, Callable[[_Canvas, Generator], None]] = {
    "MEL": _melanoma,
    "NV": _nevus,
    "BCC": _basal_cell_carcinoma,
    "AKIEC": _actinic_keratosis,
    "BKL": _benign_keratosis,
    "DF": _dermatofibroma,
    "VASC": _vascular_lesion,
}


def _bare_skin(lesion: Generator, camera: Generator, size: tuple[int, int]) -> _Canvas:
    """Return a canvas of skin: tone and lesion size from `lesion`, place and pose from `camera`."""
    height, width = size
    short = min(size)
    radius = short * 0.16 * (0.48 / 0.16) ** lesion.uniform() * camera.uniform(0.85, 1.15)
    stretch, angle = lesion.uniform(0.86, 1), camera.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    axes = radius * np.array([[1 / stretch], [stretch]]) * turn
    centre = np.array([width, height]) / 2 + short * camera.normal(0, 0.09, 2)
    down, across = np.mgrid[:height, :width].astype(np.float32)
    inverse = np.linalg.inv(axes).astype(np.float32)
    right, below = across - np.float32(centre[0]), down - np.float32(centre[1])
    x, y = (right * inverse[0, k] + below * inverse[1, k] for k in (0, 1))
    blank = np.zeros_like(x)
    canvas = _Canvas(np.ones((*size, 3), np.float32), x, y, centre, axes, blank, blank)
    canvas.image *= np.array((0.95, 0.84, 0.79), dtype=np.float32)
    blotches = _noise(camera, across / short, down / short, 5)
    grain = _noise(camera, across / short, down / short, 28)
    canvas.stain(MELANIN, 1.1 * lesion.uniform() ** 2.5 + 0.02 * blotches + 0.04 * grain)
    canvas.stain(BLOOD, lesion.uniform(0, 0.35) * (1 + 0.35 * blotches))
    return canvas


def _photograph(canvas: _Canvas, camera: Generator) -> None:
    """Add what lies between skin and sensor: hair, blur, a ruler, uneven light, dark corners."""
    (height, width), short = canvas.size, min(canvas.size)
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    blur = camera.uniform(0.002, 0.011)
    if camera.uniform() < 0.33:
        bend = np.linspace(0, 1, 12)[:, None]
        heading, paths = camera.uniform(0, np.pi), []
        for _ in range(camera.integers(3, 22)):
            start, angle = camera.uniform(size=2) * (width, height), camera.normal(heading, 0.5)
            along = short * camera.uniform(0.25, 1) * np.array([np.cos(angle), np.sin(angle)])
            aside = camera.normal(0, 0.25) * along[::-1] * (-1, 1)
            paths.append(start + bend * along + bend * (1 - bend) * 2 * aside)
        widths = short * camera.uniform(0.004, 0.012, len(paths))
        hair = _cover(canvas.size, paths, repeat(255), widths.tolist())
        canvas.stain((1.6, 2.0, 2.2), camera.uniform(0.5, 1.2) * hair)
    focus = np.clip(255 * canvas.image, 0, 255).astype(np.uint8)
    blurred = Image.fromarray(focus).filter(ImageFilter.GaussianBlur(short * blur))
    canvas.image[:] = np.asarray(blurred, dtype=np.float32) / 255
    if camera.uniform() < 0.12:
        tick = short * np.array([[0, 0.01], [0, 0.05]])
        places = np.arange(camera.uniform(0, 0.07), width / short, 0.07)
        ticks = [tick + np.array([short * place, 0]) for place in places]
        canvas.paint(BLACK, _cover(canvas.size, ticks, repeat(200), repeat(0.01 * short)))
    angle, slope = camera.uniform(0, 2 * np.pi), camera.uniform(0, 0.15)
    light = camera.uniform(0.88, 1.08) + slope * (np.cos(angle) * across + np.sin(angle) * down)
    if camera.uniform() < 0.25:
        rim = camera.uniform(0.95, 1.3)
        reach = np.hypot(across, down * height / width)
        light *= 1 - _ramp(reach, rim - 0.04, rim + 0.04)
    tint = camera.uniform(0.94, 1.04, 3)
    canvas.image *= (light[..., None] * tint).astype(np.float32)
    canvas.image += 0.01 * camera.standard_normal(canvas.image.shape, dtype=np.float32)


def draw_lesion(
    diagnosis: str,
    *,
    lesion: int,
    view: int = 0,
    size: tuple[int, int] = (128, 171),
    seed: int = 0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw one view of one synthetic lesion.

    The result depends on nothing but the arguments. Views of one lesion share its structure and
    skin tone and differ in pose, zoom, place, light, hair and camera.

    Args:
        diagnosis: One of `TOTALS`.
        lesion: Number of the lesion, at least 0.
        view: Number of the view, at least 0.
        size: Height and width in pixels, each at least 32.
        seed: Seed of the whole set, at least 0.

    Returns:
        The image `(H, W, 3)` in [0, 255] and the lesion's mask `(H, W)`.

    Raises:
        ValueError: If `diagnosis` is unknown or a number is out of its range.
    """
    if diagnosis not in _PAINTERS:
        raise ValueError(f"diagnosis must be one of {', '.join(_PAINTERS)}, got {diagnosis!r}")
    _check_at_least(0, lesion=lesion, view=view, seed=seed)
    _check_at_least(32, height=size[0], width=size[1])
    # The second number keeps the streams apart: NumPy takes [seed] and [seed, 0] for the same.
    morphology = np.random.default_rng([seed, 1, lesion])
    camera = np.random.default_rng([seed, 2, lesion, view])
    canvas = _bare_skin(morphology, camera, size)
    _PAINTERS[diagnosis](canvas, morphology)
    _photograph(canvas, camera)
    return (np.clip(canvas.image, 0, 1) * 255).round().astype(np.uint8), canvas.depth > 0


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}; pass a larger one")


@dataclass(frozen=True)
class _Picture:
    """A row of the set: which view of which lesion, and where it belongs."""

    diagnosis: str
    lesion: int
    view: int
    split: str
    fold: str


def _plan(train_images: int, test_per_class: int, seed: int) -> dict[str, _Picture]:
    """Return the pictures of the set by image name, every lesion in one split and fold."""
    rng = np.random.default_rng([seed, 0])
    pictures: list[_Picture] = []
    lesions, in_fold = count(), np.zeros(FOLDS)
    for diagnosis, total in TOTALS.items():
        for views in _views_per_lesion(test_per_class, rng):
            lesion = next(lesions)
            pictures += [_Picture(diagnosis, lesion, view, "test", "") for view in range(views)]
        of_class = np.zeros(FOLDS)
        share = round(train_images * total / sum(TOTALS.values()))
        for views in _views_per_lesion(max(FOLDS, share), rng):
            # The fold with the fewest images of the class, and of all classes among equals.
            fold, lesion = int(np.lexsort((in_fold, of_class))[0]), next(lesions)
            of_class[fold] += views
            in_fold[fold] += views
            pictures += [_Picture(diagnosis, lesion, v, "train", str(fold)) for v in range(views)]
    # In shuffled order, so that a name does not tell the diagnosis.
    order = rng.permutation(len(pictures))
    return {f"PHANTOM_{number:07d}": pictures[i] for number, i in enumerate(order)}


def _views_per_lesion(images: int, rng: Generator) -> list[int]:
    """Share `images` out to lesions of 1 to 3 views, most views first; enough for every fold."""
    lesions = max(min(FOLDS, images), round(images / IMAGES_PER_LESION))
    second_and_third = rng.permutation(np.repeat(np.arange(lesions), 2))
    views = 1 + np.bincount(second_and_third[: images - lesions], minlength=lesions)
    return sorted(views.tolist(), reverse=True)


def draw_phantom(
    root: Path,
    *,
    train_images: int = 1400,
    test_per_class: int = 20,
    size: tuple[int, int] = (128, 171),
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Draw the whole set into the folder `root`, which appears complete or not at all.

    A folder that already holds the same set is left as it is.

    Args:
        root: Folder to create.
        train_images: About how many training images; the diagnoses share them as in ISIC 2018,
            with at least 5 each.
        test_per_class: Test images of each diagnosis.
        size: Height and width in pixels, each at least 32.
        seed: Seed of the whole set, at least 0; the same seed gives the same files.
        progress: Whether to show a progress bar where the output is a terminal.

    Raises:
        ValueError: If a number is out of its range, or `root` holds anything else.
    """
    _check_at_least(1, train_images=train_images, test_per_class=test_per_class)
    _check_at_least(0, seed=seed)
    settings = {"version": VERSION, "train_images": train_images, "test_per_class": test_per_class}
    settings |= {"height": size[0], "width": size[1], "seed": seed}
    marker = json.dumps(settings, indent=2) + "\n"
    root = Path(root).resolve()
    if (root / MARKER).is_file() and (root / MARKER).read_text() == marker:
        print(f"{root} already holds this phantom; nothing to draw")
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(
            f"root must be new, empty or a phantom of the same settings, but {root} holds "
            "something else; delete it or choose another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    # A sibling is on the same file system, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / "draft"
        _write(draft, _plan(train_images, test_per_class, seed), size, seed, progress)
        (draft / MARKER).write_text(marker)
        os.replace(draft, root)


def _write(
    root: Path, pictures: dict[str, _Picture], size: tuple[int, int], seed: int, progress: bool
) -> None:
    """Write images, masks and tables of the planned pictures into the new folder `root`."""
    stem = "ISIC2018_Task3_Training"
    inputs, truth = root / f"{stem}_Input", root / f"{stem}_GroundTruth"
    masks, splits = root / "lesion_masks", root / "splits"
    for folder in (inputs, truth, masks, splits):
        folder.mkdir(parents=True)
    bar = tqdm(pictures.items(), desc="drawing", disable=None if progress else True)
    for name, p in bar:
        image, mask = draw_lesion(p.diagnosis, lesion=p.lesion, view=p.view, size=size, seed=seed)
        Image.fromarray(image).save(inputs / f"{name}.jpg", quality=92)
        Image.fromarray(mask).save(masks / f"{name}.png")
    _write_table(
        truth / f"{stem}_GroundTruth.csv",
        ["image", *TOTALS],
        ([name, *(str(float(p.diagnosis == d)) for d in TOTALS)] for name, p in pictures.items()),
    )
    _write_table(
        root / f"{stem}_LesionGroupings.csv",
        ["image", "lesion_id", "diagnosis_confirm_type"],
        ([name, f"PHANTOM_L{p.lesion:06d}", "synthetic"] for name, p in pictures.items()),
    )
    _write_table(
        splits / "lesion_disjoint.csv",
        ["image", "split", "fold"],
        ([name, p.split, p.fold] for name, p in pictures.items()),
    )


def _write_table(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a set from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.phantom",
        description="Draw synthetic skin lesions in the folder layout of ISIC 2018 task 3.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument(
        "--train-images", type=int, default=1400, help="about how many to train on (default 1400)"
    )
    parser.add_argument(
        "--test-per-class", type=int, default=20, help="test images a diagnosis (default 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set (default 0)")
    options = vars(parser.parse_args(arguments))
    try:
        draw_phantom(options.pop("out"), **options)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
