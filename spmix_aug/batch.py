"""Batches in the forms that data loaders give, and back into the same form."""

import copy
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from spmix_aug._checks import described, expect

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

Rebuild = Callable[[Tensor, Tensor], Any]


def unpack_batch(
    batch: Any, labels: Any, image_key: Any = None, label_key: Any = None
) -> tuple[Any, Any, Rebuild]:
    """Find images and labels, and how to put mixed ones back.

    Args:
        batch: the images themselves, a tuple or list `(images, labels, ...)`, or a dict.
        labels: the labels when `batch` is the images, else None.
        image_key: key of the images in a dict, one of `IMAGE_KEYS` when None; or their place in a
            tuple, 0 when None.
        label_key: the same of the labels, one of `LABEL_KEYS`, or place 1, when None.

    Returns:
        `(images, labels, rebuild)`, where `rebuild(mixed, targets)` is a batch of the given form
        with all other items untouched.

    Raises:
        TypeError: if `labels` is a model, or a dict cannot be changed.
        ValueError: if a dict has no such key or several; if a tuple has no such place, or several
            items that could be the labels.
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
            # A plain dict by its display, which compiles to one graph.
            rebuilt: Any = {**batch} if type(batch) is dict else copy.copy(batch)
            rebuilt[images_at], rebuilt[labels_at] = mixed, targets
            return rebuilt

        return batch[images_at], batch[labels_at], into_dict
    if labels is None and isinstance(batch, (tuple, list)):
        image_place, label_place = _find_places(batch, image_key, label_key)

        def into_sequence(mixed: Tensor, targets: Tensor) -> Any:
            items = list(batch)
            items[image_place], items[label_place] = mixed, targets
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)

        return batch[image_place], batch[label_place], into_sequence
    return batch, labels, lambda mixed, targets: (mixed, targets)


def unit_range(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Bring images back to [0, 1], from 8 bits or from their normalisation; float32 at least."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    images = images if images.dtype == torch.float64 else images.float()
    if mean is None or std is None:
        return images
    mean, std = (
        values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1)
        for values in (mean, std)
    )
    return torch.addcmul(mean, images, std)


def _find_places(batch: Any, image_key: Any, label_key: Any) -> tuple[int, int]:
    """Find the places of images and labels in a tuple."""
    number, wanted = len(batch), "to be a batch (images, labels, ...)"
    expect(number >= 2, "images", wanted, f"{number} item(s)")
    images_at = 0 if image_key is None else image_key
    labels_at = int(images_at == 0) if label_key is None else label_key
    for name, place in (("image_key", images_at), ("label_key", labels_at)):
        ok = isinstance(place, int) and -number <= place < number
        wanted = "to be a place in a batch of {number} items"
        expect(ok, name, wanted, described(place), "count from 0", number=number)
    images_at, labels_at = images_at % number, labels_at % number
    expect(images_at != labels_at, "label_key", "to differ from `image_key`", labels_at)
    if label_key is None:
        images, labels = batch[images_at], batch[labels_at]
        size = len(images) if isinstance(images, Tensor) and images.ndim else 0
        # Of rows, as of one-hot labels, others of their shape could be meant as well.
        rows = isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] > 1
        found = [
            i
            for i in range(number)
            if i != images_at
            and (
                _may_be_labels(batch[i], size)
                or (rows and isinstance(batch[i], Tensor) and batch[i].shape == labels.shape)
            )
        ]
        wanted = "to be the only item of their form in the batch"
        got = f"labels that could be in places {found}"
        hint = "name theirs with label_key=, a place counted from 0"
        expect(len(found) < 2, "labels", wanted, got, hint)
    return images_at, labels_at


def _may_be_labels(item: Any, size: int) -> bool:
    """Whether an item of a batch has the form of class indices."""
    if not isinstance(item, Tensor) or item.is_floating_point() or item.dtype == torch.bool:
        return False
    return tuple(item.shape) in ((size,), (size, 1))


def _find_key(batch: Mapping[str, Any], key: Any, usual: Collection[str], argument: str) -> str:
    """Find the key of images or labels in a dict: the given one, or the only usual one."""
    found = [name for name in (usual if key is None else [key]) if name in batch]
    names = f"one of {', '.join(usual)}" if key is None else repr(key)
    wanted = "to name one key of the batch, {names}"
    got = f"a batch with the keys {', '.join(map(str, batch))}"
    expect(len(found) == 1, argument, wanted, got, "name the right one", names=names)
    return found[0]
