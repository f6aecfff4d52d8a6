"""The study's statistics: measures and intervals against slow loops, known cases and coverage."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor

from benchmarks.isic2018.statistics import (
    QUANTITIES,
    adjust,
    adjust_to_nv_recall,
    bootstrap_weights,
    calibration_error,
    compare,
    interval,
    measure,
    resample_weights,
    summarise,
)
from examples.isic2018.data import CLASSES

LABELS = torch.arange(7).repeat_interleave(torch.tensor([12, 30, 9, 8, 10, 5, 6]))
# Image i shows lesion i // 2, so that a lesion has two images and some have two classes.
LESIONS = [f"lesion_{i // 2}" for i in range(len(LABELS))]
NV, DF = CLASSES.index("NV"), CLASSES.index("DF")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sure(classes: Tensor) -> Tensor:
    """Probabilities that are 1 for the given classes."""
    return torch.nn.functional.one_hot(classes, 7).float()


def guesses(seeds: int, seed: int = 0) -> Tensor:
    """Probabilities `(S,N,7)` that are right more often than not."""
    noise = torch.rand(seeds, len(LABELS), 7, generator=generator(seed))
    return (3 * noise + 1.5 * sure(LABELS)).softmax(dim=-1)


def recall_of(predicted: list[int], label: int, weights: list[int]) -> float:
    """Weighted recall of one class, image by image."""
    right = total = 0
    for i, truth in enumerate(LABELS.tolist()):
        if truth == label:
            total += weights[i]
            right += weights[i] * (predicted[i] == label)
    return right / total


def slow_draws(probabilities: Tensor, images: Tensor, seeds: Tensor) -> dict[str, list[float]]:
    """Each quantity in each draw, given the weights of images and seeds."""
    predicted = probabilities.argmax(dim=-1).tolist()
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for image_weights, seed_weights in zip(images.tolist(), seeds.tolist(), strict=True):
        recall = {}
        for label, name in enumerate(CLASSES):
            total = 0.0
            for own, times in zip(predicted, seed_weights, strict=True):
                total += times * recall_of(own, label, image_weights)
            recall[name] = total / sum(seed_weights)
        for name, members in QUANTITIES.items():
            found[name].append(sum(recall[member] for member in members) / len(members))
    return found


# --- measures of one run ---


def test_measures_of_a_perfect_predictor() -> None:
    measured = measure(sure(LABELS), LABELS)
    assert measured.pop("recall") == dict.fromkeys(CLASSES, 1.0)
    assert measured.pop("calibration_error") == 0
    assert set(measured.values()) == {1.0}


def test_measures_of_a_constant_predictor() -> None:
    measured = measure(sure(torch.full_like(LABELS, NV)), LABELS)
    share = float((LABELS == NV).double().mean())
    assert measured["recall"] == {name: float(name == "NV") for name in CLASSES}
    assert measured["balanced_accuracy"] == pytest.approx(1 / 7)
    assert measured["macro_f1"] == pytest.approx(2 * share / (1 + share) / 7)
    assert measured["auroc"] == pytest.approx(0.5)
    assert (measured["tail_recall"], measured["rare_recall"], measured["nv_recall"]) == (0, 0, 1)
    assert measured["calibration_error"] == pytest.approx(1 - share)


def test_measures_agree_with_scikit_learn_and_slow_loops() -> None:
    probabilities = guesses(1)[0]
    measured = measure(probabilities, LABELS)
    predicted = probabilities.argmax(dim=1)
    recall = {
        name: recall_of(predicted.tolist(), label, [1] * len(LABELS))
        for label, name in enumerate(CLASSES)
    }
    assert 0 < min(recall.values()) < max(recall.values())
    assert measured["recall"] == pytest.approx(recall)
    assert measured["nv_recall"] == pytest.approx(recall["NV"])
    rare = recall["DF"] + recall["VASC"] + recall["AKIEC"]
    assert measured["rare_recall"] == pytest.approx(rare / 3)
    assert measured["tail_recall"] == pytest.approx((rare + recall["BCC"]) / 4)
    truth, scores = LABELS.numpy(), probabilities.double()
    scores = (scores / scores.sum(dim=1, keepdim=True)).numpy()
    expected = {
        "balanced_accuracy": balanced_accuracy_score(truth, predicted.numpy()),
        "macro_f1": f1_score(truth, predicted.numpy(), average="macro"),
        "auroc": roc_auc_score(truth, scores, multi_class="ovr"),
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected)


def test_calibration_error_agrees_with_a_slow_loop() -> None:
    sharpness = torch.linspace(1, 200, len(LABELS)).unsqueeze(1)
    probabilities = (guesses(1)[0].log() * sharpness).softmax(dim=1)
    confidence, predicted = (part.tolist() for part in probabilities.max(dim=1))
    assert confidence.count(1.0) > 5
    assert min(confidence) < 0.5
    expected = 0.0
    for i in range(15):
        members = [n for n, c in enumerate(confidence) if i / 15 < c <= (i + 1) / 15]
        right = sum(predicted[n] == LABELS[n] for n in members)
        expected += abs(sum(confidence[n] for n in members) - right) / len(LABELS)
    found = calibration_error(probabilities, LABELS)
    assert found == pytest.approx(float(expected))
    assert measure(probabilities, LABELS)["calibration_error"] == found


def test_a_confidence_of_1_shares_the_last_bin() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.03, 0.97]])
    # Two bins would make it (1 + 0.03) / 2.
    found = calibration_error(probabilities, torch.tensor([1, 1]))
    assert found == pytest.approx((1 - 0.03) / 2)


# --- what the bootstrap draws ---


def test_resampling_counts_what_is_drawn() -> None:
    weights = resample_weights(5, 4000, generator())
    assert (weights.sum(dim=1) == 5).all()
    torch.testing.assert_close(
        weights.double().mean(dim=0), torch.ones(5).double(), rtol=0, atol=0.06
    )
    # Each of 5 draws takes a thing with 1 / 5: variance 5 * 1 / 5 * 4 / 5.
    torch.testing.assert_close(
        weights.double().var(dim=0), torch.full((5,), 0.8).double(), rtol=0, atol=0.1
    )


def test_each_draw_has_as_many_lesions_of_a_class_as_there_are() -> None:
    weights = bootstrap_weights(LABELS, LESIONS, 50, generator())
    assert weights.shape == (50, len(LABELS))
    for label in range(7):
        first = {LESIONS[i]: i for i in reversed(range(len(LABELS))) if LABELS[i] == label}
        drawn = weights[:, list(first.values())]
        assert (drawn.sum(dim=1) == len(first)).all()
        assert (drawn != 1).any()


def test_images_of_one_lesion_and_class_are_drawn_together() -> None:
    weights = bootstrap_weights(LABELS, LESIONS, 50, generator())
    apart = 0
    for i in range(0, len(LABELS) - 1, 2):
        together = torch.equal(weights[:, i], weights[:, i + 1])
        assert together == (LABELS[i] == LABELS[i + 1])
        apart += not together
    # A lesion with two classes counts as one lesion in each of them.
    assert apart == 3


def test_order_of_the_images_does_not_matter() -> None:
    order = torch.randperm(len(LABELS), generator=generator(3))
    shuffled = bootstrap_weights(LABELS[order], [LESIONS[i] for i in order], 20, generator())
    assert torch.equal(shuffled, bootstrap_weights(LABELS, LESIONS, 20, generator())[:, order])


def test_interval_is_the_middle_95_percent() -> None:
    values = torch.arange(1001.0)[torch.randperm(1001, generator=generator())]
    assert interval(values) == pytest.approx((25, 975))


# --- summaries and comparisons ---


def test_summaries_and_comparisons_agree_with_slow_loops() -> None:
    a, b = guesses(3), guesses(3, seed=1)
    stream = generator(5)
    images = bootstrap_weights(LABELS, LESIONS, 40, stream)
    seeds = resample_weights(3, 40, stream)
    summary = summarise(a, LABELS, LESIONS, draws=40, seed=5)
    compared = compare(a, b, LABELS, LESIONS, draws=40, seed=5)
    drawn_a, drawn_b = slow_draws(a, images, seeds), slow_draws(b, images, seeds)
    ones = torch.ones(3, len(LABELS), dtype=torch.int64)
    seed_by_seed = slow_draws(a, ones, torch.eye(3, dtype=torch.int64))
    seed_by_seed_b = slow_draws(b, ones, torch.eye(3, dtype=torch.int64))
    assert set(summary) == set(compared) == set(QUANTITIES)
    for name in QUANTITIES:
        assert summary[name]["mean"] == pytest.approx(np.mean(seed_by_seed[name]))
        assert summary[name]["sd"] == pytest.approx(np.std(seed_by_seed[name], ddof=1))
        expected = np.percentile(drawn_a[name], [2.5, 97.5])
        assert summary[name]["interval"] == pytest.approx(tuple(expected))
        difference = np.subtract(drawn_a[name], drawn_b[name])
        assert compared[name]["mean"] == pytest.approx(
            np.mean(seed_by_seed[name]) - np.mean(seed_by_seed_b[name])
        )
        expected = np.percentile(difference, [2.5, 97.5])
        assert compared[name]["interval"] == pytest.approx(tuple(expected))
        share = np.mean(difference < 1e-9)
        assert compared[name]["share_at_or_below_0"] == pytest.approx(share)
    assert len({found["share_at_or_below_0"] for found in compared.values()}) > 2


def test_quantities_average_the_classes_they_are_named_after() -> None:
    summary = summarise(guesses(2), LABELS, LESIONS, draws=5)
    measured = [measure(run, LABELS) for run in guesses(2)]
    for name in ("balanced_accuracy", "tail_recall", "rare_recall", "nv_recall"):
        assert summary[name]["mean"] == pytest.approx(np.mean([m[name] for m in measured]))
    for name in CLASSES:
        expected = np.mean([m["recall"][name] for m in measured])
        assert summary[f"recall_{name}"]["mean"] == pytest.approx(expected)


@pytest.mark.parametrize(("predicted", "nv", "rest"), [(LABELS, 1, 1), (LABELS * 0 + NV, 1, 0)])
def test_summary_of_perfect_and_constant_predictors(predicted: Tensor, nv: int, rest: int) -> None:
    summary = summarise(sure(predicted).expand(3, -1, -1), LABELS, LESIONS, draws=50)
    balanced = summary.pop("balanced_accuracy")
    assert balanced["mean"] == pytest.approx((nv + 6 * rest) / 7)
    for name, found in summary.items():
        value = nv if name in ("nv_recall", "recall_NV") else rest
        assert found == {"mean": value, "sd": 0, "interval": (value, value)}


def test_seeds_are_drawn_too() -> None:
    right, wrong = sure(LABELS), sure((LABELS + 1) % 7)
    found = summarise(torch.stack([right, wrong]), LABELS, LESIONS)["tail_recall"]
    assert found == {"mean": 0.5, "sd": pytest.approx(math.sqrt(0.5)), "interval": (0, 1)}


def test_one_seed_has_no_spread() -> None:
    found = summarise(guesses(1), LABELS, LESIONS, draws=50)["balanced_accuracy"]
    assert found["sd"] is None
    assert found["interval"][0] < found["mean"] < found["interval"][1]


def test_identical_methods_do_not_differ_at_all() -> None:
    compared = compare(guesses(3), guesses(3), LABELS, LESIONS, draws=200)
    expected = {"mean": 0, "interval": (0, 0), "share_at_or_below_0": 1}
    assert all(found == expected for found in compared.values())


def test_a_method_better_on_every_image_has_an_interval_above_0() -> None:
    # Both make the same mistakes elsewhere, so that only DF can tell them apart.
    a, of_df = guesses(3), LABELS == DF
    b = a.clone()
    a[:, of_df], b[:, of_df] = sure(LABELS)[of_df], sure(LABELS * 0)[of_df]
    compared = compare(a, b, LABELS, LESIONS, draws=200)
    for name, members in QUANTITIES.items():
        difference = 1 / len(members) if "DF" in members else 0
        assert compared[name]["interval"] == pytest.approx((difference, difference))
        assert compared[name]["share_at_or_below_0"] == (0 if difference else 1)
    reverse = compare(b, a, LABELS, LESIONS, draws=200)["recall_DF"]
    assert reverse == {"mean": -1, "interval": (-1, -1), "share_at_or_below_0": 1}


def test_what_is_hard_for_both_methods_cancels() -> None:
    # The second method is right wherever the first is, and on one more NV lesion.
    b = guesses(3)
    a = b.clone()
    wrong = (LABELS == NV) & (b.argmax(dim=-1) != LABELS).any(dim=0)
    more = int(wrong.nonzero()[0])
    a[:, more] = sure(LABELS[more])
    low, high = compare(a, b, LABELS, LESIONS)["nv_recall"]["interval"]
    alone = summarise(a, LABELS, LESIONS)["nv_recall"]["interval"]
    assert 0 <= low < high < (alone[1] - alone[0]) / 2


@pytest.mark.parametrize(
    "run",
    [
        lambda seed: summarise(guesses(3), LABELS, LESIONS, draws=30, seed=seed),
        lambda seed: compare(guesses(3), guesses(3, 1), LABELS, LESIONS, draws=30, seed=seed),
    ],
)
def test_one_seed_decides_everything(run: Callable[[int], dict[str, Any]]) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(1)
    assert run(7) == first
    assert run(8) != first


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    # 100 data sets with 15 lesions a class; a lesion's 4 images are all right, with 0.7, or wrong.
    labels = torch.arange(7).repeat_interleave(60)
    lesions = [str(i // 4) for i in range(len(labels))]
    images = [str(i) for i in range(len(labels))]
    stream = generator(11)
    held = {"by lesion": 0, "by image": 0}
    for trial in range(100):
        right = (torch.rand(len(labels) // 4, generator=stream) < 0.7).repeat_interleave(4)
        probabilities = sure(torch.where(right, labels, (labels + 1) % 7)).unsqueeze(0)
        for name, units in (("by lesion", lesions), ("by image", images)):
            found = summarise(probabilities, labels, units, draws=100, seed=trial)
            low, high = found["balanced_accuracy"]["interval"]
            held[name] += low <= 0.7 <= high
    assert 88 <= held["by lesion"] <= 99
    # Images taken for independent ones make the interval half as wide as it has to be.
    assert held["by image"] < 75


# --- wrong input ---


def drop_class(labels: Tensor) -> Tensor:
    return torch.where(labels == 5, 0, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": guesses(2)[..., :6]}, r"`probabilities`.*\(S,N,7\).*\(2, 80, 6\)"),
        ({"probabilities": guesses(2)[:, 1:]}, r"`probabilities`.*80 images.*\(2, 79, 7\)"),
        ({"probabilities": guesses(2)[0]}, r"`probabilities`.*\(S,N,7\).*\(80, 7\)"),
        ({"probabilities": guesses(2)[:0]}, r"`probabilities`.*\(0, 80, 7\)"),
        ({"probabilities": guesses(2) - 1}, r"`probabilities` to be in \[0, 1\]"),
        ({"probabilities": guesses(2) + 1}, r"`probabilities` to be in \[0, 1\]"),
        ({"probabilities": guesses(2) * math.nan}, r"`probabilities` to be in \[0, 1\]"),
        ({"labels": LABELS.unsqueeze(1)}, r"`labels`.*\(80, 1\)"),
        ({"labels": LABELS.double()}, r"`labels` to be int64.*float64"),
        ({"labels": LABELS + 1}, r"`labels`.*every class from 0 to 6.*\[1, 2, 3, 4, 5, 6, 7\]"),
        ({"labels": drop_class(LABELS)}, r"`labels`.*every class.*\[0, 1, 2, 3, 4, 6\]"),
        ({"lesions": LESIONS[1:]}, r"`lesions`.*80 images.*79"),
        ({"draws": 0}, r"`draws` to be at least 1, but got 0"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], message: str) -> None:
    given = {"probabilities": guesses(2), "labels": LABELS, "lesions": LESIONS, "draws": 5}
    summarise(**given)
    with pytest.raises(ValueError, match=message):
        summarise(**given | change)


def test_measure_names_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"`probabilities`.*\(N,7\).*\(2, 80, 7\)"):
        measure(guesses(2), LABELS)
    with pytest.raises(ValueError, match=r"`labels`.*every class"):
        measure(guesses(1)[0], drop_class(LABELS))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (guesses(2)[0], guesses(2), r"`a`.*\(80, 7\)"),
        (guesses(2), guesses(2)[:, 1:], r"`b`.*\(2, 79, 7\)"),
        (guesses(2), guesses(3), "`b` to have the 2 seeds of `a`, but got 3"),
    ],
)
def test_compare_names_wrong_input(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b, LABELS, LESIONS, draws=5)


def test_the_parts_name_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"`values`.*\(2, 3\)"):
        interval(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"`values`.*\(0,\)"):
        interval(torch.zeros(0))
    with pytest.raises(ValueError, match=r"`labels`.*\(80, 1\)"):
        bootstrap_weights(LABELS.unsqueeze(1), LESIONS, 5, generator())


def test_adjusting_reaches_the_recall_of_nv_that_is_asked():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.ones(400, dtype=torch.long), torch.arange(7).repeat(20)])
    logits = torch.randn(len(labels), 7, generator=generator)
    logits += 1.5 * torch.nn.functional.one_hot(labels, 7)
    probabilities = logits.softmax(1)
    nevi, counts = labels == CLASSES.index("NV"), torch.bincount(labels)
    for wanted in (0.3, 0.6, 0.9):
        adjusted = adjust_to_nv_recall(probabilities, labels, counts, wanted)
        recall = (adjusted[nevi].argmax(1) == CLASSES.index("NV")).double().mean()
        assert wanted - 1.01 / nevi.sum() <= recall <= wanted
        torch.testing.assert_close(adjusted.sum(1), torch.ones(len(labels)).double())
    with pytest.raises(ValueError, match=r"`nv_recall` in reach in \(0, 1\), but got 1.5"):
        adjust_to_nv_recall(probabilities, labels, counts, 1.5)


def test_adjusting_divides_by_the_shares_of_the_classes():
    counts = torch.tensor([1, 3, 1, 1, 1, 1, 1])
    found = adjust(torch.full((1, 7), 1 / 7), counts, 1.0)
    expected = torch.tensor([[1, 1 / 3, 1, 1, 1, 1, 1]]).double()
    torch.testing.assert_close(found, expected / expected.sum())
    torch.testing.assert_close(adjust(found, counts, 0.0), found)
