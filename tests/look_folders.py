"""Class folders of drawn images for tests of `spmix_aug.look`; `python tests/look_folders.py OUT`.

Disks of a colour a class, on backgrounds of any colour; or of one a class, if they are to tell it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"rare": 6, "common & <plain>": 24, "middle": 12}
COLOURS = {"rare": (200, 40, 40), "common & <plain>": (40, 160, 60), "middle": (60, 60, 200)}


def disk(rng, colour, background, size=(40, 32)):
    """Draw a disk with a little noise, `(width, height)`; returns the image and its mask."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(0.2, 0.25) * height
    pixels = np.where(inside[..., None], colour, background) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.uint8(pixels.clip(0, 255))), Image.fromarray(inside)


def draw(folder, counts=COUNTS, *, told_by_background=False, masks=False):
    """Write class folders, the second image of each class in a folder of its own; returns names."""
    rng, names = np.random.default_rng(0), []
    for label, count in counts.items():
        for i in range(count):
            background = np.array(COLOURS[label]) * 0.4 + 100 if told_by_background else None
            if background is None:
                background = rng.uniform(90, 230, 3)
            image, mask = disk(rng, COLOURS[label], background)
            name = f"{label}/{'deeper/' * (i == 1)}{i:03}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
            if masks:
                mask.save(folder / f"{label}_{i:03}_mask.png")
            names.append((name, label, f"{label}_{i:03}_mask.png"))
    return names


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
