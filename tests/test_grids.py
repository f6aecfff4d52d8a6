"""The grid and the layout of a layer's output are found from what it states and from its sides."""

import enum
import math
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from spmix_aug._grids import (
    grids_of,
    in_proportion,
    nearest_layout,
    stated_layout,
    stated_token_grid,
)

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


@pytest.mark.parametrize(
    ("cells", "size", "grids"),
    [
        (196, (224, 224), [(14, 14)]),
        (197, (224, 224), []),
        (201, (224, 224), []),
        (3136, (224, 224), [(56, 56)]),
        (28 * 37, (450, 600), [(28, 37)]),
        (29 * 38, (450, 600), [(29, 38)]),
        (2 * 8, (32, 128), [(2, 8)]),
        (56, (224, 224), []),
        (49, (96, 128), []),  # 6 x 8 and a class token
        (225, (224, 256), []),  # 14 x 16 and a class token
        (25, (64, 80), []),  # 4 x 5, a class token and four registers
        (109 * 109, (224, 224), [(109, 109)]),  # without padding
        (6, (7, 10), [(2, 3)]),
        (1, (224, 224), [(1, 1)]),
        (0, (224, 224), []),
    ],
)
def test_grids_in_proportion(cells, size, grids):
    found = grids_of(cells, size)
    assert found == grids
    assert all(type(side) is int for grid in found for side in grid)


@given(sizes, st.tuples(st.integers(1, 8), st.integers(1, 8)))
@example((5, 2), (4, 1))  # rounded down alone
@example((2, 5), (1, 4))
def test_a_grid_in_proportion_is_that_of_some_cell(size, grid):
    ends = sorted({Fraction(side, cells) for side in size for cells in range(1, 11)})
    cells = [*ends, *((a + b) / 2 for a, b in pairwise(ends)), 2 * ends[-1]]
    expected = any(
        grid == tuple(rounded(side / cell) for side in size)
        for cell in cells
        for rounded in (math.ceil, math.floor)
    )
    assert in_proportion(grid, size) == expected


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 6, 10, 7), "NHWC"),
        ((2, 7, 6, 10), "NCHW"),
        ((2, 6, 6, 6), "NCHW"),  # both fit
        ((2, 5, 9, 24), "NHWC"),  # neither fits exactly
        ((2, 24, 5, 9), "NCHW"),
    ],
)
def test_the_nearest_layout_has_the_proportion_of_oblong_images(shape, layout):
    assert nearest_layout(torch.empty(shape), (48, 80)) == layout


class Fmt(str, enum.Enum):
    """As timm's `Format`."""

    NHWC = "NHWC"


@pytest.mark.parametrize(
    ("stated", "layout"),
    [({}, None), ({"output_fmt": "NLC"}, "NLC"), ({"output_fmt": Fmt.NHWC}, "NHWC")],
)
def test_a_stated_layout_is_a_plain_string(stated, layout):
    found = stated_layout(SimpleNamespace(**stated))
    assert found == layout
    assert type(found) in (str, type(None))


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({}, (None, 0)),
        ({"num_prefix_tokens": 2}, (None, 0)),
        ({"patch_embed": SimpleNamespace(grid_size=[3, 5])}, (None, 0)),
        ({"patch_embed": nn.Identity(), "num_prefix_tokens": 1}, (None, 0)),
        ({"patch_embed": SimpleNamespace(grid_size=[3, 5]), "num_prefix_tokens": 0}, ((3, 5), 0)),
        ({"patch_embed": SimpleNamespace(grid_size=[3, 5]), "num_prefix_tokens": 4}, ((3, 5), 4)),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_token_grids_are_those_that_a_vit_states(stated, found, dynamic):
    stated = {**stated, "dynamic_img_size": dynamic}
    assert stated_token_grid(SimpleNamespace(**stated), (48, 80)) == found


def test_a_dynamic_token_grid_follows_the_image():
    embed = SimpleNamespace(
        grid_size=(14, 14), dynamic_feat_size=lambda size: (size[0] // 16, size[1] // 16)
    )
    vit = SimpleNamespace(num_prefix_tokens=1, patch_embed=embed, dynamic_img_size=True)
    assert stated_token_grid(vit, (48, 80)) == ((3, 5), 1)
    vit.dynamic_img_size = False
    assert stated_token_grid(vit, (48, 80)) == ((14, 14), 1)
