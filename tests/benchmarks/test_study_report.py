"""The study's report: runs are pooled by fold and seed, and tables say what was measured."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

from matplotlib.container import BarContainer

from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import backgrounds, engine, plan, report
from benchmarks.isic2018.report import Held, Pooled
from benchmarks.records import Cases, Record, Results, read, write_cases, write_run
from examples.isic2018.data import CLASSES

PAGE = command.KEPT / "REPORT.md"


@pytest.fixture(scope="module")
def cases():
    """Images of all classes in five folds and the test, 28 in each."""
    labels = torch.arange(168) % 7
    return Cases(labels, torch.arange(168), torch.arange(168) // 28 - 1)


def record_of(name, fold, seed, probabilities, seconds=60.0, stage="choose"):
    run = engine.Run(stage, name, plan.METHODS[name], fold, seed)
    predictions = probabilities.numpy().astype(np.float16)
    return Record(stage, name, fold, seed, run.settings, "c", "cpu", seconds, {}, predictions)


def results_of(cases, *records):
    return Results({record.key: record for record in records}, cases)


def guesses(labels, wrong=()):
    """Predict every label but those at `wrong`, surely."""
    named = labels.clone()
    named[list(wrong)] = (named[list(wrong)] + 1) % 7
    return torch.nn.functional.one_hot(named, 7).float() * 0.93 + 0.01


def test_runs_are_pooled_in_the_order_of_the_folds():
    labels = torch.arange(14) % 7
    records = [record_of("sampler", "0", 1, guesses(labels))]  # fold 1 is missing
    for seed in (2, 0):
        for fold in ("1", "0"):
            part = guesses(labels, [seed] if fold == "1" else [])
            records.append(record_of("sampler", fold, seed, part, seconds=60.0 * (seed + 1)))
    records.append(record_of("spmix_border", "0", 0, guesses(labels)))
    (found,) = report.pool_methods(records, ["0", "1"])
    assert (found.name, found.seeds, found.runs, found.minutes) == ("sampler", (0, 2), 4, 1.0)
    assert found.probabilities.shape == (2, 28, 7)
    right = found.probabilities.argmax(2) == labels.repeat(2)
    assert (~right).nonzero().tolist() == [[0, 14], [1, 16]]
    names = [one.name for one in report.pool_methods(records, ["0"])]
    assert names == ["sampler", "spmix_border"]


def test_results_of_other_settings_are_refused(cases):
    record = record_of("spmix_border", "0", 0, guesses(torch.arange(7)))
    run = engine.Run("choose", "spmix_border", plan.SPMIX)
    assert report.finished([run], results_of(cases, record)) == [record]
    del record.settings["backgrounds"]  # as if it were newer than the run
    assert report.finished([run], results_of(cases, record)) == [record]
    assert report.finished([run], results_of(cases)) == []
    for changed, name in (
        (replace(run, epochs=7), "epochs"),
        (replace(run, method=plan.SOFT), "normalize"),
    ):
        with pytest.raises(ValueError, match=rf"`choose/spmix_border/0/0`.*differ in \['{name}'\]"):
            report.finished([changed], results_of(cases, record))


def pooled(name, seeds, probabilities):
    return Pooled(name, seeds, len(seeds), torch.stack(probabilities), 1.5)


@pytest.fixture
def held():
    labels = torch.arange(70) % 7
    return Held(labels, torch.arange(70), torch.tensor([9, 60, 5, 4, 9, 1, 2]))


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


def test_the_page_keeps_its_text(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "KEPT", tmp_path)
    monkeypatch.setattr(command, "STEPS", tmp_path / "steps.md")
    monkeypatch.setattr(command.cifar10_lt, "KEPT", tmp_path / "cifar10_lt")
    of_steps = ["from cross-entropy", "steps", "rivals", "levels"]
    command.STEPS.write_text("".join(f"<!-- {m} -->\nstale\n<!-- end -->\n" for m in of_steps))
    page, runs = tmp_path / "REPORT.md", tmp_path / "runs"
    marks = [
        "overview",
        "backgrounds",
        "final",
        "second",
        "folds 0 to 2",
        "fold 0 alone, one run each",
        "folds 0 to 2, small ResNet",
        "cue",
    ]
    page.write_text("".join(f"before {m}\n<!-- {m} -->\nstale\n<!-- end -->\n" for m in marks))
    with pytest.raises(ValueError, match="there are none: run a stage first"):
        command.main(["report", "--runs", str(runs)])
    write_cases(runs, cases)
    for fold in ("0", "1", "2"):
        held = cases.labels[cases.part(fold, held=True)]
        write_run(runs, record_of("sampler", fold, 0, guesses(held, [0])))
    shares = dict.fromkeys(CLASSES, 0.25)
    cue = plan.STAGES["cue"][0]
    figures = {"mixed": shares, "guess": 0.5}
    write_run(runs, Record("cue", cue.arm, "0", 0, cue.settings, "c", "cpu", 1.0, figures))
    command.main(["report", "--runs", str(runs)])
    text = page.read_text()
    assert "stale" not in text
    assert all(f"before {mark}\n<!-- {mark} -->\n\n" in text for mark in marks)
    assert text.count("No runs yet.") == 1 + len(backgrounds.BACKGROUNDS)
    for stage in ("final", "second"):
        assert f"0 of {len(plan.STAGES[stage])} runs are done" in text
    assert "| sampler | 3 |" in text
    assert "| sampler | 1 |" in text
    assert f"| {cue.arm} |{' 25.0 |' * 7} 50.0 |" in text
    drawn = (tmp_path / "figures" / "ablations.svg").read_bytes()
    assert len(drawn) > 1000
    command.main(["gather", "--runs", str(runs)])
    command.main(["report", "--runs", str(tmp_path / "none")])  # from the gathered files alone
    assert page.read_text() == text
    assert command.STEPS.read_text().count("-->\n\nNo runs yet.\n\n<!--") == 4
    assert (tmp_path / "figures" / "ablations.svg").read_bytes() == drawn


def test_final_tables_are_shown_when_all_runs_are_there(cases, tmp_path, monkeypatch):
    names = ["spmix_border", "sampler"]
    runs = [engine.Run("final", n, plan.METHODS[n], f, 0) for f in plan.FINAL_FOLDS for n in names]
    monkeypatch.setattr(report, "FINAL", names)
    monkeypatch.setitem(report.STAGES, "final", runs)
    monkeypatch.setattr(report, "SECOND", names)
    monkeypatch.setitem(report.STAGES, "second", [run for run in runs if run.fold != "test"])
    records = []
    for run in runs:
        labels = cases.labels[cases.part(run.fold, held=True)]
        wrong = (labels == CLASSES.index("DF")).nonzero().flatten().tolist()
        given = guesses(labels, wrong if run.arm == "sampler" else [])
        records.append(record_of(run.arm, run.fold, 0, given, stage="final"))
    assert report._second(results_of(cases)).startswith("0 of 4 runs are done")
    unfinished = results_of(cases, *records[:-1])
    assert report._final(unfinished, tmp_path).startswith("5 of 6 runs are done")
    results = results_of(cases, *records)
    text = report._final(results, tmp_path)
    assert text.count("| sampler | 3 | 85.7 |") == 1
    assert text.count("| sampler | 2 | 85.7 |") == 1
    assert text.count("| sampler | 1 | 85.7 |") == 1
    all_df = "+14.3 (14.3 to 14.3) | +25.0 (25.0 to 25.0) | +33.3 (33.3 to 33.3)"
    assert text.count(f"| `sampler` | {all_df} | +0.0 (0.0 to 0.0) |") == 3
    assert (tmp_path / "recall.svg").exists()
    second = report._second(results)
    assert "| sampler | 2 | 85.7 |" in second
    assert f"| `sampler` | {all_df} |" in second
    row = next(line for line in text.splitlines() if line.startswith("| sampler | 100.0 (100.0"))
    assert [cell.split()[0] for cell in row.split("|")[2:-1]] == ["100.0"] * 5 + ["0.0", "100.0"]


def test_the_kept_files_have_every_run_of_the_plan():
    results = read(command.KEPT)
    planned = {run.key for runs in plan.STAGES.values() for run in runs}
    late = {run.key for stage in backgrounds.BACKGROUNDS for run in plan.STAGES[stage]}
    assert planned - late <= results.runs.keys() <= planned  # the page names what was not run
    for key in planned - late:
        record = results.runs[key]
        held = results.cases.part(record.fold, held=True)
        assert len(record.predictions) == (0 if record.stage == "cue" else len(held)), key


def test_a_table_of_the_page_is_made_from_the_kept_files():
    table = report.stage_table(plan.STAGES["small"], read(command.KEPT))
    assert f"<!-- folds 0 to 2, small ResNet -->\n\n{table}\n<!-- end -->" in PAGE.read_text()


@pytest.mark.slow
def test_the_page_is_made_from_the_kept_files(tmp_path):
    text = PAGE.read_text()
    emptied = tmp_path / "REPORT.md"
    emptied.write_text(
        re.sub(r"(<!-- (?!end).*? -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    )
    assert len(emptied.read_text()) < len(text) / 2
    for beside in (backgrounds.COLLECTIONS, backgrounds.LEFT, backgrounds.TOLD):
        shutil.copy(PAGE.parent / beside, tmp_path)
    report.write_report(read(command.KEPT), emptied)
    backgrounds.write_backgrounds(read(command.KEPT), read(command.cifar10_lt.KEPT), emptied)
    assert emptied.read_text() == text
    for figure in ("ablations", "recall", "tradeoff"):
        drawn = (tmp_path / f"figures/{figure}.svg").stat().st_size
        assert drawn == pytest.approx(
            (PAGE.parent / f"figures/{figure}.svg").stat().st_size, rel=0.1
        )


def test_a_page_without_a_mark_is_refused():
    with pytest.raises(ValueError, match="mark `<!-- final -->` in the page"):
        report.fill("text", "final", "body")
