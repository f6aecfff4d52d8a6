"""Training on two ranks of this machine's CPU, by gloo."""

import itertools
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
from torch import distributed as dist
from torch import multiprocessing as mp

from examples.isic2018 import train
from examples.isic2018.contrastive import FeatureQueue
from examples.isic2018.distributed import Ranks
from examples.isic2018.phantom import draw_phantom


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


def join_ranks(rank, port):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)


def on_two_ranks(work, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, *arguments), nprocs=2)


def train_on(rank, port, settings, dies_in):
    """Train; leave this rank's parameters, buffers, queue and drawn samples behind."""
    join_ranks(rank, port)
    run = train.Trainer(settings)
    if dies_in is not None and rank == 1:
        # After a step of the next epoch, which the first rank takes once it has saved.
        real, steps = run._step, []

        def die(parts):
            loss = real(parts)
            steps.append(loss)
            if len(steps) > dies_in * run.batches.steps:
                raise RuntimeError("rank 1 lost its power")
            return loss

        run._step = die
    sampler = run.batches.train.batch_sampler
    drawn = list(itertools.islice(sampler, run.batches.steps * settings.accumulate))
    run.run()
    state = {
        "parameters": [p.detach() for p in run.trained.parameters()],
        "queue": run.queue.state_dict(),
        "drawn": drawn,
        "history": run.history,
        "images": len(run.batches.train.dataset),
    }
    torch.save(state, Path(settings.out) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree_and_share_the_work(settings):
    on_two_ranks(train_on, settings, None)
    out = Path(settings.out)
    first, second = (torch.load(out / f"rank{r}.pt", weights_only=False) for r in range(2))
    for one, two in zip(first["parameters"], second["parameters"], strict=True):
        assert torch.equal(one, two)
    for name in first["queue"]:
        assert torch.equal(first["queue"][name], second["queue"][name])
    assert first["history"][-1]["loss"] == second["history"][-1]["loss"]
    half = settings.batch_size // settings.accumulate
    passed = [i for state in (first, second) for batch in state["drawn"] for i in batch[:half]]
    # Of each part, the first half is from the pass; the last is filled with balanced draws.
    images = first["images"]
    counts = torch.bincount(torch.tensor(passed), minlength=images)
    assert bool((counts >= 1).all())
    assert int(counts.sum()) - images < 2 * half
    assert len(list((out / "saliency").glob("fine_grained_*/*.png"))) == images

    found = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    alone = train.Trainer(replace(settings, out=str(out / "alone"), epochs=3))
    _, alone.model = train.load_model(out)
    probabilities, labels = alone._predict()
    expected = train.measure(probabilities, labels, alone.batches.counts)
    assert found["balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
    assert found["auroc"] == pytest.approx(expected["auroc"], abs=1e-5)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_the_checkpoint_whole(settings):
    with pytest.raises(mp.ProcessRaisedException, match="terminated with the following error"):
        on_two_ranks(train_on, settings, 1)
    saved = torch.load(f"{settings.out}/checkpoint.pt", weights_only=True)
    assert [row["epoch"] for row in saved["history"]] == [0]
    with pytest.raises(ValueError, match="of a run with ranks=2"):
        train.Trainer(settings)
    on_two_ranks(train_on, settings, None)
    resumed = torch.load(f"{settings.out}/rank0.pt", weights_only=False)
    whole = replace(settings, out=settings.out + "_whole")
    on_two_ranks(train_on, whole, None)
    expected = torch.load(f"{whole.out}/rank0.pt", weights_only=False)
    for one, two in zip(resumed["parameters"], expected["parameters"], strict=True):
        assert torch.equal(one, two)


def collect_on(rank, port, out):
    join_ranks(rank, port)
    dist.init_process_group("gloo")
    ranks = Ranks(rank, 2)
    rows = torch.arange(7.0).unsqueeze(1)
    collected = ranks.collect(torch.stack(ranks.share(list(rows))), 7)
    model = torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(rank)
    ranks.agree(model)
    torch.manual_seed(0)
    queue = FeatureQueue(4, 1, 9)
    queue.push(torch.full((1, 1), float(rank)), torch.tensor([rank]))
    mean = ranks.mean(torch.tensor(float(rank)))
    torch.save((collected, model.running_mean, queue.labels, mean), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_what_ranks_share_comes_together(tmp_path):
    on_two_ranks(collect_on, str(tmp_path))
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
