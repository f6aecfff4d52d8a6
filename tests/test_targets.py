"""Targets are distributions, and never the caller's own tensor."""

import pytest
import torch

from spmix_aug.functional.targets import class_distribution, mix_targets


def test_indices_become_one_hot_float32():
    targets = class_distribution(torch.tensor([2, 0], dtype=torch.int16), 3)
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bool, torch.float32),
        (torch.int64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rows_keep_their_values_in_float32_at_least(given, expected):
    rows = torch.eye(3)[[1, 1, 0]].to(given)
    targets = class_distribution(rows, 3)
    assert targets.dtype == expected
    assert torch.equal(targets, rows.to(expected))
    assert targets.data_ptr() != rows.data_ptr()


def test_targets_are_detached_from_soft_labels():
    rows = torch.full((2, 2), 0.5, requires_grad=True)
    assert not class_distribution(rows, 2).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share_dtype", [torch.float32, torch.float64])
def test_mixed_targets_weight_own_by_share(dtype, share_dtype):
    targets = torch.eye(3, dtype=dtype)
    share = torch.tensor([0.25, 1.0, 0.5], dtype=share_dtype)
    mixed = mix_targets(targets, torch.tensor([1, 1, 0]), share)
    assert mixed.tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0.5, 0, 0.5]]
    assert mixed.dtype == dtype
