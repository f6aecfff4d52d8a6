"""The benchmarks of backgrounds that mislead: what PRIMARY.md asks of them, and one table of all.

Nothing of a benchmark that was written down beforehand is shown before all of its runs are done.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import cifar10_lt
from benchmarks.records import Record, Results
from examples.isic2018.data import CLASSES, LesionImages, read_lesion_mask, read_records
from examples.isic2018.files import write_json, write_whole
from examples.isic2018.metrics import percent, span
from spmix_aug.look.background import Told, background_of, colour_and_texture, cross_validate

from . import traps
from .engine import Collections, Run, read_sources
from .maps import LEFT, write_left
from .plan import (
    ANY,
    CEILING,
    CENTRED,
    CHOOSING_FOLDS,
    CHOSEN,
    CLINICS,
    CONFIRMED,
    MIDDLE,
    REMIX,
    RHOS,
    SECOND_FOLDS,
    STAGES,
)
from .report import NO_RUNS, Held, fill, finished, held_images, of_test, pool_methods, stage_table
from .statistics import (
    RARE,
    Found,
    Levels,
    adjust_to_nv_recall,
    average_levels,
    correct,
    cross_fit,
    measure_levels,
)

# Where the first form of the exchange is compared, then the second, and a control of that.
WHERE = ("confirm", "clinic", "same")
COMPARED = (*WHERE, *(f"{stage}_second" for stage in WHERE), "confirm_middle")
FORMS = {"": CHOSEN, "second": CENTRED, "middle": MIDDLE}

# Stages of which nothing is shown before all of their runs are done: see PRIMARY.md.
LOOKED_AT_ONCE = ("final", "second", *COMPARED)

# The benchmarks of backgrounds by their stages.
BACKGROUNDS = {
    "traps": "Traps, colour casts, folds 0 to 2: settings are chosen here",
    **{f"rho_{rho}": f"The same with ties of {rho:g}, fold 0" for rho in RHOS},
    "confirm": "Traps, vignette, ruler and hair, folds 3 and 4: confirmation",
    "clinic": "Another clinic",
    "same": "The same clinics, folds 3 and 4",
    "confirm_second": "The second form: vignette, ruler and hair, folds 3 and 4",
    "clinic_second": "The second form: another clinic",
    "same_second": "The second form: the same clinics, folds 3 and 4",
    "confirm_middle": "A control, the middle alone: vignette, ruler and hair, folds 3 and 4",
}

# Of the same clinics, what other comparisons have run already.
STORED = ["sampler", "sampler_remix", "p_0.5"]

COLLECTIONS, TOLD = "collections.npz", "background.json"
BALANCED, TIED, NEVI = "balanced accuracy", ", ".join(sorted(RARE)), "NV"
ALL = tuple(range(len(CLASSES)))
TIED_CLASSES, NV = [CLASSES.index(name) for name in RARE], CLASSES.index("NV")

# What is looked at where there are artefacts.
TRAPPED_QUANTITIES = {BALANCED: ALL, TIED: TIED_CLASSES, NEVI: (NV,)}

# What stands in a column of the table over all, if the benchmark has it.
ROLES = ("sampler", "Remix", "uniform", "exchange", "true masks")


@dataclass(frozen=True)
class Compared:
    """A benchmark whose runs are all done.

    Args:
        primary: the quantity that decides.
        roles: the method in each of `ROLES` that it has.
        hopes: what was hoped for, what was found, and whether it is met.
        body: the tables.
    """

    primary: Levels
    roles: dict[str, str]
    hopes: list[tuple[str, str, str]]
    body: str


def verdict(found: Found | None, least: float, bound: float | None = 0.0) -> str:
    """Say whether a figure is as high as hoped for: `met`, `not met` or `not shown`.

    Args:
        found: the figure; None where there is none.
        least: that its mean should reach.
        bound: that its interval should be above; where it is inside the interval, nothing is
            shown. None asks for the mean alone.
    """
    if found is None or (bound is not None and found.interval[0] <= bound <= found.interval[1]):
        return "not shown"
    return "met" if found.mean >= least and (bound is None or found.mean > bound) else "not met"


# ------------------------------------------------------------------------------- comparisons


def confirm(results: Results, runs: Sequence[Run], form: str) -> Compared:
    """Compare a form with exchanged artefacts, on the folds on which nothing was chosen."""
    artefacts = {
        f"{name} ({artefact})": [CLASSES.index(name)]
        for name, artefact in zip(traps.TIED, traps.SETS["objects"], strict=True)
    }
    found = _trapped(runs, results, SECOND_FOLDS, "exchanged", TRAPPED_QUANTITIES)
    single = _trapped(runs, results, SECOND_FOLDS, "exchanged", artefacts)
    others = {
        "With the artefacts of training": "same",
        "With artefacts at random": "random",
        "Without artefacts": "none",
    }
    balanced, tied = found[BALANCED], found[TIED]
    shares = [one.share_of_gain(form, CEILING, "sampler") for one in (balanced, tied)]
    cells = ["-" if one is None else _share(one) for one in shares]
    if form == MIDDLE:
        adds = balanced.difference(CENTRED, form)
        hopes = [_hope(f"{BALANCED}, `{CENTRED}` minus it", adds, 0.02)]
    else:
        hopes = [
            _hope(f"{BALANCED}, minus `{name}`", balanced.difference(form, name), 0.08)
            for name in ("sampler", REMIX, ANY)
        ]
        hopes.append(_hope(f"{TIED}, minus `sampler`", tied.difference(form, "sampler"), 0.15))
        share = f"{BALANCED}, share of the gain of `{CEILING}`: at least 75 %"
        hopes.append((share, cells[0], verdict(shares[0], 0.75)))
    pairs = _trapped_pairs(runs, form)
    body = (
        f"{stage_table(runs, results)}\nWith exchanged artefacts:\n\n"
        f"{_differences(pairs, found)}"
        f"| `{form}`, share of the gain of `{CEILING}` | {' | '.join(cells)} | - |\n"
        "\nBy the artefact that a class had in training, still with exchanged ones:\n\n"
        f"{_differences(pairs, single)}"
    )
    for title, test in others.items():
        usual = _trapped(runs, results, SECOND_FOLDS, test, TRAPPED_QUANTITIES)
        body += f"\n{title}:\n\n{_differences(pairs, usual)}"
    roles = ("sampler", REMIX, ANY, form, CEILING)
    return Compared(balanced, dict(zip(ROLES, roles, strict=True)), hopes, body)


def clinic(results: Results, runs: Sequence[Run], form: str) -> Compared:
    """Compare a form on collections that were not trained on, over the classes that they have.

    Lesions and seeds are drawn for each collection without regard to the other: its lesions are
    others, and so are its trainings.

    Raises:
        ValueError: if it is not known which collection an image is from.
    """
    if not isinstance(results.cases, Collections):
        raise ValueError(
            f"Expected to know the collection of each image, but {COLLECTIONS} is not there: make "
            "it with `python -m benchmarks.isic2018 collections --data FOLDER`."
        )
    records, names = finished(runs, results), _arms(runs)
    means, matched, columns, nevi = [], [], {}, {}
    for place, source in enumerate(CLINICS):
        held = held_images(results.cases, [source])
        predicted = _pooled(records, names, [source])
        right = {arm: correct(p, held.labels) for arm, p in predicted.items()}
        alike = _at_nv_recall_of("sampler", predicted, held)
        present = held.labels.unique().tolist()
        quantities = {BALANCED: present, NEVI: [NV]}
        found, level = (
            measure_levels(of, held.labels, held.lesions, quantities, seed=place)
            for of in (right, alike)
        )
        means.append(found[BALANCED])
        matched.append(level[BALANCED])
        columns[f"`{source}`, {len(present)} classes"] = found[BALANCED]
        nevi[f"NV, `{source}`"] = found[NEVI]
    mean = average_levels(means)
    quantities_of = {f"{BALANCED}, both": mean, **columns, **nevi}
    quantities_of["both, at the NV recall of `sampler`"] = average_levels(matched)
    pairs = [*_pairs(names, form), (CEILING, "sampler")]
    hopes = [
        _hope(f"{BALANCED}, both, minus `{name}`", mean.difference(form, name), 0.02)
        for name in ("sampler", REMIX)
    ]
    body = (
        f"{_levels(names, quantities_of)}\n{_differences(pairs, quantities_of)}\n"
        "The last column was not written down beforehand: in each collection, every seed is "
        "adjusted to the NV recall that the sampler has there.\n"
    )
    roles = {"sampler": "sampler", "Remix": REMIX, "exchange": form, "true masks": CEILING}
    return Compared(mean, roles, hopes, body)


def same(results: Results, runs: Sequence[Run], form: str) -> Compared:
    """Compare a form where nothing misleads, at exponents that the other fold chooses."""
    names = _arms(runs)
    held = held_images(results.cases, SECOND_FOLDS)
    sizes = [len(results.cases.part(fold, held=True)) for fold in SECOND_FOLDS]
    folds = torch.tensor([int(fold) for fold in SECOND_FOLDS]).repeat_interleave(
        torch.tensor(sizes)
    )
    plain, moved, exponents = {}, {}, []
    for name, p in _pooled(finished(runs, results), names, SECOND_FOLDS).items():
        adjusted, chosen = cross_fit(p, held.labels, folds, held.counts)
        plain[name], moved[name] = correct(p, held.labels), correct(adjusted, held.labels)
        exponents.append(f"`{name}` {' and '.join(f'{one:.1f}' for one in chosen.values())}")
    quantities = {BALANCED: ALL, NEVI: [NV]}
    best, raw = (measure_levels(r, held.labels, held.lesions, quantities) for r in (moved, plain))
    columns = {
        f"{BALANCED}, best exponent": best[BALANCED],
        "raw": raw[BALANCED],
        "NV, best exponent": best[NEVI],
        "NV, raw": raw[NEVI],
    }
    hopes = [
        _hope(
            f"{BALANCED}, best exponent, minus `{name}`",
            best[BALANCED].difference(form, name),
            -0.005,
            -0.025,
        )
        for name in ("sampler_remix", "p_0.5")
    ]
    hopes += [
        _hope(f"{name}, minus `sampler`", columns[name].difference(form, "sampler"), -0.02, None)
        for name in ("NV, best exponent", "NV, raw")
    ]
    pairs = _pairs([*reversed(STORED), *(name for name in names if name not in STORED)], form)
    each = " and ".join(f"fold {fold}" for fold in SECOND_FOLDS)
    body = (
        f"{_levels(names, columns)}\n{_differences(pairs, columns)}\n"
        f"Exponents for {each}, each chosen on the other over all seeds: {', '.join(exponents)}. "
        "The intervals take them as they are. The runs of "
        f"{', '.join(f'`{name}`' for name in STORED)} are those of the comparisons below; "
        "`p_0.5`, the only one of them with maps, had border contrast at 64 pixels a side, the "
        "runs made for this have 32.\n"
    )
    roles = ("sampler", "sampler_remix", "uniform_any_half", form)
    return Compared(best[BALANCED], dict(zip(ROLES, roles, strict=False)), hopes, body)


def other_images(results: Results, stage: str) -> Compared | str:
    """Compare on CIFAR-10-LT, or say how much of it was run."""
    keys = cifar10_lt.keys_of(stage)
    done = sum(key in results.runs for key in keys)
    if done < len(keys) or results.cases is None:
        return f"not run ({done} of {len(keys)} runs)"
    roles = {"sampler": "sampler", "Remix": "remix", "uniform": "uniform", "exchange": "exchange"}
    found = cifar10_lt.measure(results, stage, "exchanged")
    balanced, rare = found[cifar10_lt.ACCURACY], found[cifar10_lt.RARER_HALF]
    form = roles["exchange"]
    hopes = [
        _hope(f"accuracy, minus `{name}`", balanced.difference(form, name), 0.08)
        for name in ("sampler", "remix", "uniform")
    ]
    hopes.append(_hope("rarer half, minus `sampler`", rare.difference(form, "sampler"), 0.15))
    return Compared(balanced, roles, hopes, "")


def runs_of(stage: str) -> list[Run]:
    """Name the runs that a comparison takes, those of others among them."""
    stored = [run for run in STAGES["second"] if run.arm in STORED]
    return STAGES[stage] + (stored if stage.startswith("same") else [])


def _arms(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.arm for run in runs))


def _pairs(names: Sequence[str], form: str) -> list[tuple[str, str]]:
    """Pair a form with each of the others but true masks."""
    return [(form, name) for name in names if name not in (form, CEILING)]


def _trapped_pairs(runs: Sequence[Run], form: str) -> list[tuple[str, str]]:
    names = [name for name in ("sampler", REMIX, ANY, CHOSEN, CENTRED) if name in _arms(runs)]
    return [*_pairs(names, form), (CEILING, "sampler")]


def _trapped(
    runs: Sequence[Run],
    results: Results,
    folds: Sequence[str],
    test: str,
    quantities: Mapping[str, Sequence[int]],
) -> dict[str, Levels]:
    """Measure what is to be confirmed in one of the tests with artefacts."""
    records = [of_test(one, test) for one in finished(runs, results)]
    held = held_images(results.cases, folds)
    predicted = _pooled(records, _arms(runs), folds)
    right = {name: correct(p, held.labels) for name, p in predicted.items()}
    return measure_levels(right, held.labels, held.lesions, quantities)


def _pooled(
    records: Sequence[Record], names: Sequence[str], folds: Sequence[str]
) -> dict[str, Tensor]:
    """Take the predictions `(S,N,7)` of methods, which all have the same seeds."""
    pooled = {one.name: one.probabilities for one in pool_methods(records, folds)}
    return {name: pooled[name] for name in names}


def _at_nv_recall_of(base: str, predicted: Mapping[str, Tensor], held: Held) -> dict[str, Tensor]:
    """Return 1 where methods are right `(S,N)`, once each seed has the NV recall of `base`."""
    recalls = correct(predicted[base], held.labels)[:, held.labels == NV].mean(dim=1).tolist()
    adjusted = {
        name: [
            adjust_to_nv_recall(one, held.labels, held.counts, recall)
            for one, recall in zip(seeds, recalls, strict=True)
        ]
        for name, seeds in predicted.items()
    }
    return {name: correct(torch.stack(seeds), held.labels) for name, seeds in adjusted.items()}


def _hope(of: str, found: Found, least: float, bound: float | None = 0.0) -> tuple[str, str, str]:
    asked = f"{of}: at least {100 * least:+g}"
    if bound:
        asked += f", the interval above {100 * bound:g}"
    return asked, _signed(found), verdict(found, least, bound)


def _signed(found: Found) -> str:
    return f"{100 * found.mean:+.1f} ({span(*found.interval)}), {found.above} of {found.seeds}"


def _share(found: Found) -> str:
    return f"{100 * found.mean:.0f} % ({' to '.join(f'{100 * x:.0f}' for x in found.interval)})"


def _levels(names: Sequence[str], quantities: Mapping[str, Levels]) -> str:
    """Write each quantity of each method with its interval."""
    lines = [f"| method | {' | '.join(quantities)} |\n| --- |{' --- |' * len(quantities)}\n"]
    for name in names:
        found = [of.level(name) for of in quantities.values()]
        cells = [f"{percent(one.mean)} ({span(*one.interval)})" for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _differences(pairs: Sequence[tuple[str, str]], quantities: Mapping[str, Levels]) -> str:
    """Write differences in points with their intervals, and the seeds that have them above 0."""
    lines = [f"| difference | {' | '.join(quantities)} |\n| --- |{' --- |' * len(quantities)}\n"]
    for a, b in pairs:
        cells = [_signed(of.difference(a, b)) for of in quantities.values()]
        lines.append(f"| `{a}` minus `{b}` | {' | '.join(cells)} |\n")
    return "".join(lines)


# ------------------------------------------------------------------------------------ stages

_COMPARISONS = {"confirm": confirm, "clinic": clinic, "same": same}


def compare_stage(stage: str, results: Results) -> Compared | str:
    """Compare what one of `COMPARED` is for, or say how much of it was run."""
    runs = runs_of(stage)
    done = sum(run.key in results.runs for run in runs)
    if done < len(runs):
        return f"not run ({done} of {len(runs)} runs)"
    where, _, form = stage.partition("_")
    return _COMPARISONS[where](results, runs, FORMS[form])


def backgrounds(results: Results, compared: Mapping[str, Compared | str]) -> str:
    """Write the tables of each benchmark of backgrounds, or how much of it was not run.

    What is chosen from shows what there is, on fold 0 and, of the methods that went on to the other
    folds, on all three; the other stages show nothing until all of their runs are done.
    """
    parts = []
    for stage, title in BACKGROUNDS.items():
        runs = STAGES[stage]
        missing = [run.key for run in runs if run.key not in results.runs]
        comparison = compared.get(stage)
        if len(missing) == len(runs):
            body = NO_RUNS
        elif isinstance(comparison, Compared):
            body = f"{comparison.body}\n{_hopes(comparison)}"
        elif comparison is not None:
            body = "Shown when all runs are done.\n"
        elif stage == "traps":
            first = [run for run in runs if run.fold == CHOOSING_FOLDS[0]]
            body = f"Fold 0:\n\n{stage_table(first, results)}"
            if any(run.key in results.runs for run in runs if run not in first):
                body += f"\nFolds 0 to 2:\n\n{stage_table(runs, results)}"
                body += _choice(runs, results)
        else:
            body = stage_table(runs, results)
        if missing:
            body += f"\n{len(runs) - len(missing)} of {len(runs)} runs are done."
            body += f" Not run: {_grouped(missing)}.\n"
        parts.append(f"**{title}**\n\n{body}")
    return "\n".join(parts)


def _choice(runs: Sequence[Run], results: Results) -> str:
    """Write how what was chosen differs from what it is confirmed against, if all went on."""
    body = ""
    for form in (CHOSEN, CENTRED):
        some = [run for run in runs if run.arm in (*CONFIRMED, form)]
        if any(run.key not in results.runs for run in some):
            return body
        pairs = _trapped_pairs(some, form)
        for test in ("exchanged", "same"):
            body += f"\n`{form}`, with the casts `{test}` (one seed):\n\n"
            body += _differences(
                pairs, _trapped(some, results, CHOOSING_FOLDS, test, TRAPPED_QUANTITIES)
            )
    return body


def _hopes(compared: Compared) -> str:
    """Write what was hoped for beside what was found."""
    rows = "".join(f"| {' | '.join(hope)} |\n" for hope in compared.hopes)
    return (
        f"| hoped for, of `{compared.roles['exchange']}` | found | |\n| --- | --- | --- |\n{rows}"
    )


def _grouped(keys: Sequence[str]) -> str:
    """Name runs in short, those of an arm together."""
    arms: dict[str, int] = {}
    for key in keys:
        arm = key.split("/")[1]
        arms[arm] = arms.get(arm, 0) + 1
    return ", ".join(f"`{arm}` {number}" for arm, number in arms.items())


# ------------------------------------------------------------------------------- the overview


def overview(benchmarks: Mapping[str, Compared | str], told: Mapping[str, Any] | None) -> str:
    """Write one table over the benchmarks, and a sentence of each.

    Args:
        benchmarks: by where they were measured, or how much of them was run.
        told: what `measure_background` found; None where it was not run.
    """
    heads = [*ROLES, "exchange minus sampler", "exchange minus Remix", "hopes met"]
    lines = [f"| | {' | '.join(heads)} |\n| --- |{' --- |' * len(heads)}\n"]
    sentences = []
    for where, found in benchmarks.items():
        sentences.append(f"- {_sentence(where, found)}\n")
        if isinstance(found, str):
            cells = [found, *["-"] * (len(heads) - 1)]
        else:
            cells = [
                percent(found.primary.level(found.roles[role]).mean) if role in found.roles else "-"
                for role in ROLES
            ]
            cells += [_signed(_gain(found, over)) for over in ("sampler", "Remix")]
            met = sum(hope[2] == "met" for hope in found.hopes)
            cells.append(f"{met} of {len(found.hopes)}" if found.hopes else "-")
        lines.append(f"| {where} | {' | '.join(cells)} |\n")
    sentences.append(f"- {_sentence_of_background(told)}\n")
    return (
        f"{''.join(lines)}\nBalanced accuracy in percent, differences in points with 95 % "
        "intervals and the seeds that have them above 0. Hopes were written down before the runs; "
        "one is met if the mean is as high and the interval above 0 (in the same clinics above "
        "-2.5), and not shown if the interval has that 0 or -2.5 in it. Runs done count those of "
        f"other comparisons that are taken over.\n\n{''.join(sentences)}"
    )


def _gain(found: Compared, over: str) -> Found:
    return found.primary.difference(found.roles["exchange"], found.roles[over])


def _sentence(where: str, found: Compared | str) -> str:
    if isinstance(found, str):
        return f"{where}: {found}."
    levels = {role: found.primary.level(name).mean for role, name in found.roles.items()}
    gain = _gain(found, "sampler")
    inside = gain.interval[0] <= 0 <= gain.interval[1]
    way = "more" if gain.mean > 0 else "fewer"
    text = (
        f"{where}: of 100 images, every class counting alike, an exchange of backgrounds gets "
        f"{percent(levels['exchange'])} right, {percent(abs(gain.mean))} {way} than no mixing "
        f"({'within' if inside else 'beyond'} what chance explains) and "
        f"{100 * _gain(found, 'Remix').mean:+.1f} against Remix"
    )
    if found.hopes and all(how == "met" for *_, how in found.hopes):
        text += "; all that was hoped for is met"
    for kind in ("not met", "not shown"):
        if some := [hope for hope, _, how in found.hopes if how == kind]:
            text += f"; {kind}: {'; '.join(some)}"
    return f"{text}."


def _sentence_of_background(told: Mapping[str, Any] | None) -> str:
    command = "`python -m benchmarks.isic2018 background --data FOLDER`"
    if told is None:
        return f"How much of the class the background tells was not measured ({command})."
    one, inner = told["background"], told["object"]
    more = (
        "so there is something for a network to learn that another clinic may not have"
        if one["low"] > told["chance"]
        else "so there is little that a network could learn from it"
    )
    return (
        f"What decides whether to exchange: colours and texture outside the lesion alone tell the "
        f"class of {percent(one['accuracy'])} of 100 images ({span(one['low'], one['high'])}), "
        f"those of the lesion {percent(inner['accuracy'])}, chance {percent(told['chance'])}, "
        f"every class counting alike, {more} ({command}, {one['images']:,} images)."
    )


def write_backgrounds(results: Results, others: Results, page: Path) -> None:
    """Put the table over all benchmarks and their own tables between the marks of a page.

    Beside the page lie, if known, the collections of the images, how much the background tells and
    what maps leave of artefacts.

    Args:
        results: of the study.
        others: of CIFAR-10-LT.
        page: the report.

    Raises:
        ValueError: if the page lacks a mark, or a collection is needed and not known.
    """
    results = _with_collections(results, page.parent / COLLECTIONS)
    compared = {stage: compare_stage(stage, results) for stage in COMPARED}
    benchmarks = {
        "Artefacts exchanged, same clinics": compared["confirm"],
        "the same, second form": compared["confirm_second"],
        "the same, a control: the middle alone": compared["confirm_middle"],
        "Another clinic": compared["clinic"],
        "another clinic, second form": compared["clinic_second"],
        "Same clinics, nothing misleads": compared["same"],
        "the same clinics, second form": compared["same_second"],
        "Other images (CIFAR-10-LT), frames exchanged": other_images(others, "framed"),
    }
    path = page.parent / TOLD
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    left = page.parent / LEFT
    text = fill(page.read_text(encoding="utf-8"), "overview", overview(benchmarks, told))
    text = fill(text, "backgrounds", backgrounds(results, compared))
    if left.exists():
        text = fill(text, "maps", write_left(json.loads(left.read_text(encoding="utf-8"))))
    page.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------ from the data


def measure_background(data: Path, path: Path) -> dict[str, Any]:
    """Measure how much of the class colours and texture around the lesion tell, and write it.

    A linear classifier is tested on lesions that were held out. See `spmix_aug.look.background`.

    Args:
        data: folder in the challenge's layout, with lesion masks.
        path: the JSON file to write.

    Returns:
        `background` and, for comparison, `object`, the lesion: each with balanced `accuracy` and
        its 95 % interval, `low` and `high`, in [0, 1], `recall` by class, `images` and `lesions`.
        And `chance`.
    """
    records = read_records(data)
    images = LesionImages(records)
    around, inside = [], []
    for places in torch.arange(len(records)).split(128):
        pixels = torch.stack([images[i][0] for i in places.tolist()])
        masks = torch.stack(
            [read_lesion_mask(data, records[i].image) for i in places.tolist()]
        ).bool()
        for features, part in zip((around, inside), background_of(pixels, masks), strict=True):
            features.append(colour_and_texture(pixels, part))
    labels, lesions = torch.tensor(images.labels), [record.lesion for record in records]
    found: dict[str, Any] = {"chance": 1 / len(CLASSES)}
    for name, features in {"background": around, "object": inside}.items():
        generator = torch.Generator().manual_seed(0)
        told = cross_validate(torch.cat(features), labels, lesions, generator)
        if told is None or len(told.classes) < len(CLASSES):
            raise ValueError(
                f"Expected five lesions or more of every class in {data}, but got fewer: give a "
                "folder with more images."
            )
        found[name] = _told(told)
    write_json(path, found)
    return found


def _told(told: Told) -> dict[str, Any]:
    shares = {"accuracy": told.accuracy, "low": told.low, "high": told.high}
    recall = dict(zip(CLASSES, told.recall.tolist(), strict=True))
    return {
        **{name: round(value, 6) for name, value in shares.items()},
        "recall": {name: round(value, 6) for name, value in recall.items()},
        "images": told.images,
        "lesions": told.groups,
    }


def write_collections(data: Path, path: Path) -> None:
    """Write which collection each image of a folder comes from, in the order of its records.

    Raises:
        ValueError: if the folder does not say.
    """
    sources = read_sources(data, [record.image for record in read_records(data)])
    if not sources.all():
        raise ValueError(f"Expected {data / 'splits' / 'sources.csv'}, but it is not there.")
    names, numbers = np.unique(sources, return_inverse=True)
    arrays = {"names": names, "numbers": numbers.astype(np.int8)}
    write_whole(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def _with_collections(results: Results, path: Path) -> Results:
    """Add the collections of the images to them, if they are known."""
    if results.cases is None or isinstance(results.cases, Collections) or not path.exists():
        return results
    with np.load(path) as arrays:
        sources = arrays["names"][arrays["numbers"]]
    return replace(results, cases=Collections(**vars(results.cases), sources=sources))
