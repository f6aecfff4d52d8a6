"""Training on two ranks of this machine's CPU, by gloo."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")

from examples.isic2018 import checkpoints, train
from examples.isic2018.contrastive import FeatureQueue
from examples.isic2018.data import CLASSES
from examples.isic2018.distributed import Ranks
from examples.isic2018.phantom import draw_phantom

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks") / "phantom"
    draw_phantom(root, train_images=61, test_per_class=1, size=(40, 56), progress=False)
    return root


@pytest.fixture
def settings(phantom, tmp_path):
    return train.Settings(
        data=str(phantom),
        out=str(tmp_path / "run"),
        hold_out="test",
        model="tiny_hybrid_vit",
        image_size=32,
        batch_size=8,
        accumulate=2,
        epochs=2,
        workers=0,
        device="cpu",
        sampler="instance",
        pairing="second_batch",
        mix="spmix_tokens",
        saliency="fine_grained",
        saliency_of="image",
        p=1.0,
        loss="contrastive",
        queue_size=24,
        feature_width=8,
        hidden_width=16,
    )


def torchrun(*command):
    """Start two ranks as users do, and return what came of them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train_on_two_ranks(settings, *steps):
    """Train, and return the launcher's result and what the ranks left behind."""
    out = Path(settings.out)
    file = out.with_suffix(".json")
    file.write_text(json.dumps(asdict(settings)))
    result = torchrun("tests/examples/ranks.py", "train", str(file), *steps)
    if result.returncode != 0:
        return result, []
    return result, [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_ranks_agree_and_share_the_work(settings):
    result, ranks = train_on_two_ranks(settings)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = ranks
    for one, two in zip(first["parameters"], second["parameters"], strict=True):
        assert torch.equal(one, two)
    for name in first["queue"]:
        assert torch.equal(first["queue"][name], second["queue"][name])
    assert first["history"][-1]["loss"] == second["history"][-1]["loss"]

    # Of each part, the first half is from the pass; the last is filled with balanced draws.
    part, images = settings.batch_size // settings.accumulate, first["images"]
    drawn = torch.tensor([state["drawn"] for state in ranks])  # (ranks, both epochs' samples)
    for epoch in drawn.reshape(2, 2, -1, 2 * part).unbind(1):
        counts = torch.bincount(epoch[:, :, :part].flatten(), minlength=images)
        assert bool((counts >= 1).all())
        assert int(counts.sum()) - images < 2 * settings.batch_size
    out = Path(settings.out)
    assert len(list((out / "saliency").glob("fine_grained_*/*.png"))) == images

    found = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    with (out / "predictions.csv").open() as file:
        predicted = [[float(row[name]) for name in CLASSES] for row in csv.DictReader(file)]
    alone = train.Trainer(replace(settings, out=str(out / "alone"), epochs=3))
    _, alone.model = train.load_model(out)
    probabilities, labels = alone._predict()
    expected = train.measure(probabilities, labels, alone.batches.counts)
    assert found["balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
    assert found["auroc"] == pytest.approx(expected["auroc"], abs=1e-5)
    torch.testing.assert_close(torch.tensor(predicted), probabilities, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_the_checkpoint_whole(settings):
    settings = replace(settings, epochs=3)
    whole = replace(settings, out=settings.out + "_whole")
    result, expected = train_on_two_ranks(whole)
    assert result.returncode == 0, result.stderr[-3000:]
    steps = len(expected[0]["drawn"]) // (settings.epochs * 2 * settings.batch_size)
    result, _ = train_on_two_ranks(settings, str(2 * steps + 1))
    assert result.returncode != 0
    assert "Signal 9 (SIGKILL)" in result.stderr
    # The second epoch's may have been begun when the other rank went.
    saved = checkpoints.load(checkpoints.find(Path(settings.out))[0])
    assert len(saved["history"]) in (1, 2)
    with pytest.raises(ValueError, match="of a run with ranks=2"):
        train.Trainer(settings)
    result, resumed = train_on_two_ranks(settings)
    assert result.returncode == 0, result.stderr[-3000:]
    for one, two in zip(resumed[0]["parameters"], expected[0]["parameters"], strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_the_command_of_the_readme_trains_and_its_errors_end_it(phantom, tmp_path):
    out = tmp_path / "run"
    command = ["-m", "examples.isic2018.train", "--recipe", "tiny", "--data", str(phantom)]
    options = ["--hold-out", "test", "--epochs", "1", "--image-size", "32", "--batch-size", "8"]
    options += ["--workers", "0", "--queue-size", "32"]
    result = torchrun(*command, *options, "--out", str(out))
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr.count("epoch 1/1: loss") == 1
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    result = torchrun(*command, *options, "--out", str(tmp_path / "other"), "--hold-out", "9")
    assert result.returncode != 0
    assert "error: " in result.stderr


@pytest.mark.slow
def test_what_ranks_share_comes_together(tmp_path):
    result = torchrun("tests/examples/ranks.py", "collect", str(tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    torch.manual_seed(0)
    before = FeatureQueue(4, 1, 9).labels
    for rank in range(2):
        collected, running_mean, labels, mean = torch.load(tmp_path / f"{rank}.pt")
        assert collected.flatten().tolist() == list(range(7))
        assert running_mean.item() == 0
        assert labels.tolist() == [0, 1, *before.tolist()[2:]]
        assert mean.item() == 0.5


def test_one_rank_needs_no_process_group():
    ranks = Ranks()
    values = torch.arange(3.0)
    assert ranks.collect(values, 3) is values
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    assert ranks.mean(torch.tensor(2.0)).item() == 2
    assert train.start_ranks(torch.device("cpu")) == (ranks, torch.device("cpu"))
