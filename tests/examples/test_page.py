"""The report as a page: it needs nothing from outside, tells all in words, and escapes names."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from matplotlib.figure import Figure

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from examples.isic2018 import page, pictures, report, train
from examples.isic2018.data import CLASSES
from examples.isic2018.metrics import (
    adjust_logits,
    percent,
    recall_intervals,
    span,
    wilson_interval,
)
from examples.isic2018.phantom import draw_phantom

EVIL = '<script>alert("1")&amp;'
WARNING = "figures are <b>too</b> high"


class Page(HTMLParser):
    """What a page has: its tags with their attributes, its text, and its tables by caption."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.text = [], {}, ""
        self._rows, self._cells = [], None  # of the open table, of the open caption or row
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("caption", "tr"):
            self._cells = [""] if tag == "caption" else []
            self._rows.append(self._cells)
        elif tag in ("th", "td"):
            self._cells.append("")

    def handle_data(self, data):
        self.text += data
        if self._cells:
            self._cells[-1] += data

    def handle_endtag(self, tag):
        if tag in ("caption", "tr"):
            self._cells = None
        elif tag == "table":
            (caption,), *rows = self._rows
            self.tables[caption] = [[cell.strip() for cell in row] for row in rows]
            self._rows = []

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]

    def table(self, start):
        return next(rows for caption, rows in self.tables.items() if caption.startswith(start))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train two short runs; make one's name and files as bad as they can be, the other's old."""
    root = tmp_path_factory.mktemp("page")
    draw_phantom(root / "data", train_images=90, test_per_class=3, size=(40, 56), progress=False)
    folders = [root / EVIL, root / "plain"]
    for folder, mix in zip(folders, ("spmix", "none"), strict=True):
        settings = train.Settings(
            data=str(root / "data"),
            out=str(folder),
            hold_out="test",
            mix=mix,
            image_size=32,
            batch_size=32,
            epochs=2,
            workers=0,
            device="cpu",
        )
        train.Trainer(settings).run()
    evil, plain = folders
    rows = [json.loads(line) for line in (evil / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["warning"] = WARNING
    (evil / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = json.loads((evil / "settings.json").read_text())
    (evil / "settings.json").write_text(json.dumps({**settings, "new": "<img src='x'>"}))
    entry = json.loads((evil / "origin.json").read_text())[0]
    commits = [{**entry, "commit": commit} for commit in ("abc", "def", "abc")]
    (evil / "origin.json").write_text(json.dumps(commits))
    (plain / "origin.json").unlink()
    return folders


@pytest.fixture(scope="module")
def out(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report.write_report(runs, folder)
    return folder


@pytest.fixture(scope="module")
def parsed(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured(out):
    return json.loads((out / "report.json").read_text())


def test_it_asks_for_nothing(out, parsed):
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base"), tag
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "poster", "action", "background"):
            assert attributes.get(name, "#").startswith(("data:", "#")), attributes
    assert not re.search(r"url\(|@import", (out / "report.html").read_text())
    assert "default-src 'none'" in next(
        a["content"] for a in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )


def test_it_can_be_read_aloud(parsed):
    assert parsed.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(parsed.all("table")) == len(parsed.all("caption")) == len(parsed.tables) == 7
    assert all(cell["scope"] in ("row", "col") for cell in parsed.all("th"))
    assert len(parsed.all("img")) == 5


def test_pictures_are_told_with_their_numbers(parsed, measured):
    recall, tradeoff, confusion, curves, mixes = (image["alt"] for image in parsed.all("img"))
    for name, values in measured.items():
        assert name in recall
        assert name in confusion
        right = sum(values["confusion"][k][k] for k in range(7))
        assert f"{right} of 21 images named right, most mistakes" in confusion
        told = ", ".join(f"{k} {100 * value:.0f}" for k, value in values["recall"].items())
        assert told in recall
        at = values["adjusted"]["exponents"].index(0)
        head, rare = (100 * values["adjusted"][part][at] for part in ("head", "rare"))
        assert f"{name}: head {head:.0f} and rare {rare:.0f} as trained" in tradeoff
    assert re.search(r"plain: loss from \d\.\d\d to \d\.\d\d, balanced accuracy from", curves)
    assert "in 2 epochs" in curves
    assert f"as {EVIL} mixes them" in mixes
    assert "label DF" in mixes


def test_tables_hold_the_numbers_of_the_json(parsed, measured):
    heads, *rows = parsed.table("Means over the classes")
    assert heads[:4] == ["run", "balanced accuracy", "macro F1", "AUROC"]
    for row, (name, values) in zip(rows, measured.items(), strict=True):
        shares = [values[key] for key in ("balanced_accuracy", "macro_f1", "auroc")]
        assert row == [name, *map(percent, [*shares, *values["shots"].values()])]
    heads, *rows = parsed.table("Recall with its 95 % interval")
    assert heads == ["class", "held-out images", "training images", *measured]
    assert [row[1:3] for row in rows][:2] == [["3", "10"], ["3", "60"]]
    for row in rows:
        for cell, values in zip(row[3:], measured.values(), strict=True):
            recall, interval = values["recall"][row[0]], values["recall_interval"][row[0]]
            assert cell == f"{percent(recall)} ({span(*interval)})"
    _, *rows = parsed.table("Each half of the held-out images")
    for row, values in zip(rows, measured.values(), strict=True):
        found = values["adjusted"]
        at = percent(found["balanced_accuracy"][found["exponents"].index(0)])
        assert row[2] == f"{at} to {percent(found['chosen_balanced_accuracy'])}"
    for name, values in measured.items():
        _, *rows = parsed.table(f"{name}: images")
        assert [[int(n) for n in row[1:]] for row in rows] == values["confusion"]


def test_what_runs_say_is_escaped(parsed):
    assert not parsed.all("script", "b")
    assert f"Beware of {EVIL}: {WARNING}." in parsed.text
    assert parsed.text.index("Beware") < parsed.text.index("Results")
    assert parsed.table("Settings")[0] == ["setting", EVIL, "plain"]


def test_settings_and_origins_that_differ_come_first_and_are_marked(parsed):
    _, *rows = parsed.table("Settings")
    assert [row for row in rows if row[0].endswith(" differs")] == rows[:2]
    assert rows[:2] == [["mix differs", "spmix", "none"], ["new differs", "<img src='x'>", "-"]]
    assert ["seed", "0", "0"] in rows
    assert "out" not in [row[0] for row in rows]
    _, *rows = parsed.table("What each run was made by")
    assert rows[0] == ["commit differs", "abc, then def, then abc", "unknown"]
    assert ["torch differs", torch.__version__, "-"] in rows


def test_runs_of_other_training_images_tell_each_number(runs):
    found = [report.read_run(folder) for folder in runs]
    found[1].counts[0] = 7
    values = {"confusion": torch.eye(7).int().tolist(), "recall": dict.fromkeys(CLASSES, 1.0)}
    values["recall_interval"] = recall_intervals(values["confusion"])
    rows = page._recall(found, {run.name: values for run in found})
    assert [row.cells[1] for row in rows] == ["10 / 7", "60", "5", "5", "10", "5", "5"]


def test_the_same_runs_give_the_same_bytes(runs, out, tmp_path):
    report.write_report(runs, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (out / "report.html").read_bytes()


class TestAdjustment:
    def test_the_exponent_divides_by_the_counts(self):
        counts, labels = torch.tensor([100, 1]), torch.tensor([0, 0, 1, 1])
        share = torch.tensor([0.99, 0.95, 0.95, 0.5])  # of class 0, where counts are as 100 to 1
        found = adjust_logits(torch.stack([share, 1 - share], dim=1), labels, counts)
        recall = dict(
            zip(found["exponents"], zip(found["head"], found["rare"], strict=True), strict=True)
        )
        assert recall[0.0] == (1, 0)  # equal shares are the first class
        assert recall[0.1] == (1, 0.5)
        assert recall[0.7] == (0.5, 1)  # 0.95 to 0.05 is 19, and 100 ** 0.64 is 19
        assert recall[1.0] == (0, 1)
        assert found["balanced_accuracy"][found["exponents"].index(0.7)] == 0.75

    def test_each_half_is_judged_by_the_exponent_of_the_other(self):
        counts = torch.tensor([100, 1])
        labels = torch.tensor([0, 1, 0, 1])  # the first of each class, and then the second
        share = torch.tensor([0.9, 0.2, 0.99, 0.9])
        found = adjust_logits(torch.stack([share, 1 - share], dim=1), labels, counts)
        assert found["chosen"] == [0.0, 0.5]  # 100 ** 0.5 is the first above 9
        assert found["chosen_head"] == 0.5  # 0.9 to 0.1 is lost at 0.5
        assert found["chosen_rare"] == 0.5  # and 0.9 for a rare one stays wrong at 0
        assert found["chosen_balanced_accuracy"] == 0.5


class TestIntervals:
    def test_known_values(self):
        assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
        assert wilson_interval(0, 0) == (0, 1)
        assert all(0 <= x <= 1 for n in range(1, 99) for k in (0, n) for x in wilson_interval(k, n))

    def test_each_class_has_that_of_its_row(self):
        confusion = torch.zeros(7, 7, dtype=torch.int64)
        confusion[0] = torch.tensor([8, 2, 0, 0, 0, 0, 0])
        confusion[2, 2] = 3
        found = recall_intervals(confusion.tolist())
        assert list(found) == list(CLASSES)
        assert found["MEL"] == wilson_interval(8, 10)
        assert found["BCC"] == wilson_interval(3, 3)
        assert found["VASC"] == (0, 1)


class TestPictures:
    def test_error_bars_span_the_intervals(self):
        axes = Figure().subplots()
        pictures.bars_of_recall(axes, {"a": ([0.5, 1.0], [(0.2, 0.9), (0.4, 1.0 - 1e-12)])})
        bars, (_, _, (lines,)) = axes.containers[1], axes.containers[0].lines
        assert [bar.get_height() for bar in bars] == [50, 100]
        ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
        assert ends == [pytest.approx([20, 90]), pytest.approx([40, 100])]

    def test_many_matrices_make_rows_and_a_perfect_one_has_no_mistakes(self, tmp_path):
        perfect = {"confusion": (2 * torch.eye(7).int()).tolist()}
        path = tmp_path / "confusion.png"
        told = pictures.draw_confusion(dict.fromkeys("abcd", perfect), path)
        assert told.startswith("Confusion matrices. a: 14 of 14 images named right; b: 14")
        width, height = (int.from_bytes(path.read_bytes()[i : i + 4]) for i in (16, 20))
        assert width / height == pytest.approx(3 / 2, abs=0.01)

    def test_one_epoch_is_one(self, tmp_path):
        history = [{"epoch": 0, "loss": 1.5, "balanced_accuracy": 0.25}]
        told = pictures.draw_curves({"a": history}, tmp_path / "curves.png")
        assert told.endswith(
            "a: loss from 1.50 to 1.50, balanced accuracy from 25 % to 25 %, in 1 epoch."
        )
