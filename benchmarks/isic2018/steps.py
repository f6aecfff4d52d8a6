"""The page on what each step brings for rare classes, from cross-entropy to averaged seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.records import Record, Results
from examples.isic2018.data import CLASSES
from examples.isic2018.metrics import percent, span

from .plan import CHOOSING_FOLDS, SECOND_FOLDS, STAGES
from .report import NO_RUNS, Held, fill, finished, held_images, pool_methods, signed
from .statistics import RARE, compare, cross_fit, summarise

MIXED = "p_0.5"
# The trainings of the second comparison, as the page calls them.
TRAININGS = {
    "sampler": "sampler alone",
    MIXED: "SPMix, half mixed",
    "sampler_remix": "Remix, all mixed",
    "spmix_uniform": "uniform ratio, all mixed",
}
COLUMNS = {
    "balanced_accuracy": "balanced accuracy",
    "rare_recall": ", ".join(sorted(RARE)),
    "nv_recall": "NV",
}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        name: what stands in its first cell.
        probabilities: `(S,N,7)`, of each seed on the same images.
        pair: two predictions of that shape whose difference stands beside, or None.
    """

    name: str
    probabilities: Tensor
    pair: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Shared:
    """Predictions `(S,N,7)` by method, all of the same seeds, and the images of some folds."""

    probabilities: dict[str, Tensor]
    seeds: tuple[int, ...]
    held: Held
    folds: Tensor

    def cross_fitted(self, name: str) -> tuple[Tensor, dict[int, float]]:
        """Adjust a method by the exponent that the other folds choose."""
        return cross_fit(self.probabilities[name], self.held.labels, self.folds, self.held.counts)

    def about(self) -> str:
        """Say which folds, seeds and images it has."""
        counts = torch.bincount(self.held.labels, minlength=len(CLASSES))
        rare = [f"{counts[CLASSES.index(name)]} {name}" for name in sorted(RARE)]
        folds, seeds = self.folds.unique().tolist(), self.seeds
        return (
            f"{_listed('Fold', folds)}, {_listed('seed', seeds)}, {len(self.folds)} images, "
            f"of them {', '.join(rare)}."
        )


def _listed(what: str, numbers: Sequence[int]) -> str:
    """Write `fold 0`, `folds 3 and 4` or `seeds 0, 1 and 2`."""
    *first, last = map(str, numbers)
    return f"{what}s {', '.join(first)} and {last}" if first else f"{what} {last}"


def shared(
    records: Sequence[Record], names: Sequence[str], folds: Sequence[str], results: Results
) -> Shared | None:
    """Take the predictions of methods for the seeds that all have on all folds; None without."""
    pooled = {one.name: one for one in pool_methods(records, folds) if one.name in names}
    if len(pooled) < len(names):
        return None
    seeds = sorted(set.intersection(*(set(one.seeds) for one in pooled.values())))
    if not seeds:
        return None
    places = [results.cases.part(fold, held=True) for fold in folds]
    return Shared(
        {n: pooled[n].probabilities[[pooled[n].seeds.index(s) for s in seeds]] for n in names},
        tuple(seeds),
        held_images(results.cases, folds),
        torch.cat([torch.full_like(p, int(f)) for f, p in zip(folds, places, strict=True)]),
    )


def average(probabilities: Tensor) -> Tensor:
    """Average the seeds of `(S,N,7)`, and repeat the average for each, to be paired with them.

    Seeds drawn with replacement would be fewer than S, and their average worse than the one that
    is asked about; so the interval of an average is over lesions alone.
    """
    return probabilities.mean(dim=0, keepdim=True).expand_as(probabilities)


def table(first: str, rows: Sequence[Row], held: Held) -> str:
    """Write the levels of each row, with the paired difference or else the level's interval."""
    lines = [f"| {first} | {' | '.join(COLUMNS.values())} |\n| --- | --- | --- | --- |\n"]
    for row in rows:
        draws = 2000 if row.pair is None else 1
        found = summarise(row.probabilities, held.labels, held.lesions, draws=draws)
        more = row.pair and compare(*row.pair, held.labels, held.lesions)
        cells = [
            f"{percent(found[key]['mean'])}: {signed(more[key])}"
            if more
            else f"{percent(found[key]['mean'])} ({span(*found[key]['interval'])})"
            for key in COLUMNS
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |\n")
    return "".join(lines)


def chain(steps: dict[str, Tensor]) -> list[Row]:
    """Pair each step with the one before it."""
    before = [None, *steps.values()]
    return [
        Row(name, mine, None if theirs is None else (mine, theirs))
        for (name, mine), theirs in zip(steps.items(), before, strict=False)
    ]


def from_cross_entropy(results: Results) -> str:
    """Write the steps from cross-entropy on, of the one fold on which it was run."""
    records = finished([*STAGES["choose"], *STAGES["single"]], results)
    fold = CHOOSING_FOLDS[0]
    found = shared(records, ["cross_entropy", "sampler", MIXED], [fold], results)
    mixed = shared(records, [MIXED], CHOOSING_FOLDS, results)
    if found is None or mixed is None or mixed.seeds != found.seeds:
        return NO_RUNS
    adjusted, exponents = mixed.cross_fitted(MIXED)
    steps = {
        "cross-entropy": found.probabilities["cross_entropy"],
        "+ pair sampler": found.probabilities["sampler"],
        "+ half mixed": found.probabilities[MIXED],
        "+ threshold": adjusted[:, mixed.folds == int(fold)],
    }
    others = _listed("fold", [int(other) for other in CHOOSING_FOLDS[1:]])
    return (
        f"{table('step', chain(steps), found.held)}\n{found.about()} "
        f"The exponent, {exponents[int(fold)]:.1f}, is chosen on {others}.\n"
    )


def on_unseen_folds(results: Results) -> dict[str, str]:
    """Write the steps on the folds on which nothing was chosen, by the marks of their tables."""
    found = shared(finished(STAGES["second"], results), list(TRAININGS), SECOND_FOLDS, results)
    if found is None:
        return dict.fromkeys(("steps", "rivals", "levels"), NO_RUNS)
    variants, told = {}, []
    for name, called in TRAININGS.items():
        plain, (moved, exponents) = found.probabilities[name], found.cross_fitted(name)
        variants[name] = {
            "": plain,
            ", averaged": average(plain),
            ", threshold": moved,
            ", threshold, averaged": average(moved),
        }
        each = " and ".join(f"{exponent:.1f}" for exponent in exponents.values())
        told.append(f"{called} {each}")
    mixed = variants[MIXED]
    steps = {
        "pair sampler": found.probabilities["sampler"],
        "+ half mixed": mixed[""],
        "+ threshold": mixed[", threshold"],
        "+ seeds averaged": mixed[", threshold, averaged"],
    }
    ends = {name: of[", threshold, averaged"] for name, of in variants.items()}
    others = [
        Row(called, ends[name], (ends[name], ends[MIXED]))
        for name, called in TRAININGS.items()
        if name != MIXED
    ]
    rivals = [Row(TRAININGS[MIXED], ends[MIXED]), *others]
    every = [
        Row(f"{called}{variant}", probabilities)
        for name, called in TRAININGS.items()
        for variant, probabilities in variants[name].items()
    ]
    folds = " and ".join(f"fold {fold}" for fold in exponents)
    return {
        "steps": f"{table('step', chain(steps), found.held)}\n{found.about()}\n",
        "rivals": table("training", rivals, found.held),
        "levels": f"{table('training', every, found.held)}\n"
        f"Exponents, for {folds}, each chosen on the other: {'; '.join(told)}.\n",
    }


def write_steps(results: Results, page: Path) -> None:
    """Put the tables between the marks of a page.

    Raises:
        ValueError: if the page lacks a mark.
    """
    text = page.read_text(encoding="utf-8")
    bodies = {"from cross-entropy": from_cross_entropy(results), **on_unseen_folds(results)}
    for mark, body in bodies.items():
        text = fill(text, mark, body)
    page.write_text(text, encoding="utf-8")
