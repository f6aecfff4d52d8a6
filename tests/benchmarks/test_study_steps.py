"""The page of steps: exponents are chosen on other folds, and rows rest on the same runs."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import engine, plan, steps
from benchmarks.isic2018.report import NO_RUNS, Held
from benchmarks.isic2018.statistics import choose_exponent, compare, cross_fit, summarise
from benchmarks.records import Cases, Record, Results, read
from examples.isic2018.metrics import EXPONENTS

COUNTS = torch.tensor([1100, 6700, 500, 330, 1100, 115, 142])
MARKS = ("from cross-entropy", "steps", "rivals", "levels")


def guesses(labels, seeds=1, seed=0, lean=1.0):
    """Draw probabilities `(S,N,7)` that lean to the frequent classes and to the true one."""
    noise = torch.randn(seeds, len(labels), 7, generator=torch.Generator().manual_seed(seed))
    logits = noise + lean * COUNTS.log() + 2 * torch.nn.functional.one_hot(labels, 7)
    return logits.softmax(dim=2)


def slow_exponent(probabilities, labels):
    """Try the exponents one by one, image by image."""
    best, labels, counts = None, labels.tolist(), COUNTS.tolist()
    for exponent in EXPONENTS:
        score = 0.0
        for run in probabilities.tolist():
            for k in range(7):
                members = [i for i in range(len(labels)) if labels[i] == k]
                hits = 0
                for i in members:
                    weighed = [run[i][c] / counts[c] ** exponent for c in range(7)]
                    hits += weighed.index(max(weighed)) == k
                score += hits / len(members)
        rank = (round(score, 9), -abs(exponent), -exponent)
        best = max(best or (rank, exponent), (rank, exponent))
    return best[1]


@pytest.mark.parametrize("lean", [0.0, 0.4, 1.0])
def test_the_exponent_is_that_of_a_slow_loop(lean):
    labels = torch.arange(140) % 7
    probabilities = guesses(labels, seeds=2, lean=lean)
    found = choose_exponent(probabilities, labels, COUNTS)
    assert found == slow_exponent(probabilities, labels)
    assert abs(found - lean) < 0.5  # what was leant is taken back


def test_of_equal_exponents_the_one_nearest_to_0_is_chosen():
    labels = torch.arange(7)
    sure = torch.nn.functional.one_hot(labels, 7).float().unsqueeze(0)
    assert choose_exponent(sure, labels, COUNTS) == 0.0


def test_each_fold_is_adjusted_by_what_the_others_choose():
    labels = torch.arange(210) % 7
    folds = torch.arange(210) // 70 + 2
    probabilities = torch.cat(
        [
            guesses(labels[:70], seeds=2, seed=fold, lean=lean)
            for fold, lean in enumerate((0, 1, 2))
        ],
        dim=1,
    )
    before = probabilities.clone()
    adjusted, exponents = cross_fit(probabilities, labels, folds, COUNTS)
    assert torch.equal(probabilities, before)
    assert len(set(exponents.values())) == 3
    for fold in (2, 3, 4):
        others = [i for i in range(210) if folds[i] != fold]
        assert exponents[fold] == slow_exponent(probabilities[:, others], labels[others])
        for i in (folds == fold).nonzero().flatten().tolist()[::9]:
            weighed = [
                [float(run[i, c]) / float(COUNTS[c]) ** exponents[fold] for c in range(7)]
                for run in probabilities
            ]
            expected = [[w / sum(run) for w in run] for run in weighed]
            np.testing.assert_allclose(adjusted[:, i], expected, rtol=1e-6)
    changed = labels.clone()
    changed[folds == 2] = changed[folds == 2].flip(0)  # its own labels have no say
    assert cross_fit(probabilities, changed, folds, COUNTS)[1][2] == exponents[2]


def test_wrong_input_is_named():
    labels = torch.arange(14) % 7
    with pytest.raises(ValueError, match=r"`labels`.*every class"):
        choose_exponent(guesses(labels), labels.clamp(max=5), COUNTS)
    with pytest.raises(ValueError, match=r"`probabilities`.*\(S,N,7\).*\(14, 7\)"):
        choose_exponent(guesses(labels)[0], labels, COUNTS)
    with pytest.raises(ValueError, match=r"`labels`.*every class"):  # nothing outside of the fold
        cross_fit(guesses(labels), labels, torch.zeros(14, dtype=torch.int64), COUNTS)


# ------------------------------------------------------------------------------------ tables


@pytest.fixture(scope="module")
def cases():
    """70 images in each of five folds and the test, half of them of NV, two of a lesion."""
    labels = torch.arange(7).repeat_interleave(torch.tensor([8, 34, 8, 6, 8, 2, 4])).repeat(6)
    return Cases(labels, torch.arange(420) // 2, torch.arange(420) // 70 - 1)


def record_of(stage, name, fold, seed, cases, lean=0.4):
    labels = cases.labels[cases.part(fold, held=True)]
    number = 1000 * list(plan.METHODS).index(name) + 10 * int(fold) + seed
    predictions = guesses(labels, seed=number, lean=lean)[0].numpy().astype(np.float16)
    settings = engine.Run(stage, name, plan.METHODS[name], fold, seed).settings
    return Record(stage, name, fold, seed, settings, "c", "cpu", 1.0, {}, predictions)


def results_of(cases, records):
    return Results({record.key: record for record in records}, cases)


@pytest.fixture(scope="module")
def chosen(cases):
    """The runs that the first table rests on."""
    keys = [("single", "cross_entropy", "0"), ("choose", "sampler", "0")]
    keys += [("choose", "p_0.5", fold) for fold in "012"]
    return [record_of(stage, name, fold, 0, cases) for stage, name, fold in keys]


@pytest.fixture(scope="module")
def unseen(cases):
    """The runs that the other tables rest on, of two seeds."""
    return [
        record_of("second" if name == "p_0.5" else "final", name, fold, seed, cases)
        for name in steps.TRAININGS
        for fold in "34"
        for seed in (0, 1)
    ]


def cells_of(table):
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return {row[0]: row[1:] for row in ([c.strip() for c in r.strip("|").split("|")] for r in rows)}


def test_rows_are_paired_with_those_above():
    labels = torch.arange(140) % 7
    held = Held(labels, torch.arange(140) // 2, COUNTS)
    a, b, c = (guesses(labels, seeds=2, seed=seed) for seed in range(3))
    rows = steps.chain({"a": a, "b": b, "c": c})
    assert rows[0].pair is None
    assert [one is other for one, other in zip(rows[2].pair, (c, b), strict=True)] == [True, True]
    found = cells_of(steps.table("step", rows, held))
    alone = summarise(a, labels, held.lesions)
    for place, key in enumerate(("balanced_accuracy", "rare_recall", "nv_recall")):
        low, high = (100 * bound for bound in alone[key]["interval"])
        assert found["a"][place] == f"{100 * alone[key]['mean']:.1f} ({low:.1f} to {high:.1f})"
        mine, more = summarise(c, labels, held.lesions)[key], compare(c, b, labels, held.lesions)
        low, high = (100 * bound for bound in more[key]["interval"])
        expected = f"{100 * mine['mean']:.1f}: {100 * more[key]['mean']:+.1f} "
        assert found["c"][place] == expected + f"({low:.1f} to {high:.1f})"


def test_the_average_of_the_seeds_stands_for_each_of_them():
    labels = torch.arange(14) % 7
    probabilities = guesses(labels, seeds=3)
    found = steps.average(probabilities)
    assert found.shape == (3, 14, 7)
    for run in found:
        for i in range(14):
            for k in range(7):
                each = [float(probabilities[s, i, k]) for s in range(3)]
                assert float(run[i, k]) == pytest.approx(sum(each) / 3)


def test_all_rows_rest_on_the_seeds_that_all_methods_have(cases, unseen):
    extra = [record_of("final", "sampler", fold, 2, cases) for fold in "34"]
    half = [record_of("second", "p_0.5", "3", 2, cases)]  # one fold of the two
    found = steps.shared(
        [*unseen, *extra, *half],
        list(steps.TRAININGS),
        ("3", "4"),
        results_of(cases, unseen),
    )
    assert found.seeds == (0, 1)
    assert {p.shape for p in found.probabilities.values()} == {(2, 140, 7)}
    by_key = {one.key: one for one in unseen}
    for seed in (0, 1):
        for place, fold in enumerate("34"):
            expected = by_key[f"second/p_0.5/{fold}/{seed}"].probabilities
            part = found.probabilities["p_0.5"][seed, 70 * place : 70 * (place + 1)]
            assert torch.equal(part, expected)
            assert (found.folds[70 * place : 70 * (place + 1)] == int(fold)).all()
    rare = "12 AKIEC, 4 DF, 8 VASC"
    assert found.about() == f"Folds 3 and 4, seeds 0 and 1, 140 images, of them {rare}."
    apart = [one for one in unseen if (one.arm == "p_0.5") == (one.seed == 1)]
    for missing in (apart, [one for one in unseen if one.arm != "sampler"]):
        there = results_of(cases, missing)
        assert steps.shared(missing, list(steps.TRAININGS), ("3", "4"), there) is None


def test_the_steps_from_cross_entropy_take_the_exponent_of_the_other_folds(cases, chosen):
    text = steps.from_cross_entropy(results_of(cases, chosen))
    found = cells_of(text)
    assert list(found) == ["cross-entropy", "+ pair sampler", "+ half mixed", "+ threshold"]
    by_key = {record.key: record for record in chosen}
    parts = [cases.part(fold, held=True) for fold in "012"]
    others = torch.cat([by_key[f"choose/p_0.5/{fold}/0"].probabilities for fold in "12"])
    labels = cases.labels[torch.cat(parts[1:])]
    counts = torch.bincount(cases.labels[cases.folds >= 0])
    exponent = choose_exponent(others[None], labels, counts)
    assert exponent != 0
    moved = by_key["choose/p_0.5/0/0"].probabilities / counts**exponent
    for row, probabilities in (
        ("cross-entropy", by_key["single/cross_entropy/0/0"].probabilities),
        ("+ pair sampler", by_key["choose/sampler/0/0"].probabilities),
        ("+ threshold", moved),
    ):
        named = probabilities.argmax(1)
        right = (named == cases.labels[parts[0]]).double()
        expected = sum(right[cases.labels[parts[0]] == k].mean() for k in range(7)) / 7
        assert found[row][0].split()[0].strip(":") == f"{100 * float(expected):.1f}"
    assert "Fold 0, seed 0, 70 images, of them 6 AKIEC, 2 DF, 4 VASC." in text
    assert f"The exponent, {exponent:.1f}, is chosen on folds 1 and 2.\n" in text
    for missing in range(len(chosen)):
        some = results_of(cases, chosen[:missing] + chosen[missing + 1 :])
        assert steps.from_cross_entropy(some) == NO_RUNS


def test_the_page_has_every_variant_and_keeps_its_text(cases, chosen, unseen, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(f"before {m}\n<!-- {m} -->\nstale\n<!-- end -->\n" for m in MARKS))
    steps.write_steps(results_of(cases, [*chosen, *unseen]), page)
    text = page.read_text()
    assert "stale" not in text
    assert NO_RUNS not in text
    parts = {
        m: re.search(rf"before {m}\n<!-- {m} -->\n\n(.*?)<!-- end", text, re.S)[1] for m in MARKS
    }
    every, rivals, chain = (cells_of(parts[m]) for m in ("levels", "rivals", "steps"))
    assert len(every) == 4 * len(steps.TRAININGS)
    assert next(iter(rivals)) == "SPMix, half mixed"
    assert set(rivals) == set(steps.TRAININGS.values())
    for name in rivals:
        assert rivals[name][0].split()[0].strip(":") == every[f"{name}, threshold, averaged"][0][:4]
    for step, name in {
        "pair sampler": "sampler alone",
        "+ half mixed": "SPMix, half mixed",
        "+ threshold": "SPMix, half mixed, threshold",
        "+ seeds averaged": "SPMix, half mixed, threshold, averaged",
    }.items():
        assert chain[step][2].split()[0].strip(":") == every[name][2].split()[0]
    level = {name: float(cells[0].split()[0]) for name, cells in every.items()}
    for name in set(rivals) - {"SPMix, half mixed"}:
        more = float(rivals[name][0].split()[1])
        end = ", threshold, averaged"
        assert more == pytest.approx(level[name + end] - level["SPMix, half mixed" + end], abs=0.11)
    page.write_text("no marks")
    with pytest.raises(ValueError, match="mark `<!-- from cross-entropy -->` in the page"):
        steps.write_steps(results_of(cases, chosen), page)


def test_the_first_table_of_the_page_is_made_from_the_kept_files():
    body = steps.from_cross_entropy(read(command.KEPT))
    mark = "<!-- from cross-entropy -->"
    assert f"{mark}\n\n{body}\n<!-- end -->" in command.STEPS.read_text()


@pytest.mark.slow
def test_the_page_is_made_from_the_kept_files(tmp_path):
    text = command.STEPS.read_text()
    emptied = tmp_path / "page.md"
    emptied.write_text(
        re.sub(r"(<!-- (?!end).*? -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.S)
    )
    steps.write_steps(read(command.KEPT), emptied)
    assert emptied.read_text() == text
