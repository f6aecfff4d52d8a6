"""Partners are drawn uniformly among the eligible, and among them alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from spmix_aug.functional.pairing import class_counts_in, draw_at_least_as_frequent


def eligible(frequency, i):
    return [j for j in range(len(frequency)) if j != i and frequency[j] >= frequency[i]]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 99))
def test_partner_is_another_sample_of_an_at_least_as_frequent_class(counts, seed):
    frequency = torch.tensor(counts, dtype=torch.int64)
    uniform = torch.rand(len(counts), generator=torch.Generator().manual_seed(seed))
    partner = draw_at_least_as_frequent(frequency, uniform)
    assert partner.dtype == torch.int64
    for i, j in enumerate(partner.tolist()):
        assert j in (eligible(counts, i) or [i])


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("batch", [2, 3, 7, 1000])
def test_the_ends_of_the_uniform_range_stay_eligible(extreme, batch):
    partner = draw_at_least_as_frequent(torch.zeros(batch), torch.full((batch,), extreme))
    assert bool((partner != torch.arange(batch)).all())
    assert 0 <= int(partner.min()) <= int(partner.max()) < batch


@pytest.mark.parametrize("counts", [[5, 5, 5, 5, 3, 3, 1], [2, 2, 2], [9, 1, 1, 4]])
def test_partners_are_uniform_over_the_eligible(counts):
    frequency, draws = torch.tensor(counts), 6000
    partners = torch.stack(
        [draw_at_least_as_frequent(frequency, torch.rand(len(counts))) for _ in range(draws)]
    )
    for i in range(len(counts)):
        allowed = eligible(counts, i)
        seen = torch.bincount(partners[:, i], minlength=len(counts))
        if allowed:
            assert len(allowed) == 1 or chisquare(seen[allowed].numpy()).pvalue > 1e-4
            assert int(seen[allowed].sum()) == draws
        else:
            assert int(seen[i]) == draws


def test_class_counts_of_a_batch():
    classes = torch.tensor([2, 0, 2, 2])
    assert class_counts_in(classes, 4).tolist() == [1, 0, 3, 0]
    assert class_counts_in(classes[:0], 4).tolist() == [0, 0, 0, 0]
