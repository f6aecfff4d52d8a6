"""Trap sets: artefacts outside the lesion, their ties to classes, and collections held out."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from benchmarks.isic2018 import engine, plan, report
from benchmarks.isic2018.engine import Images, Run, Trainer, exchange_pixels
from benchmarks.isic2018.traps import SETS, TESTS, TIED, draw_kinds, plant, plant_all
from benchmarks.records import TEST, Record, Results
from examples.isic2018.data import CLASSES

KINDS = [kind for kinds in SETS.values() for kind in kinds]
LABELS = torch.arange(7).repeat(2000)
OWN = [CLASSES.index(name) == LABELS for name in TIED]
FREE = ~torch.stack(OWN).any(dim=0)


@pytest.fixture(scope="module")
def images():
    """Some images of noise of 7 classes in 2 collections, with a lesion in the middle."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat(48)
    places = torch.arange(len(labels))
    masks = torch.zeros(len(labels), 1, 32, 43, dtype=torch.uint8)
    masks[:, :, 10:22, 15:30] = 1
    pixels = torch.randint(256, (len(labels), 3, 32, 43), generator=generator).byte()
    folds = torch.where(places % 8 == 0, TEST, places // 7 % 5)
    sources = np.where(places // 2 % 3 == 0, "a", "b")
    sources[7] = "b"  # of a lesion that is in both
    return Images(labels, places // 2, folds, sources, pixels, masks)


@pytest.mark.parametrize("kind", KINDS)
def test_artefacts_lie_outside_the_lesion_alone(kind):
    image = torch.full((3, 128, 171), 150, dtype=torch.uint8)
    mask = torch.zeros(1, 128, 171, dtype=torch.uint8)
    mask[:, 3:60, 30:140] = 1
    planted = plant(image, mask, kind, seed=1)
    changed = (planted != image).any(dim=0)
    assert not changed[mask[0] == 1].any()
    view = torch.zeros_like(changed)  # that the test looks at
    view[8:120, 30:142] = True
    assert changed[view].float().mean() > 0.005
    assert image.eq(150).all()
    if kind not in SETS["casts"]:  # neither everywhere
        assert not changed[mask[0] == 0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_is_that_of_its_seed(kind):
    image = torch.full((3, 64, 85), 150, dtype=torch.uint8)
    mask = torch.zeros(1, 64, 85, dtype=torch.uint8)
    state = torch.get_rng_state()
    first, again, other = (plant(image, mask, kind, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_kinds_of_a_set_go_to_their_images(images):
    pixels, masks, kinds = images.pixels[:4], images.masks[:4], torch.arange(4)
    planted = plant_all(pixels, masks, kinds, "casts", [5, 6, 7, 8])
    for i, name in enumerate(SETS["casts"]):
        assert torch.equal(planted[i], plant(pixels[i], masks[i], name, 5 + i))
    assert torch.equal(planted[3], pixels[3])


@pytest.mark.parametrize("rho", [0.25, 0.6, 0.9, 1.0])
def test_ties_are_as_strong_as_asked(rho):
    kinds = draw_kinds(LABELS, "same", rho, seed=0)
    for own, members in enumerate(OWN):
        shares = torch.bincount(kinds[members], minlength=4) / members.sum()
        expected = torch.full((4,), (1 - rho) / 3)
        expected[own] = rho
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.035)
    shares = torch.bincount(kinds[FREE], minlength=4) / FREE.sum()
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_tests_have_random_exchanged_and_no_artefacts():
    random, exchanged, none = (draw_kinds(LABELS, test, 1.0, seed=0) for test in TESTS[1:])
    assert (none == 3).all()
    for own, members in enumerate(OWN):
        shares = torch.bincount(random[members], minlength=4) / members.sum()
        torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.035)
        shares = torch.bincount(exchanged[members], minlength=4) / members.sum()
        expected = torch.tensor([0.5, 0.5, 0.5, 0.0])
        expected[own] = 0.0
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.035)
    assert torch.equal(random[FREE], exchanged[FREE])  # what is compared differs nowhere else


def test_draws_of_kinds_are_those_of_the_seed():
    first, again, other = (draw_kinds(LABELS, "same", 0.6, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_names_and_strengths_are_told():
    image, mask = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match=r"`kind` to be one of .*'hair'.*, but got 'ink'"):
        plant(image, mask, "ink", 0)
    with pytest.raises(ValueError, match=r"`test` to be one of .*, but got 'swapped'"):
        draw_kinds(LABELS, "swapped", 1.0, 0)
    with pytest.raises(ValueError, match=r"`rho` to be in \[1/4, 1\], but got 0.1"):
        draw_kinds(LABELS, "same", 0.1, 0)


def trapped(name, **kwargs):
    return Run("traps", name, plan.METHODS[name], model="small", epochs=2, traps="casts", **kwargs)


def test_training_images_are_trapped_and_tests_are_alike_for_all(images):
    first, other = (Trainer(trapped("sampler", seed=seed), images) for seed in (0, 1))
    held = first.held
    assert torch.equal(first.pixels[held], images.pixels[held])
    tied = (first.labels == CLASSES.index("DF")).nonzero().flatten()
    for place in first.train[tied].tolist():
        expected = plant(images.pixels[place], images.masks[place], "blue", place)
        assert torch.equal(first.pixels[place], expected)
    assert not torch.equal(first.pixels, other.pixels)
    tests = list(zip(first._tests(), other._tests(), strict=True))
    assert all(torch.equal(a, b) for a, b in tests)
    assert torch.equal(tests[TESTS.index("none")][0], images.pixels[held])
    assert not torch.equal(tests[0][0], tests[2][0])


@pytest.mark.parametrize(
    "name",
    ["exchange_pixels", "exchange_soft_half", "exchange_classifier_last", "exchange_cam"],
)
def test_one_training_serves_all_tests(images, name):
    trainer = Trainer(trapped(name), images)
    record = trainer.result()
    size = len(trainer.held)
    assert record.predictions.shape == (4 * size, 7)
    assert set(record.figures) == {"losses", *TESTS}
    for number, test in enumerate(TESTS):
        part = report.of_test(record, test)
        assert (part.predictions == record.predictions[number * size :][:size]).all()
        expected = engine.measure(part.probabilities, images.labels[trainer.held])
        assert record.figures[test] == expected


def test_pixels_are_exchanged_where_neither_is_salient():
    images = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64), torch.ones(3, 64, 64)])
    maps = torch.zeros(3, 64, 64)
    maps[0, :32, :32] = maps[1, 32:, 32:] = maps[2, :32, :32] = 1
    mixed = exchange_pixels(images, torch.tensor([1, 0, 2]), maps, 1 / 32)
    assert mixed[0, :, 4:24, 4:24].max() < 0.1  # its own object
    assert mixed[0, :, 40:60, 40:60].max() < 0.1  # where the partner's was
    assert mixed[0, :, 4:24, 40:60].min() > 0.7
    assert (mixed[0, 0, 8, :-1] - mixed[0, 0, 8, 1:]).abs().max() < 0.3  # blurred
    torch.testing.assert_close(mixed[2], images[2])


def test_half_of_the_samples_keep_to_the_papers_bounds(images):
    trainer = Trainer(trapped("exchange_soft_half"), images)
    plain = Trainer(trapped("exchange"), images)
    views, labels = torch.randn(64, 3, 64, 64), torch.arange(64) % 7
    mixed, whole = (t._mix_patches(views, views, labels, None)[0] for t in (trainer, plain))
    is_whole = torch.isclose(mixed, whole).flatten(1).all(dim=1)
    assert 16 < is_whole.sum() < 48
    change = (mixed - views).flatten(1).norm(dim=1) / (whole - views).flatten(1).norm(dim=1)
    assert change[~is_whole].max() < 0.75


def test_class_activation_takes_over_in_the_last_epochs(images, monkeypatch):
    trainer = Trainer(dataclasses.replace(trapped("exchange_cam"), epochs=5), images)
    seen = []
    monkeypatch.setattr(trainer, "_mix", lambda batch, epoch: seen.append(trainer.mixer.saliency))
    for epoch in range(5):
        with pytest.raises(TypeError, match="NoneType"):  # nothing is trained here
            trainer._train_epoch(epoch)
    assert [type(provider).__name__ for provider in seen] == ["BorderContrast"] + 4 * ["GradCAM"]


def test_remix_can_leave_half_of_the_samples(images):
    trainer = Trainer(trapped("remix_half"), images)
    views, _ = trainer._views(torch.arange(64))
    trainer._views = lambda batch: (views, None)
    mixed, targets = trainer._mix(torch.arange(64), 0)
    own = (mixed == engine.normalized(views)).flatten(1).all(dim=1)
    assert 16 < own.sum() < 48
    labels = trainer.labels[:64]
    assert torch.equal(targets[own], torch.nn.functional.one_hot(labels, 7).float()[own])


def test_the_last_epoch_is_the_classifiers(images):
    rare = (images.labels == 6) & (images.folds != 0)
    rare[rare.nonzero()[:3]] = False
    trained_on = dataclasses.replace(images, labels=torch.where(rare, 1, images.labels))
    trainer = Trainer(trapped("exchange_classifier_last"), trained_on)
    trainer._train_epoch(0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    drawn = torch.cat([trainer.labels[batch] for batch in trainer._batches(1)])
    counts = torch.bincount(trainer.labels)
    assert counts.min() < 0.1 * counts.max()
    assert torch.bincount(drawn).min() > 0.5 * len(drawn) / 7
    _, targets = trainer._mix(torch.arange(64), 1)
    assert targets.ndim == 1  # unmixed
    trainer._train_epoch(1)
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if "running" not in name and "num_" not in name} == {
        "head.weight",
        "head.bias",
    }
    assert "stem.1.running_mean" in changed
    assert int(after["stem.1.num_batches_tracked"]) == trainer.steps


def test_a_collection_is_held_out_with_its_lesions(images):
    train, held = (images.part("a", held=h) for h in (False, True))
    assert (images.sources[held] == "a").all()
    assert not set(images.groups[train].tolist()) & set(
        images.groups[torch.from_numpy(images.sources == "a")].tolist()
    )
    for part in (train, held):
        assert len(part)
        assert (images.folds[part] != TEST).all()
    few = images.labels.clone()
    few[images.labels == 6] = 5
    few[(images.labels == 6).nonzero()[:9]] = 6
    rest = dataclasses.replace(images, labels=few).part("a", held=True)
    assert 6 not in few[rest]
    assert set(range(6)) <= set(few[rest].tolist())


def test_the_recall_of_a_collection_is_of_the_classes_it_has(images):
    labels = images.labels.clone()
    labels[labels == 6] = 5
    without = dataclasses.replace(images, labels=labels)
    run = Run("clinic", "sampler", plan.SAMPLER, "b", model="small", epochs=1)
    record = Trainer(run, without).result()
    assert set(record.figures["recall"]) == set(CLASSES[:6])
    right = record.probabilities.argmax(dim=1) == labels[without.part("b", held=True)]
    assert 0 <= record.figures["recall"]["NV"] <= 1
    overall = right.double().mean()
    assert min(record.figures["recall"].values()) <= overall


def test_the_stages_are_within_their_budget():
    stages = plan.STAGES
    choosing = [run for name, runs in stages.items() if name[:3] in ("tra", "rho") for run in runs]
    assert len(choosing) <= 60
    assert {run.fold for run in choosing} == {"0", "1", "2"}
    assert {run.traps for run in choosing} == {"casts"}
    assert [run.fold for run in stages["traps"]] == sorted(run.fold for run in stages["traps"])
    assert {run.rho for run in choosing} == {0.25, 0.6, 0.9, 1.0}
    assert len(stages["confirm"]) == 50
    assert {(run.traps, run.fold) for run in stages["confirm"]} == {
        ("objects", "3"),
        ("objects", "4"),
    }
    assert len(stages["clinic"]) == len(stages["same"]) == 40
    assert {run.fold for run in stages["clinic"]} == {"vidir_modern", "rosendahl"}
    assert {run.traps for name in ("clinic", "same") for run in stages[name]} == {"none"}


def test_the_table_of_traps_has_all_tests(images):
    runs = [trapped(name, fold=fold) for fold in ("0", "1") for name in ("sampler", "exchange")]
    records = {}
    for run in runs:
        labels = images.labels[images.part(run.fold, held=True)]
        right = torch.nn.functional.one_hot(labels, 7).numpy().astype(np.float16)
        wrong = np.roll(right, 1, axis=1)
        exchanged = right if run.arm == "exchange" else wrong
        parts = np.concatenate([right, right, exchanged, wrong])
        name = (run.stage, run.arm, run.fold, run.seed)
        records[run.key] = Record(*name, run.settings, "c", "cpu", 1.0, {}, parts)
    text = report.stage_table(runs, Results(records, images))
    lines = text.splitlines()
    assert lines[2].startswith(
        "| exchange | 2 | 100.0 (100.0) | 100.0 (100.0) | 100.0 (100.0) | 0.0 (0.0) | +100.0"
    )
    assert lines[3].startswith(
        "| sampler | 2 | 100.0 (100.0) | 100.0 (100.0) | 0.0 (0.0) | 0.0 (0.0) | - |"
    )
