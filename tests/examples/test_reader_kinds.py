"""The reader takes what people's own exports look like, or says what is wrong with them."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from examples.isic2018.data import (
    CLASSES,
    DataError,
    LesionImages,
    Record,
    authors_split,
    folds_of,
    hold_out,
    load_pixels,
    read_lesion_mask,
    read_records,
)

INPUT = "ISIC2018_Task3_Training_Input"
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
NAMES = [f"ISIC_{number:07d}" for number in range(14)]


def write_table(path, rows, delimiter=",", encoding="utf-8", newline="\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=newline).writerows(rows)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.getvalue().encode(encoding))


def truth_rows(ids=NAMES, one="1.0", zero="0.0"):
    rows = [["image", *CLASSES]]
    rows += [[name, *[one if k == i % 7 else zero for k in range(7)]] for i, name in enumerate(ids)]
    return rows


@pytest.fixture
def write(tmp_path):
    """Write a folder of fourteen images, each class twice: lesion i of images i and i + 7."""

    def run(
        extension=".jpg", truth=NAMES, groups=NAMES, split=NAMES, values=("1.0", "0.0"), **form
    ):
        (tmp_path / INPUT).mkdir()
        for name in NAMES:
            Image.new("RGB", (8, 6), (120, 60, 50)).save(tmp_path / INPUT / f"{name}{extension}")
        write_table(tmp_path / TRUTH / f"{TRUTH}.csv", truth_rows(truth, *values), **form)
        lesions = [["image", "lesion_id"], *([name, f"L{i % 7}"] for i, name in enumerate(groups))]
        write_table(tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv", lesions, **form)
        folds = [["image", "split", "fold"], *([name, "train", "0"] for name in split)]
        write_table(tmp_path / "splits" / "lesion_disjoint.csv", folds, **form)
        return tmp_path

    return run


def check(root):
    records = read_records(root)
    assert [record.image.upper() for record in records] == NAMES
    assert [record.label for record in records] == [*range(7), *range(7)]
    assert [record.lesion for record in records] == [f"L{i % 7}" for i in range(14)]
    assert folds_of(root, records, split_file=None, seed=0) == [0] * 14
    assert all(record.path.is_file() for record in records)
    assert len(LesionImages(records)[13][0]) == 3


# --- ids and files ---


@pytest.mark.parametrize("extension", [".JPG", ".jpeg", ".png", ".Jpeg", ".tif", ".webp"])
def test_images_may_have_any_usual_extension(write, extension):
    check(write(extension))


@pytest.mark.parametrize("table", ["truth", "groups", "split"])
@pytest.mark.parametrize(
    "changed",
    [
        lambda name: f"{name}.jpg",
        lambda name: f"{name}.JPG",
        lambda name: f"{name}.png",  # the files are JPEG
        str.lower,
        lambda name: f"{name.lower()}.jpeg",
        lambda name: f" {name} ",
    ],
)
def test_ids_of_any_table_may_carry_extension_capitals_and_spaces(write, table, changed):
    check(write(**{table: [changed(name) for name in NAMES]}))


def test_ids_are_kept_as_written_without_their_extension(write):
    records = read_records(write(truth=[f"{name.lower()}.jpg" for name in NAMES]))
    assert records[3].image == "isic_0000003"
    assert records[3].lesion == "L3"


def test_one_image_under_two_spellings_is_one_image(write):
    root = write(truth=[*NAMES[:-1], "isic_0000000.JPG"])
    with pytest.raises(DataError, match=r"csv:15: image isic_0000000.JPG is on line 2 too"):
        read_records(root)


def test_of_several_files_the_challenges_own_counts_else_they_are_refused(write):
    root = write()
    Image.new("L", (8, 6)).save(root / INPUT / f"{NAMES[2]}.png")
    assert read_records(root)[2].path.name == f"{NAMES[2]}.jpg"
    (root / INPUT / f"{NAMES[2]}.jpg").rename(root / INPUT / f"{NAMES[2]}.JPEG")
    with pytest.raises(DataError, match=r"csv:4: ISIC_0000002 may be .*JPEG or .*png in .*remove"):
        read_records(root)


def test_missing_downloads_are_told_from_other_names(write):
    root = write()
    (root / INPUT / f"{NAMES[1]}.jpg").rename(root / INPUT / f"{NAMES[1]}_downsampled.jpg")
    with pytest.raises(DataError, match=r"mend the ids .*: no row names ISIC_0000001_downsampled"):
        read_records(root)
    (root / INPUT / f"{NAMES[1]}_downsampled.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 14 images listed; complete the download$"):
        read_records(root)


@pytest.mark.parametrize("folder", ["", "data/", "../", "C:\\"])
def test_ids_with_a_folder_are_refused_with_the_way_out(write, folder):
    ids = [f"{folder}{name}.jpg" for name in NAMES]
    root = write(truth=ids)
    if folder:
        with pytest.raises(
            DataError, match=r"got .*ISIC_0000000.jpg'; write it without its folder"
        ):
            read_records(root)
    else:
        check(root)


def test_the_authors_lists_may_name_other_capitals(write):
    root = write(".JPG")
    (root / "splits" / "authors").mkdir()
    for part in ("train", "test"):
        names = [name.lower() if i % 2 else name for i, name in enumerate(NAMES)]
        lines = [f"data/{name}.JPEG {i % 7}" for i, name in enumerate(names)]
        (root / "splits" / "authors" / f"{part}.txt").write_text("\n".join(lines))
    train, _, found = authors_split(root)
    assert len(train) == 14
    assert "14 of the 14 listed test images" in found


# --- forms of CSV ---


VALUES = [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", "FALSE"), (" 1.0", "0.0 ")]


@pytest.mark.parametrize("values", VALUES)
def test_values_may_be_written_in_any_usual_way(write, values):
    check(write(values=values))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_line_ends_and_byte_order_marks(write, delimiter, newline, encoding):
    check(write(delimiter=delimiter, newline=newline, encoding=encoding))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_decimal_commas_go_with_semicolons(write, newline):
    check(write(values=("1,0", "0,0"), delimiter=";", newline=newline))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_other_encodings_are_refused_by_name(write, encoding):
    with pytest.raises(DataError, match=r"GroundTruth\.csv:1: (not UTF-8 text|expected the col)"):
        read_records(write(encoding=encoding))


@pytest.mark.parametrize("mark", [",", ";"])
def test_spaces_in_the_header_and_blank_lines_do_not_matter(write, mark):
    root = write(delimiter=mark)
    path = root / TRUTH / f"{TRUTH}.csv"
    path.write_text("\n \n" + path.read_text().replace(mark, f" {mark} ", 7) + "  \n\n")
    check(root)


# --- orientation ---


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_as_a_viewer_shows_them(tmp_path, orientation, kind):
    path = tmp_path / f"image.{kind}"
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 200  # one corner, in blocks as JPEG's
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}
    Image.fromarray(pixels).save(path, exif=oriented(orientation), **lossless.get(kind, {}))
    image, _ = LesionImages([Record("image", path, 0, "L")])[0]
    expected = ORIENTATIONS[orientation](pixels)
    assert image.shape[1:] == expected.shape[:2]
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() < 8


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_are_turned_too(tmp_path, orientation):
    (tmp_path / "lesion_masks").mkdir()
    lesion = np.zeros((9, 14), np.uint8)
    lesion[2:5, 3:11] = 1
    Image.fromarray(lesion).save(tmp_path / "lesion_masks/A.png", exif=oriented(orientation))
    expected = ORIENTATIONS[orientation](lesion) > 0
    assert torch.equal(read_lesion_mask(tmp_path, "A"), torch.from_numpy(expected.copy()))


def test_an_orientation_that_there_is_not_is_ignored(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (10, 6)).save(path, exif=oriented(9))
    assert load_pixels(path, "RGB")[0].shape == (6, 10, 3)


# --- masks ---


def write_mask(root, levels, name="A.png", mode="L", palette=None):
    """Write skin, lesion and what else there is as some levels; return where the lesion is."""
    (root / "lesion_masks").mkdir(exist_ok=True)
    places = np.zeros((12, 16), int)
    places[3:9, 4:12] = 1
    for extra in range(2, len(levels)):
        places[5, extra + 4] = extra
    image = Image.fromarray(np.array(levels, np.uint8)[places])
    if palette is not None:
        image.putpalette(palette)
    elif mode != "L":
        image = image.convert(mode)
    image.save(root / "lesion_masks" / name)
    return torch.from_numpy(places > 0)


@pytest.mark.parametrize(
    "levels", [(0, 255), (0, 1), (0, 128), (0, 2), (7, 9), (200, 255), (0, 38)]
)
def test_of_two_levels_the_higher_one_is_lesion(tmp_path, levels):
    lesion = write_mask(tmp_path, levels)
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


@pytest.mark.parametrize("levels", [(255, 0), (1, 0), (9, 7)])
def test_masks_of_two_levels_are_turned_over_where_their_edge_is_bright(tmp_path, levels):
    lesion = write_mask(tmp_path, levels)
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


def test_grey_edges_are_cut_at_the_middle(tmp_path):
    lesion = write_mask(tmp_path, (0, 255, 128, 127, 1))
    lesion[5, 7:9] = False
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)
    lesion = write_mask(tmp_path, (0, 128, 127))
    lesion[5, 6] = False
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


def test_masks_of_one_level_are_all_or_none(tmp_path):
    for level in (0, 1, 255):
        write_mask(tmp_path, (level, level))
        assert read_lesion_mask(tmp_path, "A").all() == (level > 0)
        assert read_lesion_mask(tmp_path, "A").any() == (level > 0)


@pytest.mark.parametrize("levels", [(0, 1, 2), (0, 100, 50, 25), (0, 127, 1)])
def test_masks_of_several_labels_are_refused(tmp_path, levels):
    write_mask(tmp_path, levels)
    pattern = (
        rf"A\.png: expected a mask of two levels .* {len(levels)} levels .*write it as 0 and 255"
    )
    with pytest.raises(DataError, match=pattern):
        read_lesion_mask(tmp_path, "A")


@pytest.mark.parametrize(
    "palette", [[0, 0, 0, 255, 255, 255], [0, 0, 0, 128, 0, 0], [0, 0, 0, 1, 1, 1]]
)
def test_masks_with_a_palette_are_read_by_their_colours(tmp_path, palette):
    lesion = write_mask(tmp_path, (0, 1), palette=palette)
    with Image.open(tmp_path / "lesion_masks" / "A.png") as image:
        assert image.mode == "P"
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


def test_bool_masks_are_masks(tmp_path):
    lesion = write_mask(tmp_path, (0, 255), mode="1")
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_coloured_and_transparent_masks_are_refused(tmp_path, mode):
    write_mask(tmp_path, (0, 255), mode=mode)
    with pytest.raises(
        DataError, match=rf"A\.png: expected a black and white mask, got mode {mode};"
    ):
        read_lesion_mask(tmp_path, "A")


def test_palettes_with_transparency_are_refused(tmp_path):
    write_mask(tmp_path, (0, 1), palette=[0, 0, 0, 0, 0, 0])
    path = tmp_path / "lesion_masks" / "A.png"
    with Image.open(path) as image:
        image.copy().save(path, transparency=0)
    with pytest.raises(DataError, match="expected a black and white mask, got mode PA"):
        read_lesion_mask(tmp_path, "A")


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_masks_of_16_bits_are_refused(tmp_path, white):
    (tmp_path / "lesion_masks").mkdir()
    lesion = np.zeros((6, 8), np.uint16)
    lesion[2:4, 2:6] = white
    Image.fromarray(lesion).save(tmp_path / "lesion_masks" / "A.png")
    with pytest.raises(DataError, match=r"A\.png: expected a black and white mask, got mode I"):
        read_lesion_mask(tmp_path, "A")


@pytest.mark.parametrize("name", ["A.PNG", "a.png", "A_segmentation.png", "a_Segmentation.PNG"])
@pytest.mark.parametrize("asked", ["A", "A.jpg", "A.JPEG"])
def test_masks_are_found_by_id(tmp_path, name, asked):
    lesion = write_mask(tmp_path, (0, 255), name)
    write_mask(tmp_path, (255, 255), "B.png")
    assert torch.equal(read_lesion_mask(tmp_path, asked), lesion)


def test_a_mask_of_its_own_name_comes_first(tmp_path):
    write_mask(tmp_path, (255, 255), "A_segmentation.png")
    lesion = write_mask(tmp_path, (0, 255), "A.png")
    assert torch.equal(read_lesion_mask(tmp_path, "A"), lesion)


def test_held_out_parts_keep_ids_of_any_spelling(write):
    root = write(truth=[f"{name}.jpg" for name in NAMES], split=[name.lower() for name in NAMES])
    path = root / "splits" / "lesion_disjoint.csv"
    rows = [["image", "split", "fold"]]
    rows += [[f"{name.lower()}.png", "train", str(i // 7)] for i, name in enumerate(NAMES)]
    (root / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    write_table(path, rows)
    records = read_records(root)
    train, held = hold_out(records, folds_of(root, records, split_file=None, seed=0), "1")
    assert [record.image for record in held] == NAMES[7:]
    assert [record.image for record in train] == NAMES[:7]
