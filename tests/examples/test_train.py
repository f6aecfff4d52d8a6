"""The training example: it trains, resumes exactly, reports, and loses nothing on bad input."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import real_images
import torch
from torch import nn

from examples import quickstart
from examples.isic2018 import checkpoints, files, origin, report, train
from examples.isic2018 import model as model_module
from examples.isic2018.data import CLASSES, DataError, read_records
from examples.isic2018.model import build_model
from examples.isic2018.phantom import draw_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "phantom"
    draw_phantom(root, train_images=90, test_per_class=3, size=(40, 56), progress=False)
    return root


@pytest.fixture
def settings(phantom, tmp_path):
    return train.Settings(
        data=str(phantom),
        out=str(tmp_path / "run"),
        hold_out="test",
        image_size=32,
        batch_size=32,
        epochs=3,
        workers=0,
        device="cpu",
    )


TINY = {
    "model": "tiny_hybrid_vit",
    "mix": "spmix_tokens",
    "loss": "contrastive",
    "queue_size": 48,
    "feature_width": 16,
    "hidden_width": 32,
}


def parameters(settings):
    return checkpoints.load(checkpoint_of(settings))["model"]


def checkpoint_of(settings):
    path, broken = checkpoints.find(Path(settings.out))
    assert not broken
    return path


def test_a_run_leaves_settings_metrics_predictions_and_checkpoint(settings, tmp_path):
    train.Trainer(settings).run()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "settings.json",
        "metrics.jsonl",
        "predictions.csv",
        "class_counts.json",
        "origin.json",
        *(path.name for path in (tmp_path / "run").glob("checkpoint-0000[23]-*.pt")),
    }
    assert len(names) == 7
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert set(rows[0]["recall"]) == set(CLASSES)
    lines = (tmp_path / "run/predictions.csv").read_text().splitlines()
    assert lines[0] == "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC,label"
    assert len(lines) == 1 + 7 * 3
    loaded, model = train.load_model(tmp_path / "run")
    assert loaded == settings
    assert not model.training


@pytest.mark.parametrize(
    "options",
    [
        {"mix": "spmix"},
        {"mix": "spmix", "workers": 2},
        pytest.param({**TINY, "accumulate": 2}, marks=pytest.mark.slow),
        pytest.param(
            {"precision": "float16", "learning_rate": 1e-4}, marks=pytest.mark.slow
        ),  # which CPUs are slow at
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_to_the_same_parameters(settings, tmp_path, monkeypatch, options):
    settings = replace(settings, **options)
    whole = replace(settings, out=str(tmp_path / "whole"))
    train.Trainer(whole).run()

    stopped = replace(settings, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        real = train.Trainer._train_epoch

        def stop_in_the_second(self, epoch):
            if epoch == 1:
                self._step(next(self.batches.epoch(epoch)))
                raise KeyboardInterrupt("power cut")
            return real(self, epoch)

        patch.setattr(train.Trainer, "_train_epoch", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt, match="power cut"):
            train.Trainer(stopped).run()
    torch.rand(3)  # the state of the global stream must not matter
    resumed = train.Trainer(stopped)
    assert len(resumed.history) == 1
    resumed.run()
    expected, found = parameters(whole), parameters(stopped)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.scaler.state_dict() == train.Trainer(whole).scaler.state_dict()


def test_seeds_differ_and_repeat(settings, tmp_path):
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = replace(settings, out=str(tmp_path / name), seed=seed, epochs=1)
        train.Trainer(run).run()
        results.append(parameters(run)["0.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_finished_run_is_left_as_it_is(settings, tmp_path):
    train.Trainer(replace(settings, epochs=1)).run()
    path = checkpoint_of(settings)
    before = path.read_bytes(), path.stat().st_mtime_ns
    train.Trainer(replace(settings, epochs=1, workers=1)).run()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_other_settings_do_not_go_on_with_a_run(settings):
    train.Trainer(replace(settings, epochs=1)).run()
    with pytest.raises(ValueError, match=r"of a run with epochs=1, alpha=0.8; .* another --out"):
        train.Trainer(replace(settings, alpha=0.7))


@pytest.mark.parametrize(
    "options",
    [
        {"saliency": "input_gradient"},
        {"saliency": "grad_cam", "target": "ratio"},
        {"saliency": "fine_grained", "pairing": "any", "jitter": 0.1},
        {"sampler": "instance", "mix": "none", "hold_out": "2"},
        {"model": "resnet10t", "p": 1.0},
        {"saliency": "border_contrast", "saliency_of": "image"},
        {"sampler": "instance", "pairing": "second_batch"},
        {"model": "tiny_hybrid_vit", "mix": "spmix_tokens", "precision": "bfloat16"},
        {**TINY, "mix": "spmix"},
        pytest.param({**TINY, "mix": "none", "precision": "bfloat16"}, marks=pytest.mark.slow),
        {**TINY, "sampler": "instance", "pairing": "second_batch", "saliency_of": "image"},
    ],
    ids=str,
)
def test_options(settings, options):
    run = train.Trainer(replace(settings, **{"p": 1.0, "epochs": 1, **options}))
    run.run()
    # Contrast is with many features besides the classes, at similarities of up to 1 / 0.2.
    assert 0 < run.history[0]["loss"] < (5 if run.settings.loss == "cross_entropy" else 10)


def test_every_sampler_takes_the_same_steps(settings):
    for sampler in ("pair", "instance"):
        batches = train.make_batches(replace(settings, sampler=sampler))
        assert len(list(batches.epoch(0))) == batches.steps == 4


def test_parts_of_a_batch_add_up_to_its_mean(settings, monkeypatch):
    """Without batch norm and pairing, parts give the gradients of the whole batch."""
    monkeypatch.setattr(
        train,
        "build_model",
        lambda *_, **__: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7)),
    )
    options = {"mix": "none", "sampler": "instance", "learning_rate": 1e-3, "warmup_epochs": 0}
    run = train.Trainer(replace(settings, **options))
    views, maps, labels = next(run.batches.epoch(0))[0]
    found = []
    for number in (1, 4):
        torch.manual_seed(0)
        run.model[1].reset_parameters()
        chunks = zip(views[0].chunk(number), labels.chunk(number), strict=True)
        run._step([([images], maps, classes) for images, classes in chunks])
        found.append(run.model[1].weight.grad.clone())
    torch.testing.assert_close(found[0], found[1])


def test_the_queue_takes_the_features_of_the_second_view(settings):
    run = train.Trainer(replace(settings, **TINY))
    seen = []
    run.network.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    ((views, maps, labels),) = next(run.batches.epoch(0))
    run._step([(views, maps, labels)])
    keys = seen[0].detach().chunk(2)[1]
    assert torch.equal(run.queue.features[: len(keys)], keys)
    assert torch.equal(run.queue.labels[: len(keys)], labels)


def test_a_loss_that_is_no_number_ends_the_run(settings, monkeypatch):
    monkeypatch.setattr(train.Trainer, "_step", lambda self, parts: torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="the loss of epoch 1 is nan; lower"):
        train.Trainer(settings).run()


class TestAuthorsProtocol:
    @pytest.fixture
    def lists(self, phantom):
        """Lists like the papers': other parts, and files that the folder lacks."""
        records = read_records(phantom)
        folder = phantom / "splits" / "authors"
        folder.mkdir(parents=True, exist_ok=True)
        by_class = {record.label: record for record in records}
        test = [by_class[label] for label in sorted(by_class)]
        for name, part in (("test", test), ("train", [r for r in records if r not in test])):
            lines = [f"{name}/{r.label}/{r.image}.jpg {r.label}" for r in part]
            (folder / f"{name}.txt").write_text("\n".join([*lines, "val/1/ISIC_9.jpg 1", ""]))
        yield folder
        for file in folder.iterdir():
            file.unlink()

    def test_it_warns_beside_every_result(self, settings, lists, tmp_path, capsys):
        run = train.Trainer(replace(settings, protocol="authors", epochs=1))
        held = run.batches.held_records
        trained = {r.lesion for r in run.batches.train.dataset.images.records}
        shared = sum(record.lesion in trained for record in held)
        assert len(held) == 7
        assert shared > 0
        run.run()
        warning = f"{shared} of the 7 held-out images show a lesion that is trained on"
        assert warning in capsys.readouterr().err
        assert warning in run.history[0]["warning"]
        table = report.write_report([tmp_path / "run"], tmp_path / "report")
        assert warning in table
        assert warning in (tmp_path / "report/report.md").read_text()

    def test_lists_that_make_no_sense_are_refused(self, settings, lists):
        settings = replace(settings, protocol="authors")
        path = lists / "test.txt"
        text = path.read_text()
        for broken, message in (
            ("what is this", r"test\.txt:1: expected a path and a class index"),
            ("0" * 10**6, r"test\.txt:1: expected a path and a class index"),  # takes no minutes
            (text.replace(".jpg 0", ".jpg 1"), r"test\.txt:1: class 1, but the ground truth has 0"),
            ("\n".join(text.splitlines()[1:]), r"no image of class MEL"),
        ):
            path.write_text(broken)
            with pytest.raises(DataError, match=message):
                train.split(settings)
        path.write_bytes(text.encode() + b"\n\xff")
        with pytest.raises(DataError, match=r"test\.txt:\d+: not UTF-8 text"):
            train.split(settings)
        path.unlink()
        with pytest.raises(DataError, match=r"test\.txt: cannot be read .*protocol needs it"):
            train.split(settings)

    def test_images_of_the_validation_part_are_found(self, settings, phantom, lists, tmp_path):
        """The lists name validation images too, which need no groupings."""
        root = tmp_path / "both"
        shutil.copytree(phantom, root)
        name = "ISIC2018_Task3_Validation_"
        source = next((phantom / "ISIC2018_Task3_Training_Input").iterdir())
        (root / f"{name}Input").mkdir()
        shutil.copy(source, root / f"{name}Input" / "ISIC_9.jpg")
        table = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_9,0.0,1.0,0.0,0.0,0.0,0.0,0.0\n"
        (root / f"{name}GroundTruth.csv").write_text(table)
        settings = replace(settings, protocol="authors")
        before = [len(part) for part in train.split(settings)[:2]]
        *parts, warning, _ = train.split(replace(settings, data=str(root)))
        assert [len(part) for part in parts] == [number + 1 for number in before]
        assert "8 of the 8 listed test images" in warning

    def test_an_unknown_leak_is_refused(self, settings, phantom, lists, tmp_path):
        root = tmp_path / "ungrouped"
        shutil.copytree(phantom, root)
        for file in root.rglob("*LesionGroupings.csv"):
            file.unlink()
        with pytest.raises(DataError, match="no lesion groupings, without which the leak"):
            train.split(replace(settings, protocol="authors", data=str(root)))

    def test_a_split_by_lesion_needs_no_warning(self, settings):
        assert train.make_batches(settings).warning is None


def test_the_command_line_reads_every_setting():
    given = train.parse(
        ["--data", "d", "--out", "o", "--alpha", "0.7", "--epochs", "3", "--pretrained"]
    )
    assert given == train.Settings(data="d", out="o", alpha=0.7, epochs=3, pretrained=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: nowhere: no such folder"),
        (["--hold-out", "7"], "error: .*'7'.*0, 1, 2, 3, 4, test"),
        (["--split-file", "none.csv"], "error: none.csv: cannot be read"),
        (["--model", "resnet_none"], "error: no model `resnet_none`"),
        (["--device", "abacus"], "error: no device `abacus` here .*; choose auto or cpu"),
        (["--pretrained"], "error: `small_cnn` has no pretrained weights"),
        (["--patch-size", "0"], "error: Expected `patch_size` to be at least 1"),
    ],
)
def test_bad_input_ends_with_its_message_and_writes_nothing(phantom, tmp_path, arguments, message):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=message):
        train.main(["--data", str(phantom), "--out", str(out), *arguments])
    assert not out.exists()


def test_a_run_says_what_it_does_and_what_is_wrong_without_a_traceback(phantom, tmp_path, capsys):
    root = tmp_path / "phantom"
    shutil.copytree(phantom, root)
    broken = sorted(root.glob("**/*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:300])
    arguments = ["--data", str(root), "--out", str(tmp_path / "run"), "--hold-out", "test"]
    options = ["--epochs", "1", "--image-size", "32", "--batch-size", "32", "--device", "cpu"]
    with pytest.raises(SystemExit, match=rf"^error: \S*{broken.name}: cannot be read[^\n]*$"):
        train.main([*arguments, *options, "--workers", "1"])
    told = capsys.readouterr().err
    assert "100 images of 7 classes to train on, 21 held out" in told
    assert "epochs: 1, each of 4 steps of 32 images" in told
    assert f"report {tmp_path / 'run'} --out report" in told


def test_a_broken_image_loses_nothing_that_was_saved(settings, tmp_path, phantom, monkeypatch):
    train.Trainer(replace(settings, epochs=1)).run()
    # a later epoch meets a file that broke meanwhile
    saved = checkpoints.load(checkpoint_of(settings))
    saved["settings"]["epochs"] = 2
    checkpoints.save(Path(settings.out), 1, saved)
    run = train.Trainer(replace(settings, epochs=2))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(run.batches.held_records[0].path.read_bytes()[:200])
    records = run.batches.train.dataset.images.records
    records[:] = [replace(record, path=broken) for record in records]
    with pytest.raises(ValueError, match=r"broken\.jpg: cannot be read as an image"):
        run.run()
    assert len(checkpoints.load(checkpoint_of(settings))["history"]) == 1


class TestOrigin:
    """A run tells by what it was made."""

    def test_every_start_by_other_code_is_told(self, settings, monkeypatch):
        def start(epochs, commit):
            saved, _ = checkpoints.find(Path(settings.out))
            if saved is not None:  # as if the run had been stopped, not planned shorter
                state = checkpoints.load(saved)
                state["settings"]["epochs"] = epochs
                checkpoints.save(Path(settings.out), len(state["history"]), state)
            monkeypatch.setattr(train, "commit", lambda: commit)
            train.Trainer(replace(settings, epochs=epochs)).run()
            return json.loads((Path(settings.out) / "origin.json").read_text())

        (only,) = start(1, "a")
        assert only["commit"] == "a"
        assert (only["torch"], only["device"], only["ranks"]) == (torch.__version__, "cpu", 1)
        assert [entry["commit"] for entry in start(2, "a")] == ["a"]
        assert [entry["commit"] for entry in start(3, "b")] == ["a", "b"]
        (Path(settings.out) / "origin.json").unlink()
        assert [entry["commit"] for entry in start(4, "c")] == ["unknown", "c"]

    @pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
    def test_the_commit_is_that_of_this_code_or_unknown(self, tmp_path, monkeypatch):
        def git(*arguments):
            command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
            return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

        code = tmp_path / "origin.py"
        code.write_text("")
        monkeypatch.setattr(origin, "__file__", str(code))
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert origin.commit() == "unknown"  # no repository
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "of something else")
        assert origin.commit() == "unknown"
        git("add", ".")
        git("commit", "-q", "-m", "ours")
        head = git("rev-parse", "--short=7", "HEAD").stdout.strip()
        assert origin.commit() == head
        code.write_text("changed")
        assert origin.commit() == f"{head}+"
        monkeypatch.setenv("PATH", str(tmp_path))  # no git
        assert origin.commit() == "unknown"


class TestReport:
    @pytest.fixture
    def runs(self, settings, tmp_path):
        folders = []
        for name, mix in (("baseline", "none"), ("mixed", "spmix")):
            run = replace(settings, out=str(tmp_path / name), mix=mix, epochs=2)
            train.Trainer(run).run()
            folders.append(tmp_path / name)
        return folders

    def test_it_writes_tables_and_figures(self, runs, tmp_path, capsys):
        report.main([*map(str, runs), "--out", str(tmp_path / "report")])
        out = tmp_path / "report"
        names = {path.name for path in out.iterdir()}
        assert names == {
            "report.html",
            "report.md",
            "report.json",
            "recall.png",
            "tradeoff.png",
            "confusion.png",
            "curves.png",
            "mixes.png",
        }
        assert all(path.stat().st_size > 200 for path in out.iterdir())
        printed = capsys.readouterr().out
        assert "| baseline |" in printed
        assert printed.strip() in (out / "report.md").read_text()

    def test_its_numbers_are_those_of_scikit_learn(self, runs, tmp_path):
        metrics = pytest.importorskip("sklearn.metrics")
        report.write_report(runs, tmp_path / "report")
        found = json.loads((tmp_path / "report/report.json").read_text())["mixed"]
        run = report.read_run(runs[1])
        labels = run.labels.numpy()
        probabilities = run.probabilities.double().numpy()
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        predicted = probabilities.argmax(axis=1)
        assert found["balanced_accuracy"] == pytest.approx(
            metrics.balanced_accuracy_score(labels, predicted), abs=1e-6
        )
        assert found["macro_f1"] == pytest.approx(
            metrics.f1_score(labels, predicted, average="macro"), abs=1e-6
        )
        auroc = metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
        # In float32 two images may tie that do not in float64: half a pair of a class.
        assert found["auroc"] == pytest.approx(auroc, abs=5e-3)
        assert found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
        recall = [found["recall"][name] for name in CLASSES]
        assert found["shots"] == {
            "many": pytest.approx(recall[1], abs=1e-6),
            "medium": None,
            "few": pytest.approx((sum(recall) - recall[1]) / 6, abs=1e-6),
        }

    def test_runs_that_do_not_compare_are_refused(self, runs, settings, tmp_path):
        other = replace(settings, out=str(tmp_path / "other"), hold_out="1", epochs=1)
        train.Trainer(other).run()
        with pytest.raises(ValueError, match="predict different images"):
            report.write_report([runs[0], tmp_path / "other"], tmp_path / "report")
        with pytest.raises(ValueError, match="runs of different names"):
            report.write_report([runs[0], runs[0]], tmp_path / "report")
        with pytest.raises(SystemExit, match=r"error: .*predictions\.csv: .*finish this run first"):
            report.main([str(tmp_path), "--out", str(tmp_path / "report")])
        assert not (tmp_path / "report").exists()


def test_the_real_lists_leak_as_stated():
    if not real_images.ROOT.is_dir():
        pytest.skip("needs the papers' lists and the ISIC 2018 images beside the checkout")
    root = str(real_images.ROOT)
    settings = train.Settings(data=root, out="unused", protocol="authors", hold_out="test")
    _, held, warning, _ = train.split(settings)
    assert len(held) == 267
    assert warning.startswith("122 of the 267 held-out")
    assert "267 of the 322 listed test images" in warning


class TestPapersHybrid:
    def test_it_is_the_papers(self):
        model = build_model("vit_small_resnet50d_s16_224", 7, image_size=224)
        assert model.patch_embed(torch.rand(1, 3, 224, 224)).shape == (1, 196, 768)
        assert len(model.blocks) == 8
        assert model.blocks[0].attn.num_heads == 8
        assert model.blocks[0].mlp.fc1.out_features == 3 * 768

    def test_its_stages_get_the_weights_there_are(self, monkeypatch):
        asked, real = [], model_module.timm.create_model

        def create(name, pretrained=False, **options):
            asked.append((name, pretrained))
            return real(name, **options)

        monkeypatch.setattr(model_module.timm, "create_model", create)
        sources = []
        monkeypatch.setattr(
            model_module,
            "_pretrained",
            lambda name, load: sources.append(load(pretrained=True)) or sources[-1],
        )
        model = build_model("vit_small_resnet50d_s16_224", 7, pretrained=True, image_size=64)
        assert ("resnet50d", True) in asked
        for name, value in sources[0].state_dict().items():
            assert torch.equal(model.patch_embed.backbone.state_dict()[name], value)
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7)

    @pytest.mark.parametrize("error", [OSError("no route\nat all"), RuntimeError()])
    def test_missing_weights_are_an_error_with_a_way_out(self, monkeypatch, error):
        real = model_module.timm.create_model

        def create(name, pretrained=False, **options):
            if pretrained:
                raise error
            return real(name, **options)

        monkeypatch.setattr(model_module.timm, "create_model", create)
        for name in ("vit_small_resnet50d_s16_224", "resnet50"):
            with pytest.raises(ValueError, match=rf"weights for `{name}` \((no route|Run)"):
                build_model(name, 7, pretrained=True)


def test_models():
    logits = build_model("small_cnn", 7).eval()(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    assert build_model("resnet10t", 5).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5)


class TestFiles:
    def test_a_file_that_fails_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "new/folder/file.json"
        files.write_json(path, {"a": 1})

        def fail(temporary):
            temporary.write_text("half")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            files.write_whole(path, fail)
        assert json.loads(path.read_text()) == {"a": 1}
        assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_the_quickstart_runs(capsys):
    quickstart.main()
    assert "recall of each class" in capsys.readouterr().out
