"""Read labelled images, split them by lesion and load them.

They lie in class folders, or are listed in a table, or the folder is that of ISIC 2018 task 3::

    ISIC2018_Task3_Training_Input/ISIC_0024306.jpg ...
    ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    ISIC2018_Task3_Training_LesionGroupings.csv    optional: which images show the same lesion
    splits/lesion_disjoint.csv                     optional: columns image, split, fold
    splits/authors/train.txt, test.txt             optional: the papers' file lists
    ISIC2018_Task3_Validation_Input/ and _GroundTruth/   optional: images that those lists name too
    lesion_masks/ISIC_0024306.png ...              optional: white where the lesion is

Both challenge CSV files may lie in the folder itself or in its ground-truth folder. Ids may carry
the extension of an image, and neither its kind nor capitals matter: `isic_0024306.JPG` names
`ISIC_0024306.png`. CSV files may be separated by semicolons or tabs.
"""

import csv
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from spmix_aug.look.data import DataError, find_in_csv, find_in_folders

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")

_NAME = "ISIC2018_Task3_{}_{}"
_INPUT = _NAME.format("Training", "Input")
_TRUTH = _NAME.format("Training", "GroundTruth")
_TEST = "test"
_IMAGE = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp)$", re.IGNORECASE)
_WAY_OUT = (
    f"name the folder that holds {_INPUT} and {_TRUTH}, unpacked; for a folder of images a class "
    "give --layout folders, for a table --csv FILE"
)


@dataclass(frozen=True)
class Record:
    """One image: its id, its file, its class (an index) and the lesion it shows, or its group."""

    image: str
    path: Path
    label: int
    lesion: str


class _Row(NamedTuple):
    line: int
    image: str  # as it is written, but for an extension
    values: list[str]


def read_folder(
    root: Path,
    layout: str = "isic2018",
    *,
    table: Path | None = None,
    groups: Path | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> tuple[list[Record], Sequence[str]]:
    """Read the images of a folder in any layout: their records, and the names of the classes.

    Args:
        root: The folder.
        layout: "isic2018" for the challenge's, "folders" for a folder for each class.
        table: CSV file of images and labels, or one-hot columns, in place of a layout.
        groups: CSV file that tells which images belong together, where the table does not.
        columns: Names of the table's columns of image, label and group; else the usual ones.

    Raises:
        DataError: A folder, file or listed image is missing, or a table makes no sense.
    """
    if table is None and layout == "isic2018":
        return read_records(root), CLASSES
    if table is None:
        found = find_in_folders(root)
    else:
        found = find_in_csv(table, root, columns or {}, groups)
    records = []
    for place, (name, label) in enumerate(zip(found.names, found.labels.tolist(), strict=True)):
        # Names become file names: none may point out of the data folder.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{table}: {name} lies outside of {root}; write names in that folder")
        group = name if found.groups is None else found.groups[place]
        records.append(Record(name, root / name, label, group))
    missing = [record.image for record in records if not record.path.is_file()]
    if missing:
        raise DataError(
            f"{table}: {missing[0]} is not in {root}, which lacks {len(missing)} of the "
            f"{len(records)} images listed; complete the download, or mend the table"
        )
    twice = [image for image, number in Counter(found.names).items() if number > 1]
    if twice:
        raise DataError(f"{table}: {twice[0]} is in two rows; remove one")
    return records, found.classes


def read_records(root: Path, part: str = "Training") -> list[Record]:
    """Read the images of a challenge folder in ground-truth order, checking all of it but pixels.

    Without a lesion groupings file every image counts as a lesion of its own.

    Args:
        root: The folder.
        part: "Training", or "Validation" for the challenge's other labelled images.

    Raises:
        DataError: A folder, file or listed image is missing, or a CSV row makes no sense.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {_WAY_OUT}")
    folder = root / _NAME.format(part, "Input")
    files = _image_files(folder)
    name = _NAME.format(part, "GroundTruth")
    truth = _find(root, name, f"{name}.csv")
    if truth is None:
        raise DataError(f"{root / name / name}.csv: no such file; {_WAY_OUT}")
    rows = _read_table(truth, CLASSES)
    groupings = _find(root, name, _NAME.format(part, "LesionGroupings.csv"))
    lesions = None if groupings is None else _read_table(groupings, ("lesion_id",))

    missing = [key for key in rows if key not in files]
    if missing:
        first = rows[missing[0]]
        other = next((names[0] for key, names in files.items() if key not in rows), None)
        raise DataError(
            f"{truth}:{first.line}: {first.image}.jpg is not in {folder}, which lacks "
            f"{len(missing)} of the {len(rows)} images listed; complete the download"
            + (f", or mend the ids or file names: no row names {other}" if other else "")
        )
    records = []
    for key, row in rows.items():
        where = f"{truth}:{row.line}"
        lesion = row.image
        official, names = f"{row.image}.jpg", sorted(files[key])
        if len(names) > 1 and official not in names:
            raise DataError(
                f"{where}: {row.image} may be {' or '.join(names)} in {folder}; remove all but one"
            )
        if lesions is not None:
            if key not in lesions:
                raise DataError(
                    f"{where}: image {row.image} is not in {groupings}; add its row there"
                )
            line, _, (lesion,) = lesions[key]
            if not lesion:
                raise DataError(
                    f"{groupings}:{line}: image {row.image} has no lesion_id; fill it in"
                )
        label = _one_hot_index(row.values, where)
        name = official if official in names else names[0]
        records.append(Record(row.image, folder / name, label, lesion))
    return records


def read_folds(path: Path, records: Sequence[Record]) -> list[int | None]:
    """Read which fold each record is in from a CSV file with the columns image, split and fold.

    Returns:
        One entry per record: its fold, from 0, for split "train", None for split "test".

    Raises:
        DataError: The file does not list exactly the images of `records`, a row makes no sense,
            or the images of one lesion are not all in one place.
    """
    rows = _read_table(path, ("split", "fold"))
    lesion_of = {_key(record.image): record.lesion for record in records}
    folds: dict[str, int | None] = {}
    places: dict[str, tuple[int | None, int]] = {}
    for key, (line, image, (split, text)) in rows.items():
        where = f"{path}:{line}"
        if key not in lesion_of:
            raise DataError(f"{where}: image {image} is not in the ground truth; remove the row")
        fold = _parse_fold(split, text, where)
        first, first_line = places.setdefault(lesion_of[key], (fold, line))
        if fold != first:
            raise DataError(
                f"{where}: lesion {lesion_of[key]} is in {_part(fold)!r} here but in "
                f"{_part(first)!r} on line {first_line}; keep all images of a lesion together"
            )
        folds[key] = fold
    missing = [record.image for record in records if _key(record.image) not in folds]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(records)} images have no row, the first of them "
            f"{missing[0]}; add them or use a split made for this data"
        )
    return [folds[_key(record.image)] for record in records]


def make_folds(records: Sequence[Record], *, num_folds: int = 5, seed: int = 0) -> list[int]:
    """Deal whole lesions to folds so that every class is spread evenly over them.

    While no lesion holds images of several classes, the image counts of a class in two folds
    differ by at most the images of its largest lesion.

    Args:
        records: The images to split.
        num_folds: Number of folds, at least 2.
        seed: Seed of the dealing; the global random state is neither used nor changed.

    Returns:
        The fold of each record, in `[0, num_folds)`.

    Raises:
        ValueError: `num_folds` is below 2.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, got {num_folds}")
    lesions: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        lesions.setdefault(record.lesion, []).append(index)
    members = list(lesions.values())
    shuffle = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
    # Large lesions come first, so that the small ones can even out what those leave uneven.
    dealing = sorted((members[i] for i in shuffle.tolist()), key=len, reverse=True)

    folds = [0] * len(records)
    num_classes = 1 + max((record.label for record in records), default=0)
    counts = [[0] * num_classes for _ in range(num_folds)]
    for lesion in dealing:
        labels = [records[index].label for index in lesion]
        crowding = [(sum(count[label] for label in labels), sum(count)) for count in counts]
        fold = crowding.index(min(crowding))
        for index, label in zip(lesion, labels, strict=True):
            folds[index] = fold
            counts[fold][label] += 1
    return folds


def hold_out(
    records: Sequence[Record],
    folds: Sequence[int | None],
    name: str,
    classes: Sequence[str] = CLASSES,
) -> tuple[list[Record], list[Record]]:
    """Divide records into those to train on and those held out; test images are never trained on.

    Args:
        records: The images.
        folds: Fold of each record, None for a test image.
        name: Fold to hold out, as in "0", or "test" to train on all folds.
        classes: Names of the classes, each of which is to be in both parts.

    Raises:
        DataError: Nothing goes by that name, or a class is left without training images or,
            so that its recall means nothing, without held-out ones.
    """
    parts = [_part(fold) for fold in folds]
    if name not in parts:
        existing = ", ".join(sorted(set(parts)))
        raise DataError(f"no images to hold out as {name!r}; choose from: {existing}")
    pairs = list(zip(records, parts, strict=True))
    train = [record for record, part in pairs if part not in (name, _TEST)]
    held = [record for record, part in pairs if part == name]
    for part, kind in ((train, "training"), (held, "held-out")):
        present = {record.label for record in part}
        absent = [label for index, label in enumerate(classes) if index not in present]
        if absent:
            raise DataError(
                f"holding out {name!r} leaves no {kind} image of class {', '.join(absent)}; "
                "hold out another part, use another split or add images of that class"
            )
    return train, held


def folds_of(
    root: Path, records: Sequence[Record], *, split_file: Path | None, seed: int
) -> list[int | None]:
    """Return the fold of each record, from a split file where there is one.

    The file is `split_file`, else `splits/lesion_disjoint.csv` in `root`. Without either the
    folds are made with `make_folds`, which `seed` is for, and there are no test images.

    Raises:
        DataError: The split file cannot be used; see `read_folds`.
    """
    default = root / "splits" / "lesion_disjoint.csv"
    if split_file is None and default.exists():
        split_file = default
    if split_file is None:
        return list(make_folds(records, seed=seed))
    return read_folds(split_file, records)


def authors_split(root: Path) -> tuple[list[Record], list[Record], str]:
    """Divide images by the papers' own file lists, whose two parts share lesions.

    The lists are `splits/authors/train.txt` and `test.txt` in `root`, a path and a class index on
    each line. They name training and validation images of the challenge; those that are not there
    are left out.

    Returns:
        The images to train on, those held out, and how many of the listed ones those are.

    Raises:
        DataError: A list is missing, makes no sense or disagrees with the ground truth, a class is
            left without images, or which images show the same lesion is not known.
    """
    if _find(root, _TRUTH, _NAME.format("Training", "LesionGroupings.csv")) is None:
        raise DataError(
            f"{root}: no lesion groupings, without which the leak cannot be told; add them"
        )
    records = read_records(root)
    if (root / _NAME.format("Validation", "Input")).is_dir():
        records += read_records(root, "Validation")
    by_key = {_key(record.image): record for record in records}
    (train, listed), (test, listed_test) = (
        _listed_images(root / "splits" / "authors" / f"{name}.txt", by_key)
        for name in ("train", "test")
    )
    found = (
        f"{len(test)} of the {listed_test} listed test images and {len(train)} of the {listed} "
        "listed training images are there"
    )
    return train, test, found


def _listed_images(path: Path, by_key: dict[str, Record]) -> tuple[list[Record], int]:
    """Take the images that a list of the authors names, and count its lines."""
    lines = _read_text(path, "the protocol needs it").splitlines()
    part = []
    for number, line in enumerate(lines, start=1):
        # One way to match alone: with several, a long line that does not match would take minutes.
        found = re.fullmatch(
            r"(?:\S*[^\w-])?([\w-]+)\.(?:jpe?g|png) (\d)", line.strip(), re.IGNORECASE
        )
        if found is None:
            raise DataError(f"{path}:{number}: expected a path and a class index, got {line!r}")
        record = by_key.get(_key(found[1]))
        if record is None:
            continue
        if record.label != int(found[2]):
            raise DataError(
                f"{path}:{number}: class {found[2]}, but the ground truth has {record.label}"
            )
        part.append(record)
    absent = set(range(len(CLASSES))) - {record.label for record in part}
    if absent:
        raise DataError(f"{path}: no image of class {CLASSES[min(absent)]} is in the folder")
    return part, len(lines)


class LesionImages(Dataset[tuple[Tensor, int]]):
    """The images of some records, decoded when asked for, and their labels.

    Args:
        records: The images, in the order of the dataset.
        transform: Called with each image, uint8 `(3, H, W)` in `[0, 255]`.
    """

    def __init__(
        self, records: Sequence[Record], transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.records = list(records)
        self.labels = [record.label for record in self.records]
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label.

        Raises:
            DataError: The file is missing, broken or neither RGB nor greyscale.
        """
        image = _load_rgb(self.records[index].path)
        return image if self.transform is None else self.transform(image), self.labels[index]


def read_lesion_mask(root: Path, image: str) -> Tensor:
    """Return which pixels of an image are lesion, bool `(H, W)`, from the folder `lesion_masks`.

    The file is a PNG named like the image, with the challenge's `_segmentation` behind it or
    without. Of two levels, such as 0 and 1 or 0 and 255, the higher one is lesion; of more, as of
    smooth edges, it is what is above 127.

    A mask that is whiter along its edge than inside is turned over: in the copy of the data at
    171 x 128 pixels, the masks of ISIC_0024316 to ISIC_0024717 are white outside the lesion.

    Raises:
        DataError: The file is missing, broken or neither black and white nor greyscale, or has
            more than two levels and none above 127.
    """
    path = _mask_path(root / "lesion_masks", _IMAGE.sub("", image))
    pixels, mode = load_pixels(path, "L")
    if mode not in ("1", "L", "P"):
        raise DataError(f"{path}: expected a black and white mask, got mode {mode}; convert it")
    levels = np.unique(pixels)
    if len(levels) > 2 and levels[-1] <= 127:
        raise DataError(
            f"{path}: expected a mask of two levels or up to 255, got the {len(levels)} levels "
            f"{', '.join(map(str, levels[:4]))}, ...; write it as 0 and 255"
        )
    lesion = pixels > (127 if len(levels) > 2 else levels[0] if len(levels) == 2 else 0)
    inside = lesion[1:-1, 1:-1]
    edge_pixels = lesion.size - inside.size
    edge_share = (lesion.sum() - inside.sum()) / edge_pixels
    return torch.from_numpy(~lesion if inside.size and edge_share > inside.mean() else lesion)


def _mask_path(folder: Path, image: str) -> Path:
    names = (image, f"{image}_segmentation")
    for path in (folder / f"{name}.png" for name in names):
        if path.exists():
            return path
    files = _image_files(folder) if folder.is_dir() else {}  # for other capitals
    return next(
        (folder / files[_key(n)][0] for n in names if _key(n) in files), folder / f"{image}.png"
    )


def _load_rgb(path: Path) -> Tensor:
    """Return the image in a file as uint8 `(3, H, W)`."""
    pixels, mode = load_pixels(path, "RGB")
    if mode not in ("RGB", "L"):
        raise DataError(f"{path}: expected an RGB or greyscale image, got mode {mode}; convert it")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def load_pixels(path: Path, mode: str) -> tuple[np.ndarray[Any, Any], str]:
    """Return the pixels of an image file in a mode of Pillow's, and the mode it has itself.

    They are turned as the file's EXIF orientation says, and as a viewer shows them.

    Raises:
        DataError: The file is missing or broken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                own = "PA" if image.mode == "P" and "transparency" in image.info else image.mode
                if own == "RGBA" and mode == "RGB" and image.getextrema()[3] == (255, 255):
                    own = "RGB"  # with nothing to see through
                ImageOps.exif_transpose(image, in_place=True)
                return np.array(image.convert(mode)), own
    except Exception as exc:
        # On a damaged file Pillow raises whatever its parsers stumble over, not only OSError.
        raise DataError(f"{path}: cannot be read as an image ({exc}); replace the file") from exc


def _key(image: str) -> str:
    """Return what tells images apart: the id without the extension of an image and capitals."""
    return _IMAGE.sub("", image).lower()


def _image_files(folder: Path) -> dict[str, list[str]]:
    """Return the names of the image files in a folder, by what tells images apart."""
    # One listing, because asking for thousands of files one by one is slow on network drives.
    files: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _IMAGE.search(entry.name) and entry.is_file():
                    files.setdefault(_key(entry.name), []).append(entry.name)
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed ({exc.strerror}); {_WAY_OUT}") from exc
    return files


def _find(root: Path, folder: str, name: str) -> Path | None:
    places = (root / name, root / folder / name)
    return next((place for place in places if place.exists()), None)


def _read_text(path: Path, way_out: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); {way_out}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text ({exc.reason}); save it as UTF-8") from exc


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Read the fields of a CSV file with the number of each line, leaving out blank lines."""
    text = _read_text(path, "check the path")
    header = re.match(r"\s*([^\r\n]*)", text)[0]
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = ([field.strip() for field in fields] for fields in reader)
        return [(reader.line_num, fields) for fields in rows if fields not in ([], [""])]
    except csv.Error as exc:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({exc}); mend the line") from exc


def _read_table(path: Path, columns: Sequence[str]) -> dict[str, _Row]:
    """Read a CSV file with a row per image: the values of `columns` by `_key`, in file order."""
    lines = _read_lines(path)
    if len(lines) < 2:
        raise DataError(
            f"{path}: expected a header and a row per image, got {len(lines)} lines; replace it"
        )
    (header_line, header), *body = lines
    wanted = ("image", *columns)
    if not set(wanted) <= set(header) or len(set(header)) < len(header):
        raise DataError(
            f"{path}:{header_line}: expected the columns {', '.join(wanted)} and no column twice, "
            f"got {', '.join(header)}; mend the header"
        )
    picks = [header.index(name) for name in wanted]
    rows: dict[str, _Row] = {}
    for line, fields in body:
        where = f"{path}:{line}"
        if len(fields) != len(header):
            raise DataError(f"{where}: expected {len(header)} fields, got {len(fields)}; mend it")
        image, *values = (fields[pick] for pick in picks)
        # Ids become file names: none may point out of the data folder.
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", image):
            raise DataError(
                f"{where}: expected an image id of letters, digits and _ - . only, got {image!r}; "
                "write it without its folder"
            )
        key = _key(image)
        if key in rows:
            raise DataError(f"{where}: image {image} is on line {rows[key].line} too; remove one")
        rows[key] = _Row(line, _IMAGE.sub("", image), values)
    return rows


def _one_hot_index(values: list[str], where: str) -> int:
    words = {"true": "1", "false": "0"}
    try:
        # A decimal comma goes with semicolons.
        numbers = [float(words.get(v.lower(), v.replace(",", "."))) for v in values]
    except ValueError:
        numbers = []
    if numbers.count(1.0) != 1 or numbers.count(0.0) != len(CLASSES) - 1:
        raise DataError(
            f"{where}: expected 1 for one class and 0 for the others, got {','.join(values)} for "
            f"{', '.join(CLASSES)}; mend the row"
        )
    return numbers.index(1.0)


def _parse_fold(split: str, text: str, where: str) -> int | None:
    if split == _TEST and not text:
        return None
    if split == "train" and re.fullmatch("[0-9]{1,4}", text):
        return int(text)
    raise DataError(
        f'{where}: expected split "train" with a fold such as 0, or "{_TEST}" with an empty fold, '
        f"got split {split!r} with fold {text!r}; mend the row"
    )


def _part(fold: int | None) -> str:
    return _TEST if fold is None else str(fold)
