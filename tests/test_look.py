"""`python -m spmix_aug.look`: what is found and read, what the page holds, and what it refuses."""

import base64
import csv
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from look_folders import COLOURS, COUNTS, disk, draw

from spmix_aug import SaliencyPatchMix

pytest.importorskip("matplotlib")
from PIL import Image
from PIL import __version__ as pillow

from spmix_aug.look import background, data, page, pairs
from spmix_aug.look.__main__ import main


def table(file, rows, header=("image", "label", "group", "mask"), delimiter=","):
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter=delimiter).writerows([header, *rows])
    return file


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def code_of(text):
    code = re.search("<pre><code>(.*)</code></pre>", text, re.DOTALL)[1]
    return html.unescape(re.sub("<[^>]+>", "", code))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders with what goes wrong in them, and the page about them."""
    out, folder = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("folders")
    draw(folder)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    (folder / "nothing").mkdir()
    whole = (folder / "middle/000.png").read_bytes()
    (folder / "middle/broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "middle/empty.png").write_bytes(b"")
    (folder / "rare/words.jpg").write_text("no image")
    before = torch.random.get_rng_state()
    main([str(folder), "--out", str(out / "deeper/look.html")])
    assert torch.equal(torch.random.get_rng_state(), before)
    return folder, (out / "deeper/look.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_and_escapes_names(folders):
    _, text = folders
    words = re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\$", words)
    assert "<plain>" not in text
    assert "common &amp; &lt;plain&gt;" in text


def test_the_page_counts_classes_and_draws(folders):
    _, text = folders
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    images = [re.findall("<td>(.*?)</td>", cells)[0] for _, cells in rows[:3]]
    assert [html.unescape(name) for name, _ in rows[:3]] == ["common & <plain>", "middle", "rare"]
    assert images == ["24", "12", "6"]  # without those that cannot be read
    # Half of 64 places in 2 batches, and the second's that the pass leaves free.
    assert re.search(
        r"an epoch has 2 batches of 64.*rare, the rarest class, is drawn \d\d?\.\d", text
    )


def test_what_cannot_be_read_is_named_and_counted(folders):
    _, text = folders
    found = re.search('class="beware"><p>(3 files cannot be read).*?<ul>(.*?)</ul>', text)[2]
    assert "<li>middle/broken.png (" in found
    assert "<li>middle/empty.png is missing or empty</li>" in found
    assert "<li>rare/words.jpg (cannot identify" in found
    assert "No image in nothing: left out." in text


def test_pairs_are_mixed_rarest_first_with_classes_as_frequent(folders):
    _, text = folders
    rows = data_of(text)["rows"]
    assert [row["names"][0] for row in rows] == [
        name for name in ("rare", "middle", "common & <plain>") for _ in range(4)
    ]
    assert all(COUNTS[own] <= COUNTS[partner] for own, partner in (row["names"] for row in rows))
    assert all(own != partner for own, partner in (row["images"] for row in rows))


def test_no_image_is_its_own_partner():
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([0, 1, 0, 2])
    for _ in range(20):
        drawn = pairs.draw_pairs(labels, 9, generator)
        assert sorted(own for own, _ in drawn) == [0, 1, 2, 3]
        assert all(
            partner in {0: {2}, 2: {0}, 1: {0, 2, 3}, 3: {0, 1, 2}}[own] for own, partner in drawn
        )


@pytest.mark.parametrize(
    ("normalize", "floor", "alpha"), [("min_max", 0.5, 0.8), ("soft_threshold", 0.0, 1.0)]
)
@pytest.mark.parametrize("saliency", list(pairs.SALIENCIES))
def test_the_page_has_what_the_mixers_ratios_follow_from(
    folders, saliency, normalize, floor, alpha
):
    shown = data_of(folders[1])
    sources = [row["images"][place] for place in (0, 1) for row in shown["rows"]]
    opened = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in sources]
    images = torch.from_numpy(np.stack(opened)).permute(0, 3, 1, 2).float() / 255
    mixer = SaliencyPatchMix(
        num_classes=1,
        saliency=saliency,
        normalize=normalize,
        floor=floor,
        alpha=alpha,
    )
    partner = torch.arange(24).roll(12)
    plan = mixer.plan(images, torch.zeros(24, dtype=torch.int64), partner=partner)
    assert plan.patch_size == shown["patch_size"]
    scores = [base64.b64decode(row["scores"][saliency][normalize]) for row in shown["rows"]]
    found = torch.tensor([list(grid) for grid in scores]).view(12, -1, shown["columns"]) / 255
    ratios = (floor + (1 - floor) * found).clamp(max=alpha)
    torch.testing.assert_close(ratios, plan.ratios[:12], rtol=0, atol=0.002)
    assert len(base64.b64decode(shown["rows"][0]["maps"][saliency][0])) == np.prod(shown["map"])


def test_the_same_seed_gives_the_same_page(folders, tmp_path):
    folder, text = folders
    for seed, same in ((0, True), (1, False)):
        main([str(folder), "--out", str(tmp_path / "again.html"), "--seed", str(seed)])
        again = (tmp_path / "again.html").read_text(encoding="utf-8")
        assert (again == text) == same
        assert (data_of(again)["rows"] == data_of(text)["rows"]) == same


def test_statistics_are_those_of_the_whole(tmp_path):
    """Though the sample has as many of each class: 40 black and 8 white images, 8 of each read."""
    for name, value, count in (("black", 0, 40), ("white", 255, 8)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (20, 20), (value, value, 51)).save(tmp_path / name / f"{i}.png")
    main([str(tmp_path), "--out", str(tmp_path / "look.html"), "--sample", "16"])
    text = (tmp_path / "look.html").read_text(encoding="utf-8")
    assert "48 images of 2 classes, of which 16 were read, all of rare classes." in text
    mean, std = re.search(r"mean, std = (\[.*?\]), (\[.*?\])", text).groups()
    assert json.loads(mean) == pytest.approx([1 / 6, 1 / 6, 0.2], abs=1e-3)
    assert json.loads(std) == pytest.approx([5**0.5 / 6, 5**0.5 / 6, 0.001], abs=1e-3)


@pytest.mark.parametrize("kind", ["folders", "table", "ids"])
def test_what_to_paste_runs(folders, tmp_path, kind, monkeypatch):
    models = pytest.importorskip("torchvision.models")
    folder, text = folders
    if kind == "table":
        small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
        monkeypatch.setattr(models, "resnet18", lambda num_classes: small)  # once is enough
        names = [(path, path.split("/")[0]) for path in data.find_in_folders(folder).names]
        file = table(tmp_path / "t.csv", names, ("Path", "dx"), ";")
        main([str(folder), "--csv", str(file), "--out", str(tmp_path / "look.html")])
        text = (tmp_path / "look.html").read_text(encoding="utf-8")
    elif kind == "ids":  # and one-hot columns, as of the ISIC challenges
        small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
        monkeypatch.setattr(models, "resnet18", lambda num_classes: small)
        rows, classes = [], [*sorted(COUNTS), "unknown"]
        for i, name in enumerate(data.find_in_folders(folder).names):
            place = tmp_path / "in" / ("odd" if i % 2 else "even") / f"IMG_{i}.PNG"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((folder / name).read_bytes())
            rows.append((f"img_{i}", *(float(name.split("/")[0] == k) for k in classes)))
        file = table(tmp_path / "t.csv", rows, ("image", *classes))
        main([str(tmp_path / "in"), "--csv", str(file), "--out", str(tmp_path / "look.html")])
        text = (tmp_path / "look.html").read_text(encoding="utf-8")
    names = {"__name__": "pasted"}
    exec(compile(code_of(text), "pasted", "exec"), names)
    assert names["classes"] == sorted(COUNTS)
    assert torch.equal(names["sampler"].class_counts, torch.tensor([24, 12, 6]))
    assert len(names["paths"]) == 42
    mixer = names["mixer"]
    assert (mixer.alpha, mixer.floor, mixer.normalize, mixer.pairing) == (
        0.8,
        0.5,
        "min_max",
        "relative",
    )
    assert repr(mixer.saliency).startswith("BorderContrast")
    assert names["images"].shape[1:] == (3, 32, 32)
    assert torch.isfinite(names["loss"])


# Tables


def test_columns_are_found_by_usual_names_or_named(tmp_path):
    draw(tmp_path, {"rare": 2, "middle": 3}, masks=True)
    rows = [(f"rare/{i}", label, i, f"m{i}") for i, label in enumerate("abba")]
    (tmp_path / "rare/0").write_bytes(b"there")
    file = table(tmp_path / "t.csv", rows, ("File_Name", "Y", "lesion_id", "segmentation"), "\t")
    found = data.find_in_csv(file, None, {})
    assert found.names == ["rare/0", "rare/1", "rare/2", "rare/3"]
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.classes == ["a", "b"]
    assert found.groups == ["0", "1", "2", "3"]
    assert found.masks == ["m0", "m1", "m2", "m3"]
    found = data.find_in_csv(file, tmp_path, {"label": "lesion_id"})
    assert found.classes == ["0", "1", "2", "3"]
    elsewhere = table(tmp_path / "rare" / "t.csv", rows, ("File_Name", "Y", "z", "zz"))
    assert data.find_in_csv(elsewhere, tmp_path, {}).folder == tmp_path


def test_masks_are_turned_over_and_may_be_missing(tmp_path):
    names = draw(tmp_path, {"rare": 6, "middle": 8}, masks=True)
    inverted = tmp_path / names[0][2]
    upright = data.read_mask(inverted, (40, 32))[0]
    Image.fromarray(~np.asarray(Image.open(inverted))).save(inverted)
    turned, remark = data.read_mask(inverted, (40, 32))
    assert (turned == upright).all()
    assert "white outside" in remark
    (tmp_path / names[1][2]).unlink()
    rows = [(i, label, i.replace("middle/007", "middle/006"), mask) for i, label, mask in names]
    file = table(tmp_path / "t.csv", rows)
    main(["--csv", str(file), "--out", str(tmp_path / "look.html")])
    text = (tmp_path / "look.html").read_text(encoding="utf-8")
    assert "1 of the images that were read have masks that are white outside, turned" in text
    assert "1 of the images that were read have no mask that can be read." in text
    assert "1 images have next to no background and are left out." in text
    assert "13 images in five folds, of 12 groups held together" in text
    assert "The object is what the masks say" in text


# Reading


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_images_of_all_modes_are_read(tmp_path, mode):
    pixels = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (32, 1))
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode in ("LA", "PA"):
        image = image.convert("RGBA").convert(mode)
    else:
        image = image.convert("RGB").convert("L" if mode == "F" else mode).convert(mode)
    if mode == "YCbCr" and int(pillow.split(".")[0]) < 13:
        pytest.skip("Pillow 12 cannot read the TIFF of YCbCr that it writes")
    image.save(tmp_path / "image.tif")
    read, remark = data.read_image(tmp_path / "image.tif", (40, 32))
    assert read.shape == (32, 40, 3)
    assert (read[:, -1] > 245).all()
    assert (read[:, 0] < 10).all()
    assert read[:, 19:21].mean() == pytest.approx(127, abs=70 if mode == "1" else 5)
    usual = mode in ("1", "L", "P", "RGB")
    assert remark == ("" if usual else f"are of mode {image.mode}, taken as RGB")


def test_exif_turns_and_the_middle_is_taken(tmp_path):
    pixels = np.zeros((60, 30, 3), dtype=np.uint8)
    pixels[:30] = 255
    exif = Image.Exif()
    exif[data.ORIENTATION] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert data.sizes_of([tmp_path / "a.jpg"]) == (30, 2.0)
    read, remark = data.read_image(tmp_path / "a.jpg", (40, 20))
    assert read.shape == (20, 40, 3)
    assert read[:, 25:].min() > 240
    assert read[:, :15].max() < 15
    assert remark == "are turned by EXIF"
    assert data.read_image(tmp_path / "a.jpg", (20, 20))[0][:, :8].max() < 15


def test_images_are_brought_to_one_size_that_enlarges_none():
    assert data.Sizes(100, 2.0).fitted(64) == (128, 64)
    assert data.Sizes(30, 0.5).fitted(64) == (30, 60)


def test_a_sample_has_all_of_rare_classes():
    labels = torch.tensor([0] * 500 + [1] * 20 + [2] * 300)
    drawn = data.sample(labels, 120, torch.Generator().manual_seed(0))
    assert labels[drawn].bincount().tolist() == [50, 20, 50]
    assert len(set(drawn)) == 120
    assert len(data.sample(labels, 1000, torch.Generator())) == 820


# The background


def test_the_discriminant_is_scikit_learns():
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    labels = torch.arange(900) % 3
    features = torch.randn(900, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    features += 0.7 * torch.eye(5, dtype=torch.float64)[labels]
    train, test = slice(0, 500), slice(500, 900)
    found = background.discriminate(features[train], labels[train], features[test], 3)
    oracle = analysis.LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
    expected = oracle.fit(features[train], labels[train]).predict(features[test])
    assert (found.numpy() == expected).mean() > 0.98


def test_groups_are_held_out_whole():
    """Features that tell the group and nothing else: with groups divided, they tell the class."""
    generator = torch.Generator().manual_seed(0)
    of_group = torch.randn(30, 25, generator=generator, dtype=torch.float64)
    groups = torch.arange(300) % 30
    labels = groups % 2
    features = of_group[groups]
    apart = background.cross_validate(features, labels, groups.tolist(), generator)
    divided = background.cross_validate(features, labels, None, generator)
    assert apart.low < 0.5 < apart.high
    assert apart.groups == 30
    assert divided.accuracy > 0.9
    assert divided.high - divided.low < apart.high - apart.low


def test_classes_without_five_groups_are_left_out():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [2] * 40 + [3] * 4)
    features = torch.randn(84, 2, generator=generator, dtype=torch.float64)
    features[:40] += 5
    features[0] = torch.nan
    told = background.cross_validate(features, labels, None, generator)
    assert told.classes == [0, 2]
    assert told.images == 79
    assert told.accuracy > 0.95
    assert background.cross_validate(features, labels, ["one"] * 84, generator) is None


@pytest.mark.parametrize("by_mask", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_the_background_tells_the_class_where_it_does(by_mask, told):
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    drawn = [
        disk(rng, colour, np.array(colour) * 0.4 + 100 if told else rng.uniform(90, 230, 3))
        for k in labels
        for colour in [[*COLOURS.values()][k]]
    ]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn])) if by_mask else None
    around, inside = background.background_of(images, masks)
    assert not (around & inside).any()
    assert 0.3 < around.float().mean() < 0.85
    features = background.colour_and_texture(images, around)
    found = background.cross_validate(features, labels, None, generator)
    assert found.accuracy > 0.95 if told else found.low <= 1 / 3
    objects = background.colour_and_texture(images, inside)
    assert background.cross_validate(objects, labels, None, generator).accuracy > 0.95


def test_a_margin_around_the_object_is_no_background():
    masks = torch.zeros(1, 48, 64, dtype=torch.bool)
    masks[0, 20, 30] = True
    around, inside = background.background_of(torch.zeros(1, 3, 48, 64, dtype=torch.uint8), masks)
    left = torch.ones(1, 48, 64, dtype=torch.bool)
    left[0, 17:24, 27:34] = False  # a sixteenth of 48 on each side
    assert torch.equal(around, left)
    assert torch.equal(inside, masks)


def test_the_statistics_are_of_what_is_within():
    images = torch.randint(256, (1, 3, 12, 16), dtype=torch.uint8)
    within = torch.rand(1, 12, 16) < 0.8
    x, keep = images[0].double().numpy() / 255, within[0].numpy()
    expected = [[channel[keep].mean() for channel in x], [channel[keep].std() for channel in x]]
    few = [np.sort(channel[::2, ::2][keep[::2, ::2]]) for channel in x]
    expected.append([v[int(q * (len(v) - 1))] for v in few for q in (0.1, 0.9)])
    grey = x.mean(axis=0)
    for down, right in ((1, 0), (4, 0), (0, 1), (0, 4)):
        differences = [
            abs(grey[i, j] - grey[i + down, j + right])
            for i in range(12 - down)
            for j in range(16 - right)
            if keep[i, j] and keep[i + down, j + right]
        ]
        expected.append([np.mean(differences)])
    found = background.colour_and_texture(images, within)
    assert found[0].tolist() == pytest.approx(np.concatenate(expected), abs=1e-5)
    within = torch.arange(12 * 16).view(1, 12, 16) < 3
    assert background.colour_and_texture(images, within).isnan().all()


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "words"),
    [
        (0.5, 0.4, 0.6, "tells much of the class: 50.0 (40.0 to 60.0) of 100"),
        (0.5, 0.35, 0.6, "tells a little of the class"),
        (0.4, 0.3, 0.6, "may tell something of the class or nothing"),
        (0.34, 0.3, 0.38, "does not tell the class"),
    ],
)
def test_one_sentence_tells_what_follows(accuracy, low, high, words):
    found = data.Found(Path(), [], torch.tensor([]), ["a", "b", "c", "d"])
    told = background.Told([0, 1, 3], torch.full((3,), accuracy), accuracy, low, high, 90, 90)
    text = page.guidance(found, told, None, 0)
    assert f"The background alone {words}" in text
    assert ("But no masks were given" in text) == (" tells" in f" {words}")
    assert "near-duplicates" in text
    assert "left out: c." in text
    assert "Too few images" in page.guidance(found, None, None, 0)


def test_the_name_of_the_rarest_class_is_escaped():
    found = data.Found(Path(), [], torch.tensor([]), ["<i>", "plain"])
    assert page.classes(found, torch.tensor([0, 1, 1]))["rarest"] == "&lt;i&gt;"


# What is refused


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(path)


HEAD = ("image", "y")
ONE_HOT = ("image", "p", "q", "age")
REFUSED = {
    "nothing": (lambda here: [], "`FOLDER` or `--csv`, but got neither"),
    "missing": (lambda here: [here / "no"], "no does not exist; check the path"),
    "file": (lambda here: [here / "beside.png"], "beside.png is a file; check the path"),
    "empty": (lambda here: [here / "empty"], "empty holds 0 folders, of which 0 have images"),
    "one class": (lambda here: [here / "one"], "one holds 1 folders, of which 1 have images; give"),
    "no images": (lambda here: [here / "none"], "none holds 2 folders, of which 0 have images"),
    "beside": (lambda here: [here], "1 images lie in .* itself, as beside.png; give a table"),
    "parts": (lambda here: [here / "parts"], "holds test, train, parts of a data set; .*parts/tra"),
    "parts and more": (
        lambda here: [here / "parts_and_more"],
        "holds test, train, parts of a data set; .*more/train",
    ),
    "left behind": (
        lambda here: [here / "left_behind"],
        "left_behind holds 1 folders, of which 1 have images; give two classes",
    ),
    "unreadable": (
        lambda here: [here / "bad"],
        "can be read, but got none in 2, as .*a.png",
    ),
    "broken": (
        lambda here: [here / "broken"],
        "classes or more that can be read, but got 1 of 2: b/a.png .*cannot identify",
    ),
    "out": (lambda here: [here / "bad", "--out", here], "`--out` to be a file, but .* is a folder"),
    "no table": (lambda here: ["--csv", here / "no.csv"], "no.csv cannot be read .*No such file"),
    "no header": (
        lambda here: ["--csv", table(here / "t.csv", [], ())],
        "to have a column of the images, but got none; name it by --image",
    ),
    "two labels": (
        lambda here: [
            "--csv",
            table(here / "t.csv", [("one/a/a.png", "x"), ("one/a/a.png", "y")], ("image", "y")),
        ],
        "one label an image in .*, but got x and y for one/a/a.png; take the wrong rows out",
    ),
    "other groups": (
        lambda here: [
            *("--csv", table(here / "t.csv", [("one/a/a.png", "x"), ("beside.png", "y")], HEAD)),
            *("--groups", table(here / "g.csv", [("other", "1")], ("image", "group"))),
        ],
        "g.csv to have the groups of images of .*, but got none, as for 'one/a/a.png'",
    ),
    "no text": (lambda here: ["--csv", here / "beside.png"], "in UTF-8, but .* cannot be read"),
    "no column": (
        lambda here: ["--csv", table(here / "t.csv", [], ("image", "what"))],
        "to have a column of the labels, but got image, what; name it by --label",
    ),
    "no such column": (
        lambda here: ["--csv", table(here / "t.csv", [], ("image", "y")), "--group", "who"],
        "to have a column who, but got image, y; name it by --group",
    ),
    "no label": (
        lambda here: ["--csv", table(here / "t.csv", [("a", "x"), ("b", " ")], ("image", "y"))],
        "a label in every row of .*, but got none in 1, the first in line 3; fill",
    ),
    "one label": (
        lambda here: ["--csv", table(here / "t.csv", [("a", "x"), ("b", "x")], ("image", "y"))],
        r"two classes or more in column y of .*, but got \['x'\]; give another by --label",
    ),
    "several files": (
        lambda here: ["--csv", table(here / "t.csv", [("A", "x"), ("q", "y")], ("image", "y"))],
        "t.csv, but A may be bad/a/a.png or .* or broken/a/a.png; write paths into the table",
    ),
    "two ones": (
        lambda here: ["--csv", table(here / "t.csv", [("a", 1, 0, 5), ("b", 1, 1, 6)], ONE_HOT)],
        "1 in one of the columns p, q and 0 in .*, but got 2 of them in line 3; mend the row",
    ),
    "no files": (
        lambda here: ["--csv", table(here / "t.csv", [("p", "x"), ("q", "y")], ("image", "y"))],
        "files in .*, but none is there, as 'p'; give their folder as `FOLDER`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_a_way_out(tmp_path, case, capsys):
    for name in ("beside", "one/a/a", "parts/train/a", "parts/test/a", "broken/a/a"):
        image(tmp_path / f"{name}.png")
    for name in ("parts_and_more/train/a", "parts_and_more/test/a"):
        image(tmp_path / f"{name}.png")
    for name in ("left_behind/a/a", "left_behind/__MACOSX/a", "left_behind/@eaDir/a"):
        image(tmp_path / f"{name}.png")
    more = ("parts_and_more/annotations",)
    for name in ("empty", "none/a", "none/b", "bad/a", "bad/b", "broken/b", *more):
        (tmp_path / name).mkdir(parents=True)
    for name in ("bad/a", "bad/b", "broken/b"):
        (tmp_path / name / "a.png").write_text("no image")
    arguments, words = REFUSED[case]
    out = [] if case == "out" else ["--out", tmp_path / "look.html"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, [*arguments(tmp_path), *out])])
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "look.html").exists()
