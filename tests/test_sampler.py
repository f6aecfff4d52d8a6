"""The pair sampler: each sample once an epoch, balanced shares, ranks that agree."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from spmix_aug import TailHeadPairSampler, class_counts, head_tail_split

LABELS = [0] * 60 + [1] * 25 + [3] * 5  # class 2 has no sample


def parts(sampler):
    """All indices of the instance-balanced places and of the balanced places."""
    passing = sampler.batch_size - sampler.num_balanced
    batches = list(sampler)
    return [i for b in batches for i in b[:passing]], [i for b in batches for i in b[passing:]]


@given(
    samples=st.integers(1, 50),
    batch_size=st.integers(1, 9),
    tail_fraction=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    num_replicas=st.integers(1, 4),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_ranks_agree_and_every_sample_passes_once(
    samples, batch_size, tail_fraction, num_replicas, drop_last, epoch
):
    labels = [i % 3 for i in range(samples)]
    ranks = []
    for rank in range(num_replicas):
        sampler = TailHeadPairSampler(
            labels,
            batch_size,
            tail_fraction=tail_fraction,
            num_replicas=num_replicas,
            rank=rank,
            drop_last=drop_last,
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) == batch_size for batch in batches)
        assert all(0 <= index < samples for batch in batches for index in batch)
        ranks.append((sampler, batches))
    assert len({len(batches) for _, batches in ranks}) == 1
    balanced = round(batch_size * tail_fraction)
    if balanced == batch_size:
        return
    passed = []
    for sampler, batches in ranks:
        own = list(sampler.sampler)
        assert len(own) == len(sampler.sampler)
        assert all(type(index) is int for index in own)
        flat = [i for batch in batches for i in batch[: batch_size - balanced]]
        own = own[: len(flat)]
        assert flat[: len(own)] == own
        passed += own
    assert len(set(passed)) == len(passed)
    if not drop_last:
        assert sorted(passed) == list(range(samples))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_balanced_places_follow_the_weights(gamma):
    sampler = TailHeadPairSampler(LABELS, 50, tail_fraction=1.0, gamma=gamma)
    drawn = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn += parts(sampler)[1]
    counts = torch.bincount(torch.tensor(LABELS)).double()
    weights = np.array([float(counts[label]) ** -gamma for label in LABELS])
    seen = np.bincount(drawn, minlength=len(LABELS))
    expected = weights / weights.sum() * len(drawn)
    assert chisquare(seen, expected).pvalue > 1e-4


def test_half_of_each_batch_is_balanced_by_default():
    sampler = TailHeadPairSampler(LABELS, 10)
    assert sampler.num_balanced == 5
    passing, balanced = parts(sampler)
    assert sorted(passing) == list(range(90))
    shares = np.bincount([LABELS[i] for i in balanced], minlength=4) / len(balanced)
    assert shares[2] == 0
    assert np.all(abs(shares[[0, 1, 3]] - 1 / 3) < 0.2)


def test_epochs_seeds_and_ranks_draw_differently():
    def batches(epoch=0, **kwargs):
        sampler = TailHeadPairSampler(LABELS, 10, **kwargs)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches() == batches()
    ranks = {"num_replicas": 2}
    runs = [
        batches(),
        batches(epoch=1),
        batches(seed=1),
        batches(seed=1, epoch=1),
        batches(seed=2**40),
        batches(rank=0, **ranks),
        batches(rank=1, **ranks),
    ]
    assert len({str(run) for run in runs}) == len(runs)
    balanced = [[batch[5:] for batch in run] for run in runs[-2:]]
    assert balanced[0] != balanced[1]


def test_runs_of_an_earlier_version_can_be_repeated():
    sampler = TailHeadPairSampler(LABELS, 10, seed=2**40).sampler
    sampler.set_epoch(5)
    expected = 3075567101
    assert sampler.generator_of(1, 3).initial_seed() == expected


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_no_two_draws_share_a_stream(rank, monkeypatch):
    sampler = TailHeadPairSampler(LABELS, 10, num_replicas=3, rank=rank)
    seen, generator = [], sampler.sampler.generator_of
    monkeypatch.setattr(
        sampler.sampler, "generator_of", lambda *stream: seen.append(stream) or generator(*stream)
    )
    list(sampler)
    assert seen == [(0,), (1, rank)]


def test_the_global_stream_is_untouched():
    before = torch.get_rng_state()
    list(TailHeadPairSampler(LABELS, 10))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataloader_takes_it():
    dataset = TensorDataset(torch.arange(90), torch.tensor(LABELS))
    sampler = TailHeadPairSampler(LABELS, 16)
    loader = DataLoader(dataset, batch_sampler=sampler)
    assert len(loader) == len(sampler) == 12
    assert [len(images) for images, _ in loader] == [16] * 12
    assert isinstance(sampler, BatchSampler)
    assert (sampler.batch_size, sampler.drop_last) == (16, False)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (None, ValueError, "`state` to have `epoch` and `next_batch`, but got NoneType"),
        ([1, 2], ValueError, r"but got list \[1, 2\]; give what state_dict\(\) gave"),
        ({}, ValueError, "`state` to have `epoch` and `next_batch`, but got dict {}; give"),
        ({"epoch": 0}, ValueError, "`state` to have `epoch` and `next_batch`, but got dict"),
        ({"epoch": 0, "next_batch": 19}, ValueError, "at most 18, as .* same settings, but got 19"),
        ({"epoch": 1, "next_batch": -1}, ValueError, "`next_batch` to be at least 0"),
        ({"epoch": 1, "next_batch": "3"}, TypeError, "`next_batch` to be an integer"),
        ({"epoch": None, "next_batch": 1}, TypeError, "`epoch` to be an integer"),
    ],
)
def test_a_state_that_is_refused_changes_nothing(state, error, message):
    sampler = TailHeadPairSampler(LABELS, 10)
    with pytest.raises(error, match=message):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == {"epoch": 0, "next_batch": 0}


def test_strong_balancing_draws_the_rarest_class_alone():
    sampler = TailHeadPairSampler(LABELS, 10, tail_fraction=1.0, gamma=10)
    assert {LABELS[i] for batch in sampler for i in batch} == {3}


def test_another_default_device_does_not_matter():
    expected = list(TailHeadPairSampler(LABELS, 10))
    with torch.device("meta"):
        assert list(TailHeadPairSampler(torch.tensor(LABELS, device="cpu"), 10)) == expected


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        np.array(LABELS),
        np.array(LABELS)[:, None],
        np.array(LABELS, dtype=">u2"),
        torch.tensor(LABELS, dtype=torch.uint8),
    ],
)
def test_label_forms(labels, device):
    labels = labels.to(device) if torch.is_tensor(labels) else labels
    sampler = TailHeadPairSampler(labels, 10)
    assert sampler.class_counts.tolist() == [60, 25, 0, 5]
    assert class_counts(labels, 6).tolist() == [60, 25, 0, 5, 0, 0]
    assert class_counts(labels).dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "kwargs", "error", "message"),
    [
        (RandomSampler([1, 2]), {}, TypeError, "got a sampler.*use_distributed_sampler=False"),
        ("abc", {}, TypeError, "sequence, array or tensor of integers, but got str 'abc'"),
        (3, {}, TypeError, "sequence, array or tensor of integers, but got int 3"),
        ([[1, 0], [0, 1]], {}, ValueError, r"shape \(N,\).*got shape \(2, 2\)"),
        ([], {}, ValueError, r"N >= 1, but got shape \(0,\)"),
        ([0.0, 1.0], {}, TypeError, "integers, but got float64; convert"),
        ([True], {}, TypeError, "integers, but got bool"),
        ([0, -1], {}, ValueError, "`labels` to be class indices in 0 to 16777215, but got -1"),
        ([0], {"batch_size": 0}, ValueError, "`batch_size` to be at least 1"),
        ([0], {"batch_size": 2.5}, TypeError, "`batch_size` to be an integer"),
        ([0], {"tail_fraction": 1.5}, ValueError, r"`tail_fraction` to be in \[0, 1\]"),
        ([0], {"gamma": -1}, ValueError, r"`gamma` to be in \[0, 10\], but got -1"),
        ([0], {"gamma": 10.5}, ValueError, r"`gamma` to be in \[0, 10\], but got 10.5"),
        ([0], {"num_replicas": 0}, ValueError, "`num_replicas` to be at least 1"),
        ([0], {"num_replicas": 2, "rank": 2}, ValueError, "`rank` below `num_replicas` = 2"),
        ([0], {"rank": -1}, ValueError, "`rank` to be at least 0"),
        ([0], {"seed": -1}, ValueError, "`seed` to be at least 0"),
        ([0], {"seed": None}, TypeError, "`seed` to be an integer"),
        ([0], {"drop_last": "no"}, TypeError, "`drop_last` to be True or False, but got str 'no'"),
        ([0], {"batch_size": 10**400}, ValueError, "`batch_size` to be at most 9223372036854775"),
        ([0, 2**40], {}, ValueError, "in 0 to 16777215, but got 1099511627776; number the"),
        (torch.zeros(3, device="meta"), {}, TypeError, "sequence, array or tensor of integers"),
        (torch.eye(3).to_sparse(), {}, TypeError, "but got a tensor that is torch.sparse_coo"),
    ],
)
def test_wrong_arguments_are_refused(labels, kwargs, error, message):
    with pytest.raises(error, match=message):
        TailHeadPairSampler(labels, **{"batch_size": 4, **kwargs})


def test_seeds_may_be_of_any_size():
    assert list(TailHeadPairSampler(LABELS, 4, seed=2**64 - 1))
    assert list(TailHeadPairSampler(LABELS, 4, seed=10**400))


def test_class_counts_refuses_labels_out_of_range():
    with pytest.raises(ValueError, match="`num_classes` to be at most 16777216"):
        class_counts(LABELS, 2**31)
    with pytest.raises(ValueError, match="below `num_classes` = 3, but got 3"):
        class_counts(LABELS, 3)


def test_epochs_are_integers():
    with pytest.raises(ValueError, match="`epoch` to be at least 0, but got -1"):
        TailHeadPairSampler(LABELS, 4).set_epoch(-1)
    with pytest.raises(TypeError, match="`epoch` to be an integer, but got ndarray"):
        TailHeadPairSampler(LABELS, 4).set_epoch(np.zeros(2))


def test_head_tail_split_of_isic():
    split = head_tail_split([1067, 6659, 468, 281, 1053, 69, 96])
    assert split == ([0, 1, 4], [2, 3], [5, 6])
    assert (split.many, split.medium, split.few) == ([0, 1, 4], [2, 3], [5, 6])


def test_head_tail_split_at_its_limits():
    assert head_tail_split([1001, 1000, 200, 199, 0]) == ([0], [1, 2], [3, 4])
    assert head_tail_split(torch.tensor([5, 3, 1]), many=4, few=2) == ([0], [1], [2])
    assert head_tail_split([4, 3, 2], many=3, few=3) == ([0], [1], [2])
    with pytest.raises(ValueError, match="`few` to be at most `many` = 4, but got 5"):
        head_tail_split([1], many=4, few=5)


def test_its_pass_has_nothing_that_accelerate_would_synchronise_as_a_generator():
    assert not hasattr(TailHeadPairSampler(LABELS, 8).sampler, "generator")


@pytest.mark.parametrize(("name", "value"), [("tail_fraction", 0.9), ("batch_size", 20)])
def test_a_setting_that_changes_within_an_epoch_holds_from_the_next_on(name, value):
    sampler, other = TailHeadPairSampler(LABELS, 10), TailHeadPairSampler(LABELS, 10)
    batches = iter(sampler)
    seen = [next(batches)]
    setattr(sampler, name, value)
    assert [*seen, *batches] == [*other]
    setattr(other, name, value)
    assert [*sampler] == [*other]


def test_draws_do_not_follow_what_is_written_into_the_counts():
    sampler, other = (
        TailHeadPairSampler([0] * 9 + [2] * 3, 4),
        TailHeadPairSampler([0] * 9 + [2] * 3, 4),
    )
    assert sampler.class_counts.clamp_(min=1).tolist() == [9, 1, 3]
    assert [*sampler] == [*other]
