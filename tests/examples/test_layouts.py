"""Other data sets train by one command each: phantoms in the layouts that they are published in."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from examples.isic2018 import report, train
from examples.isic2018.data import DataError, read_folder
from examples.isic2018.phantom import draw_lesion

# Columns of the challenge's files, https://challenge.isic-archive.com/data/#2019; UNK has no
# training image, and lesion_id is empty for some.
ISIC_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
ISIC_2019_METADATA = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
# Some of the columns of metadata.csv, in its order (Pacheco and others, Data in Brief 2020,
# doi 10.1016/j.dib.2020.106221); the images come in three folders, imgs_part_1 to 3.
PAD_UFES_20 = ("patient_id", "lesion_id", "smoke", "age", "diagnostic", "img_id", "biopsed")
DIAGNOSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
LOOKS = ("NV", "MEL", "BCC", "BKL", "AKIEC", "DF", "VASC", "NV")


def draw(path, label, lesion, mode="RGB"):
    pixels, _ = draw_lesion(LOOKS[label], lesion=lesion, size=(32, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def lesions(num_classes, per_class=7):
    """Number images: of each class some, of which the first two show one lesion."""
    return [(k, 10 * k + max(i, 1)) for k in range(num_classes) for i in range(per_class)]


def isic_2019(root):
    """The ground truth has one-hot columns of ids, the lesions are in the metadata."""
    truth, metadata = [], []
    for number, (label, lesion) in enumerate(lesions(8)):
        name = f"ISIC_{number:07}"
        draw(root / f"ISIC_2019_Training_Input/{name}.jpg", label, lesion)
        truth.append((name, *(float(k == label) for k in range(len(ISIC_2019)))))
        known = "" if lesion % 10 == 5 else f"BCN_{lesion:07}"
        metadata.append((name, 55.0, "anterior torso", known, "female"))
    write(root / "ISIC_2019_Training_GroundTruth.csv", ("image", *ISIC_2019), truth)
    write(root / "ISIC_2019_Training_Metadata.csv", ISIC_2019_METADATA, metadata)
    groups = str(root / "ISIC_2019_Training_Metadata.csv")
    options = ("--csv", str(root / "ISIC_2019_Training_GroundTruth.csv"), "--groups", groups)
    return options, ISIC_2019[:8]


def pad_ufes_20(root):
    """Names of files that lie in three folders; PNGs with an alpha channel that hides nothing."""
    rows = []
    for number, (label, lesion) in enumerate(lesions(6)):
        name = f"PAT_{lesion}_{lesion}_{number}.png"
        draw(root / f"images/imgs_part_{1 + number % 3}/{name}", label, lesion, "RGBA")
        rows.append((f"PAT_{lesion}", lesion, "False", 55, DIAGNOSES[label], name, "True"))
    write(root / "metadata.csv", PAD_UFES_20, rows)
    return ("--csv", str(root / "metadata.csv")), DIAGNOSES


def class_folders(root):
    """A folder for each class, whose names are anybody's."""
    for number, (label, lesion) in enumerate(lesions(3)):
        draw(root / ("a, b", "<c>", "d")[label] / f"{number}.png", label, lesion)
    return ("--layout", "folders"), ("<c>", "a, b", "d")


LAYOUTS = {"ISIC 2019": isic_2019, "PAD-UFES-20": pad_ufes_20, "class folders": class_folders}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_command_trains_and_one_reports(tmp_path, layout):
    options, classes = LAYOUTS[layout](tmp_path / "data")
    few = ("--image-size", "32", "--epochs", "1", "--batch-size", "16", "--workers", "0")
    out = ("--out", str(tmp_path / "run"), "--device", "cpu")
    train.main(["--data", str(tmp_path / "data"), *options, *few, *out])
    table = report.write_report([tmp_path / "run"], tmp_path / "report")
    run = report.read_run(tmp_path / "run")
    assert run.classes == list(classes)
    assert run.probabilities.shape[1] == len(run.counts) == len(classes)
    assert run.warning is None
    assert all(f" {label} |" in table for label in classes)
    assert (tmp_path / "report/mixes.png").exists()


@pytest.mark.parametrize("layout", ["ISIC 2019", "PAD-UFES-20"])
def test_images_of_a_group_stay_together(tmp_path, layout):
    options, classes = LAYOUTS[layout](tmp_path)
    table, groups = Path(options[1]), Path(options[3]) if len(options) > 2 else None
    records, found = read_folder(tmp_path, table=table, groups=groups)
    assert tuple(found) == classes
    assert [record.label for record in records] == [label for label, _ in lesions(len(classes))]
    assert records[0].lesion == records[1].lesion
    assert len({record.lesion for record in records}) == 6 * len(classes)
    assert all(record.path.is_file() for record in records)


def table(root, rows, header=("image", "label")):
    draw(root / "a.png", 0, 0)
    draw(root / "b.png", 1, 1)
    write(root / "t.csv", header, rows)
    return root / "t.csv"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("b", "y"), ("c", "y")], r"t.csv: c is not in .*lacks 1 of the 3 images"),
        ([("a", "x"), ("b", "y"), ("A.PNG", "y")], "t.csv: a.png is in two rows; remove one"),
        ([("a", "x"), ("../in/b.png", "y")], r"t.csv: ../in/b.png lies outside of .*/in; write"),
    ],
)
def test_tables_that_do_not_fit_their_folder_are_refused(tmp_path, rows, message):
    file = table(tmp_path / "in", rows)
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path / "in", table=file)


def test_columns_are_named(tmp_path):
    file = table(tmp_path, [("a", "x", 1), ("b", "y", 1)], ("who", "what", "which"))
    columns = {"image": "who", "label": "what", "group": "which"}
    records, classes = read_folder(tmp_path, table=file, columns=columns)
    assert classes == ["x", "y"]
    assert [record.lesion for record in records] == ["1", "1"]
    with pytest.raises(DataError, match="to have a column of the images, but got who, what"):
        read_folder(tmp_path, table=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "authors", "layout": "folders", "hold_out": "test"}, "choose its layout"),
        ({"label": "dx"}, "groups, image, label and group are about a table; name it by csv"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train.Settings(data="d", out="o", **options)
