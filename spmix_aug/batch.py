"""Batches in the forms that data loaders give, and back into the same form."""

import copy
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

Repack = Callable[[Tensor, Tensor], Any]


def unpack_batch(
    batch: Any, labels: Any, image_key: str | None, label_key: str | None
) -> tuple[Any, Any, Repack]:
    """Find images and labels, and how to put mixed ones back.

    Args:
        batch: the images themselves, a tuple or list `(images, labels, ...)`, or a dict.
        labels: the labels when `batch` is the images, else None.
        image_key: key of the images in a dict; one of `IMAGE_KEYS` when None.
        label_key: key of the labels in a dict; one of `LABEL_KEYS` when None.

    Returns:
        `(images, labels, repack)`, where `repack(mixed, targets)` is a batch of the given form
        with all other items untouched.

    Raises:
        TypeError: if `labels` is a model, or a dict cannot be changed.
        ValueError: if a dict has no such key or several, or a tuple fewer than two items.
    """
    if isinstance(labels, nn.Module):
        raise TypeError(
            f"Expected `labels` to be a tensor, but got {type(labels).__name__}; pass the model as "
            "model=."
        )
    if labels is None and isinstance(batch, Mapping):
        if not isinstance(batch, MutableMapping):
            raise TypeError(
                "Expected a dict batch into which the mix can be put, but got "
                f"{type(batch).__name__}; give dict(batch) as `images`."
            )
        images_at = _find_key(batch, image_key, IMAGE_KEYS, "image_key")
        labels_at = _find_key(batch, label_key, LABEL_KEYS, "label_key")

        def into_dict(mixed: Tensor, targets: Tensor) -> Any:
            packed: Any = copy.copy(batch)
            packed[images_at], packed[labels_at] = mixed, targets
            return packed

        return batch[images_at], batch[labels_at], into_dict
    if labels is None and isinstance(batch, (tuple, list)):
        if len(batch) < 2:
            raise ValueError(
                f"Expected a batch `(images, labels, ...)`, but got {len(batch)} item(s)."
            )

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
    if len(found) != 1 or found[0] not in batch:
        wanted = f"one of {', '.join(usual)}" if key is None else repr(key)
        raise ValueError(
            f"Expected the batch to have the key {wanted}, but its keys are "
            f"{', '.join(map(str, batch))}; name the right one with `{argument}`."
        )
    return found[0]
