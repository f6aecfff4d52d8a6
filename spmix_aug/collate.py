"""Mixing in the workers of a DataLoader."""

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.utils.data import default_collate, get_worker_info

from spmix_aug._checks import as_instance, expect, expect_type
from spmix_aug._random import stream_seed
from spmix_aug.transform import SaliencyPatchMix


class SaliencyPatchMixCollate:
    """Collate samples to a batch and mix it, as the `collate_fn` of a DataLoader.

    In a worker process the draws come from a generator of that worker's own, seeded from the
    loader's seed and from the rank, where a process group exists when this object is made: workers
    and ranks draw different streams, and a run repeats for the same loader seed and number of
    workers and ranks. In the main process they come from the mixer's generator. The object can be
    pickled, so workers may be forked or spawned.

    Args:
        mixer: the transform; its saliency must not need a model.
        collate_fn: makes a batch `(images, labels, ...)` or a dict from a list of samples. The
            mix is written into that batch.

    Raises:
        TypeError: if `mixer` is no `SaliencyPatchMix` or `collate_fn` cannot be called.
        ValueError: if the mixer's saliency needs a model.

    Example:
        >>> collate = SaliencyPatchMixCollate(SaliencyPatchMix(num_classes=7))
        >>> samples = [(torch.rand(3, 64, 64), label) for label in range(7)]
        >>> images, targets = collate(samples)
        >>> images.shape, targets.shape
        (torch.Size([7, 3, 64, 64]), torch.Size([7, 7]))
    """

    def __init__(
        self,
        mixer: SaliencyPatchMix,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        as_instance("mixer", mixer, SaliencyPatchMix)
        expect_type(callable(collate_fn), "collate_fn", "to be callable", collate_fn)
        model_free = not getattr(mixer.saliency, "needs_model", False)
        got = f"{type(mixer.saliency).__name__}: a worker has no access to the model in training"
        hint = "mix in the training loop, mixer(images, labels, model), or use model-free saliency"
        expect(model_free, "mixer", "to have saliency that needs no model", got, hint)
        self.mixer = mixer
        self.collate_fn = collate_fn
        in_group = distributed.is_available() and distributed.is_initialized()
        self._rank = distributed.get_rank() if in_group else 0
        self._seeded_for: int | None = None

    def __call__(self, samples: list[Any]) -> Any:
        """Collate `samples`, mix the batch in place, and return it in its form."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self._seeded_for:
            self._seeded_for = worker.seed
            # Not the worker's seed itself: torch's global generator there has it, and augmentations
            # draw from that. Of ranks that were seeded alike, the workers have the same seeds.
            seed = stream_seed(worker.seed, self._rank)
            self.mixer.generator = torch.Generator().manual_seed(seed)
        return self.mixer._mix(self.collate_fn(samples), inplace=True)
