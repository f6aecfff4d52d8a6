"""Batches in the forms that data loaders give, and back into the same form."""

import copy
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from spmix_aug._checks import expect

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

Rebuild = Callable[[Tensor, Tensor], Any]


def unpack_batch(
    batch: Any, labels: Any, image_key: str | None, label_key: str | None
) -> tuple[Any, Any, Rebuild]:
    """Find images and labels, and how to put mixed ones back.

    Args:
        batch: the images themselves, a tuple or list `(images, labels, ...)`, or a dict.
        labels: the labels when `batch` is the images, else None.
        image_key: key of the images in a dict; one of `IMAGE_KEYS` when None.
        label_key: key of the labels in a dict; one of `LABEL_KEYS` when None.

    Returns:
        `(images, labels, rebuild)`, where `rebuild(mixed, targets)` is a batch of the given form
        with all other items untouched.

    Raises:
        TypeError: if `labels` is a model, or a dict cannot be changed.
        ValueError: if a dict has no such key or several, or a tuple fewer than two items.
    """
    a_model, got = isinstance(labels, nn.Module), type(labels).__name__
    expect(not a_model, "labels", "to be a tensor", got, "pass the model as model=", TypeError)
    if labels is None and isinstance(batch, Mapping):
        ok, got = isinstance(batch, MutableMapping), type(batch).__name__
        wanted = "to be a dict into which the mix can be put"
        expect(ok, "images", wanted, got, "give dict(batch)", TypeError)
        images_at = _find_key(batch, image_key, IMAGE_KEYS, "image_key")
        labels_at = _find_key(batch, label_key, LABEL_KEYS, "label_key")

        def into_dict(mixed: Tensor, targets: Tensor) -> Any:
            rebuilt: Any = copy.copy(batch)
            rebuilt[images_at], rebuilt[labels_at] = mixed, targets
            return rebuilt

        return batch[images_at], batch[labels_at], into_dict
    if labels is None and isinstance(batch, (tuple, list)):
        wanted, got = "to be a batch (images, labels, ...)", f"{len(batch)} item(s)"
        expect(len(batch) >= 2, "images", wanted, got)

        def into_sequence(mixed: Tensor, targets: Tensor) -> Any:
            items = [mixed, targets, *batch[2:]]
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)

        return batch[0], batch[1], into_sequence
    return batch, labels, lambda mixed, targets: (mixed, targets)


def _find_key(
    batch: Mapping[str, Any], key: str | None, usual: Collection[str], argument: str
) -> str:
    """Settle under which key of a dict batch something is."""
    found = [name for name in usual if name in batch] if key is None else [key]
    wanted = f"one of {', '.join(usual)}" if key is None else repr(key)
    got = f"a batch with the keys {', '.join(map(str, batch))}"
    ok = len(found) == 1 and found[0] in batch
    expect(ok, argument, f"to name one key of the batch, {wanted}", got, "name the right one")
    return found[0]
