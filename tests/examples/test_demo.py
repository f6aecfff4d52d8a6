"""The demo: its sentence follows from its numbers, and its page asks for nothing."""

import json
import re

import pytest
import torch

from examples.isic2018 import demo


def test_it_draws_trains_and_reports(tmp_path, monkeypatch, capsys):
    few = {"train_images": 60, "test_per_class": 3, "size": (32, 40)}
    monkeypatch.setattr(demo, "PHANTOM", few)
    monkeypatch.setattr(demo, "SEEDS", (0, 1))
    short = {"image_size": 32, "epochs": 1, "workers": 0, "device": "cpu"}
    monkeypatch.setattr(demo, "TRAINING", demo.TRAINING | short)
    demo.main(["--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "report.json").read_text())
    assert "run 8 of 8: SPMix, exchange, seed 1" in capsys.readouterr().out
    assert found["verdict"] in page
    assert (tmp_path / "report.md").read_text().startswith(f"# {found['verdict']}")
    assert page.count('<th scope="row">') == 4
    assert not re.search(r"https?:|url\(|<script", page)
    for arm in demo.ARMS:
        rare = found[arm]["AKIEC, DF, VASC"]
        assert len(rare["seeds"]) == 2
        assert ("against_sampler" in rare) == (arm != "sampler")
    difference = found["spmix"]["balanced accuracy"]
    overall = difference["seeds"], found["sampler"]["balanced accuracy"]["seeds"]
    mean = sum(a - b for a, b in zip(*overall, strict=True)) / 2
    assert difference["against_sampler"][0] == pytest.approx(mean)


def test_every_run_differs_in_nothing_but_its_mixing(tmp_path):
    settings = [demo.settings_of(tmp_path, arm, 1) for arm in demo.ARMS]
    same = ("sampler", "tail_fraction", "epochs", "batch_size", "seed", "learning_rate", "hold_out")
    assert len({tuple(getattr(each, name) for name in same) for each in settings}) == 1
    assert settings[0].sampler == "pair"


def test_differences_are_paired_and_counted_by_class():
    labels = torch.tensor([0] * 50 + [1] * 10)
    baseline = torch.zeros(3, 60, dtype=torch.bool)
    right = baseline.clone()
    right[:, 50:] = True  # all of the second class, in every seed
    assert demo.compare(right, baseline, labels, [0, 1]) == pytest.approx([50, 50, 50])
    assert demo.compare(right, right, labels, [0, 1]) == pytest.approx([0, 0, 0])
    right[1:, 50:] = False  # in one seed of three, which a draw may miss
    points, low, high = demo.compare(right, baseline, labels, [1])
    assert points == pytest.approx(100 / 3)
    assert low == 0
    assert high > 60


@pytest.mark.parametrize(
    ("overall", "ending"),
    [((3, 1, 5), "(+1.0 to +9.0)."), ((3, -1, 5), "No gain is shown."), ((-3, -5, -1), "a loss.")],
)
def test_the_sentence_says_what_the_interval_does(overall, ending):
    told = demo.sentence(overall, (4, 1, 9))
    assert told.startswith(
        f"Against the sampler alone, SPMix: {overall[0]:+.1f} points of balanced"
    )
    assert told.endswith(ending)
