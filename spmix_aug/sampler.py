"""Sampling: one part of each batch iterates over the data set, the other balances its classes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from spmix_aug import _checks
from spmix_aug._checks import (
    Checked,
    as_counts,
    as_flag,
    as_integer,
    as_number,
    expect,
    expect_type,
    shown,
)
from spmix_aug._random import stream_seed


def class_counts(
    labels: Sequence[int] | np.ndarray[Any, Any] | Tensor, num_classes: int | None = None
) -> Tensor:
    """Count the samples of each class.

    Args:
        labels: class index of each sample, `(N,)` or `(N,1)`.
        num_classes: K; the largest label plus one when None.

    Returns:
        `(K,)` int64 on the CPU.

    Raises:
        TypeError: if `labels` is no sequence of integers.
        ValueError: if a label is negative or not below `num_classes`.
    """
    classes = _dataset_labels(labels)
    if num_classes is not None:
        num_classes = as_integer("num_classes", num_classes, high=_checks.MOST_CLASSES)
        highest, wanted = int(classes.max()), "below `num_classes` = {number}"
        expect(highest < num_classes, "labels", wanted, highest, number=num_classes)
    return torch.bincount(classes, minlength=num_classes or 0)


class HeadTailSplit(NamedTuple):
    """Class indices by how many training samples they have."""

    many: list[int]
    medium: list[int]
    few: list[int]


def head_tail_split(
    counts: Sequence[int] | Tensor, *, many: float = 1000, few: float = 200
) -> HeadTailSplit:
    """Group classes into many-, medium- and few-shot ones, for reports (SPMix, section 3).

    Args:
        counts: training samples of each class, `(K,)`.
        many: classes with more samples than this are many-shot.
        few: classes with fewer samples than this are few-shot; the others are medium-shot.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if `few` is above `many`, or `counts` is not `(K,)`.
    """
    sizes = as_counts("counts", counts)
    many, few = as_number("many", many), as_number("few", few)
    expect(few <= many, "few", "to be at most `many` = {many:g}", few, many=many)
    split = HeadTailSplit([], [], [])
    for index, size in enumerate(sizes.tolist()):
        group = split.many if size > many else split.few if size < few else split.medium
        group.append(index)
    return split


class _InstanceBalanced(Sampler[int]):
    """One rank's part of a shuffled pass over the data set: every sample once over all ranks.

    It also keeps where the batches are, since a framework may set the epoch here: a place belongs
    to one epoch.
    """

    def __init__(self, num_samples: int, num_replicas: int, rank: int, seed: int) -> None:
        self.num_samples = num_samples
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.next_batch = 0
        self.begun = False  # whether a pass began since the epoch was set
        self.chosen: int | None = None  # the epoch, if it was set since a pass began
        self.opened = False  # whether an iterator waits for its first batch

    def __len__(self) -> int:
        return len(range(self.rank, self.num_samples, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, but stay at a place of it that was loaded."""
        epoch = as_integer("epoch", epoch, low=0)
        if self.begun or epoch != self.epoch:
            self.next_batch = 0
        self.epoch, self.begun, self.chosen = epoch, False, epoch

    def open(self) -> int:
        """Open a pass, of the next epoch where this one was begun, and return its first batch."""
        if self.begun:
            self.epoch, self.begun, self.next_batch = self.epoch + 1, False, 0
        self.opened = True
        return self.next_batch

    def begin(self) -> None:
        """Begin the pass that was opened."""
        self.begun, self.opened, self.chosen = True, False, None

    def load(self, epoch: int, next_batch: int, at_end: bool) -> None:
        """Go to a saved place, unless the pass that is open was set to another epoch.

        A loader of torchdata opens a pass and then loads, after what a user has set. Accelerate
        sets its own count of epochs, which starts again with a run: of an epoch that was left in
        its middle, an earlier one is no choice.
        """
        if self.opened and self.chosen is not None and (at_end or self.chosen > epoch):
            epoch, next_batch, at_end = self.chosen, 0, False
        # At its end, an epoch is over: the next pass is of the next one.
        self.epoch, self.next_batch, self.begun = epoch, next_batch, at_end

    def generator_of(self, *stream: int) -> torch.Generator:
        """Make the generator of one stream of this epoch's draws: 0 the order, 1 and rank the rest.

        Not named `generator`: Accelerate synchronises what a sampler has under that name.
        """
        return torch.Generator().manual_seed(stream_seed(self.seed, self.epoch, *stream))

    def order(self) -> Tensor:
        """Draw this epoch's order; every rank draws the same one and takes its share."""
        order = torch.randperm(self.num_samples, generator=self.generator_of(0), device="cpu")
        return order[self.rank :: self.num_replicas]


class TailHeadPairSampler(Checked, BatchSampler):
    """Batch sampler: a part of each batch iterates over the data set, the rest is class-balanced.

    In each batch `round(batch_size * tail_fraction)` places are class-balanced draws with
    replacement, where a sample of a class of n has the weight `n ** -gamma`. The other places
    come from an instance-balanced pass: every sample exactly once an epoch over all ranks. A last
    batch that the pass cannot fill is filled with balanced draws. The instance-balanced places
    come first in a batch: shuffle it for mixers that pair neighbours, as torchvision's MixUp and
    CutMix do. In a small batch a share may round to no place or to all (`num_balanced` says), as
    0.5 of 1 does: one part is left out then. With `tail_fraction=1` an epoch has as many draws as
    samples (SPMix, section 2.1, where the two parts are two loaders).

    An epoch has `1 / (1 - tail_fraction)` times the batches of a plain pass, by default twice as
    many. They follow from `(seed, epoch, num_replicas, rank)` alone. The epoch moves on with each
    iteration; `set_epoch` chooses another, as with `DistributedSampler`. No process group is
    looked for: Accelerate shards by itself, under plain DDP pass `num_replicas` and `rank`.

    Args:
        labels: class index of each sample of the data set, `(N,)` or `(N,1)` integers.
        batch_size: samples in a batch of one rank.
        tail_fraction: share of class-balanced places, in [0, 1].
        gamma: strength of the balancing, in [0, 10]; 0 draws like the data set, 1 all classes
            equally often.
        num_replicas: number of ranks.
        rank: this rank, from 0.
        seed: base seed, the same on all ranks.
        drop_last: drop a last batch that the pass cannot fill, instead of filling it.

    Attributes:
        sampler: this rank's instance-balanced pass.
        class_counts: `(K,)` int64, for `SaliencyPatchMix(class_counts=...)`.

    Raises:
        TypeError: if `labels` is a sampler or does not hold integers.
        ValueError: if an argument is out of its range.
    """

    sampler: _InstanceBalanced
    batch_size: int
    drop_last: bool
    _settings: ClassVar = {  # which a schedule may change from epoch to epoch
        "batch_size": as_integer,
        "tail_fraction": partial(as_number, high=1.0),
        "gamma": partial(as_number, high=10.0),
        "drop_last": as_flag,
    }

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray[Any, Any] | Tensor,
        batch_size: int,
        *,
        tail_fraction: float = 0.5,
        gamma: float = 1.0,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        classes = _dataset_labels(labels)
        batch_size = as_integer("batch_size", batch_size)
        num_replicas = as_integer("num_replicas", num_replicas)
        rank = as_integer("rank", rank, low=0)
        wanted = "below `num_replicas` = {replicas}"
        expect(rank < num_replicas, "rank", wanted, rank, replicas=num_replicas)
        seed = as_integer("seed", seed, low=0, high=math.inf)
        drop_last = as_flag("drop_last", drop_last)
        super().__init__(
            _InstanceBalanced(len(classes), num_replicas, rank, seed), batch_size, drop_last
        )
        self.tail_fraction, self.gamma = tail_fraction, gamma
        self._counts = torch.bincount(classes)
        self.class_counts = self._counts.clone()  # into which a user may write
        # Samples sorted by class: a class is drawn first, then one of its run in this order.
        self._by_class = torch.argsort(classes, stable=True)
        self._class_start = self._counts.cumsum(0) - self._counts

    @property
    def num_balanced(self) -> int:
        """Class-balanced places in a batch."""
        return round(self.batch_size * self.tail_fraction)

    def __len__(self) -> int:
        """Count the batches of an epoch, by default twice those of a plain pass, on every rank."""
        # Without places for the pass, an epoch has as many draws as samples.
        places = self.batch_size - self.num_balanced or self.batch_size
        per_round = places * self.sampler.num_replicas
        samples = self.sampler.num_samples
        return samples // per_round if self.drop_last else -(-samples // per_round)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this epoch, lists of `batch_size` indices.

        It is the next epoch where a pass of this one was begun before and `set_epoch` was not
        called since. That is settled here, not when the first batch is asked for.
        """
        return _Batches(self)

    def _batches(self, first: int) -> Iterator[list[int]]:
        """Yield the batches of this epoch from the `first` on."""
        self.sampler.begin()  # now, as a DataLoader asks for two iterators, and uses one
        # Settings that are changed meanwhile hold from the next epoch on.
        number, batch_size, of_balanced = len(self), self.batch_size, self.num_balanced
        places = batch_size - of_balanced
        order = self.sampler.order()
        in_pass = min(number * places, len(order))
        balanced = self._draw_balanced(number * batch_size - in_pass)
        for batch in range(first, number):
            from_pass = order[batch * places : (batch + 1) * places]
            start = batch * of_balanced
            # Only the last batch can lack samples of the pass, so its draws run to the end.
            stop = start + batch_size - len(from_pass)
            self.sampler.next_batch = batch + 1
            yield torch.cat([from_pass, balanced[start:stop]]).tolist()

    def _draw_balanced(self, number: int) -> Tensor:
        """Draw `number` sample indices with weight `n_class ** -gamma`, with replacement."""
        generator = self.sampler.generator_of(1, self.sampler.rank)
        counts = self._counts.double()
        # A class of n samples weighs n * n ** -gamma, one without samples nothing.
        weights = counts.clamp(min=1) ** (1 - self.gamma) * (counts > 0)
        if number == 0:
            return self._by_class.new_empty(0)
        drawn = torch.multinomial(weights, number, replacement=True, generator=generator)
        uniform = torch.rand(number, generator=generator, dtype=torch.float64, device="cpu")
        within = uniform * counts[drawn]
        return self._by_class[self._class_start[drawn] + within.long()]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields, also one that was begun.

        A place in that epoch that `load_state_dict` set stays.
        """
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the batch of it that comes next.

        A DataLoader with workers asks for batches ahead of the training loop; what counts here
        is what was asked for.
        """
        return {"epoch": self.sampler.epoch, "next_batch": self.sampler.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on where a sampler of the same settings gave `state`.

        Raises:
            TypeError: if an entry of `state` is no integer.
            ValueError: if `state` is not what `state_dict` of such a sampler gives.
        """
        known = isinstance(state, Mapping) and {"epoch", "next_batch"} <= state.keys()
        wanted = "to have `epoch` and `next_batch`"
        expect(known, "state", wanted, state, "give what state_dict() gave")
        epoch = as_integer("epoch", state["epoch"], low=0)
        next_batch = as_integer("next_batch", state["next_batch"], low=0)
        wanted = "to have `next_batch` at most {batches}, as a sampler of the same settings"
        expect(next_batch <= len(self), "state", wanted, next_batch, batches=len(self))
        self.sampler.load(epoch, next_batch, at_end=next_batch == len(self))


class _Batches(Iterator[list[int]]):
    """The batches of one pass, saved and loaded with their place, as torchdata's loader does."""

    def __init__(self, sampler: TailHeadPairSampler) -> None:
        self.sampler = sampler
        self.batches = sampler._batches(sampler.sampler.open())

    def __next__(self) -> list[int]:
        return next(self.batches)

    def state_dict(self) -> dict[str, int]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.load_state_dict(state)
        # A pass that had ended ends again: torchdata opens the next one by itself.
        over = state["next_batch"] == len(self.sampler)
        self.batches = iter(()) if over else self.sampler._batches(self.sampler.sampler.next_batch)


def _dataset_labels(value: Any) -> Tensor:
    """Accept a data set's labels, integers `(N,)` or `(N,1)`; return int64 `(N,)` on the CPU."""
    wanted = "to be the data set's labels"
    hint = (
        "Lightning does this when it rebuilds batch samplers: give "
        "Trainer(use_distributed_sampler=False) and pass `num_replicas` and `rank` yourself"
    )
    expect(not isinstance(value, Sampler), "labels", wanted, "a sampler", hint, TypeError)
    array = np.array(None)
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        with suppress(TypeError, ValueError, RuntimeError):  # refused below, as what it is
            array = value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
    wanted = "to be a sequence, array or tensor of integers"
    strings = array.ndim == 1 and array.size > 0 and isinstance(array[0], str)
    hint = "number the classes with numpy.unique(labels, return_inverse=True)[1]"
    expect(not strings, "labels", wanted, f"strings, {shown(value)}", hint, TypeError)
    numbers = array.dtype == object and array.ndim == 1 and isinstance(array[0], Integral)
    convert = "convert class indices with numpy.asarray(labels).astype(int)"
    hint = convert if numbers else "give one class index a sample, in the order of the data set"
    expect_type(array.dtype != object, "labels", wanted, value, hint)
    array = np.atleast_1d(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    wanted = "to have shape (N,), one class index a sample and N >= 1"
    rows = "take the class of one-hot rows with numpy.argmax(labels, axis=1)"
    hint = rows if array.ndim == 2 else ""
    expect(array.ndim == 1 and array.size > 0, "labels", wanted, torch.Size(array.shape), hint)
    missing = array.dtype.kind == "f" and bool(np.isnan(array).any())
    got, hint = ("NaN", "leave such samples out") if missing else (str(array.dtype), convert)
    expect(array.dtype.kind in "iu", "labels", "to be integers", got, hint, TypeError)
    low, high = int(array.min()), int(array.max())
    wrong, last = low if low < 0 else high, _checks.MOST_CLASSES - 1
    wanted, hint = "to be class indices in 0 to {last}", "number the classes from 0"
    expect(0 <= wrong <= last, "labels", wanted, wrong, hint, last=last)
    return torch.from_numpy(array.astype(np.int64))
