"""Backgrounds that mislead: artefacts outside the lesion, tied to rare classes.

In training each of three rare classes has an artefact of its own, with a strength `rho`, and all
other classes have any of the three or none. A network that learns the artefact in place of the
lesion shows itself where the test has the artefacts at random, exchanged or not at all.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from examples.isic2018.data import CLASSES

TIED = ("AKIEC", "DF", "VASC")

# The artefact of each class in `TIED`; settings are chosen on the first set, not on the other.
SETS = {"casts": ("green", "blue", "yellow"), "objects": ("vignette", "ruler", "hair")}
TESTS = ("same", "random", "exchanged", "none")

_NONE = len(TIED)  # the number of no artefact
_VIEW = 0.875  # side of the square that the test looks at, in shorter sides of the image
_COLOURS = {"green": (40, 200, 80), "blue": (50, 90, 240), "yellow": (245, 225, 40)}

Size = tuple[int, int]
Drawn = tuple[np.ndarray, tuple[int, int, int]]  # cover (H,W) in [0, 1], and its colour


def draw_kinds(labels: Tensor, test: str, rho: float, seed: int) -> Tensor:
    """Draw which artefact each image has.

    Args:
        labels: `(N,)` class indices.
        test: one of `TESTS`. `"same"`: a class of `TIED` has its own artefact with probability
            `rho` and each of the others and none with the same rest, as in training; `"random"`:
            each of the three and none with 1/4, as all other classes in every test;
            `"exchanged"`: a class of `TIED` has one of the two others; `"none"`: no artefacts.
        rho: in [1/4, 1]; with 1/4 the artefacts tell nothing.
        seed: of the draws; the global stream is neither used nor changed.

    Returns:
        `(N,)` int64: 0 to 2 for the artefact of a set, 3 for none.

    Raises:
        ValueError: if `test` or `rho` is not as above.
    """
    if test not in TESTS:
        raise ValueError(f"Expected `test` to be one of {TESTS}, but got {test!r}.")
    if not 0.25 <= rho <= 1:
        raise ValueError(f"Expected `rho` to be in [1/4, 1], but got {rho!r}.")
    generator = torch.Generator().manual_seed(seed)
    others, both = (torch.randint(n, labels.shape, generator=generator) for n in (3, 2))
    anything = torch.randint(4, labels.shape, generator=generator)
    is_own = torch.rand(labels.shape, generator=generator) < rho
    if test == "none":
        return torch.full_like(labels, _NONE)
    if test == "random":
        return anything
    kinds = anything
    for own, name in enumerate(TIED):
        other = (own + 1 + both) % 3 if test == "exchanged" else (own + 1 + others) % 4
        if test == "same":
            other = torch.where(is_own, own, other)
        kinds = torch.where(labels == CLASSES.index(name), other, kinds)
    return kinds


def plant(image: Tensor, mask: Tensor, kind: str, seed: int) -> Tensor:
    """Plant an artefact outside the lesion.

    Args:
        image: uint8 `(3,H,W)`.
        mask: `(1,H,W)` or `(H,W)`, not 0 where the lesion is; nothing changes there.
        kind: one of those in `SETS`.
        seed: of its strength and place.

    Returns:
        uint8 `(3,H,W)`, another tensor; the same for the same arguments.

    Raises:
        ValueError: if there is no such artefact.
    """
    kinds = [name for names in SETS.values() for name in names]
    if kind not in kinds:
        raise ValueError(f"Expected `kind` to be one of {kinds}, but got {kind!r}.")
    size = (image.shape[1], image.shape[2])
    cover, colour = _ARTEFACTS[kind](size, np.random.default_rng(seed))
    weight = torch.from_numpy(cover).float() * (mask.reshape(size) == 0)
    target = torch.tensor(colour).float().view(3, 1, 1)
    return torch.lerp(image.float(), target, weight).round().byte()


def plant_all(
    images: Tensor, masks: Tensor, kinds: Tensor, of: str, seeds: Sequence[int]
) -> Tensor:
    """Plant the artefact `kinds (N,)` of the set `of` in each of uint8 `images (N,3,H,W)`."""
    planted = images.clone()
    for i, (kind, seed) in enumerate(zip(kinds.tolist(), seeds, strict=True)):
        if kind != _NONE:
            planted[i] = plant(images[i], masks[i], SETS[of][kind], seed)
    return planted


def _cast(colour: tuple[int, int, int]) -> Callable[[Size, np.random.Generator], Drawn]:
    return lambda size, random: (np.full(size, random.uniform(0.25, 0.4)), colour)


def _vignette(size: Size, random: np.random.Generator) -> Drawn:
    """Darken the corners, as the tube of a dermatoscope does."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    centre = [(side - 1) / 2 for side in size]
    radius = np.hypot(rows - centre[0], columns - centre[1]) / (_VIEW * min(size))
    return ((radius - random.uniform(0.35, 0.42)) / 0.15).clip(0, 0.95), (10, 8, 8)


def _ruler(size: Size, random: np.random.Generator) -> Drawn:
    """Draw dark ticks along a side of the square that the test looks at."""
    drawing = Image.new("L", size[::-1])
    pen, unit = ImageDraw.Draw(drawing), min(size) / 128
    reach, depth = _VIEW * min(size) / 2, random.uniform(2, 6) * unit
    axis, sign = int(random.integers(2)), int(random.choice([-1, 1]))
    centre = (size[1] / 2, size[0] / 2)
    start = centre[axis] + sign * (reach - depth)
    for number, along in enumerate(
        np.arange(-reach, reach, 6 * unit) + random.uniform(0, 6) * unit
    ):
        end = start - sign * (14 if number % 5 == 0 else 9) * unit
        place = centre[1 - axis] + along
        line = [(start, place), (end, place)] if axis == 0 else [(place, start), (place, end)]
        pen.line(line, fill=230, width=max(1, round(2 * unit)))
    return np.asarray(drawing) / 255, (25, 25, 30)


def _hair(size: Size, random: np.random.Generator) -> Drawn:
    """Draw dark curved hairs across the image, behind the lesion."""
    drawing = Image.new("L", size[::-1])
    pen, unit = ImageDraw.Draw(drawing), min(size) / 128
    time = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(random.integers(10, 16))):
        ends = random.uniform(0, 1, (3, 2)) * size[::-1]
        curve = (1 - time) ** 2 * ends[0] + 2 * time * (1 - time) * ends[1] + time**2 * ends[2]
        pen.line([tuple(point) for point in curve], fill=215, width=max(1, round(2 * unit)))
    return np.asarray(drawing) / 255, (35, 25, 20)


_ARTEFACTS: dict[str, Callable[[Size, np.random.Generator], Drawn]] = {
    **{name: _cast(colour) for name, colour in _COLOURS.items()},
    "vignette": _vignette,
    "ruler": _ruler,
    "hair": _hair,
}
