"""A report is made from any folder, and its shot groups follow the data."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from examples.isic2018 import metrics, page, report, train
from examples.isic2018.data import CLASSES
from examples.isic2018.phantom import draw_phantom
from examples.isic2018.runs import read_run


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Train a run by relative paths, then go to another folder."""
    for name in ("work", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    draw_phantom(Path("data"), train_images=40, test_per_class=1, size=(40, 56), progress=False)
    Path("mine.csv").write_bytes(Path("data/splits/lesion_disjoint.csv").read_bytes())
    settings = train.Settings(
        data="data",
        out="runs/mixed",
        split_file="mine.csv",
        hold_out="test",
        image_size=32,
        batch_size=32,
        epochs=1,
        workers=0,
        device="cpu",
    )
    train.Trainer(settings).run()
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "work"


def test_mixes_are_drawn_from_any_folder(elsewhere):
    report.write_report([elsewhere / "runs/mixed"], Path("report"))
    assert Path("report/mixes.png").is_file()
    text = Path("report/report.md").read_text()
    assert text.startswith("# Report on 7 held-out images\n\nIn percent; ")
    names = ("recall", "confusion", "tradeoff", "curves", "mixes")
    pictures = "\n\n".join(f"![{k}]({k}.png)" for k in names)
    assert text.endswith(f" |\n\n{pictures}\n")
    html = Path("report/report.html").read_text()
    assert str(elsewhere) not in html  # a page may be published


def test_a_moved_run_finds_data_beside_this_folder(elsewhere, monkeypatch):
    moved = elsewhere.rename(elsewhere.parent / "moved")
    monkeypatch.chdir(moved)
    report.write_report([Path("runs/mixed")], Path("report"))
    assert Path("report/mixes.png").is_file()


def test_data_that_are_gone_leave_a_note(elsewhere, capsys):
    (elsewhere / "data").rename(elsewhere / "gone")
    report.main([str(elsewhere / "runs/mixed"), "--out", "report"])
    note = r"No mixes are drawn, as the images cannot be read: data: no such folder; name the"
    assert re.search(note, Path("report/report.md").read_text())
    assert re.search(note, Path("report/report.html").read_text())
    assert not Path("report/mixes.png").exists()
    assert "mixes.png" not in Path("report/report.md").read_text()
    assert "| mixed |" in capsys.readouterr().out


def test_runs_of_before_folders_were_kept_are_read_from_this_one(elsewhere):
    origin = elsewhere / "runs/mixed/origin.json"
    (entry,) = json.loads(origin.read_text())
    assert entry.pop("folder") == str(elsewhere)
    origin.write_text(json.dumps([entry]))
    run = read_run(elsewhere / "runs/mixed")
    settings, _ = train.load_model(run.folder)
    assert report.find_data(run, settings) == settings


def test_absolute_paths_stay(elsewhere):
    run = read_run(elsewhere / "runs/mixed")
    settings, _ = train.load_model(run.folder)
    given = replace(settings, data=str(elsewhere / "data"), split_file=None)
    assert report.find_data(run, given) == given


# --- shot groups ---


@pytest.mark.parametrize(
    ("counts", "many", "few"),
    [
        # ISIC 2018 and a small set with its proportions have the same groups.
        ((1113, 6705, 514, 327, 1099, 115, 142), "NV", "AKIEC, DF, VASC"),
        ((133, 804, 62, 39, 132, 14, 17), "NV", "AKIEC, DF, VASC"),
        ((50,) * 7, "", ""),
        ((1, 10, 100, 1000, 999, 101, 9), "AKIEC, BKL, DF", "MEL, VASC"),  # bounds are medium
        ((0, 0, 1, 8, 64, 64, 512), "VASC", "MEL, NV, BCC"),
    ],
)
def test_shots_are_thirds_of_the_range_of_ratios(counts, many, few):
    groups = metrics.split_by_shots(torch.tensor(counts))
    assert list(groups) == ["many", "medium", "few"]
    assert sorted(k for group in groups.values() for k in group) == list(range(7))
    named = {name: ", ".join(CLASSES[k] for k in group) for name, group in groups.items()}
    assert (named["many"], named["few"]) == (many, few)


def test_the_page_names_classes_with_their_numbers(elsewhere):
    run = replace(
        read_run(elsewhere / "runs/mixed"),
        counts=torch.tensor((133, 804, 62, 39, 132, 14, 17)),
    )
    assert page._shots(run) == (
        "many-shot: NV 804; medium-shot: MEL 133, BCC 62, BKL 132; "
        "few-shot: AKIEC 39, DF 14, VASC 17 training images"
    )
