"""Streams have seeds of their own, and draws come from the generator of their owner."""

import gc
import itertools

import pytest
import torch

from spmix_aug import SaliencyPatchMix, _random
from spmix_aug._random import draw_uniform, new_stream, stream_seed


def owner_of(seed=None):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return SaliencyPatchMix(num_classes=2, generator=generator)


def test_seeds_are_those_of_numpy_and_apart():
    parts = [*itertools.product((0, 1, 7, 2**40), range(4), (0,))]
    parts += itertools.product((0, 1, 7, 2**40), range(4), (1,), range(4))
    seeds = [stream_seed(*each) for each in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert stream_seed(3, 10**40) == 3568197287


def test_draws_are_those_of_the_owners_generator():
    owner, before = owner_of(3), torch.get_rng_state()
    drawn = draw_uniform(owner, 5), draw_uniform(owner, 3)
    expected = torch.rand(8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat(drawn), expected)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    drawn = draw_uniform(owner_of(), 5)
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.rand(5))


def test_neither_default_dtype_nor_default_device_matter():
    expected = draw_uniform(owner_of(3), 1000)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert torch.equal(draw_uniform(owner_of(3), 1000), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_compiled_code_names_owners_that_it_does_not_keep():
    first, second = owner_of(), owner_of()
    number = first._stream
    assert number != second._stream != new_stream(second)
    assert _random._OWNERS[number] is first
    del first
    gc.collect()
    assert number not in _random._OWNERS


@pytest.mark.parametrize("seed", [3, None])
def test_the_operator_of_compiled_code_draws_the_same_and_says_that_it_changes_something(seed):
    torch.manual_seed(2)
    expected = draw_uniform(owner_of(seed), 6)
    torch.manual_seed(2)
    owner, turn = owner_of(seed), torch.zeros((), dtype=torch.int64)
    drawn = torch.ops.spmix_aug.draw_uniform(turn, owner._stream, 6)
    assert torch.equal(drawn, expected)
    assert int(turn) == 1
    operator = torch.ops.spmix_aug.draw_uniform.default
    torch.library.opcheck(
        operator, (turn, owner._stream, 6), test_utils=("test_schema", "test_faketensor")
    )


def test_a_saved_generator_state_resumes_the_stream():
    mixer, images, labels = owner_of(3), torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    state = mixer.generator.get_state()
    first = [mixer.plan(images, labels).partner for _ in range(4)]
    mixer.generator.set_state(state)
    again = [mixer.plan(images, labels).partner for _ in range(4)]
    assert all(map(torch.equal, first, again))
    assert any(not torch.equal(first[0], other) for other in first[1:])


def test_the_default_backend_keeps_draws_apart_and_in_their_order():
    torch.compiler.reset()
    first, second = owner_of(), owner_of()

    def draw():
        return [draw_uniform(owner, 4) for owner in (first, second, first)]

    torch.manual_seed(5)
    expected = draw()
    torch.manual_seed(5)
    assert all(map(torch.equal, torch.compile(draw, fullgraph=True)(), expected))
