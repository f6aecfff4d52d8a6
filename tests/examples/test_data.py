"""Reading, splitting and loading the ISIC 2018 folder, on tiny folders and on the real one."""

import csv
import multiprocessing
import pickle
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from examples.isic2018.data import (
    CLASSES,
    DataError,
    LesionImages,
    Record,
    folds_of,
    hold_out,
    make_folds,
    read_folds,
    read_lesion_mask,
    read_records,
)

REAL = Path(__file__).resolve().parents[3] / "shared/data/isic2018_128"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="real ISIC 2018 images not present")

INPUT = "ISIC2018_Task3_Training_Input"
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
TRUTH_CSV = f"{TRUTH}/{TRUTH}.csv"
GROUPINGS_CSV = "ISIC2018_Task3_Training_LesionGroupings.csv"
SPLIT_CSV = "splits/lesion_disjoint.csv"
HEADER = "image," + ",".join(CLASSES)
NUM_IMAGES = 4 * len(CLASSES)
PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def one_hot(label: int) -> str:
    return ",".join("1.0" if label == index else "0.0" for index in range(len(CLASSES)))


def write_jpeg(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write 28 images img_0 to img_27 on lines 2 to 29 of each CSV file.

    Image i is of class i % 7 and shows lesion i % 14, so images i and i + 14 show the same one.
    Lesions 0 to 6 are in fold 0 and lesions 7 to 13 in fold 1; nothing is a test image.
    """
    truth, groupings, split = [HEADER], ["image,lesion_id"], ["image,split,fold"]
    (tmp_path / INPUT).mkdir()
    for index in range(NUM_IMAGES):
        write_jpeg(tmp_path / INPUT / f"img_{index}.jpg")
        truth.append(f"img_{index},{one_hot(index % 7)}")
        groupings.append(f"img_{index},lesion_{index % 14}")
        split.append(f"img_{index},train,{index % 14 // 7}")
    for name, lines in ((TRUTH_CSV, truth), (GROUPINGS_CSV, groupings), (SPLIT_CSV, split)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes("".join(line + "\r\n" for line in lines).encode())
    (tmp_path / INPUT / "LICENSE.txt").write_text("not an image")
    return tmp_path


def edit(path: Path, line: int, text: str | None) -> None:
    """Replace a line, counted from 1, or remove it where `text` is None."""
    lines = path.read_text().split("\n")
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(lines))


# --- reading the records ---


def test_records_follow_the_ground_truth(root: Path) -> None:
    records = read_records(root)
    assert len(records) == NUM_IMAGES
    assert records[16] == Record("img_16", root / INPUT / "img_16.jpg", 2, "lesion_2")


def test_reading_writes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    folds_of(root, read_records(root), split_file=None, seed=0)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_byte_order_mark_column_order_and_further_columns_do_not_matter(root: Path) -> None:
    expected = read_records(root)
    with (root / TRUTH_CSV).open(newline="") as file:
        rows = list(csv.reader(file))
    swapped = [",".join([*row[:0:-1], row[0], "note"]) for row in rows]
    swapped[0] = swapped[0].replace("note", "comment")
    (root / TRUTH_CSV).write_text("\ufeff" + "\n".join(swapped) + "\n\n", encoding="utf-8")
    assert read_records(root) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [(TRUTH_CSV, f"{TRUTH}.csv"), (GROUPINGS_CSV, f"{TRUTH}/{GROUPINGS_CSV}")],
)
def test_csv_files_may_lie_in_either_folder(root: Path, old: str, new: str) -> None:
    expected = read_records(root)
    (root / old).rename(root / new)
    assert read_records(root) == expected


def test_without_groupings_every_image_is_its_own_lesion(root: Path) -> None:
    (root / GROUPINGS_CSV).unlink()
    assert all(record.lesion == record.image for record in read_records(root))


# --- bad data: what to spoil, and the message it gives ---


@dataclass(frozen=True)
class Spoilt:
    """A spoilt line of one file, or the whole new content, and the error to expect."""

    file: str
    line: int | None
    text: str | bytes | None
    message: str
    where: str | None = None

    def apply(self, root: Path) -> str:
        """Spoil the file and return the pattern of the message."""
        path = root / self.file
        if isinstance(self.text, bytes):
            path.write_bytes(self.text)
        elif self.line is None:
            path.unlink()
        else:
            edit(path, self.line, self.text)
        place = f":{self.line}" if self.line is not None else ""
        return re.escape((self.where or path.name + place) + ": ") + ".*" + self.message


def in_every_table(file: str, header: str) -> list[Spoilt]:
    """Return the errors that any of the CSV files can have, for the one with this header."""
    commas = header.count(",")
    name = Path(file).name
    return [
        Spoilt(file, None, b"", "expected a header and a row per image, got 0 lines"),
        Spoilt(file, None, b"\r\n\r\n", "expected a header .* got 0 lines"),
        Spoilt(file, None, f"{header}\r\n".encode(), "expected a header .* got 1 lines"),
        Spoilt(
            file,
            None,
            f"{header}\nimg_0,\xe9{',' * (commas - 1)}\n".encode("latin-1"),
            r"not UTF-8 text .* save it as UTF-8",
            f"{name}:2",
        ),
        Spoilt(file, 4, 'img_2,"open', "not CSV", f"{name}:29"),
        Spoilt(file, 1, header.replace("image", "Image"), "columns image, .* got Image"),
        Spoilt(file, 1, header.rpartition(",")[0], "expected the columns"),
        Spoilt(file, 1, header.replace(",", ";"), r"expected \d fields, got 1", f"{name}:2"),
        Spoilt(file, 1, f"{header},image", "no column twice"),
        Spoilt(file, 1, f"{header},x,x", "no column twice"),
        Spoilt(file, 5, "img_3", r"expected \d fields, got 1; mend"),
        Spoilt(file, 5, f"img_3{',0' * (commas + 1)}", r"expected \d fields, got \d; mend"),
        Spoilt(file, 6, f"img_1{',' * commas}", "image img_1 is on line 3 too"),
        *(
            Spoilt(file, 7, f"{bad}{',' * commas}", "expected an image id of letters")
            for bad in ("../img_5", "..", "a..b", "/etc/img", "a\\b", "C:x", "img 5", "", ".img")
        ),
    ]


BAD_RECORDS = [
    *in_every_table(TRUTH_CSV, HEADER),
    *in_every_table(GROUPINGS_CSV, "image,lesion_id"),
    *(
        Spoilt(TRUTH_CSV, 9, f"img_7,{values}", f"expected 1 for one class .* got {values} for MEL")
        for values in (
            "0,0,0,0,0,0,0",
            "1,0,0,0,0,1,0",
            "0.5,0.5,0,0,0,0,0",
            "1,0,0,0,0,1,-1",
            "2,0,0,0,0,0,0",
            "1,nan,0,0,0,0,0",
            "1,inf,0,0,0,0,0",
            "yes,0,0,0,0,0,0",
            "1,,0,0,0,0,0",
        )
    ),
    Spoilt(TRUTH_CSV, None, None, f"no such file; name the folder that holds {INPUT}"),
    Spoilt(TRUTH_CSV, 29, f"img_99,{one_hot(6)}", "img_99.jpg is not in .* lacks 1 of the 28"),
    Spoilt(GROUPINGS_CSV, 9, None, "img_7 is not in .*Groupings.csv; add", f"{TRUTH}.csv:9"),
    Spoilt(GROUPINGS_CSV, 9, "img_7,", "img_7 has no lesion_id"),
]

BAD_SPLITS = [
    *in_every_table(SPLIT_CSV, "image,split,fold"),
    *(
        Spoilt(SPLIT_CSV, 9, f"img_7,{split},{fold}", f"got split '{split}' with fold '{fold}'")
        for split, fold in (
            *(("tset", ""), ("tset", "1"), ("Train", "1"), ("", "1"), ("test", "1")),
            *(("train", fold) for fold in ("", "1.0", "-1", "x", "9" * 5000, "\u0661")),
        )
    ),
    Spoilt(SPLIT_CSV, 30, "img_28,train,0", "img_28 is not in the ground truth"),
    Spoilt(SPLIT_CSV, 9, None, "1 of 28 images have no row, .* img_7", "lesion_disjoint.csv"),
    Spoilt(SPLIT_CSV, 16, "img_14,train,1", "lesion_0 is in '1' here but in '0' on line 2; keep"),
    Spoilt(SPLIT_CSV, 16, "img_14,test,", "lesion_0 is in 'test' here but in '0' on line 2"),
]


def spoilt_id(spoilt: object) -> str:
    if not isinstance(spoilt, Spoilt):
        return ""
    return f"{Path(spoilt.file).stem[-12:]}-{spoilt.line}-{str(spoilt.text)[-24:]}"


@pytest.mark.parametrize("spoilt", BAD_RECORDS, ids=spoilt_id)
def test_bad_records_are_refused(root: Path, spoilt: Spoilt) -> None:
    pattern = spoilt.apply(root)
    with pytest.raises(DataError, match=pattern):
        read_records(root)


@pytest.mark.parametrize("spoilt", BAD_SPLITS, ids=spoilt_id)
def test_bad_splits_are_refused(root: Path, spoilt: Spoilt) -> None:
    records = read_records(root)
    pattern = spoilt.apply(root)
    with pytest.raises(DataError, match=pattern):
        folds_of(root, records, split_file=None, seed=0)


def test_missing_folders_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such folder; name the folder that holds"):
        read_records(root / "absent")
    (root / INPUT).rename(root / "elsewhere")
    with pytest.raises(DataError, match=rf"{INPUT}: cannot be listed \(No such file"):
        read_records(root)


def test_folder_in_place_of_an_image_counts_as_missing(root: Path) -> None:
    (root / INPUT / "img_3.jpg").unlink()
    (root / INPUT / "img_3.jpg").mkdir()
    with pytest.raises(DataError, match=rf"{TRUTH}.csv:5: img_3.jpg is not in .*{INPUT}"):
        read_records(root)


def test_missing_split_file_is_named(root: Path) -> None:
    records = read_records(root)
    with pytest.raises(DataError, match=r"absent.csv: cannot be read \(No such file"):
        folds_of(root, records, split_file=root / "absent.csv", seed=0)


# --- folds ---


def test_split_file_is_read_in_the_order_of_the_records(root: Path) -> None:
    records = read_records(root)
    edit(root / SPLIT_CSV, 2, "img_0,test,")
    edit(root / SPLIT_CSV, 16, "img_14,test,")
    by_image = {record.image: int(record.lesion.removeprefix("lesion_")) // 7 for record in records}
    expected = [
        None if record.lesion == "lesion_0" else by_image[record.image] for record in records
    ]
    assert read_folds(root / SPLIT_CSV, records) == expected
    assert read_folds(root / SPLIT_CSV, records[::-1]) == expected[::-1]


def test_folds_come_from_the_given_file_else_the_default_file_else_are_made(root: Path) -> None:
    records = read_records(root)
    other = root / "other.csv"
    other.write_text((root / SPLIT_CSV).read_text().replace("train,1", "train,3"))
    assert set(folds_of(root, records, split_file=other, seed=0)) == {0, 3}
    assert set(folds_of(root, records, split_file=None, seed=0)) == {0, 1}
    (root / SPLIT_CSV).unlink()
    assert folds_of(root, records, split_file=None, seed=4) == make_folds(records, seed=4)


def records_of(lesions: Sequence[Sequence[int]]) -> list[Record]:
    """Make a record per label, from the labels of the images of each lesion, interleaved."""
    records = [
        (position, Record(f"{lesion}_{position}", Path("x.jpg"), label, str(lesion)))
        for lesion, labels in enumerate(lesions)
        for position, label in enumerate(labels)
    ]
    return [record for _, record in sorted(records, key=lambda pair: pair[0])]


LABEL = st.integers(0, len(CLASSES) - 1)
PURE_LESION = st.builds(lambda label, size: [label] * size, LABEL, st.integers(1, 6))
MIXED_LESION = st.lists(LABEL, min_size=1, max_size=6)


@given(
    lesions=st.lists(MIXED_LESION, max_size=40),
    num_folds=st.integers(2, 6),
    seed=st.integers(0, 2**31),
)
def test_made_folds_keep_lesions_whole_and_touch_no_global_state(
    lesions: list[list[int]], num_folds: int, seed: int
) -> None:
    records = records_of(lesions)
    state = torch.random.get_rng_state()
    folds = make_folds(records, num_folds=num_folds, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(folds) == len(records)
    assert set(folds) <= set(range(num_folds))
    pairs = {(record.lesion, fold) for record, fold in zip(records, folds, strict=True)}
    assert len(pairs) == len(lesions)
    assert make_folds(records, num_folds=num_folds, seed=seed) == folds


@given(lesions=st.lists(PURE_LESION, max_size=80), num_folds=st.integers(2, 6), seed=LABEL)
def test_made_folds_spread_every_class_within_its_largest_lesion(
    lesions: list[list[int]], num_folds: int, seed: int
) -> None:
    records = records_of(lesions)
    folds = make_folds(records, num_folds=num_folds, seed=seed)
    for label in range(len(CLASSES)):
        largest = max((len(labels) for labels in lesions if label in labels), default=0)
        counts = Counter(
            fold for record, fold in zip(records, folds, strict=True) if record.label == label
        )
        sizes = [counts[fold] for fold in range(num_folds)]
        assert max(sizes) - min(sizes) <= largest


def test_small_lesions_even_out_a_large_one() -> None:
    records = records_of([[0]] * 8 + [[0] * 8])
    for seed in range(5):
        assert Counter(make_folds(records, num_folds=2, seed=seed)) == {0: 8, 1: 8}


def test_single_images_of_many_classes_do_not_pile_up_in_one_fold() -> None:
    folds = make_folds(records_of([[label] for label in range(6)]), num_folds=3)
    assert Counter(folds) == {0: 2, 1: 2, 2: 2}


def test_seeds_give_different_folds() -> None:
    records = records_of([[index % 7] for index in range(70)])
    assert len({tuple(make_folds(records, seed=seed)) for seed in range(10)}) == 10


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="num_folds must be at least 2, got 1"):
        make_folds([], num_folds=1)


# --- holding out ---


@given(
    lesions=st.lists(PURE_LESION, min_size=5, max_size=40),
    num_test=st.integers(1, 4),
    name=st.sampled_from(["0", "1", "2", "test"]),
)
def test_held_out_lesions_and_test_images_are_not_trained_on(
    lesions: list[list[int]], num_test: int, name: str
) -> None:
    # Four more lesions a class, so that no class is absent from a fold or from the test images.
    every = [[label] for label in range(7)]
    records = records_of([*every, *lesions, *every, *every, *every])
    test_images = {record for record in records if int(record.lesion) < 7 + num_test}
    others = [record for record in records if record not in test_images]
    made = dict(zip(others, make_folds(others, num_folds=3), strict=True))
    folds = [made.get(record) for record in records]
    train, held = hold_out(records, folds, name)
    assert held
    assert not test_images & set(train)
    assert not {record.lesion for record in train} & {record.lesion for record in held}
    if name == "test":
        assert set(held) == test_images
        assert set(train) == set(records) - test_images
    else:
        assert not test_images & set(held)
        assert set(train) | set(held) == set(records) - test_images


@pytest.mark.parametrize("name", ["2", "test", "", "00", "-1"])
def test_unknown_part_is_refused_with_the_existing_ones(root: Path, name: str) -> None:
    records = read_records(root)
    folds = folds_of(root, records, split_file=None, seed=0)
    with pytest.raises(DataError, match=f"hold out as '{name}'; choose from: 0, 1$"):
        hold_out(records, folds, name)
    with pytest.raises(DataError, match=r"choose from: 0, 1, test$"):
        hold_out([*records, replace(records[0], lesion="x")], [*folds, None], "2")


def test_class_without_training_images_is_refused(root: Path) -> None:
    records = read_records(root)
    folds = [1 if record.label in (3, 5) else 0 for record in records]
    with pytest.raises(DataError, match=r"'1' leaves no .* class AKIEC, DF; hold out another"):
        hold_out(records, folds, "1")


def test_folds_of_other_records_are_refused(root: Path) -> None:
    records = read_records(root)
    with pytest.raises(ValueError, match="shorter"):
        hold_out(records, [0, 1], "0")


# --- images ---


def halve(image: Tensor) -> Tensor:
    return image // 2


def test_items_are_images_and_labels(root: Path) -> None:
    records = read_records(root)
    dataset = LesionImages(records[::-1])
    image, label = dataset[1]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 5, 7)
    assert image.is_contiguous()
    with Image.open(records[-2].path) as opened:
        expected = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
    assert torch.equal(image, expected)
    assert label == records[-2].label == 5
    assert dataset.labels == [record.label for record in records[::-1]]
    assert len(dataset) == NUM_IMAGES
    assert torch.equal(LesionImages(records, halve)[26][0], expected // 2)


def test_errors_of_the_transform_are_not_blamed_on_the_file(root: Path) -> None:
    def fail(image: Tensor) -> Tensor:
        raise RuntimeError("from the transform")

    with pytest.raises(RuntimeError, match=r"^from the transform$"):
        LesionImages(read_records(root), fail)[0]


def test_greyscale_image_becomes_rgb(root: Path) -> None:
    records = read_records(root)
    Image.fromarray(PIXELS[..., 0]).save(records[0].path)
    image, _ = LesionImages(records)[0]
    assert image.shape == (3, 5, 7)
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_other_modes_are_refused(root: Path, mode: str, kind: str) -> None:
    records = read_records(root)
    Image.new(mode, (7, 5)).save(records[0].path, kind)
    with pytest.raises(DataError, match=f"img_0.jpg: expected an RGB or .* got mode {mode};"):
        LesionImages(records)[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def fill_with_text(path: Path) -> None:
    path.write_text("not an image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, "truncated"),
        (fill_with_text, "cannot identify"),
        (empty, "cannot identify"),
        (Path.unlink, "No such file"),
    ],
)
def test_unreadable_image_is_named(root: Path, spoil: Callable[[Path], None], reason: str) -> None:
    records = read_records(root)
    spoil(records[3].path)
    dataset = LesionImages(records)
    dataset[2]
    with pytest.raises(DataError, match=rf"img_3\.jpg: cannot be read as an image \(.*{reason}"):
        dataset[3]


@pytest.mark.parametrize("limit", [20, 5])
def test_image_too_large_to_be_trusted_is_refused(
    root: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Above the limit Pillow warns, above twice the limit it raises; the image has 35 pixels.
    records = read_records(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"img_0\.jpg: cannot .* decompression bomb"):
        LesionImages(records)[0]


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DataError("a.csv:3: wrong")))
    assert type(error) is DataError
    assert str(error) == "a.csv:3: wrong"


def test_spawned_workers_load_images_and_name_a_truncated_one(root: Path) -> None:
    records = read_records(root)[:6]
    truncate(records[4].path)
    loader = DataLoader(
        LesionImages(records, halve),
        batch_size=2,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    batches = iter(loader)
    images, labels = next(batches)
    assert images.shape == (2, 3, 5, 7)
    assert labels.tolist() == [0, 1]
    next(batches)
    with pytest.raises(DataError, match=r"img_4\.jpg: cannot be read .*truncated"):
        next(batches)


# --- lesion masks ---


@pytest.mark.parametrize("mode", ["1", "L"])
def test_masks_are_true_where_the_lesion_is_even_if_it_is_black(tmp_path: Path, mode: str) -> None:
    (tmp_path / "lesion_masks").mkdir()
    lesion = np.zeros((9, 12), dtype=np.uint8)
    lesion[2:6, 0:7] = 255  # it touches the edge
    for name, pixels in {"white": lesion, "black": 255 - lesion}.items():
        Image.fromarray(pixels).convert(mode).save(tmp_path / "lesion_masks" / f"{name}.png")
        found = read_lesion_mask(tmp_path, name)
        assert found.dtype == torch.bool
        assert torch.equal(found, torch.from_numpy(lesion > 0))


def test_mask_without_skin_or_without_lesion_is_kept(tmp_path: Path) -> None:
    (tmp_path / "lesion_masks").mkdir()
    for value in (0, 255):
        Image.new("L", (5, 4), value).save(tmp_path / "lesion_masks" / "flat.png")
        assert read_lesion_mask(tmp_path, "flat").all() == (value == 255)
        Image.new("L", (2, 1), value).save(tmp_path / "lesion_masks" / "flat.png")
        assert read_lesion_mask(tmp_path, "flat").all() == (value == 255)


def test_broken_and_coloured_masks_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "lesion_masks").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "lesion_masks" / "coloured.png")
    with pytest.raises(DataError, match=r"coloured\.png: expected a black and white mask.*RGB"):
        read_lesion_mask(tmp_path, "coloured")
    with pytest.raises(DataError, match=r"missing\.png: cannot be read"):
        read_lesion_mask(tmp_path, "missing")


# --- the real folder ---


@needs_real
@pytest.mark.slow
def test_lesions_of_the_real_masks_lie_inside() -> None:
    inverted = 0
    for record in read_records(REAL)[:500]:
        mask = read_lesion_mask(REAL, record.image)
        assert mask[40:90, 55:115].any()
        with Image.open(REAL / "lesion_masks" / f"{record.image}.png") as image:
            inverted += not np.array_equal(mask, np.array(image))
    assert inverted == 402


@needs_real
def test_real_folder_is_read_whole_and_fast() -> None:
    start = time.perf_counter()
    records = read_records(REAL)
    folds = folds_of(REAL, records, split_file=None, seed=0)
    seconds = time.perf_counter() - start
    print(f"\nread {len(records)} records and their folds in {seconds:.2f} s")
    assert len(records) == 10_015
    counts = Counter(CLASSES[record.label] for record in records)
    totals = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115}
    assert counts == {**totals, "VASC": 142}
    assert len({record.lesion for record in records}) == 7470
    assert set(folds) == {0, 1, 2, 3, 4, None}
    assert folds.count(None) == 322
    train, held = hold_out(records, folds, "0")
    assert len(train) + len(held) == 9693
    image, _ = LesionImages(train)[0]
    assert image.shape == (3, 128, 171)


@needs_real
def test_folds_made_for_the_real_records_are_even() -> None:
    records = read_records(REAL)
    counts = Counter(
        (record.label, fold) for record, fold in zip(records, make_folds(records), strict=True)
    )
    for label in range(len(CLASSES)):
        sizes = [counts[label, fold] for fold in range(5)]
        assert max(sizes) - min(sizes) <= 1
