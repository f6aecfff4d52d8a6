"""The report page: tables and figures from whatever runs there are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.records import TEST, Cases, Record, Results
from examples.isic2018.data import CLASSES
from examples.isic2018.metrics import percent, span
from examples.isic2018.pictures import bars_of_recall, errors
from spmix_aug import class_counts

from .engine import Method, Run
from .plan import CHOOSING_FOLDS, FINAL, FINAL_FOLDS, METHODS, SECOND, SECOND_FOLDS, STAGES
from .statistics import adjust_to_nv_recall, compare, measure, summarise
from .traps import TESTS

HEADER = (
    "| method | runs | balanced accuracy | 95 % interval | against `sampler` | tail | rare | NV "
    "| at its NV recall | macro F1 | AUROC | ECE | min |\n"
    "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)
NO_RUNS = "No runs yet.\n"


@dataclass(frozen=True)
class Pooled:
    """The out-of-fold predictions of a method, `(S,N,7)`, and the minutes of its fastest run."""

    name: str
    seeds: tuple[int, ...]
    runs: int
    probabilities: Tensor
    minutes: float


@dataclass(frozen=True)
class Held:
    """The images of some folds, in the order of the predictions, and training images a class."""

    labels: Tensor
    lesions: Tensor
    counts: Tensor


def held_images(cases: Cases, folds: Sequence[str]) -> Held:
    """Take the labels and lesions of folds, one fold after the other."""
    places = torch.cat([cases.part(fold, held=True) for fold in folds])
    counts = class_counts(cases.labels[cases.folds != TEST], len(CLASSES))
    return Held(cases.labels[places], cases.groups[places], counts)


def finished(runs: Sequence[Run], results: Results) -> list[Record]:
    """Take the records of those of `runs` that there are.

    Raises:
        ValueError: if a run's settings are not those that the plan has for it.
    """
    found = []
    defaults = Run("", "", Method()).settings  # of settings that are newer than the run
    for run in runs:
        if (record := results.runs.get(run.key)) is None:
            continue
        there = defaults | record.settings
        changed = sorted(k for k, value in run.settings.items() if there[k] != value)
        if changed:
            raise ValueError(
                f"Expected the results of `{run.key}` to be of its settings in the plan, but they "
                f"differ in {changed}: delete those results, or rename the method."
            )
        found.append(record)
    return found


def pool_methods(records: Sequence[Record], folds: Sequence[str]) -> list[Pooled]:
    """Pool the runs of each method, of all seeds that have all of some folds, in the plan's order.

    Args:
        records: of one network, one for each arm, fold and seed.
        folds: that are pooled.
    """
    by_name = {(one.arm, one.fold, one.seed): one for one in records}
    pooled = []
    for name in METHODS:
        seeds = sorted({seed for arm, _, seed in by_name if arm == name})
        seeds = [s for s in seeds if all((name, fold, s) in by_name for fold in folds)]
        if not seeds:
            continue
        rows = [[by_name[name, fold, seed] for fold in folds] for seed in seeds]
        seconds = [one.seconds for row in rows for one in row]
        pooled.append(
            Pooled(
                name,
                tuple(seeds),
                len(seconds),
                torch.stack([torch.cat([one.probabilities for one in row]) for row in rows]),
                min(seconds) / 60,  # the machine does other things too
            )
        )
    return pooled


def stage_table(runs: Sequence[Run], results: Results) -> str:
    """Write the table of a stage, of the methods that a seed has on all folds."""
    records, folds = finished(runs, results), list(dict.fromkeys(run.fold for run in runs))
    if runs[0].stage == "cue":
        return mixing_cue(records)
    if runs[0].traps != "none":
        return trap_table(records, held_images(results.cases, folds), folds) if records else NO_RUNS
    methods = pool_methods(records, folds)
    return NO_RUNS if not methods else table(methods, held_images(results.cases, folds))


def table(methods: Sequence[Pooled], held: Held) -> str:
    """Write the methods, the best first; differences are to the sampler on the same seeds."""
    by_name = {method.name: method for method in methods}
    base = by_name.get("sampler")
    rows = []
    for method in methods:
        summary = summarise(method.probabilities, held.labels, held.lesions)
        each = [measure(part, held.labels) for part in method.probabilities]
        balanced, (low, high) = (summary["balanced_accuracy"][k] for k in ("mean", "interval"))
        cells = [method.name, str(method.runs), percent(balanced), span(low, high)]
        cells += [_against(method, base, held)]
        cells += [percent(summary[k]["mean"]) for k in ("tail_recall", "rare_recall", "nv_recall")]
        adjusted = at_equal_nv(method, base, held)
        alike = adjusted and summarise(adjusted.probabilities, held.labels, held.lesions, draws=1)
        cells += [percent(alike["balanced_accuracy"]["mean"]) if alike else "-"]
        for key in ("macro_f1", "auroc", "calibration_error"):
            cells.append(percent(sum(float(m[key]) for m in each) / len(each)))  # type: ignore[arg-type]
        cells.append(f"{method.minutes:.1f}")
        rows.append((balanced, f"| {' | '.join(cells)} |\n"))
    return HEADER + "".join(row for _, row in sorted(rows, reverse=True))


def _common(a: Pooled, b: Pooled) -> tuple[Tensor, Tensor]:
    """Take the predictions of two methods for the seeds that both have."""
    shared = [seed for seed in a.seeds if seed in b.seeds]
    return (
        a.probabilities[[a.seeds.index(seed) for seed in shared]],
        b.probabilities[[b.seeds.index(seed) for seed in shared]],
    )


def difference(a: Pooled, b: Pooled, held: Held) -> dict[str, dict[str, Any]] | None:
    """Compare two methods on the seeds that both have; None where they share none."""
    first, second = _common(a, b)
    return compare(first, second, held.labels, held.lesions) if len(first) else None


def _against(method: Pooled, base: Pooled | None, held: Held) -> str:
    if base is None or method is base:
        return "-"
    found = difference(method, base, held)
    return "-" if found is None else signed(found["balanced_accuracy"])


def signed(found: dict[str, Any]) -> str:
    """Write a difference and its interval in percentage points."""
    return f"{100 * found['mean']:+.1f} ({span(*found['interval'])})"


def recalls(methods: Sequence[Pooled], held: Held) -> str:
    """Write the recall of each class with its interval, and the class's images."""
    counts = torch.bincount(held.labels).tolist()
    heads = [f"{name} ({count})" for name, count in zip(CLASSES, counts, strict=True)]
    lines = [f"| recall | {' | '.join(heads)} |\n", f"| --- |{' --- |' * len(CLASSES)}\n"]
    for method in methods:
        summary = summarise(method.probabilities, held.labels, held.lesions)
        found = [summary[f"recall_{name}"] for name in CLASSES]
        cells = [f"{percent(one['mean'])} ({span(*one['interval'])})" for one in found]
        lines.append(f"| {method.name} | {' | '.join(cells)} |\n")
    return "".join(lines)


def differences(method: Pooled, others: Sequence[Pooled], base: Pooled, held: Held) -> str:
    """Write a method minus each of some others, image by image and seed by seed.

    The last column is balanced accuracy with both adjusted to the NV recall of `base`.
    """
    keys = ("balanced_accuracy", "tail_recall", "rare_recall", "nv_recall")
    lines = [
        f"| `{method.name}` minus | balanced accuracy | tail | rare | NV "
        f"| balanced accuracy, both at the NV recall of `{base.name}` |\n",
        "| --- | --- | --- | --- | --- | --- |\n",
    ]
    for other in others:
        found = difference(method, other, held)
        if found is None:
            continue
        cells = [f"`{other.name}`", *(signed(found[key]) for key in keys)]
        mine, theirs = (at_equal_nv(one, base, held) for one in (method, other))
        alike = None if mine is None or theirs is None else difference(mine, theirs, held)
        cells.append("-" if alike is None else signed(alike["balanced_accuracy"]))
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def at_equal_nv(method: Pooled, base: Pooled | None, held: Held) -> Pooled | None:
    """Adjust a method to the NV recall that `base` has on the same seeds; None without any."""
    seeds = [seed for seed in method.seeds if base is not None and seed in base.seeds]
    if base is None or not seeds:
        return None
    adjusted = []
    for mine, theirs in zip(*_common(method, base), strict=True):
        nv_recall = float(measure(theirs, held.labels)["nv_recall"])  # type: ignore[arg-type]
        if not 0 < nv_recall < 1:  # a sampler that has learnt nothing yet, or all
            return None
        adjusted.append(adjust_to_nv_recall(mine, held.labels, held.counts, nv_recall))
    return replace(method, seeds=tuple(seeds), probabilities=torch.stack(adjusted))


def of_test(record: Record, test: str) -> Record:
    """Take the predictions of one of `TESTS` from a record that has those of all four."""
    size, place = len(record.predictions) // len(TESTS), TESTS.index(test)
    return replace(record, predictions=record.predictions[place * size : (place + 1) * size])


def trap_table(records: Sequence[Record], held: Held, folds: Sequence[str]) -> str:
    """Write balanced accuracy in each test, of methods that a seed has on all folds.

    In brackets the mean recall of the tied classes; the best with exchanged artefacts first.
    """
    lines = [
        f"| method | runs | {' | '.join(TESTS)} | exchanged, against `sampler` | NV, exchanged |\n",
        f"| --- |{' ---: |' * (len(TESTS) + 3)}\n",
    ]
    pooled = {t: pool_methods([of_test(one, t) for one in records], folds) for t in TESTS}
    base = {one.name: one for one in pooled["exchanged"]}.get("sampler")
    rows = []
    for methods in zip(*pooled.values(), strict=True):
        found = [
            summarise(one.probabilities, held.labels, held.lesions, draws=1) for one in methods
        ]
        means = [{key: value["mean"] for key, value in one.items()} for one in found]
        cells = [methods[0].name, str(methods[0].runs)]
        cells += [f"{percent(m['balanced_accuracy'])} ({percent(m['rare_recall'])})" for m in means]
        exchanged = TESTS.index("exchanged")
        cells.append(_against(methods[exchanged], base, held))
        cells.append(percent(means[exchanged]["nv_recall"]))
        rows.append((means[exchanged]["balanced_accuracy"], f"| {' | '.join(cells)} |\n"))
    return "".join(lines) + "".join(row for _, row in sorted(rows, reverse=True))


def mixing_cue(records: Sequence[Record]) -> str:
    """Show what "was it mixed" tells of the class, over one epoch of each method's batches.

    Last column: balanced accuracy of the better of the two guesses, NV where mixed or NV where
    not; 50 is no cue, 100 tells all.
    """
    lines = [
        f"| share mixed | {' | '.join(CLASSES)} | NV or not, from it |\n",
        f"| --- |{' ---: |' * (len(CLASSES) + 1)}\n",
    ]
    for one in records:
        shares = [one.figures["mixed"][name] for name in CLASSES]
        cells = [percent(share) for share in [*shares, one.figures["guess"]]]
        lines.append(f"| {one.arm} | {' | '.join(cells)} |\n")
    return "".join(lines)


# ------------------------------------------------------------------------------------ figures


def recall_figure(methods: Sequence[Pooled], held: Held) -> Figure:
    """Draw recall of each class with intervals, the methods side by side."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    drawn = {}
    for method in methods:
        summary = summarise(method.probabilities, held.labels, held.lesions)
        found = [summary[f"recall_{name}"] for name in CLASSES]
        drawn[method.name] = [one["mean"] for one in found], [one["interval"] for one in found]
    bars_of_recall(axes, drawn)
    axes.legend(fontsize="small")
    counts = torch.bincount(held.labels, minlength=len(CLASSES)).tolist()
    axes.set_xticks(
        range(len(CLASSES)), [f"{c}\n{n}" for c, n in zip(CLASSES, counts, strict=True)]
    )
    return figure


def tradeoff_figure(methods: Sequence[Pooled], held: Held) -> Figure:
    """Draw balanced accuracy against tail recall, one point a method."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    for method in methods:
        summary = summarise(method.probabilities, held.labels, held.lesions, draws=200)
        x, y = (100 * summary[k]["mean"] for k in ("tail_recall", "balanced_accuracy"))
        axes.plot(x, y, "o", color="C3" if METHODS[method.name].mixer.startswith("spmix") else "C0")
        axes.annotate(method.name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.set_xlabel("recall of the tail (DF, VASC, AKIEC, BCC), %")
    axes.set_ylabel("balanced accuracy, %")
    return figure


def difference_figure(panels: dict[str, tuple[Held, Sequence[Pooled], Pooled]]) -> Figure:
    """Draw balanced accuracy of methods minus that of a base, with intervals, panel by panel."""
    rows = max(len(methods) for _, methods, _ in panels.values())
    figure = Figure(figsize=(9, 1.2 + 0.2 * rows), layout="constrained")
    for axes, (title, (held, methods, base)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        found = [(m.name, difference(m, base, held)) for m in methods if m is not base]
        drawn = [(name, one["balanced_accuracy"]) for name, one in found if one is not None]
        drawn.sort(key=lambda pair: pair[1]["mean"])
        means = [one["mean"] for _, one in drawn]
        axes.errorbar(
            [100 * mean for mean in means],
            range(len(drawn)),
            xerr=errors(means, [one["interval"] for _, one in drawn]),
            fmt="o",
            ms=3,
            lw=0.8,
        )
        axes.axvline(0, color="grey", lw=0.8)
        axes.set_yticks(range(len(drawn)), [name for name, _ in drawn], fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"balanced accuracy minus that of {base.name}, points", fontsize=8)
    return figure


# --------------------------------------------------------------------------------------- page


def write_report(results: Results, page: Path) -> None:
    """Put tables between the marks of a page and figures beside it.

    A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; the text around stays.

    Raises:
        ValueError: if the page lacks a mark, or there are no results.
    """
    if results.cases is None:
        raise ValueError("Expected results to report on, but there are none: run a stage first.")
    text = page.read_text(encoding="utf-8")
    figures = page.parent / "figures"
    figures.mkdir(exist_ok=True)
    panels = {}
    lite0 = finished([*STAGES["choose"], *STAGES["single"]], results)
    for records, folds, title in (
        (lite0, CHOOSING_FOLDS, "folds 0 to 2"),
        (lite0, CHOOSING_FOLDS[:1], "fold 0 alone, one run each"),
        (finished(STAGES["small"], results), CHOOSING_FOLDS, "folds 0 to 2, small ResNet"),
    ):
        held = held_images(results.cases, folds)
        methods = pool_methods(records, folds)
        text = fill(text, title, table(methods, held) if methods else NO_RUNS)
        base = [method for method in methods if method.name == "sampler"]
        if base and records is lite0:
            panels[title] = (held, methods, base[0])
        if title == "folds 0 to 2" and methods:
            _save(tradeoff_figure(methods, held), figures / "tradeoff.svg")
    if panels:
        _save(difference_figure(panels), figures / "ablations.svg")
    text = fill(text, "final", _final(results, figures))
    text = fill(text, "second", _second(results))
    text = fill(text, "cue", mixing_cue(finished(STAGES["cue"], results)))
    page.write_text(text, encoding="utf-8")


def _final(results: Results, figures: Path) -> str:
    """Write the final tables once all runs are done: the images of the test are looked at once."""
    unfinished = _unfinished("final", results)
    if unfinished:
        return unfinished
    parts = []
    for title, folds in {
        "Folds 3 and 4 and the test images": FINAL_FOLDS,
        "Folds 3 and 4 alone": SECOND_FOLDS,
        "The test images alone": ("test",),
    }.items():
        methods, held, tables = _compare("final", FINAL, results, folds)
        parts.append(f"{title}:\n\n{tables}")
        if folds == FINAL_FOLDS:
            parts.append(recalls(methods, held))
            _save(recall_figure(methods, held), figures / "recall.svg")
    return "\n".join(parts)


def _second(results: Results) -> str:
    """Write the tables of the second comparison once all of its runs are done."""
    unfinished = _unfinished("second", results)
    if unfinished:
        return unfinished
    methods, held, tables = _compare("second", SECOND, results, SECOND_FOLDS)
    return f"{tables}\n{recalls(methods, held)}"


def _unfinished(stage: str, results: Results) -> str | None:
    runs = STAGES[stage]
    done = sum(run.key in results.runs for run in runs)
    if done == len(runs):
        return None
    return f"{done} of {len(runs)} runs are done; their results are shown when all are.\n"


def _compare(
    stage: str, names: Sequence[str], results: Results, folds: Sequence[str]
) -> tuple[list[Pooled], Held, str]:
    """Compare the first of some methods with the others of its stage."""
    pooled = {one.name: one for one in pool_methods(finished(STAGES[stage], results), folds)}
    best, *others = methods = [pooled[name] for name in names]
    held = held_images(results.cases, folds)
    compared = differences(best, others, pooled["sampler"], held)
    return methods, held, f"{table(methods, held)}\n{compared}"


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between a mark of `text` and the next end mark."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"Expected the mark `<!-- {name} -->` in the page, with an end mark.")
    return pattern.sub(lambda match: match[1] + "\n" + body + "\n" + match[2], text, count=1)


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "study"}):  # the same figure, the same file
        figure.savefig(path, metadata={"Date": None})
