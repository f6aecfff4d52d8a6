"""Find labelled images in class folders or a table, and read a sample of them as thumbnails."""

import csv
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise ImportError(
        "spmix_aug.look needs pillow; install it with pip install 'spmix-aug[viz]'."
    ) from error

Pixels = np.ndarray[Any, Any]

# Those that torchvision's ImageFolder reads.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Of a table, their names in public data sets; the first that there is, is taken.
COLUMNS = {
    "image": "image image_path path filepath file_path file filename file_name img image_id img_id",
    "label": "label class target category diagnosis diagnostic dx y",
    "group": "group group_id patient patient_id subject subject_id case_id lesion lesion_id",
    "mask": "mask mask_path segmentation",
}
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}
AT_A_TIME = 256  # images
ORIENTATION = 274  # of EXIF: 1 is upright, above 4 lies on its side


class DataError(ValueError):
    """What was given holds no labelled images that could be looked at."""


class Found(NamedTuple):
    """Labelled images that are not read yet."""

    folder: Path
    names: list[str]  # of the images' files, in that folder
    labels: Tensor  # (N,) int64
    classes: list[str]
    empty: Sequence[str] = ()  # class folders without images
    csv: Path | None = None  # the table, if it is one
    delimiter: str = ""
    columns: Mapping[str, str] = {}  # by what they hold
    groups: list[str] | None = None  # of each image, where given
    masks: list[str] | None = None  # of the masks' files, in that folder


def find_in_folders(folder: Path) -> Found:
    """Find the images of class folders, at any depth in them.

    Raises:
        DataError: if the folder does not hold at least two class folders of images.
    """

    def refuse(got: str, way_out: str = "give a table of images and labels by --csv") -> DataError:
        wanted = "Expected `FOLDER` to hold a folder of images for each class"
        return DataError(f"{wanted}, but {got}; {way_out}.")

    if not folder.is_dir():
        got = f"{folder} {'is a file' if folder.exists() else 'does not exist'}"
        raise refuse(got, "check the path, or give a table by --csv")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    beside = [path.name for path in inside if path.is_file() and path.suffix.lower() in ENDINGS]
    images = {path.name: _images_under(path) for path in inside if path.is_dir()}
    classes = [name for name, paths in images.items() if paths]
    if beside:
        raise refuse(f"{len(beside)} images lie in {folder} itself, as {beside[0]}")
    if images and PARTS.issuperset(map(str.lower, images)):
        got = f"{folder} holds {', '.join(images)}, parts of a data set"
        one = max(images, key=lambda name: name.lower().startswith("train"))
        raise refuse(got, f"give one of them, as {folder / one}")
    if len(classes) < 2:
        got = f"{folder} holds {len(images)} folders, of which {len(classes)} have images"
        raise refuse(got, f"give two classes or more, of files that end in {', '.join(ENDINGS)}")
    names = [path.relative_to(folder).as_posix() for name in classes for path in images[name]]
    labels = torch.tensor([k for k, name in enumerate(classes) for _ in images[name]])
    return Found(folder, names, labels, classes, [name for name in images if not images[name]])


def _images_under(folder: Path) -> list[Path]:
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )


def find_in_csv(file: Path, folder: Path | None, named: Mapping[str, str | None]) -> Found:
    """Find the images that a table lists.

    Args:
        file: CSV with a header, separated by commas, semicolons or tabs.
        folder: to which its paths are relative; the table's own when None.
        named: columns of image, label, group and mask; found by the usual names where None.

    Raises:
        DataError: if the table cannot be read, or lacks columns, labels or images.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header = lines.readline()
            lines.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.DictReader(lines, delimiter=delimiter, restval="")
            rows = [{**row, "": reader.line_num} for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(
            f"Expected `--csv` to be a table in UTF-8, but {file} cannot be read ({error}); check "
            "the path, or save it as CSV in UTF-8."
        ) from error
    columns = _columns(file, reader.fieldnames or (), named)
    cells = {role: [str(row[name]).strip() for row in rows] for role, name in columns.items()}
    classes, names = sorted({*cells["label"]}), cells["image"]
    if "" in classes:
        line = rows[cells["label"].index("")][""]
        raise DataError(
            f"Expected a label in every row of {file}, but got none in {cells['label'].count('')}, "
            f"the first in line {line}; fill them in, take them out, or give another --label."
        )
    if len(classes) < 2:
        raise DataError(
            f"Expected two classes or more in column {columns['label']} of {file}, but got "
            f"{classes or 'no rows'}; give another by --label."
        )
    folder = file.parent if folder is None else folder
    if not any((folder / name).is_file() for name in names):
        raise DataError(
            f"Expected column {columns['image']} of {file} to hold names of files in {folder}, "
            f"with their endings, but none is there, as {names[0]!r}; give their folder as "
            "`FOLDER`, or another column by --image."
        )
    labels = torch.tensor([*map({name: k for k, name in enumerate(classes)}.get, cells["label"])])
    groups = cells.get("group")
    if groups is not None:  # an image of no group is one of its own
        groups = [group or f"row {row}" for row, group in enumerate(groups)]
    masks = cells.get("mask")
    return Found(folder, names, labels, classes, (), file, delimiter, columns, groups, masks)


def _columns(file: Path, header: Sequence[str], named: Mapping[str, str | None]) -> dict[str, str]:
    """Name the columns of image, label and, where there are, group and mask."""
    by_lower = {name.strip().lower(): name for name in reversed(header)}
    columns = {}
    for role, usual in COLUMNS.items():
        asked = named.get(role)
        known = [by_lower[name] for name in usual.split() if name in by_lower]
        found = [name for name in header if name == asked] if asked else known
        if found:
            columns[role] = found[0]
        elif asked or role in ("image", "label"):
            raise DataError(
                f"Expected {file} to have a column {asked or f'of the {role}s'}, but got "
                f"{', '.join(header) or 'none'}; name it by --{role}."
            )
    return columns


def sample(labels: Tensor, number: int, generator: torch.Generator) -> list[int]:
    """Draw about `number` indices of `labels (N,)`: all of rare classes, as many of each other."""
    counts = labels.bincount()
    fitting = [c for c in range(1, number + 1) if int(counts.clamp(max=c).sum()) <= number]
    order = torch.randperm(len(labels), generator=generator)
    drawn = [order[labels[order] == k][: max(fitting, default=1)] for k in range(len(counts))]
    return sorted(torch.cat(drawn).tolist())


class Sizes(NamedTuple):
    """What the images' headers tell of their sizes."""

    shorter: int  # median of the shorter sides
    proportion: float  # median of width by height

    def fitted(self, side: int) -> tuple[int, int]:
        """Width and height in this proportion, of a shorter side that is at most `side`."""
        side = min(side, self.shorter)
        return round(side * max(self.proportion, 1)), round(side / min(self.proportion, 1))


def sizes_of(paths: Sequence[Path]) -> Sizes:
    """Read the headers of some images.

    Raises:
        DataError: if none can be read.
    """
    found = []
    for path in paths:
        with suppress(Exception), Image.open(path) as image:  # the reader says why
            turned = image.getexif().get(ORIENTATION, 1) > 4
            found.append(image.size[::-1] if turned else image.size)
    if not found:
        raise DataError(
            f"Expected images that can be read, but got none in {len(paths)}, as {paths[0]}; check "
            "that they open in a viewer."
        )
    return Sizes(round(median(map(min, found))), median(w / h for w, h in found))


def read_image(path: Path, size: tuple[int, int]) -> tuple[Pixels, str]:
    """Read an image as RGB `(height, width, 3)`, its middle where proportions differ.

    Returns:
        The image, and in words what is unusual about its file.
    """
    with Image.open(path) as image:
        image.draft("RGB", (max(size), max(size)))  # a JPEG is decoded no larger than it need be
        remark = "" if image.mode in ("1", "L", "P", "RGB") else f"are of mode {image.mode}"
        if image.getexif().get(ORIENTATION, 1) != 1:
            remark = "are turned by EXIF"
        upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":  # 16 or 32 bits, which `convert` would cut at 255
        values = np.asarray(upright, dtype=np.float32)
        values = values - values.min()
        upright = Image.fromarray(np.uint8(255 * values / max(values.max(), 1e-9)))
    fitted = ImageOps.fit(upright.convert("RGB"), size, Image.Resampling.BILINEAR)
    return np.asarray(fitted), remark


def read_mask(path: Path, size: tuple[int, int]) -> tuple[Pixels, str]:
    """Read which pixels are object, bool `(height, width)`, as `read_image` reads an image.

    A mask that is whiter along its edge than inside is taken to be white outside the object.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("L")
    except Exception:
        return np.ones(size[::-1], dtype=bool), "have no mask that can be read"
    white = np.asarray(ImageOps.fit(upright, size, Image.Resampling.BILINEAR)) > 127
    inside = white[1:-1, 1:-1]
    edge = (white.sum() - inside.sum()) / (white.size - inside.size)
    if edge > inside.mean():
        return ~white, "have masks that are white outside, turned over here"
    return white, ""


class Reader:
    """Reads images of a `Found`; what cannot be read is named.

    Attributes:
        unreadable: why, by the index of the image; of what was not read yet, the missing and empty.
        remarks: how many images have what is unusual.
    """

    def __init__(self, found: Found) -> None:
        self.found = found
        self.remarks: Counter[str] = Counter()
        paths = [os.path.join(found.folder, name) for name in found.names]
        self.unreadable = {
            i: "is missing or empty"
            for i, path in enumerate(paths)
            if not (os.path.isfile(path) and os.path.getsize(path))
        }

    def parts(
        self, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """Read in parts, and draw a bar where somebody may see it.

        Yields:
            Indices of images that can be read, the images `(n,3,H,W)` uint8, and where masks are
            given, which pixels are object, `(n,H,W)` bool.
        """
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow's, of files that it reads all the same
            for start in range(0, len(indices), AT_A_TIME):
                part = indices[start : start + AT_A_TIME]
                read = [item for item in pool.map(self._read, part, repeat(size)) if item]
                if sys.stderr.isatty():
                    done = start + len(part)
                    bar = f"[{'#' * (30 * done // len(indices)):30}] {done} of {len(indices)}"
                    end = "\n" if done == len(indices) else ""
                    print(f"\rReading images {bar}", end=end, file=sys.stderr)
                if read:
                    kept, images, masks = zip(*read, strict=True)
                    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
                    given = self.found.masks is not None
                    yield [*kept], pixels, torch.from_numpy(np.stack(masks)) if given else None

    def _read(self, index: int, size: tuple[int, int]) -> tuple[int, Pixels, Pixels | None] | None:
        folder, mask, of_mask = self.found.folder, None, ""
        try:
            image, remark = read_image(folder / self.found.names[index], size)
        # On a damaged file Pillow raises whatever its parsers stumble over, not only OSError.
        except Exception as error:
            self.unreadable[index] = f"({str(error) or type(error).__name__})"
            return None
        if self.found.masks is not None:
            mask, of_mask = read_mask(folder / self.found.masks[index], size)
        self.remarks.update(filter(None, (remark, of_mask)))
        return index, image, mask
