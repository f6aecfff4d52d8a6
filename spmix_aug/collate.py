"""Mixing in the workers of a DataLoader."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import default_collate, get_worker_info

from spmix_aug import _checks
from spmix_aug.batch import unpack_batch
from spmix_aug.transform import SaliencyPatchMix

# A worker seeds torch's global generator with its own seed; drawing from the same seed would
# repeat the random numbers of the augmentations there.
_SEED_OFFSET = 0x5EED
# Ranks that were all seeded alike give their workers the same seeds.
_RANK_STRIDE = 1_000_003


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
        if not isinstance(mixer, SaliencyPatchMix):
            raise TypeError(
                f"Expected `mixer` to be a SaliencyPatchMix, but got {type(mixer).__name__}."
            )
        if not callable(collate_fn):
            raise TypeError(
                f"Expected `collate_fn` to be callable, but got {type(collate_fn).__name__}."
            )
        if getattr(mixer.saliency, "needs_model", False):
            raise ValueError(
                "Expected a mixer whose saliency needs no model, but got "
                f"{type(mixer.saliency).__name__}: a worker process has no access to the model in "
                "training. Mix in the training loop instead, mixer(images, labels, model), or use "
                "model-free saliency."
            )
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
            seed = worker.seed + _SEED_OFFSET + _RANK_STRIDE * self._rank
            self.mixer.generator = torch.Generator().manual_seed(seed)
        mixer = self.mixer
        batch = self.collate_fn(samples)
        images, labels, repack = unpack_batch(batch, None, mixer.image_key, mixer.label_key)
        _checks.writable(images)  # before anything is drawn
        plan = mixer.plan(images, labels)
        mixed: Tensor = plan.images(images, inplace=True)
        return repack(mixed, plan.targets)
