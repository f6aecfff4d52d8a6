"""Find labelled images in class folders or a table, and read a sample of them as thumbnails."""

import csv
import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path, PurePath
from statistics import median
from typing import Any, NamedTuple, NoReturn

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
NO_CLASS = (".", "__MACOSX", "@eaDir")  # how folders begin that systems leave behind
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
    one_hot: Sequence[str] = ()  # columns of the classes, where none holds labels
    by_id: bool = False  # whether the table has names or ids in place of paths
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
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(NO_CLASS))
    beside = [path.name for path in inside if path.is_file() and path.suffix.lower() in ENDINGS]
    images = {path.name: _images_under(path) for path in inside if path.is_dir()}
    classes = [name for name, paths in images.items() if paths]
    if beside:
        raise refuse(f"{len(beside)} images lie in {folder} itself, as {beside[0]}")
    if classes and PARTS.issuperset(map(str.lower, classes)):
        got = f"{folder} holds {', '.join(classes)}, parts of a data set"
        one = max(classes, key=lambda name: name.lower().startswith("train"))
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


def find_in_csv(
    file: Path,
    folder: Path | None,
    named: Mapping[str, str | None],
    groups_file: Path | None = None,
) -> Found:
    """Find the images that a table lists, by path, name or id.

    Without a column of labels, the class of a row is the column that holds 1, of those that hold 1
    or 0 throughout: one-hot, as the ground truth of the ISIC challenges is. Of these, classes
    without an image are left out.

    Args:
        file: CSV with a header, separated by commas, semicolons or tabs.
        folder: to which its paths are relative, and in which names and ids are looked for at any
            depth; the table's own when None.
        named: columns of image, label, group and mask; found by the usual names where None.
        groups_file: another table, of image and group.

    Raises:
        DataError: if a table cannot be read, or lacks columns, labels or images.
    """
    table = _Table(file)
    columns = table.columns(named)
    image = table.cells(columns["image"])
    if "label" in columns:
        labels = table.cells(columns["label"])
        classes = sorted({*labels})
    else:
        classes, labels = table.one_hot(set(columns.values()))
    if "" in classes:
        line = table.rows[labels.index("")][""]
        raise DataError(
            f"Expected a label in every row of {file}, but got none in {labels.count('')}, the "
            f"first in line {line}; fill them in, take them out, or give another --label."
        )
    if len(classes) < 2:
        raise DataError(
            f"Expected two classes or more in column {columns.get('label', 'of ones')} of {file}, "
            f"but got {classes or 'no rows'}; give another by --label."
        )
    folder = file.parent if folder is None else folder
    names = _files_of(image, folder, file)
    if not any((folder / name).is_file() for name in names):
        raise DataError(
            f"Expected column {columns['image']} of {file} to hold names of files in {folder}, "
            f"but none is there, as {image[0]!r}; give their folder as `FOLDER`, or another column "
            "by --image."
        )
    groups = table.cells(columns["group"]) if "group" in columns else None
    if groups_file is not None:
        other = _Table(groups_file)
        held = other.columns({"group": named.get("group")}, needed=("image", "group"))
        pairs = zip(*(other.cells(held[role]) for role in ("image", "group")), strict=True)
        group_of = {_id_of(name): group for name, group in pairs}
        groups = [group_of.get(_id_of(name), "") for name in image]
        if not any(groups):
            raise DataError(
                f"Expected {groups_file} to have the groups of images of {file}, but got none, as "
                f"for {image[0]!r}; name the images alike in both."
            )
    if groups is not None:  # an image of no group is one of its own
        groups = [group or f"row {row}" for row, group in enumerate(groups)]
    masks = table.cells(columns["mask"]) if "mask" in columns else None
    numbers = {name: k for k, name in enumerate(classes)}
    indices = torch.tensor([numbers[label] for label in labels])
    one_hot = () if "label" in columns else classes
    form = table.delimiter, columns, one_hot, names != image
    return Found(folder, names, indices, classes, (), file, *form, groups, masks)


def require_one_label(found: Found) -> None:
    """Refuse a table that has an image in several classes.

    Raises:
        DataError: if there is one.
    """
    class_of: dict[str, int] = {}
    for name, k in zip(found.names, found.labels.tolist(), strict=True):
        if class_of.setdefault(name, k) != k:
            both = " and ".join(found.classes[of] for of in (class_of[name], k))
            raise DataError(
                f"Expected one label an image in {found.csv}, but got {both} for {name}; take the "
                "wrong rows out, or give another --label."
            )


class _Table:
    """A CSV file with a header, separated by commas, semicolons or tabs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                header = lines.readline()
                lines.seek(0)
                self.delimiter = max(",;\t", key=header.count)
                reader = csv.DictReader(lines, delimiter=self.delimiter, restval="")
                self.rows = [{**row, "": reader.line_num} for row in reader]
                self.header = list(reader.fieldnames or ())
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(
                f"Expected `--csv` to be a table in UTF-8, but {file} cannot be read ({error}); "
                "check the path, or save it as CSV in UTF-8."
            ) from error

    def cells(self, column: str) -> list[str]:
        """Take a column."""
        return [str(row[column]).strip() for row in self.rows]

    def columns(
        self, named: Mapping[str, str | None], needed: Sequence[str] = ("image",)
    ) -> dict[str, str]:
        """Name the columns of image, label, group and mask, as far as there are."""
        by_lower = {name.strip().lower(): name for name in reversed(self.header)}
        columns = {}
        for role, usual in COLUMNS.items():
            asked = named.get(role)
            known = [by_lower[name] for name in usual.split() if name in by_lower]
            found = [name for name in self.header if name == asked] if asked else known
            if found:
                columns[role] = found[0]
            elif asked or role in needed:
                self.lacks(asked or f"of the {role}s", role)
        return columns

    def one_hot(self, others: set[str]) -> tuple[list[str], list[str]]:
        """Read labels from columns of 0 and 1, one for each class: the classes, and each row's."""
        numbers = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
        values = {
            name: [numbers.get(cell.lower(), -1) for cell in self.cells(name)]
            for name in self.header
            if name not in others
        }
        ones = {name: column for name, column in values.items() if column and min(column) >= 0}
        classes = [name for name, column in ones.items() if any(column)]
        if not classes:
            self.lacks("of the labels", "label")
        labels = []
        for place, row in enumerate(zip(*(ones[name] for name in classes), strict=True)):
            if sum(row) != 1:
                raise DataError(
                    f"Expected 1 in one of the columns {', '.join(classes)} and 0 in the others in "
                    f"each row of {self.file}, but got {sum(row)} of them in line "
                    f"{self.rows[place]['']}; mend the row, or name a column by --label."
                )
            labels.append(classes[row.index(1)])
        return classes, labels

    def lacks(self, what: str, role: str) -> NoReturn:
        """Refuse the table for a column that it lacks."""
        raise DataError(
            f"Expected {self.file} to have a column {what}, but got "
            f"{', '.join(self.header) or 'none'}; name it by --{role}."
        )


def _id_of(name: str) -> str:
    """Return what tells images apart by name: no folder, no ending, no capitals."""
    path = PurePath(name)
    return (path.stem if path.suffix.lower() in ENDINGS else path.name).lower()


def _files_of(names: Sequence[str], folder: Path, table: Path) -> list[str]:
    """Find the files that paths, names or ids mean; what is not there stays as it is."""
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return [*names]
    files: dict[str, list[str]] = defaultdict(list)
    for path in _images_under(folder):
        where = path.relative_to(folder).as_posix()
        for key in (path.name, f"id {_id_of(path.name)}"):
            files[key].append(where)
    found = {}
    for name in missing:
        places = files.get(name) or files.get(f"id {_id_of(name)}") or [name]
        if len(places) > 1:
            raise DataError(
                f"Expected a file of {folder} for each image of {table}, but {name} may be "
                f"{' or '.join(places[:3])}; write paths into the table, or give another `FOLDER`."
            )
        found[name] = places[0]
    return [found.get(name, name) for name in names]


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
        usual = image.mode in ("1", "L", "P", "RGB")
        remark = "" if usual else f"are of mode {image.mode}, taken as RGB"
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
