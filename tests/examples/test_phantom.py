"""Tests of the synthetic lesions in the ISIC 2018 layout."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.isic2018 import phantom
from examples.isic2018.phantom import TOTALS, draw_lesion, draw_phantom

SIZE = (48, 64)
STEM = "ISIC2018_Task3_Training"
# 60 images in ISIC's proportions, with the rare diagnoses raised to five.
TRAIN = {"MEL": 7, "NV": 40, "BCC": 5, "AKIEC": 5, "BKL": 7, "DF": 5, "VASC": 5}


def draw(root: Path, seed: int = 0, train_images: int = 60) -> None:
    draw_phantom(
        root, train_images=train_images, test_per_class=2, size=SIZE, seed=seed, progress=False
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "set"
    draw(root)
    return root


@pytest.fixture(scope="module")
def rows(drawn: Path) -> list[dict[str, str]]:
    """The rows of the three tables, joined by image, with the diagnosis by name."""
    truth = table(drawn / f"{STEM}_GroundTruth" / f"{STEM}_GroundTruth.csv")
    lesions = table(drawn / f"{STEM}_LesionGroupings.csv")
    splits = table(drawn / "splits" / "lesion_disjoint.csv")
    joined = []
    for a, b, c in zip(truth, lesions, splits, strict=True):
        assert a["image"] == b["image"] == c["image"]
        (diagnosis,) = (name for name in TOTALS if a[name] == "1.0")
        joined.append({**a, **b, **c, "diagnosis": diagnosis})
    return joined


def test_layout_is_the_challenges(drawn: Path, rows: list[dict[str, str]]) -> None:
    names = sorted(row["image"] for row in rows)
    assert names == [f"PHANTOM_{number:07d}" for number in range(len(rows))]
    images = sorted((drawn / f"{STEM}_Input").iterdir())
    masks = sorted((drawn / "lesion_masks").iterdir())
    assert [path.name for path in images] == [f"{name}.jpg" for name in names]
    assert [path.name for path in masks] == [f"{name}.png" for name in names]
    for path in (*images, *masks):
        with Image.open(path) as image:
            assert image.size == (SIZE[1], SIZE[0])
            assert image.mode == ("RGB" if path.suffix == ".jpg" else "L")


def test_tables_have_the_challenges_columns(drawn: Path, rows: list[dict[str, str]]) -> None:
    heads = {
        f"{STEM}_GroundTruth/{STEM}_GroundTruth.csv": "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC",
        f"{STEM}_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type",
        "splits/lesion_disjoint.csv": "image,split,fold",
    }
    for path, head in heads.items():
        assert (drawn / path).read_text().splitlines()[0] == head
    assert all(sorted(row[name] for name in TOTALS) == ["0.0"] * 6 + ["1.0"] for row in rows)
    assert {row["diagnosis_confirm_type"] for row in rows} == {"synthetic"}


def test_training_is_long_tailed_and_testing_balanced(rows: list[dict[str, str]]) -> None:
    assert Counter(row["diagnosis"] for row in rows if row["split"] == "train") == TRAIN
    tested = Counter(row["diagnosis"] for row in rows if row["split"] == "test")
    assert tested == dict.fromkeys(TOTALS, 2)


def test_lesions_stay_in_one_split_and_fold(rows: list[dict[str, str]]) -> None:
    places = {(row["lesion_id"], row["diagnosis"], row["split"], row["fold"]) for row in rows}
    lesions = Counter(row["lesion_id"] for row in rows)
    assert len(places) == len(lesions)
    assert {1, 2} <= set(lesions.values()) <= {1, 2, 3}
    # Below the full set's 1.34, as a rare diagnosis needs a lesion for every fold.
    assert 1.1 < len(rows) / len(lesions) < 1.4
    assert {row["fold"] for row in rows if row["split"] == "test"} == {""}


def test_folds_hold_every_diagnosis_evenly(rows: list[dict[str, str]]) -> None:
    counts = Counter((row["diagnosis"], row["fold"]) for row in rows if row["split"] == "train")
    for diagnosis in TOTALS:
        per_fold = [counts[diagnosis, str(fold)] for fold in range(5)]
        assert min(per_fold) >= 1
        # A lesion of three views stays together.
        assert max(per_fold) - min(per_fold) <= 2


@pytest.mark.parametrize("diagnosis", TOTALS)
def test_mask_covers_what_differs_from_skin(diagnosis: str) -> None:
    areas, nearer = [], []
    for lesion in range(12):
        image, mask = draw_lesion(diagnosis, lesion=lesion, size=(64, 85))
        assert image.shape == (64, 85, 3)
        assert image.dtype == np.uint8
        assert mask.shape == (64, 85)
        areas.append(mask.mean())
        skin = np.median(image[~mask], axis=0)
        away = np.linalg.norm(image - skin, axis=2)
        nearer.append(np.median(away[mask]) / np.median(away[~mask]))
    assert 0 < min(areas) < max(areas) < 0.9
    assert 0.08 < np.mean(areas) < 0.4
    assert np.median(nearer) > 1.5


def test_views_share_the_lesion_but_not_the_camera() -> None:
    views = [[draw_lesion("NV", lesion=n, view=v, size=SIZE) for v in (0, 1)] for n in range(12)]
    areas = np.array([[mask.sum() for _, mask in pair] for pair in views])
    assert np.corrcoef(areas.T)[0, 1] > 0.8
    middles = np.array([[np.argwhere(mask).mean(axis=0) for _, mask in pair] for pair in views])
    # The place is drawn anew for every lesion and every view, some 3 pixels around the centre.
    assert middles[:, 0].std(axis=0).min() > 1.5
    assert (middles[:, 0] - middles[:, 1]).std(axis=0).min() > 1.5
    assert all((one != other).mean() > 0.5 for (one, _), (other, _) in views)


def test_lesion_does_not_depend_on_what_was_drawn_before() -> None:
    alone, _ = draw_lesion("MEL", lesion=5, size=SIZE)
    draw_lesion("NV", lesion=4, size=SIZE)
    again, _ = draw_lesion("MEL", lesion=5, size=SIZE)
    assert np.array_equal(alone, again)


def test_first_lesions_and_views_are_distinct() -> None:
    images = [
        draw_lesion("NV", lesion=lesion, view=view, size=SIZE, seed=seed)[0].tobytes()
        for lesion in (0, 1)
        for view in (0, 1)
        for seed in (0, 1)
    ]
    assert len(set(images)) == 8


def test_same_seed_gives_the_same_files(drawn: Path, tmp_path: Path) -> None:
    draw(tmp_path / "again")
    draw(tmp_path / "other", seed=1)
    expected, other = contents(drawn), contents(tmp_path / "other")
    assert contents(tmp_path / "again") == expected
    jpegs = [name for name in expected if name.endswith(".jpg")]
    assert jpegs
    assert all(expected[name] != other[name] for name in jpegs)


def test_global_random_streams_are_untouched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    draw_lesion("MEL", lesion=0, size=SIZE)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)


def test_finished_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "set"
    draw(root, train_images=10)

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("drew although the set is there")

    monkeypatch.setattr(phantom, "draw_lesion", refuse)
    draw(root, train_images=10)
    assert f"{root} already holds this phantom" in capsys.readouterr().out


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out must be new, .* delete it or choose another"):
        draw(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_other_settings_are_refused(drawn: Path) -> None:
    before = contents(drawn)
    with pytest.raises(ValueError, match="phantom of the same settings"):
        draw(drawn, seed=1)
    assert contents(drawn) == before


def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(5))

    def fail_later(*args: object, **kwargs: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt("stopped by hand")
        return draw_lesion(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom, "draw_lesion", fail_later)
    with pytest.raises(KeyboardInterrupt, match="stopped by hand"):
        draw(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    draw(tmp_path, train_images=1)
    assert (tmp_path / "phantom.json").is_file()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"train_images": 0}, "train_images must be at least 1, got 0"),
        ({"test_per_class": 0}, "test_per_class must be at least 1, got 0"),
        ({"size": (31, 64)}, "height must be at least 32, got 31"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"spurious_correlation": 1.5}, r"spurious_correlation must be in \[0, 1\], got 1.5"),
        ({"spurious_correlation": float("nan")}, "spurious_correlation .* got nan; pass a share"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, setting: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_phantom(tmp_path / "set", **setting)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_unknown_diagnosis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"diagnosis must be one of MEL, .*, got 'SCC'"):
        draw_lesion("SCC", lesion=0)


def test_command_line_draws_the_asked_set(tmp_path: Path) -> None:
    pytest.importorskip("tyro")
    arguments = ["--train-images", "1", "--test-per-class", "1", "--seed", "7"]
    arguments += ["--spurious-correlation", "0.5", "--size", "40", "56"]
    phantom.main(["--out", str(tmp_path / "set"), *arguments])
    splits = Counter(row["split"] for row in table(tmp_path / "set/splits/lesion_disjoint.csv"))
    assert splits == {"train": 35, "test": 7}
    settings = json.loads((tmp_path / "set" / "phantom.json").read_text())
    assert (settings["seed"], settings["spurious_correlation"], settings["width"]) == (7, 0.5, 56)


def test_command_line_reports_a_foreign_folder(tmp_path: Path) -> None:
    pytest.importorskip("tyro")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit, match=r"error: .*delete it or choose another folder"):
        phantom.main(["--out", str(tmp_path)])
