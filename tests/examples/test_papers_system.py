"""The papers' heads, and the prior of a loss whose batches are part class-balanced."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from examples.isic2018 import train
from examples.isic2018.contrastive import TwoViewClassifier, mlp
from examples.isic2018.settings import Settings
from spmix_aug import TailHeadPairSampler

COUNTS = torch.tensor([133, 804, 62, 39, 132, 14, 17])


def test_heads_end_in_batch_norm_without_scale_and_shift():
    import timm

    model = TwoViewClassifier(timm.create_model("resnet10t", num_classes=7), width=16, hidden=32)
    for head, linears in ((model.projector, 3), (model.predictor, 2)):
        assert sum(isinstance(layer, nn.Linear) for layer in head) == linears
        assert isinstance(head[-1], nn.BatchNorm1d)
        assert not list(head[-1].parameters())
        assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))
        assert sum(isinstance(layer, nn.ReLU) for layer in head) == linears - 1


def test_features_of_a_batch_have_mean_0_and_variance_1():
    torch.manual_seed(0)
    features = mlp(8, 16, 4)(3 + torch.rand(64, 8))
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(dim=0, correction=0), torch.ones(4), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "fraction", "gamma"),
    [
        ({}, 0.5, 1.0),
        ({"tail_fraction": 0.25, "gamma": 0.5}, 0.25, 0.5),
        ({"tail_fraction": 1.0}, 1.0, 1.0),
    ],
)
def test_the_prior_is_how_often_classes_are_drawn(options, fraction, gamma):
    """The sampler itself is the reference: its draws over some epochs."""
    settings = Settings(data="d", out="o", **options)
    labels = torch.arange(7).repeat_interleave(COUNTS)
    sampler = TailHeadPairSampler(labels, 64, tail_fraction=fraction, gamma=gamma)
    drawn = Counter()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        drawn.update(labels[[index for batch in sampler for index in batch]].tolist())
    share = torch.tensor([drawn[k] for k in range(7)]) / drawn.total()
    found = train.drawn_counts(COUNTS, settings)
    assert float(found.sum()) == pytest.approx(int(COUNTS.sum()))
    torch.testing.assert_close((found / found.sum()).float(), share, rtol=0.06, atol=0.002)


@pytest.mark.parametrize(
    "options", [{"sampler": "instance"}, {"sampler": "instance", "pairing": "second_batch"}]
)
def test_batches_as_the_data_have_the_prior_of_the_data(options):
    settings = Settings(data="d", out="o", **options)
    torch.testing.assert_close(train.drawn_counts(COUNTS, settings), COUNTS.double())


def test_classes_without_images_are_never_drawn():
    found = train.drawn_counts(torch.tensor([30, 0, 10]), Settings(data="d", out="o"))
    assert found.tolist() == [25.0, 0.0, 15.0]


def test_the_trainer_takes_that_prior(tmp_path):
    from examples.isic2018.phantom import draw_phantom

    data = tmp_path / "data"
    draw_phantom(data, train_images=40, test_per_class=1, size=(40, 56), progress=False)
    settings = Settings(
        data=str(data),
        out=str(tmp_path / "run"),
        hold_out="test",
        model="tiny_hybrid_vit",
        loss="contrastive",
        queue_size=8,
        feature_width=8,
        hidden_width=16,
        image_size=32,
        batch_size=8,
        workers=0,
        device="cpu",
    )
    trainer = train.Trainer(settings)
    counts = trainer.batches.counts
    expected = 0.5 * counts / counts.sum() + 0.5 / 7
    torch.testing.assert_close(
        trainer.contrast.log_prior.float(), expected.log(), atol=1e-5, rtol=0
    )
    assert math.isfinite(trainer._train_epoch(0))
