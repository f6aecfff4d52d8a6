"""The contrastive loss against a slow loop, the queue, and the two-view model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

pytest.importorskip("timm")
from examples.isic2018.contrastive import (
    FeatureQueue,
    ParametricContrastiveLoss,
    TwoViewClassifier,
)


def slow_loss(
    features, logits, labels, queue, queue_labels, counts, temperature, alpha, beta, gamma
):
    """Anchor by anchor and pair by pair, from the formula."""
    counts = [max(1.0, float(n)) for n in counts]
    contrast = [*features, *queue]
    classes = [*labels.tolist(), *queue_labels.tolist()]
    total = 0.0
    for a in range(len(features)):
        centres = [logits[a, k] + math.log(counts[k] / sum(counts)) for k in range(logits.shape[1])]
        denominator = sum(c.exp() for c in centres)
        for j in range(len(contrast)):
            if j != a:
                denominator = denominator + gamma * (features[a] @ contrast[j] / temperature).exp()
        pulled = beta * (centres[classes[a]] - denominator.log())
        weight = beta
        for j in range(len(contrast)):
            if j != a and classes[j] == classes[a]:
                z = features[a] @ contrast[j] / temperature
                pulled = pulled + alpha * (z - denominator.log())
                weight += alpha
        total = total - pulled / weight
    return total / len(features)


def draw(anchors, queue, classes, width, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return (
        F.normalize(torch.randn(anchors, width, dtype=dtype), dim=1).requires_grad_(),
        torch.randn(anchors, classes, dtype=dtype, requires_grad=True),
        torch.randint(classes, (anchors,)),
        F.normalize(torch.randn(queue, width, dtype=dtype), dim=1),
        torch.randint(classes, (queue,)),
    )


@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from([(0.2, 0.05, 1.0, 1.0), (0.5, 1.0, 0.3, 0.4), (1.0, 0.0, 1.0, 0.0)]),
    st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_formula(anchors, queue, classes, settings, seed):
    counts = torch.tensor([0, 3, 100, 7][:classes])
    temperature, alpha, beta, gamma = settings
    loss = ParametricContrastiveLoss(
        counts, temperature=temperature, alpha=alpha, beta=beta, gamma=gamma
    )
    given = draw(anchors, queue, classes, 3, seed)
    found = loss(*given)
    expected = slow_loss(*given, counts, *settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    wanted = torch.autograd.grad(expected, given[:2], allow_unused=True)
    for one, two in zip(torch.autograd.grad(found, given[:2]), wanted, strict=True):
        torch.testing.assert_close(
            one, torch.zeros_like(one) if two is None else two, atol=1e-6, rtol=0
        )


def test_a_batch_of_one_class_and_no_positives_are_fine():
    given = list(draw(4, 3, 3, 5, 0))
    given[2] = torch.ones(4, dtype=torch.int32)
    assert bool(ParametricContrastiveLoss(torch.tensor([5, 0, 2]))(*given).isfinite())
    given[2], given[4] = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1])
    alone = [each[:1] for each in given[:3]] + given[3:]
    loss = ParametricContrastiveLoss(torch.ones(3), beta=0.0)(*alone)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, given[0])[0].any()


def test_no_gradient_flows_into_the_queue():
    given = list(draw(4, 3, 3, 5, 0))
    given[3] = given[3].requires_grad_()
    ParametricContrastiveLoss(torch.ones(3))(*given).backward()
    assert given[3].grad is None
    assert given[0].grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    features, logits, labels, queue, queue_labels = draw(8, 16, 7, 32, 0, torch.float32)
    loss = ParametricContrastiveLoss(torch.tensor([6782, 1088, 483, 289, 1075, 70, 0]))
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(features.to(dtype), (1e3 * logits).to(dtype), labels, queue, queue_labels)
    exact = loss(features.to(dtype), (1e3 * logits).to(dtype), labels, queue, queue_labels)
    assert torch.equal(found, exact)  # the products too are in float32
    assert found.dtype == torch.float32
    assert bool(found.isfinite())
    gradients = torch.autograd.grad(found, (features, logits))
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (2, F.one_hot(torch.arange(4) % 3).float(), TypeError, r"`labels` .*argmax\(1\)"),
        (4, torch.zeros(2), TypeError, r"`queue_labels` to be one class index"),
        (0, torch.zeros(3, 5), ValueError, r"`features` of shape \(4, 5\)"),
        (1, torch.zeros(4, 2), ValueError, r"`logits` of shape \(4, 3\), but got shape \(4, 2\)"),
        (3, torch.zeros(2, 4), ValueError, r"`queue` of shape \(2, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(place, value, error, message):
    given = list(draw(4, 2, 3, 5, 0))
    given[place] = value
    with pytest.raises(error, match=message):
        ParametricContrastiveLoss(torch.ones(3))(*given)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (torch.ones(2, 2), {}, r"`class_counts` of shape \(C,\)"),
        (torch.tensor([-1.0, 2]), {}, "at least 0"),
        (torch.ones(2), {"temperature": 0}, "`temperature` above 0, but got 0"),
        (torch.ones(2), {"gamma": -1}, "`gamma` to be at least 0, but got -1"),
    ],
)
def test_settings_out_of_range_are_refused(counts, options, message):
    with pytest.raises(ValueError, match=message):
        ParametricContrastiveLoss(counts, **options)


class TestQueue:
    def test_the_oldest_go_first(self):
        queue = FeatureQueue(5, 2, 3)
        assert torch.allclose(queue.features.norm(dim=1), torch.ones(5))
        for start in range(0, 8, 2):
            rows = torch.arange(start, start + 2)
            queue.push(rows.float().unsqueeze(1).expand(-1, 2), rows % 3)
        assert sorted(queue.features[:, 0].tolist()) == [3, 4, 5, 6, 7]
        assert torch.equal(queue.labels, queue.features[:, 0].long() % 3)

    def test_more_than_it_holds_and_none_at_all(self):
        queue = FeatureQueue(3, 1, 9)
        queue.push(torch.arange(7.0).unsqueeze(1), torch.arange(7))
        assert sorted(queue.labels.tolist()) == [4, 5, 6]
        empty = FeatureQueue(0, 1, 9)
        empty.push(torch.ones(2, 1), torch.ones(2, dtype=torch.int64))
        assert len(empty.features) == 0

    def test_what_is_not_finite_stays_out(self):
        queue = FeatureQueue(2, 2, 9)
        before = queue.features.clone()
        rows = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
        queue.push(rows, torch.tensor([7, 8]))
        assert torch.equal(queue.features, torch.stack([before[0], rows[1]]))
        assert queue.labels[1] == 8

    def test_it_survives_a_checkpoint(self):
        queue, other = FeatureQueue(5, 2, 3), FeatureQueue(5, 2, 3)
        queue.push(torch.ones(3, 2), torch.ones(3, dtype=torch.int64))
        other.load_state_dict(queue.state_dict())
        for each in (queue, other):
            each.push(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
        assert torch.equal(queue.features, other.features)
        assert torch.equal(queue.labels, other.labels)


def test_two_views_give_logits_and_unit_features():
    import timm

    torch.manual_seed(0)
    classifier = timm.create_model("resnet10t", num_classes=7)
    model = TwoViewClassifier(classifier, width=16, hidden=32)
    logits, features = model(torch.rand(6, 3, 64, 64))
    assert logits.shape == (6, 7)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    model.eval()
    images = torch.rand(6, 3, 64, 64)
    torch.testing.assert_close(model(images)[0], classifier(images))
    first, _ = model.projector(
        classifier.forward_head(classifier.forward_features(images), pre_logits=True)
    ).chunk(2)
    assert not torch.allclose(F.normalize(first, dim=1), model(images)[1][:3])
    assert any(isinstance(m, nn.BatchNorm1d) for m in model.predictor)


def test_a_classifier_without_features_is_refused():
    with pytest.raises(ValueError, match="no features of Linear to contrast"):
        TwoViewClassifier(nn.Linear(2, 7))
