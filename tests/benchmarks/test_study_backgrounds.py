"""The benchmarks of backgrounds: figures are those of slow loops, shown when all is run."""

import json
import re
import zlib
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

from benchmarks import cifar10_lt
from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import backgrounds, engine, plan, report, traps
from benchmarks.isic2018.backgrounds import Compared, compare_stage, overview, verdict
from benchmarks.isic2018.engine import Collections
from benchmarks.isic2018.statistics import (
    Found,
    average_levels,
    bootstrap_weights,
    choose_exponent,
    correct,
    measure_levels,
    resample_weights,
)
from benchmarks.records import TEST, Cases, Record, Results, read
from examples.isic2018 import phantom
from examples.isic2018.data import CLASSES

DRAWS = 20
NV, RARE = CLASSES.index("NV"), [CLASSES.index(name) for name in ("AKIEC", "DF", "VASC")]


# ---------------------------------------------------------------------------------- statistics

LABELS = torch.tensor([0] * 9 + [1] * 20 + [3] * 8 + [6] * 5)  # some classes are not there
LESIONS = torch.arange(len(LABELS)) // 2
QUANTITIES = {"all": (0, 1, 3, 6), "rare": (3, 6), "one": (1,)}


@pytest.fixture(scope="module")
def right():
    generator = torch.Generator().manual_seed(1)
    chances = {"base": 0.3, "form": 0.55, "ceiling": 0.8}
    return {
        name: (torch.rand(4, len(LABELS), generator=generator) < chance).double()
        for name, chance in chances.items()
    }


def slow_levels(right, labels, lesions, classes, draws, seed):
    """Average image by image: of each seed, and of each draw."""
    generator = torch.Generator().manual_seed(seed)
    images = bootstrap_weights(labels, lesions, draws, generator).tolist()
    seeds = resample_weights(len(right), draws, generator).tolist()
    labels, right = labels.tolist(), right.tolist()

    def recall(run, label, weights):
        members = [i for i, own in enumerate(labels) if own == label]
        return sum(weights[i] * run[i] for i in members) / sum(weights[i] for i in members)

    def mean(run, weights):
        return sum(recall(run, k, weights) for k in classes) / len(classes)

    observed = [mean(run, [1] * len(labels)) for run in right]
    drawn = []
    for of_images, of_seeds in zip(images, seeds, strict=True):
        total = sum(n * mean(run, of_images) for n, run in zip(of_seeds, right, strict=True))
        drawn.append(total / sum(of_seeds))
    return np.array(observed), np.array(drawn)


def slow_found(observed, drawn):
    low, high = np.percentile(drawn, [2.5, 97.5])
    return observed.mean(), (low, high), sum(one > 0 for one in observed), len(observed)


def test_levels_and_differences_are_those_of_slow_loops(right):
    found = measure_levels(right, LABELS, LESIONS, QUANTITIES, draws=60, seed=3)
    assert set(found) == set(QUANTITIES)
    for quantity, classes in QUANTITIES.items():
        slow = {n: slow_levels(r, LABELS, LESIONS, classes, 60, 3) for n, r in right.items()}
        levels = found[quantity]
        for name, (observed, drawn) in slow.items():
            np.testing.assert_allclose(levels.seeds[name], observed)
            np.testing.assert_allclose(levels.draws[name], drawn)
        mean, interval, above, seeds = slow_found(*slow["form"])
        one = levels.level("form")
        assert (one.mean, *one.interval) == pytest.approx((mean, *interval))
        better = [a - b for a, b in zip(slow["form"], slow["base"], strict=True)]
        mean, interval, above, seeds = slow_found(*better)
        one = levels.difference("form", "base")
        assert (one.mean, *one.interval) == pytest.approx((mean, *interval))
        assert (one.above, one.seeds) == (above, seeds)
        assert levels.difference("base", "form").above == sum(better[0] < 0)


def test_the_share_of_the_gain_is_that_of_a_slow_loop(right):
    levels = measure_levels(right, LABELS, LESIONS, QUANTITIES, draws=200, seed=3)["all"]
    slow = {n: slow_levels(r, LABELS, LESIONS, (0, 1, 3, 6), 200, 3) for n, r in right.items()}
    whole = slow["ceiling"][1] - slow["base"][1]
    assert np.percentile(whole, 2.5) > 0
    ratios = [
        (form - base) / gain
        for form, base, gain in zip(slow["form"][1], slow["base"][1], whole, strict=True)
        if gain > 0
    ]
    found = levels.share_of_gain("form", "ceiling", "base")
    mean = (slow["form"][0].mean() - slow["base"][0].mean()) / (
        slow["ceiling"][0].mean() - slow["base"][0].mean()
    )
    expected = (mean, *np.percentile(ratios, [2.5, 97.5]))
    assert (found.mean, *found.interval) == pytest.approx(expected)
    assert levels.share_of_gain("form", "base", "base") is None
    assert levels.share_of_gain("ceiling", "base", "form") is None


def test_draws_without_a_gain_of_the_ceiling_have_no_ratio():
    whole, gain = torch.linspace(0.1, 0.2, 1000).double(), torch.full((1000,), 0.1).double()
    whole[:10] = torch.linspace(-0.001, 0, 10)
    drawn = {"base": torch.zeros(1000).double(), "form": gain, "ceiling": whole}
    levels = backgrounds.Levels({name: one[-3:] for name, one in drawn.items()}, drawn)
    found = levels.share_of_gain("form", "ceiling", "base")
    expected = np.percentile([0.1 / one for one in whole.tolist() if one > 0], [2.5, 97.5])
    assert found.interval == pytest.approx(tuple(expected))


def test_parts_are_averaged_seed_by_seed_and_draw_by_draw(right):
    parts = [
        measure_levels(right, LABELS, LESIONS, {"all": k}, draws=50, seed=seed)["all"]
        for seed, k in enumerate([(0, 1), (3, 6)])
    ]
    found = average_levels(parts)
    slow = [
        slow_levels(right["form"], LABELS, LESIONS, k, 50, seed)
        for seed, k in enumerate([(0, 1), (3, 6)])
    ]
    for values, place in ((found.seeds, 0), (found.draws, 1)):
        expected = [(a + b) / 2 for a, b in zip(slow[0][place], slow[1][place], strict=True)]
        np.testing.assert_allclose(values["form"], expected)


def test_what_cannot_be_measured_is_named(right):
    with pytest.raises(ValueError, match=r"`labels`.*but \[2\] are not"):
        measure_levels(right, LABELS, LESIONS, {"all": (0, 2)})
    with pytest.raises(ValueError, match=r"`right`.*\(S,42\).*'form': \(3, 42\)"):
        measure_levels(right | {"form": right["form"][:3]}, LABELS, LESIONS, QUANTITIES)
    with pytest.raises(ValueError, match=r"`right`.*\(S,41\)"):
        measure_levels(right, LABELS[1:], LESIONS[1:], {"all": (0,)})


@pytest.mark.parametrize(
    ("mean", "interval", "least", "bound", "expected"),
    [
        (8.0, (2, 14), 8, 0, "met"),
        (7.9, (2, 14), 8, 0, "not met"),
        (9.0, (-0.1, 18), 8, 0, "not shown"),
        (-3.0, (-5, -1), 8, 0, "not met"),
        (-0.5, (-2.4, 1.4), -0.5, -2.5, "met"),
        (-0.6, (-2.4, 1.4), -0.5, -2.5, "not met"),
        (-0.2, (-2.6, 2.0), -0.5, -2.5, "not shown"),
        (-2.0, (-9, 5), -2, None, "met"),
        (-2.1, (-9, 5), -2, None, "not met"),
    ],
)
def test_verdicts(mean, interval, least, bound, expected):
    assert verdict(Found(mean, interval, 1, 5), least, bound) == expected


def test_what_is_not_there_is_not_shown():
    assert verdict(None, 0.75) == "not shown"


# ------------------------------------------------------------------------------------ stages


@pytest.fixture(scope="module")
def cases():
    """840 images, mostly of NV, in five folds and the test, of three collections.

    One collection has no VASC, and a lesion has two images.
    """
    places = torch.arange(840)
    pattern = torch.tensor([0, 1, 2, 1, 3, 1, 4, 1, 5, 1, 6, 1, 0, 1, 2, 3, 1, 4, 5, 1, 6])
    labels, block = pattern[places % 21], places // 42
    sources = np.array(["rosendahl", "vidir_modern", "rest"])[block % 3]
    sources[(labels == CLASSES.index("VASC")).numpy() & (sources == "rosendahl")] = "rest"
    return Collections(
        labels, block * 42 + places % 21, torch.where(block == 0, TEST, block % 5), sources
    )


def record_of(run, cases, share, lean=0.0):
    """Guess a share of the images right, and lean to NV; four times where there are artefacts."""
    labels = cases.labels[cases.part(run.fold, held=True)]
    generator = torch.Generator().manual_seed(zlib.crc32(run.key.encode()))
    parts = []
    for _ in range(1 if run.traps == "none" else 4):
        named = torch.where(
            torch.rand(len(labels), generator=generator) < share,
            labels,
            torch.randint(7, labels.shape, generator=generator),
        )
        logits = 1.5 * torch.nn.functional.one_hot(named, 7) + torch.randn(
            len(labels), 7, generator=generator
        )
        logits[:, NV] += lean
        parts.append(logits.softmax(1))
    predictions = torch.cat(parts).numpy().astype(np.float16)
    name = (run.stage, run.arm, run.fold, run.seed)
    return Record(*name, run.settings, "c", "cpu", 1.0, {}, predictions)


@pytest.fixture
def few_draws(monkeypatch):
    """Few enough for slow loops."""
    few = partial(measure_levels, draws=DRAWS)
    monkeypatch.setattr(backgrounds, "measure_levels", few)


SHARES = {plan.CHOSEN: 0.75, plan.CENTRED: 0.8, plan.CEILING: 0.9, "sampler": 0.3, "p_0.5": 0.6}


@pytest.fixture(scope="module")
def results(cases):
    """All runs of what is compared and what is stored for it."""
    stages = (*backgrounds.COMPARED, "second")
    runs = {run.key: run for stage in stages for run in plan.STAGES[stage]}.values()
    records = [record_of(run, cases, SHARES.get(run.arm, 0.5), 1.0) for run in runs]
    return Results({one.key: one for one in records}, cases)


def cells_of(table, first):
    row = next(line for line in table.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def agree(cell, observed, drawn):
    """Compare a cell with a slow figure, to the last digit that is written."""
    mean, (low, high), above, seeds = slow_found(observed, drawn)
    numbers = [float(one) for one in re.findall(r"[+-]?[\d.]+", cell)]
    expected = [100 * mean, 100 * low, 100 * high, above, seeds]
    assert numbers == pytest.approx(expected, abs=0.051)
    return True


def hits(results, key, labels, part=slice(None), counts=None, exponent=0.0):
    """Name the class of each image one by one: 1 where it is the right one."""
    found = []
    for row, label in zip(results.runs[key].probabilities[part].tolist(), labels, strict=True):
        weighed = (
            row if counts is None else [p / c**exponent for p, c in zip(row, counts, strict=True)]
        )
        found.append(float(weighed.index(max(weighed)) == label))
    return found


def slow_stage(results, key, folds, classes, seed=0, **kwargs):
    """Stack the hits of five seeds on some folds, and average them slowly."""
    cases = results.cases
    parts = [cases.part(fold, held=True) for fold in folds]
    labels = torch.cat([cases.labels[part] for part in parts])
    rows = []
    for number in range(5):
        row = []
        for fold, part in zip(folds, parts, strict=True):
            size = len(part)
            of = {n: value(size, fold) for n, value in kwargs.items()}
            row += hits(results, f"{key}/{fold}/{number}", cases.labels[part].tolist(), **of)
        rows.append(row)
    lesions = torch.cat([cases.groups[part] for part in parts])
    return slow_levels(torch.tensor(rows), labels, lesions, classes, DRAWS, seed)


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


@pytest.mark.usefixtures("few_draws")
def test_confirmation_is_that_of_slow_loops(results):
    found = compare_stage("confirm", results)

    def level(arm, classes):
        exchanged = lambda size, _: slice(2 * size, 3 * size)  # noqa: E731
        return slow_stage(results, f"confirm/{arm}", "34", classes, part=exchanged)

    for place, classes in enumerate((range(7), RARE, [NV])):
        form, base, ceiling = (level(a, classes) for a in (plan.CHOSEN, "sampler", plan.CEILING))
        for a, b, pair in (
            (plan.CHOSEN, "sampler", minus(form, base)),
            (plan.CEILING, "sampler", minus(ceiling, base)),
        ):
            assert agree(cells_of(found.body, f"`{a}` minus `{b}`")[place], *pair)
        if place < 2:
            ratio = minus(form, base)[0].mean() / minus(ceiling, base)[0].mean()
            cell = cells_of(found.body, f"`{plan.CHOSEN}`, share of the gain of `{plan.CEILING}`")
            assert cell[place].startswith(f"{100 * ratio:.0f} % (")
    for b in (plan.REMIX, plan.ANY):
        pair = minus(level(plan.CHOSEN, range(7)), level(b, range(7)))
        assert agree(cells_of(found.body, f"`{plan.CHOSEN}` minus `{b}`")[0], *pair)
    assert [hope[0].split(": at least ")[1] for hope in found.hopes] == [
        *["+8"] * 3,
        "+15",
        "75 %",
    ]
    for hope, b in zip(found.hopes, ("sampler", plan.REMIX, plan.ANY), strict=False):
        mean, (low, high), *_ = slow_found(*minus(level(plan.CHOSEN, range(7)), level(b, range(7))))
        shown = "not shown" if low <= 0 <= high else "met" if mean >= 0.08 else "not met"
        assert hope[2] == shown
    assert {hope[2] for hope in found.hopes} > {"met"}  # some are, some are not
    level_of = found.primary.level(plan.CHOSEN).mean
    assert level_of == pytest.approx(level(plan.CHOSEN, range(7))[0].mean())
    by_artefact = found.body.split("By the artefact")[1].split("With the artefacts of training")[0]
    for place, (name, artefact) in enumerate(
        {"AKIEC": "vignette", "DF": "ruler", "VASC": "hair"}.items()
    ):
        assert by_artefact.splitlines()[2].split(" | ")[1 + place].strip("| ") == (
            f"{name} ({artefact})"
        )
        label = [CLASSES.index(name)]
        pair = minus(level(plan.CHOSEN, label), level("sampler", label))
        cells = cells_of(by_artefact, f"`{plan.CHOSEN}` minus `sampler`")
        assert agree(cells[place], *pair)
    for title, number in (
        ("With the artefacts of training", 0),
        ("With artefacts at random", 1),
        ("Without artefacts", 3),
    ):
        form, base = (
            slow_stage(
                results,
                f"confirm/{a}",
                "34",
                range(7),
                part=lambda size, _, number=number: slice(number * size, (number + 1) * size),
            )
            for a in (plan.CHOSEN, "sampler")
        )
        cells = cells_of(found.body.split(title)[1], f"`{plan.CHOSEN}` minus `sampler`")
        assert agree(cells[0], *minus(form, base))
    same, *_, none = cells_of(found.body, "sampler")[1:5]
    assert same != none  # the other tests stand above


@pytest.mark.usefixtures("few_draws")
def test_another_clinic_is_the_mean_over_collections_of_the_classes_there(results):
    found = compare_stage("clinic", results)
    classes = {"vidir_modern": list(range(7)), "rosendahl": list(range(6))}
    slow = {
        arm: [
            slow_stage(results, f"clinic/{arm}", [fold], k, seed)
            for seed, (fold, k) in enumerate(classes.items())
        ]
        for arm in (plan.CHOSEN, "sampler", plan.REMIX, plan.CEILING)
    }
    mean = {arm: [(a + b) / 2 for a, b in zip(*parts, strict=True)] for arm, parts in slow.items()}
    for a, b in (
        (plan.CHOSEN, "sampler"),
        (plan.CHOSEN, plan.REMIX),
        (plan.CEILING, "sampler"),
    ):
        cells = cells_of(found.body, f"`{a}` minus `{b}`")
        assert agree(cells[0], *minus(mean[a], mean[b]))
        for place in (0, 1):
            assert agree(cells[1 + place], *minus(slow[a][place], slow[b][place]))
    levels = cells_of(found.body, "sampler")
    own, again = (float(levels[place].split()[0]) for place in (0, -1))
    assert again == pytest.approx(own, abs=0.2)  # at its own NV recall, or barely less
    for place, fold in enumerate(classes):
        nevi = slow_stage(results, "clinic/sampler", [fold], [NV], place)
        assert levels[3 + place].split()[0] == f"{100 * nevi[0].mean():.1f}"
    assert "`rosendahl`, 6 classes" in found.body
    assert [hope[0][-13:] for hope in found.hopes] == [": at least +2"] * 2


@pytest.mark.usefixtures("few_draws")
def test_all_are_compared_at_the_nv_recall_of_one(results):
    records = report.finished(plan.STAGES["clinic"], results)
    held = report.held_images(results.cases, ["vidir_modern"])
    predicted = backgrounds._pooled(records, ["sampler", plan.CHOSEN], ["vidir_modern"])
    nevi = held.labels == NV
    found = backgrounds._at_nv_recall_of("sampler", predicted, held)
    for base, form in zip(predicted["sampler"], found[plan.CHOSEN], strict=True):
        asked = (base[nevi].argmax(1) == NV).double().mean()
        assert 0 <= asked - form[nevi].mean() <= 0.05
    assert not torch.equal(found[plan.CHOSEN], correct(predicted[plan.CHOSEN], held.labels))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("stage", backgrounds.WHERE)
def test_the_second_form_is_compared_with_the_same_and_with_the_first(results, stage):
    first, second = (compare_stage(f"{stage}{of}", results) for of in ("", "_second"))
    assert second.roles == first.roles | {"exchange": plan.CENTRED}
    assert [hope[0] for hope in second.hopes] == [hope[0] for hope in first.hopes]
    for name in first.roles.values():
        if name != plan.CHOSEN:
            assert second.primary.level(name).mean == first.primary.level(name).mean
    assert f"| `{plan.CENTRED}` minus `{plan.CHOSEN}` |" in second.body
    assert f"| `{plan.CENTRED}` minus `sampler` |" in second.body
    assert plan.CENTRED not in first.body


@pytest.mark.usefixtures("few_draws")
def test_a_control_says_what_the_contrast_adds_to_the_prior(results):
    second, control = (compare_stage(f"confirm_{of}", results) for of in ("second", "middle"))
    assert control.roles == second.roles | {"exchange": plan.MIDDLE}
    adds = second.primary.level(plan.CENTRED).mean - control.primary.level(plan.MIDDLE).mean
    assert adds > 0.02
    ((asked, found, verdict),) = control.hopes
    assert asked == f"balanced accuracy, `{plan.CENTRED}` minus it: at least +2"
    assert found.startswith(f"{100 * adds:+.1f} (")
    assert verdict == "met"
    for other in (plan.CHOSEN, plan.CENTRED, "sampler"):
        assert f"| `{plan.MIDDLE}` minus `{other}` |" in control.body
    assert plan.MIDDLE not in second.body


def test_another_clinic_needs_to_know_the_collections(results, cases):
    plain = Cases(cases.labels, cases.groups, cases.folds)
    with pytest.raises(ValueError, match=r"collections.npz.*isic2018 collections --data FOLDER"):
        compare_stage("clinic", Results(results.runs, plain))


@pytest.mark.usefixtures("few_draws")
def test_the_same_clinics_take_the_exponent_of_the_other_fold(results):
    found, cases = compare_stage("same", results), results.cases
    counts = torch.bincount(cases.labels[cases.folds != TEST])
    other = {"3": "4", "4": "3"}
    stages = {"sampler": "final", "sampler_remix": "final", "p_0.5": "second"}

    def slow(arm, classes, *, moved=True):
        key = f"{stages.get(arm, 'same')}/{arm}"
        exponents = {}
        for fold in "34":
            place = cases.part(other[fold], held=True)
            seeds = [results.runs[f"{key}/{other[fold]}/{s}"].probabilities for s in range(5)]
            exponents[fold] = choose_exponent(torch.stack(seeds), cases.labels[place], counts)
        return slow_stage(
            results,
            key,
            "34",
            classes,
            counts=lambda *_: counts.tolist(),
            exponent=lambda _, fold: exponents[fold] if moved else 0.0,
        ), exponents

    form, exponents = slow(plan.CHOSEN, range(7))
    assert 0 not in exponents.values()
    for b in ("sampler_remix", "p_0.5"):
        cells = cells_of(found.body, f"`{plan.CHOSEN}` minus `{b}`")
        assert agree(cells[0], *minus(form, slow(b, range(7))[0]))
        raw = minus(*(slow(n, range(7), moved=False)[0] for n in (plan.CHOSEN, b)))
        assert agree(cells[1], *raw)
    cells = cells_of(found.body, f"`{plan.CHOSEN}` minus `sampler`")
    for place, moved in ((2, True), (3, False)):
        nevi = minus(*(slow(n, [NV], moved=moved)[0] for n in (plan.CHOSEN, "sampler")))
        assert agree(cells[place], *nevi)
    assert f"`{plan.CHOSEN}` {exponents['3']:.1f} and {exponents['4']:.1f}" in found.body
    assert "border contrast at 64 pixels" in found.body
    hopes = [hope[0].split(": ")[1] for hope in found.hopes]
    assert hopes == ["at least -0.5, the interval above -2.5"] * 2 + ["at least -2"] * 2


@pytest.mark.parametrize(
    ("stage", "key", "count"),
    [
        ("confirm", f"confirm/{plan.CHOSEN}/4/4", "49 of 50"),
        ("clinic", "clinic/sampler/rosendahl/0", "39 of 40"),
        ("same", "second/p_0.5/3/2", "69 of 70"),
    ],
)
def test_what_is_unfinished_is_not_run(results, stage, key, count):
    some = {k: one for k, one in results.runs.items() if k != key}
    assert compare_stage(stage, Results(some, results.cases)) == f"not run ({count} runs)"


def test_what_was_not_run_is_named_and_what_is_unfinished_not_shown(cases):
    runs = (plan.STAGES["traps"][0], plan.STAGES["confirm"][0])
    results = Results({run.key: record_of(run, cases, 0.5) for run in runs}, cases)
    compared = {stage: compare_stage(stage, results) for stage in backgrounds.COMPARED}
    parts = backgrounds.backgrounds(results, compared).split("\n**")
    traps, *_, confirm, clinic, _ = parts[:-4]
    assert "Fold 0:" in traps
    assert "| sampler | 1 |" in traps
    assert "Folds 0 to 2" not in traps
    assert f"1 of {len(plan.STAGES['traps'])} runs are done. Not run: `exchange` 3," in traps
    assert traps.endswith(", `sampler` 2.\n")
    assert (
        "Shown when all runs are done.\n\n1 of 50 runs are done. Not run: `sampler` 10," in confirm
    )
    assert "|" not in confirm
    assert f"0 of 40 runs are done. Not run: `{plan.CHOSEN}` 10, `sampler` 10," in clinic


# ---------------------------------------------------------------------------------- overview


def others_of(stage="framed", leave=0):
    """Runs of CIFAR-10-LT in which the exchange is right, and others err with exchanged frames.

    The sampler errs in all of the rarer half, the others in every second image.
    """
    labels = torch.arange(10).repeat_interleave(4)
    records = {}
    for arm in cifar10_lt.METHODS:
        for seed in cifar10_lt.SEEDS:
            classes = labels.repeat(4, 1).T.clone()
            if arm != "exchange":
                wrong = slice(20, None) if arm == "sampler" else slice(None, None, 2)
                classes[wrong, 2] = (classes[wrong, 2] + 1) % 10
            name = (stage, arm, "test", seed)
            record = Record(*name, {}, "c", "cpu", 1.0, {}, classes.numpy().astype(np.float16))
            records[record.key] = record
    for key in list(records)[:leave]:
        del records[key]
    return Results(records, Cases(labels, torch.arange(40), torch.full_like(labels, TEST)))


def test_other_images_are_those_with_exchanged_frames():
    found = backgrounds.other_images(others_of(), "framed")
    level = {role: found.primary.level(arm).mean for role, arm in found.roles.items()}
    assert level == {"sampler": 0.5, "Remix": 0.5, "uniform": 0.5, "exchange": 1.0}
    hoped, differences, how = zip(*found.hopes, strict=True)
    assert hoped == (
        "accuracy, minus `sampler`: at least +8",
        "accuracy, minus `remix`: at least +8",
        "accuracy, minus `uniform`: at least +8",
        "rarer half, minus `sampler`: at least +15",
    )
    assert [float(one.split()[0]) for one in differences] == [50, 50, 50, 100]
    assert set(how) == {"met"}
    number = 3 * len(cifar10_lt.METHODS)
    unfinished = backgrounds.other_images(others_of(leave=2), "framed")
    assert unfinished == f"not run ({number - 2} of {number} runs)"
    nothing = backgrounds.other_images(Results({}, None), "framed")
    assert nothing == f"not run (0 of {number} runs)"


TOLD = {
    "chance": 1 / 7,
    "background": {"accuracy": 0.333, "low": 0.31, "high": 0.35, "images": 10015},
    "object": {"accuracy": 0.5, "low": 0.48, "high": 0.52, "images": 10015},
}


def test_the_overview_has_a_row_and_a_sentence_of_each(results):
    compared = {
        "traps": compare_stage("confirm", results),
        "clinic": "not run (3 of 40 runs)",
        "others": backgrounds.other_images(others_of(), "framed"),
    }
    text = overview(compared, TOLD)
    assert isinstance(compared["traps"], Compared)
    row, body = cells_of(text, "traps"), compared["traps"].body
    assert row[5] == cells_of(body, f"`{plan.CHOSEN}` minus `sampler`")[0]
    assert row[6] == cells_of(body, f"`{plan.CHOSEN}` minus `{plan.REMIX}`")[0]
    level = {
        role: compared["traps"].primary.level(n) for role, n in compared["traps"].roles.items()
    }
    assert row[:5] == [f"{100 * one.mean:.1f}" for one in level.values()]
    assert row[7] == f"{sum(h[2] == 'met' for h in compared['traps'].hopes)} of 5"
    assert cells_of(text, "clinic") == ["not run (3 of 40 runs)", *["-"] * 7]
    assert cells_of(text, "others")[:5] == ["50.0", "50.0", "50.0", "100.0", "-"]
    sentences = [line for line in text.splitlines() if line.startswith("- ")]
    assert sentences[1] == "- clinic: not run (3 of 40 runs)."
    assert "gets 100.0 right, 50.0 more than no mixing (beyond what chance" in sentences[2]
    assert "33.3 of 100 images (31.0 to 35.0)" in sentences[3]
    assert "something for a network to learn" in sentences[3]
    for hope, _, how in compared["traps"].hopes:
        assert (hope in sentences[0]) == (how != "met")
    assert "was not measured" in overview(compared, None)
    low = TOLD | {"background": TOLD["background"] | {"low": 0.1}}
    assert "there is little that a network" in overview(compared, low)


def test_losses_and_what_is_not_shown_are_told():
    drawn = torch.linspace(-0.03, 0.01, 100).double()
    levels = backgrounds.Levels(
        {"a": torch.tensor([0.5, 0.48]).double(), "b": torch.tensor([0.5, 0.5]).double()},
        {"a": drawn + 0.5, "b": torch.full((100,), 0.5).double()},
    )
    roles = {"sampler": "b", "Remix": "b", "exchange": "a"}
    hopes = [("x: at least +2", "", "not shown"), ("y: at least +1", "", "not met")]
    text = overview({"here": Compared(levels, roles, hopes, "")}, None)
    assert "gets 49.0 right, 1.0 fewer than no mixing (within what chance explains)" in text
    assert "-1.0 against Remix; not met: y: at least +1; not shown: x: at least +2." in text
    assert cells_of(text, "here")[-1] == "0 of 2"
    assert "all that was hoped for" not in text
    met = Compared(levels, roles, [("x: at least +2", "", "met")], "")
    assert "against Remix; all that was hoped for is met.\n" in overview({"here": met}, None)


def test_the_page_gets_all_of_it(results, tmp_path):
    page = tmp_path / "REPORT.md"
    marks = ("overview", "backgrounds", "maps")
    page.write_text("".join(f"<!-- {mark} -->\n<!-- end -->\n" for mark in marks))
    kinds = [kind for kinds in traps.SETS.values() for kind in kinds]
    left = {"measured": {kind: {"artefact": 0.25, "lesion": 0.75} for kind in kinds}}
    (tmp_path / backgrounds.LEFT).write_text(json.dumps(left))
    plain = Cases(*(getattr(results.cases, n) for n in ("labels", "groups", "folds")))
    names, numbers = np.unique(results.cases.sources, return_inverse=True)
    np.savez(tmp_path / backgrounds.COLLECTIONS, names=names, numbers=numbers)
    (tmp_path / backgrounds.TOLD).write_text(json.dumps(TOLD))
    backgrounds.write_backgrounds(Results(results.runs, plain), Results({}, None), page)
    text = page.read_text()
    assert text.count("not run (") == 2  # the other images, in the table and in a sentence
    assert "33.3 of 100" in text
    assert cells_of(text, "measured") == ["25.0"] * 4 + ["75.0"] * 4
    for stage in backgrounds.COMPARED:
        assert compare_stage(stage, results).body in text
    for form in (plan.CHOSEN, plan.CENTRED):
        assert text.count(f"| hoped for, of `{form}` | found | |") == 3


# ------------------------------------------------------------------------------ from the data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Phantoms whose backgrounds tell the class of all, or of none."""
    root = tmp_path_factory.mktemp("background")
    for rho in (0.0, 1.0):
        phantom.draw_phantom(
            root / str(rho),
            train_images=420,
            test_per_class=1,
            size=(48, 64),
            seed=0,
            spurious_correlation=rho,
            progress=False,
        )
    return root


def test_the_background_tells_what_it_is_tied_to(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "KEPT", tmp_path)
    found = {}
    for rho in (0.0, 1.0):
        command.main(["background", "--data", str(drawn / str(rho))])
        found[rho] = json.loads((tmp_path / backgrounds.TOLD).read_text())
        assert json.loads(capsys.readouterr().out) == found[rho]
    loose, tied = (one["background"] for one in found.values())
    assert loose["low"] < 1 / 7 < loose["high"] < tied["low"]
    assert tied["low"] < tied["accuracy"] < tied["high"]
    assert found[0.0]["object"]["accuracy"] != loose["accuracy"]
    assert sum(tied["recall"].values()) / 7 == pytest.approx(tied["accuracy"])
    assert found[1.0]["chance"] == pytest.approx(1 / 7)


def test_too_few_lesions_to_tell_of_are_refused(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(backgrounds, "cross_validate", lambda *_: None)
    with pytest.raises(ValueError, match=r"five lesions or more of every class .*got fewer"):
        backgrounds.measure_background(drawn / "0.0", tmp_path / "told.json")


def test_collections_are_kept_in_the_order_of_the_images(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "KEPT", tmp_path)
    data = drawn / "0.0"
    with pytest.raises(ValueError, match=r"sources.csv, but it is not there"):
        command.main(["collections", "--data", str(data)])
    names = [record.image for record in engine.read_records(data)]
    sources = [f"clinic {i % 3}" for i in range(len(names))]
    (data / "splits").mkdir(exist_ok=True)
    rows = "".join(f"{n},{s}\n" for n, s in reversed(list(zip(names, sources, strict=True))))
    (data / "splits" / "sources.csv").write_text(f"image,source\n{rows}")
    command.main(["collections", "--data", str(data)])
    plain = Results({}, engine.read_cases(data))
    path = tmp_path / backgrounds.COLLECTIONS
    assert backgrounds._with_collections(plain, path).cases.sources.tolist() == sources
    assert backgrounds._with_collections(plain, tmp_path / "none") is plain


def test_the_kept_collections_are_those_of_the_images():
    results = backgrounds._with_collections(
        read(command.KEPT), command.KEPT / backgrounds.COLLECTIONS
    )
    number = {name: len(results.cases.part(name, held=True)) for name in plan.CLINICS}
    assert len(results.cases.sources) == len(results.cases.labels)
    assert all(number.values())
    present = [
        set(results.cases.labels[results.cases.part(name, held=True)].tolist())
        for name in plan.CLINICS
    ]
    assert present == [set(range(7)), set(range(7)) - {CLASSES.index("VASC")}]  # as PRIMARY.md says
