"""The study: every method trains, the same for one seed, and results are kept."""

import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import engine, plan, predict
from benchmarks.isic2018.engine import Method, Run, Trainer
from benchmarks.isic2018.models import (
    SmallResNet,
    WideDepthwise,
    build_model,
    replace_classifier,
)
from benchmarks.isic2018.partners import draw_most_similar, lesion_size, skin_colour
from benchmarks.isic2018.statistics import measure
from benchmarks.records import TEST, Record, read, write_run
from examples.isic2018 import phantom


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "data"
    phantom.draw_phantom(
        root, train_images=70, test_per_class=1, size=(48, 64), seed=0, progress=False
    )
    return root


@pytest.fixture(scope="module")
def images(data):
    return engine.load_images(data)


def small_run(method, **kwargs):
    return Run("choose", "tried", method, model="small", epochs=1, **kwargs)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder in place of that of the gathered files."""
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def kind_of(method):
    """What decides which code a method runs; its other numbers do not."""
    names = [value for value in vars(method).values() if isinstance(value, (str, bool))]
    some = method.tail_fraction == 0, method.mixed_epochs < 1, method.backgrounds > 1
    return (*names, *some, method.center_prior is None)


# Methods that differ by a number alone run the same code.
KINDS = {kind_of(method): name for name, method in plan.METHODS.items()}


@pytest.mark.parametrize("name", KINDS.values())
def test_every_kind_of_method_trains(images, name):
    run = small_run(plan.METHODS[name])
    record = Trainer(run, images).result()
    assert (record.key, record.settings) == ("choose/tried/0/0", run.settings)
    assert record.device == "cpu"
    assert len(record.figures["losses"]) == 1
    probabilities = record.probabilities
    assert probabilities.shape == (len(images.part("0", held=True)), 7)
    torch.testing.assert_close(
        probabilities.sum(1), torch.ones(len(probabilities)), atol=5e-3, rtol=0
    )


def test_every_method_can_be_set_up(images):
    for method in plan.METHODS.values():
        assert Trainer(small_run(method), images).method is method


def test_a_run_is_measured_where_every_class_is_held_out(images):
    record = Trainer(small_run(plan.SAMPLER, fold="test"), images).result()
    labels = images.labels[images.part("test", held=True)]
    expected = measure(record.probabilities, labels)
    assert record.figures == {"losses": record.figures["losses"], **expected}
    one_class = replace(images, labels=torch.where(images.folds == TEST, 1, images.labels))
    record = Trainer(small_run(plan.SAMPLER, fold="test"), one_class).result()
    assert list(record.figures) == ["losses"]


def test_one_seed_gives_one_result(images):
    run = small_run(plan.SPMIX)
    torch.manual_seed(5)
    first = Trainer(run, images).result()
    torch.manual_seed(6)
    second = Trainer(run, images).result()
    assert (first.predictions == second.predictions).all()
    other = Trainer(small_run(plan.SPMIX, seed=1), images).result()
    assert (first.predictions != other.predictions).any()


def test_methods_take_the_same_steps(images):
    for name in ("cross_entropy", "class_balanced", "sampler"):
        trainer = Trainer(small_run(plan.METHODS[name]), images)
        batches = list(trainer._batches(0))
        assert len(batches) == trainer.steps
        assert all(len(batch) == engine.BATCH for batch in batches)


def test_what_is_held_out_is_not_trained_on(images):
    for fold in ("0", "3", "test"):
        train, held = (set(images.part(fold, held=h).tolist()) for h in (False, True))
        assert train
        assert held
        assert not train & held
        test = set(images.part("test", held=True).tolist())
        assert not train & test
        lesions = [set(images.groups[list(part)].tolist()) for part in (train, held)]
        assert not lesions[0] & lesions[1]


def test_crops_are_those_of_the_boxes():
    row = torch.arange(64.0).view(1, 1, 1, 64).expand(2, 1, 64, 64)
    boxes = torch.tensor([[0.0, 0, 64, 64], [16, 0, 48, 64]])
    flips = torch.tensor([[False, False], [False, True]])
    found = engine.crop(row, boxes, flips)
    torch.testing.assert_close(found[0], row[0], rtol=0, atol=0.51)
    expected = F.interpolate(row[1:, :, :, 16:48], (64, 64), mode="bilinear").flip(3)
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=0.51)


def test_colours_shift_as_in_torchvision():
    images = torch.rand(3, 3, 64, 64)
    factors = torch.tensor([[0.8, 1, 1], [1, 1.2, 1], [1, 1, 0.9]])
    found = engine.shift_colours(images, factors)
    functional = v2.functional
    torch.testing.assert_close(found[0], functional.adjust_brightness(images[0], 0.8))
    torch.testing.assert_close(
        found[1], functional.adjust_contrast(images[1], 1.2), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        found[2], functional.adjust_saturation(images[2], 0.9), rtol=0, atol=1e-3
    )


def test_only_rarer_classes_are_mixed_where_the_tail_alone_is(images):
    trainer = Trainer(small_run(plan.METHODS["tail_only"]), images)
    labels = torch.tensor([0, 1, 1, 5])
    counts = torch.tensor([5, 50, 4, 4, 4, 2, 2])
    partner = trainer._tail_only(labels, counts, None)
    assert partner[1:3].tolist() == [1, 2]
    assert int(partner[0]) in (1, 2)
    assert int(partner[3]) in (0, 1, 2)


def test_partners_are_the_most_similar_of_those_eligible():
    frequency = torch.tensor([9, 9, 9, 4, 4, 2])
    descriptors = torch.tensor([[0.0], [1.0], [5.0], [5.1], [0.2], [1.1]])
    generator = torch.Generator().manual_seed(0)
    # With six samples all eligible ones are candidates.
    found = draw_most_similar(descriptors, frequency, p=1.0, generator=generator)
    assert found.tolist() == [1, 0, 1, 2, 0, 1]
    unmixed = draw_most_similar(descriptors, frequency, p=0.0, generator=generator)
    assert unmixed.tolist() == list(range(6))
    alone = draw_most_similar(descriptors[4:], frequency[4:], p=1.0, generator=generator)
    assert alone.tolist() == [0, 0]


def test_partners_are_drawn_with_probability_p_and_not_always_the_same():
    generator = torch.Generator().manual_seed(0)
    descriptors, frequency = torch.arange(64.0).unsqueeze(1), torch.full((64,), 3)
    drawn = [
        draw_most_similar(descriptors, frequency, p=0.5, generator=generator) for _ in range(200)
    ]
    partners = torch.stack(drawn)
    mixed = partners != torch.arange(64)
    assert 0.48 < mixed.float().mean() < 0.52
    assert len(partners[:, 30].unique()) > 10
    distance = (partners - torch.arange(64)).abs()[mixed].float().mean()
    assert distance < 8  # a uniform draw: 21


def test_skin_and_size_are_told_apart():
    images = torch.full((3, 3, 48, 48), 0.8)
    images[0, :, 20:28, 20:28] = 0.2
    images[1, :, 8:40, 8:40] = 0.2
    images[2] = torch.tensor([0.5, 0.3, 0.2]).view(3, 1, 1)
    skin = skin_colour(images)
    torch.testing.assert_close(skin[0], skin[1])
    assert (skin[0] - skin[2]).norm() > 10
    size = lesion_size(images)[:2, 0]
    assert size[0] < 0.5 * size[1]


def test_the_authors_pairing_keeps_the_instance_balanced_image(images):
    trainer = Trainer(small_run(plan.METHODS["pairing_authors_code"]), images)
    batch = next(trainer._batches(0))
    mixed, targets = trainer._mix(batch, 0)
    assert mixed.shape == (engine.BATCH, 3, engine.SIDE, engine.SIDE)
    assert targets.argmax(1).tolist() == trainer.labels[batch].tolist()


def test_two_backgrounds_are_averaged(images):
    trainer = Trainer(small_run(plan.METHODS["two_backgrounds"]), images)
    plans = []
    draw = trainer.mixer.plan
    trainer.mixer.plan = lambda *args, **kwargs: plans.append(draw(*args, **kwargs)) or plans[-1]
    views = torch.randn(64, 3, 64, 64)
    labels = torch.arange(64) % 7
    mixed, _ = trainer._mix_patches(views, views, labels, None)
    assert len(plans) == 2
    assert (plans[0].partner != plans[1].partner).any()
    torch.testing.assert_close(mixed, (plans[0].images(views) + plans[1].images(views)) / 2)


def test_the_strength_of_mixing_is_random_between_none_and_all(images):
    trainer = Trainer(small_run(plan.METHODS["random_strength"]), images)
    full = Trainer(
        small_run(replace(plan.METHODS["random_strength"], random_strength=False)), images
    )
    views, labels = torch.randn(64, 3, 64, 64), torch.zeros(64, dtype=torch.int64)
    mixed, _ = trainer._mix_patches(views, views, labels, None)
    whole, _ = full._mix_patches(views, views, labels, None)
    share = (mixed - views).flatten(1).norm(dim=1) / (whole - views).flatten(1).norm(dim=1)
    assert 0 < share.min() < 0.1
    assert 0.9 < share.max() < 1
    assert 0.4 < share.mean() < 0.6
    torch.testing.assert_close(
        mixed, torch.lerp(views, whole, share.view(-1, 1, 1, 1)), rtol=0, atol=1e-5
    )


def test_mixup_pairs_samples_of_both_halves_of_the_batch(images):
    trainer = Trainer(small_run(plan.METHODS["sampler_mixup"]), images)
    seen = []
    mixup = trainer.mixer
    trainer.mixer = lambda *batch: seen.append(batch) or mixup(*batch)
    batch = next(trainer._batches(0))
    ordered, _ = trainer._views(batch)
    trainer._views = lambda batch: (ordered, None)
    _, targets = trainer._mix(batch, 0)
    ((shuffled, labels),) = seen
    place = torch.cdist(shuffled.flatten(1), engine.normalized(ordered).flatten(1)).argmin(1)
    assert sorted(place.tolist()) == list(range(engine.BATCH))
    assert labels.tolist() == trainer.labels[batch][place].tolist()
    # MixUp rolls the batch by one.
    across = (place < engine.BATCH / 2) != (place.roll(1) < engine.BATCH / 2)
    assert across.sum() > engine.BATCH / 4
    assert targets.shape == (engine.BATCH, 7)


def test_finished_runs_are_not_run_again(data, kept, tmp_path, monkeypatch, capsys):
    names, out = ["sampler", "spmix_border"], tmp_path / "runs"
    runs = [Run("choose", n, plan.METHODS[n], f, 0, "small", 1) for n in names for f in ("0", "1")]
    monkeypatch.setitem(command.STAGES, "choose", runs)
    arguments = ["choose", "--data", str(data), "--runs", str(out)]
    command.main([*arguments, "--minutes", "0"])
    assert not list(out.rglob("*.json"))
    command.main([*arguments, "--only", "choose/sampler/1/0"])
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.json")] == [
        "choose/sampler/1/0.json"
    ]
    capsys.readouterr()
    command.main(arguments)
    assert "4 runs, 3 to do" in capsys.readouterr().err
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert len(times) == 4
    command.main(arguments)
    said = capsys.readouterr()
    assert "4 runs, 0 to do" in said.err
    assert "| sampler | 2 |" in said.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == times
    command.main(["gather", "--runs", str(out)])
    assert capsys.readouterr().out == f"4 runs gathered in {kept}\n"
    shutil.rmtree(out)  # what was gathered is finished too
    command.main(arguments)
    assert capsys.readouterr().out == said.out


def test_a_stage_needs_images_and_names_of_its_runs(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["small"])
    assert "the stage small needs images: --data FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["small", "--data", "none", "--only", "small/sampler/9/0"])
    told = "the stage small has no run small/sampler/9/0, but small/sampler/0/0"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["final", "second"])
def test_the_final_stages_show_nothing(data, kept, tmp_path, monkeypatch, capsys, stage):
    runs = [Run(stage, "sampler", plan.SAMPLER, fold, 0, "small", 1) for fold in ("3", "4", "test")]
    monkeypatch.setitem(command.STAGES, stage, runs)
    for run in runs[:2]:
        record = Record(stage, run.arm, run.fold, 0, run.settings, "c", "cpu", 1.0, {})
        write_run(tmp_path, record)
    arguments = ["--data", str(data), "--runs", str(tmp_path)]
    command.main([stage, *arguments, "--minutes", "0", "--jobs", "1"])
    said = capsys.readouterr().out
    assert said == "1 runs left; the report shows them when all are done\n"


def test_kept_weights_predict_what_the_run_predicted(data, kept, images, tmp_path, monkeypatch):
    run = small_run(plan.SAMPLER)
    monkeypatch.setitem(plan.METHODS, run.arm, run.method)
    monkeypatch.setitem(command.STAGES, "choose", [run])
    arguments = ["--data", str(data), "--runs", str(tmp_path), "--jobs", "1"]
    command.main(["choose", *arguments, "--weights"])
    record = read(tmp_path).runs[run.key]
    held = images.pixels[images.part(run.fold, held=True)]
    found = predict(tmp_path / f"{run.key}.pt", held)
    assert found.shape == (len(held), 7)
    torch.testing.assert_close(found.sum(1), torch.ones(len(held)))
    # Half precision of the weights, and of the probabilities.
    torch.testing.assert_close(found, record.probabilities, rtol=0, atol=5e-3)


def test_being_mixed_tells_nothing_unless_the_tail_alone_is(data, kept, tmp_path, capsys):
    command.main(["cue", "--data", str(data), "--runs", str(tmp_path), "--jobs", "1"])
    assert "| spmix_border | 100.0 | 100.0 |" in capsys.readouterr().out
    found = {record.arm: record for record in read(tmp_path).runs.values()}
    assert set(found) == {"tail_only", "spmix_border", "p_0.5"}
    assert all(not len(record.predictions) for record in found.values())
    tail_only, half = found["tail_only"].figures, found["p_0.5"].figures
    assert tail_only["mixed"]["NV"] == 0
    assert tail_only["guess"] > 0.95
    assert half["guess"] < 0.6
    assert 0.35 < half["mixed"]["NV"] < 0.65


def test_predict_refuses_other_images(tmp_path):
    with pytest.raises(TypeError, match=r"`images` in uint8.*float32"):
        predict(tmp_path / "none.pt", torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"`images` of shape \(N,3,H,W\).*\(3, 8, 8\)"):
        predict(tmp_path / "none.pt", torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert predict(tmp_path / "none.pt", torch.zeros(0, 3, 8, 8).byte()).shape == (0, 7)


def test_the_last_linear_layer_is_replaced():
    model = SmallResNet(7)
    replace_classifier(model, lambda inputs, outputs: torch.nn.Linear(inputs, outputs, bias=False))
    assert model.head.bias is None
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(("side", "stride"), [(2, 1), (4, 1), (7, 1), (16, 2), (8, 2)])
def test_a_wide_depthwise_convolution_is_the_usual_one(side, stride):
    convolution = torch.nn.Conv2d(6, 6, 5, stride, groups=6, bias=False).double()
    convolution.static_padding = torch.nn.ZeroPad2d((1, 2, 1, 2) if stride == 2 else 2)
    features = torch.rand(3, 6, side, side, dtype=torch.float64, requires_grad=True)
    inputs = (features, convolution.weight)
    usual = convolution(convolution.static_padding(features))
    found = WideDepthwise(convolution)(features)
    torch.testing.assert_close(found, usual)
    weights = torch.rand_like(usual)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(usual, inputs, weights)
    )


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="`lite0` or `small`, but got 'large'"):
        build_model("large", 7)


def test_a_method_is_plain_data():
    assert Method(p=0.5) == Method()
    assert Run("final", "a", Method(), "0", 3).key == "final/a/0/3"


def test_each_run_of_the_plan_has_one_name():
    settings = {}
    for stage, runs in plan.STAGES.items():
        assert len({run.key for run in runs}) == len(runs), stage
        for run in runs:
            assert settings.setdefault(run.key, run.settings) == run.settings
