"""Mixing in the workers of a DataLoader."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from spmix_aug._checks import as_instance, expect, expect_type, needs_model
from spmix_aug.transform import SaliencyPatchMix


class SaliencyPatchMixCollate:
    """Collate samples to a batch and mix it, as the `collate_fn` of a DataLoader.

    In a worker process the mixer draws from a generator of that worker's own, seeded from the
    loader's seed, the mixer's generator and the rank: workers and ranks draw different streams, and
    a run repeats for the same seeds and number of workers and ranks. The object can be pickled, so
    workers may be forked or spawned. Settings of the mixer hold from the next epoch on, also in
    workers that persist, which do not follow another saliency, pairing or class counts: to set
    those raises then.

    Args:
        mixer: the transform; its saliency must not need a model.
        collate_fn: makes a batch `(images, labels, ...)` or a dict from a list of samples. The
            mix is written into the batch of torch's `default_collate`, whose memory is new; others
            may hand over memory of the data set.

    Raises:
        TypeError: if `mixer` is no `SaliencyPatchMix` or `collate_fn` cannot be called.
        ValueError: if the mixer's saliency needs a model.

    Example:
        >>> import torch
        >>> collate = SaliencyPatchMixCollate(SaliencyPatchMix(num_classes=7))
        >>> samples = [(torch.rand(3, 64, 64), label) for label in range(7)]
        >>> images, targets = collate(samples)
        >>> images.shape, targets.shape
        (torch.Size([7, 3, 64, 64]), torch.Size([7, 7]))
    """

    def __init__(
        self, mixer: SaliencyPatchMix, collate_fn: Callable[[list[Any]], Any] = default_collate
    ) -> None:
        as_instance("mixer", mixer, SaliencyPatchMix)
        expect_type(callable(collate_fn), "collate_fn", "to be callable", collate_fn)
        got = f"{type(mixer.saliency).__name__}: a worker has no access to the model in training"
        hint = "mix in the training loop, mixer(images, labels, model), or use model-free saliency"
        wanted = "to have saliency that needs no model"
        expect(not needs_model(mixer.saliency), "mixer", wanted, got, hint)
        self.mixer = mixer
        mixer._collates = True
        self.collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> Any:
        """Collate `samples`, mix the batch, and return it in its form.

        Raises:
            ValueError: if `default_collate` cannot make a batch of them.
        """
        if self.collate_fn is not default_collate:
            return self.mixer._mix(self.collate_fn(samples), None, inplace=False, collating=True)
        try:
            with torch.device(_device_of(samples[0])):  # where numbers would not go by themselves
                batch = default_collate(samples)
        except Exception as error:
            name = type(error).__name__
            raise ValueError(
                f"Expected `collate_fn` to make a batch of samples, but got {name}: {error}; for "
                "batches that the data set makes itself (batch_size=None) give "
                "collate_fn=torch.utils.data.default_convert, for samples of other sizes or kinds "
                "one of your own."
            ) from error
        return self.mixer._mix(batch, None, inplace=True, collating=True)


def _device_of(sample: Any) -> torch.device:
    """Find the device of the first tensor of a sample; the CPU where it has none."""
    items = sample.values() if isinstance(sample, Mapping) else sample
    items = items if isinstance(items, Iterable) else ()
    tensors = (item for item in items if isinstance(item, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
