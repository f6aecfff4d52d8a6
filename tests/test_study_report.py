"""The study's report: runs are pooled by fold and seed, and tables say what was measured."""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

from matplotlib.container import BarContainer

from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import engine, plan, report
from benchmarks.isic2018.report import Held, Pooled
from examples.isic2018 import phantom
from examples.isic2018.data import CLASSES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "data"
    phantom.draw_phantom(
        root, train_images=140, test_per_class=1, size=(48, 64), seed=0, progress=False
    )
    return root


@pytest.fixture(scope="module")
def images(data):
    return engine.load_images(data)


def write_run(folder, name, fold, seed, probabilities, seconds=60.0):
    path = folder / name / f"fold{fold}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "method": asdict(plan.METHODS[name]),
        "probabilities": engine.encode(probabilities),
        "seconds": seconds,
    }
    path.write_text(json.dumps(result))


def guesses(labels, wrong=()):
    """Predict every label but those at `wrong`, surely."""
    named = labels.clone()
    named[list(wrong)] = (named[list(wrong)] + 1) % 7
    return torch.nn.functional.one_hot(named, 7).float() * 0.93 + 0.01


def test_runs_are_pooled_in_the_order_of_the_folds(tmp_path):
    labels = torch.arange(14) % 7
    for seed in (0, 2):
        for fold in ("0", "1"):
            part = guesses(labels, [seed] if fold == "1" else [])
            write_run(tmp_path, "sampler", fold, seed, part, seconds=60.0 * (seed + 1))
    write_run(tmp_path, "sampler", "0", 1, guesses(labels))  # fold 1 is missing
    found = report.load_method(tmp_path, "sampler", ["0", "1"])
    assert (found.seeds, found.runs, found.minutes) == ((0, 2), 4, 1.0)
    assert found.probabilities.shape == (2, 28, 7)
    right = found.probabilities.argmax(2) == labels.repeat(2)
    assert (~right).nonzero().tolist() == [[0, 14], [1, 16]]
    assert report.load_method(tmp_path, "sampler", ["0", "1"], [0, 1]) is None
    assert report.load_method(tmp_path, "sampler", ["0", "1"], [2]).seeds == (2,)
    assert report.load_method(tmp_path, "nothing", ["0"]) is None


def test_results_of_other_settings_are_refused(tmp_path, monkeypatch):
    write_run(tmp_path, "spmix_border", "0", 0, guesses(torch.arange(7)))
    assert report.load_method(tmp_path, "spmix_border", ["0"]).runs == 1
    monkeypatch.setitem(plan.METHODS, "spmix_border", engine.Method(mixer="spmix", p=0.7))
    with pytest.raises(ValueError, match=r"`spmix_border`.*differ in \['p'\]"):
        report.load_method(tmp_path, "spmix_border", ["0"])


def pooled(name, seeds, probabilities):
    return Pooled(name, seeds, len(seeds), torch.stack(probabilities), 1.5)


@pytest.fixture
def held():
    labels = torch.arange(70) % 7
    return Held(labels, [str(i) for i in range(70)], torch.tensor([9, 60, 5, 4, 9, 1, 2]))


def test_the_table_compares_on_shared_seeds_and_puts_the_best_first(held):
    worse = guesses(held.labels, range(0, 70, 7))  # all MEL missed
    better = guesses(held.labels)
    rows = report.table(
        [
            pooled("sampler", (0, 1), [worse, better]),
            pooled("mine", (0,), [better]),
            pooled("other", (5,), [worse]),
        ],
        held,
    ).splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["mine", "sampler", "other"]
    assert cells[0][2] == "100.0"
    assert cells[0][4] == "+14.3 (14.3 to 14.3)"
    assert cells[1][2] == "92.9"
    assert [row[4] for row in cells[1:]] == ["-", "-"]
    assert cells[2][8] == "-"
    assert cells[0][12] == "1.5"


def test_methods_are_adjusted_to_the_nv_recall_of_the_base_on_each_seed(held):
    generator = torch.Generator().manual_seed(0)
    hint = torch.nn.functional.one_hot(held.labels, 7)
    drawn = [(torch.randn(70, 7, generator=generator) + hint).softmax(1) for _ in range(5)]
    method, base = pooled("mine", (0, 1, 2), drawn[:3]), pooled("sampler", (2, 0), drawn[3:])
    found = report.at_equal_nv(method, base, held)
    nevi = held.labels == CLASSES.index("NV")

    def hits(probabilities):
        return (probabilities[nevi].argmax(1) == CLASSES.index("NV")).sum()

    assert found.seeds == (0, 2)
    assert hits(found.probabilities[0]) == hits(base.probabilities[1])
    assert hits(found.probabilities[1]) == hits(base.probabilities[0])
    assert report.at_equal_nv(method, None, held) is None
    assert report.at_equal_nv(method, pooled("sampler", (5,), drawn[3:4]), held) is None
    (row,) = report.differences(method, [base], base, held).splitlines()[2:]
    cell = row.split("|")[-2].split()[0]
    shared = [
        [float(report.measure(p, held.labels)["balanced_accuracy"]) for p in ps]
        for ps in (found.probabilities, report.at_equal_nv(base, base, held).probabilities)
    ]
    assert float(cell) == pytest.approx(50 * (sum(shared[0]) - sum(shared[1])), abs=0.051)


def test_figures_show_all_methods(held, tmp_path):
    methods = [
        pooled("sampler", (0,), [guesses(held.labels, range(10))]),
        pooled("spmix_border", (0,), [guesses(held.labels, range(3))]),
    ]
    axes = report.recall_figure(methods, held).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "sampler",
        "spmix_border",
    ]
    bars = [one for one in axes.containers if isinstance(one, BarContainer)]
    heights = [bar.get_height() for bar in bars[1].patches]
    assert heights == pytest.approx([90, 90, 90, 100, 100, 100, 100])
    assert axes.get_xticklabels()[0].get_text() == f"{CLASSES[0]}\n10"
    points = report.tradeoff_figure(methods, held).axes[0].lines
    assert points[1].get_ydata()[0] == pytest.approx(100 * (1 - 3 / 70))
    panel = report.difference_figure({"model": (held, methods, methods[0])}).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["spmix_border"]


def test_being_mixed_tells_nothing_unless_the_tail_alone_is(images):
    rows = report.mixing_cue(images, ["tail_only", "p_0.5"]).splitlines()[2:]
    tail_only, half = ([float(c) for c in row.strip("|").split("|")[1:]] for row in rows)
    nv = CLASSES.index("NV")
    assert tail_only[nv] == 0
    assert tail_only[-1] > 95
    assert half[-1] < 60
    assert 35 < half[nv] < 65


def test_the_page_keeps_its_text(data, tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "results", tmp_path / "REPORT.md"
    marks = [
        "final",
        "second",
        "folds 0 to 2",
        "fold 0 alone, one run each",
        "folds 0 to 2, small ResNet",
        "cue",
    ]
    page.write_text("".join(f"before {m}\n<!-- {m} -->\nstale\n<!-- end -->\n" for m in marks))
    runs = [engine.Run("sampler", plan.METHODS["sampler"], fold, 0) for fold in ("0", "1", "2")]
    images = engine.load_images(data)
    for run in runs:
        held = images.labels[images.part(run.fold, held=True)]
        write_run(out / "lite0_6", "sampler", run.fold, 0, guesses(held, [0]))
    command.main(["report", "--data", str(data), "--out", str(out)])
    text = page.read_text()
    assert "stale" not in text
    assert all(f"before {mark}\n<!-- {mark} -->\n\n" in text for mark in marks)
    assert text.count("No runs yet.") == 1
    for stage in ("final", "second"):
        assert f"0 of {len(plan.STAGES[stage])} runs are done" in text
    assert "| sampler | 3 |" in text
    assert "| sampler | 1 |" in text
    assert (tmp_path / "figures" / "ablations.svg").stat().st_size > 1000
    command.main(["report", "--data", str(data), "--out", str(out)])
    assert page.read_text() == text


def test_final_tables_are_shown_when_all_runs_are_there(data, tmp_path, monkeypatch):
    names = ["spmix_border", "sampler"]
    runs = [engine.Run(n, plan.METHODS[n], f, 0) for f in plan.FINAL_FOLDS for n in names]
    monkeypatch.setattr(report, "FINAL", names)
    monkeypatch.setitem(report.STAGES, "final", runs)
    monkeypatch.setattr(report, "SECOND", names)
    monkeypatch.setitem(report.STAGES, "second", [run for run in runs if run.fold != "test"])
    images = engine.load_images(data)
    assert report._second(images, tmp_path).startswith("0 of 4 runs are done")
    for run in runs[:-1]:
        labels = images.labels[images.part(run.fold, held=True)]
        wrong = (labels == CLASSES.index("DF")).nonzero().flatten().tolist()
        write_run(
            tmp_path / "lite0_6",
            run.name,
            run.fold,
            0,
            guesses(labels, wrong if run.name == "sampler" else []),
        )
    assert report._final(images, tmp_path, tmp_path).startswith("5 of 6 runs are done")
    write_run(tmp_path / "lite0_6", "sampler", "test", 0, guesses(labels, wrong))
    text = report._final(images, tmp_path, tmp_path)
    assert text.count("| sampler | 3 | 85.7 |") == 1
    assert text.count("| sampler | 2 | 85.7 |") == 1
    assert text.count("| sampler | 1 | 85.7 |") == 1
    all_df = "+14.3 (14.3 to 14.3) | +25.0 (25.0 to 25.0) | +33.3 (33.3 to 33.3)"
    assert text.count(f"| `sampler` | {all_df} | +0.0 (0.0 to 0.0) |") == 3
    assert (tmp_path / "recall.svg").exists()
    second = report._second(images, tmp_path)
    assert "| sampler | 2 | 85.7 |" in second
    assert f"| `sampler` | {all_df} |" in second
    row = next(line for line in text.splitlines() if line.startswith("| sampler | 100.0 (100.0"))
    assert [cell.split()[0] for cell in row.split("|")[2:-1]] == ["100.0"] * 5 + ["0.0", "100.0"]


def test_a_page_without_a_mark_is_refused():
    with pytest.raises(ValueError, match="mark `<!-- final -->` in the page"):
        report.fill("text", "final", "body")
