"""The report page: tables and figures from whatever runs there are."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from examples.isic2018.data import CLASSES
from examples.isic2018.metrics import percent, span
from examples.isic2018.pictures import bars_of_recall, errors
from spmix_aug import class_counts

from .engine import Images, Run, Trainer, decode
from .plan import (
    CHOOSING_FOLDS,
    FINAL,
    FINAL_FOLDS,
    METHODS,
    SECOND,
    SECOND_FOLDS,
    STAGES,
)
from .statistics import adjust_to_nv_recall, compare, measure, summarise

HEADER = (
    "| method | runs | balanced accuracy | 95 % interval | against `sampler` | tail | rare | NV "
    "| at its NV recall | macro F1 | AUROC | ECE | min |\n"
    "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


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
    lesions: list[str]
    counts: Tensor


def held_images(images: Images, folds: Sequence[str]) -> Held:
    """Take the labels and lesions of folds, one fold after the other."""
    places = torch.cat([images.part(fold, held=True) for fold in folds])
    return Held(
        images.labels[places],
        [images.lesions[i] for i in places.tolist()],
        class_counts(images.labels[images.part("test", held=False)], len(CLASSES)),
    )


def load_method(
    folder: Path, name: str, folds: Sequence[str], seeds: Sequence[int] | None = None
) -> Pooled | None:
    """Pool a method's runs, of all seeds that have all folds; None where no seed does.

    Args:
        folder: results of one model.
        name: of the method.
        folds: that are pooled.
        seeds: those wanted, all of them; None for those there are.

    Raises:
        ValueError: if a run's settings are not those that the plan has for the method.
    """

    def path(fold: str, seed: int) -> Path:
        return folder / name / f"fold{fold}_seed{seed}.json"

    candidates = range(100) if seeds is None else seeds
    found = [s for s in candidates if all(path(fold, s).exists() for fold in folds)]
    if not found or (seeds is not None and len(found) < len(seeds)):
        return None
    results = [[json.loads(path(fold, s).read_text()) for fold in folds] for s in found]
    for result in (one for row in results for one in row):
        changed = {k for k, v in result["method"].items() if getattr(METHODS[name], k, v) != v}
        if changed:
            raise ValueError(
                f"Expected the results of `{name}` to be of its settings in the plan, but they "
                f"differ in {sorted(changed)}: delete those results, or rename the method."
            )
    probabilities = [torch.cat([decode(one["probabilities"]) for one in row]) for row in results]
    seconds = [one["seconds"] for row in results for one in row]
    return Pooled(
        name,
        tuple(found),
        len(seconds),
        torch.stack(probabilities),
        min(seconds) / 60,  # the machine does other things too
    )


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


def mixing_cue(images: Images, names: Sequence[str]) -> str:
    """Show what "was it mixed" tells of the class, over one epoch of each method's batches.

    Last column: balanced accuracy of the better of the two guesses, NV where mixed or NV where
    not; 50 is no cue, 100 tells all.
    """
    lines = [
        f"| share mixed | {' | '.join(CLASSES)} | NV or not, from it |\n",
        f"| --- |{' ---: |' * (len(CLASSES) + 1)}\n",
    ]
    for name in names:
        trainer = Trainer(Run(name, METHODS[name], model="small"), images)
        classes, mixed = [], []
        for batch in trainer._batches(0):
            labels = trainer.labels[batch]
            # Only who is mixed is asked, so the smallest images and maps will do.
            size = (len(batch), 1, 1)
            plan = trainer.mixer.plan(
                torch.zeros(len(batch), 3, 1, 1), labels, saliency=torch.ones(size)
            )
            classes.append(labels)
            mixed.append(plan.partner != torch.arange(len(batch)))
        label, was_mixed = torch.cat(classes), torch.cat(mixed).double()
        shares = [float(was_mixed[label == k].mean()) for k in range(len(CLASSES))]
        nevi = label == CLASSES.index("NV")
        gap = float((was_mixed[nevi].mean() - was_mixed[~nevi].mean()).abs())
        cells = [percent(share) for share in [*shares, 0.5 + gap / 2]]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
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


def _load_all(folder: Path, folds: Sequence[str]) -> list[Pooled]:
    found = (load_method(folder, name, folds) for name in METHODS)
    return [method for method in found if method is not None]


def write_report(images: Images, out: Path, page: Path) -> None:
    """Put tables between the marks of a page and figures beside it, from the results in `out`.

    A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; the text around stays.

    Raises:
        ValueError: if the page lacks a mark.
    """
    text = page.read_text(encoding="utf-8")
    figures = page.parent / "figures"
    figures.mkdir(exist_ok=True)
    panels = {}
    for model, folds, title in (
        ("lite0", CHOOSING_FOLDS, "folds 0 to 2"),
        ("lite0", CHOOSING_FOLDS[:1], "fold 0 alone, one run each"),
        ("small", CHOOSING_FOLDS, "folds 0 to 2, small ResNet"),
    ):
        held = held_images(images, folds)
        methods = _load_all(out / f"{model}_6", folds)
        text = fill(text, title, table(methods, held) if methods else "No runs yet.\n")
        base = [method for method in methods if method.name == "sampler"]
        if base and model == "lite0":
            panels[title] = (held, methods, base[0])
        if title == "folds 0 to 2" and methods:
            _save(tradeoff_figure(methods, held), figures / "tradeoff.svg")
    if panels:
        _save(difference_figure(panels), figures / "ablations.svg")
    text = fill(text, "final", _final(images, out, figures))
    text = fill(text, "second", _second(images, out))
    text = fill(text, "cue", mixing_cue(images, ["tail_only", "spmix_border", "p_0.5"]))
    page.write_text(text, encoding="utf-8")


def _final(images: Images, out: Path, figures: Path) -> str:
    """Write the final tables once all runs are done: the images of the test are looked at once."""
    unfinished = _unfinished("final", out)
    if unfinished:
        return unfinished
    parts = []
    for title, folds in {
        "Folds 3 and 4 and the test images": FINAL_FOLDS,
        "Folds 3 and 4 alone": SECOND_FOLDS,
        "The test images alone": ("test",),
    }.items():
        methods, held, tables = _compare("final", FINAL, images, out, folds)
        parts.append(f"{title}:\n\n{tables}")
        if folds == FINAL_FOLDS:
            parts.append(recalls(methods, held))
            _save(recall_figure(methods, held), figures / "recall.svg")
    return "\n".join(parts)


def _second(images: Images, out: Path) -> str:
    """Write the tables of the second comparison once all of its runs are done."""
    unfinished = _unfinished("second", out)
    if unfinished:
        return unfinished
    methods, held, tables = _compare("second", SECOND, images, out, SECOND_FOLDS)
    return f"{tables}\n{recalls(methods, held)}"


def _unfinished(stage: str, out: Path) -> str | None:
    runs = STAGES[stage]
    done = sum((out / run.path).exists() for run in runs)
    if done == len(runs):
        return None
    return f"{done} of {len(runs)} runs are done; their results are shown when all are.\n"


def _compare(
    stage: str, names: Sequence[str], images: Images, out: Path, folds: Sequence[str]
) -> tuple[list[Pooled], Held, str]:
    """Compare the first of some methods with the others of its stage."""
    runs = STAGES[stage]
    folder, seeds = (out / runs[0].path).parents[1], sorted({run.seed for run in runs})
    loaded = [load_method(folder, name, folds, seeds) for name in names]
    best, *others = methods = [method for method in loaded if method is not None]
    (sampler,) = (method for method in others if method.name == "sampler")
    held = held_images(images, folds)
    compared = differences(best, others, sampler, held)
    return methods, held, f"{table(methods, held)}\n{compared}"


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between a mark of `text` and the next end mark."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"Expected the mark `<!-- {name} -->` in the page, with an end mark.")
    return pattern.sub(lambda match: match[1] + "\n" + body + "\n" + match[2], text, count=1)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
