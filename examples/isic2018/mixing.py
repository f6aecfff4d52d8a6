"""Mix the views of a batch with one pairing, in pixels or in tokens inside the model."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spmix_aug import MixPlan, SaliencyPatchMix


def second_batch(labels: Tensor, class_counts: Tensor, generator: Any) -> Tensor:
    """Pair the first half of a batch with the second half, which passes through itself."""
    place = torch.arange(len(labels), device=labels.device)
    own = len(labels) // 2
    return torch.where(place < own, place + own, place)


class Mixed(NamedTuple):
    """What goes through the model, under which context, and what should come out."""

    images: Tensor  # (N,C,H,W), the views one after the other
    targets: Tensor  # (V*B,K), or classes (V*B,)
    classes: Tensor  # (V*B,), of the own images
    inside: AbstractContextManager[None]


class ViewMixer:
    """Mix views that show the same images, each with its own saliency and ratios.

    Args:
        mixer: the transform; None mixes nothing.
        embedding: module of the model behind which tokens are mixed; None mixes pixels.
        half: train on the first half of a batch alone; its other half are partners.
    """

    def __init__(
        self, mixer: SaliencyPatchMix | None, embedding: nn.Module | None = None, *, half: bool
    ) -> None:
        self.mixer = mixer
        self.embedding = embedding
        self.half = half

    def __call__(
        self, views: Sequence[Tensor], maps: Sequence[Tensor], labels: Tensor, model: nn.Module
    ) -> Mixed:
        """Mix a batch.

        Args:
            views: each `(B,C,H,W)` of the same images.
            maps: of each view `(B,1,H,W)`, or none.
            labels: classes of the images, `(B,)`.
            model: the classifier.
        """
        batch = len(labels)
        own = batch // 2 if self.half else batch
        classes = labels[:own].repeat(len(views))
        if self.mixer is None:
            images = torch.cat([view[:own] for view in views])
            return Mixed(images, classes, classes, nullcontext())
        plans: list[MixPlan] = []
        for place, view in enumerate(views):
            given = maps[place].float() if maps else None
            partner = plans[0].partner if plans else None
            plans.append(self.mixer.plan(view, labels, model, saliency=given, partner=partner))
        targets = torch.cat([plan.targets[:own] for plan in plans])
        if self.embedding is None:
            pairs = zip(plans, views, strict=True)
            images = torch.cat([plan.images(view)[:own] for plan, view in pairs])
            return Mixed(images, targets, classes, nullcontext())
        places = torch.arange(batch * len(views), device=labels.device)
        kept = None if own == batch else places[places % batch < own]
        return Mixed(torch.cat(list(views)), targets, classes, _inside(self.embedding, plans, kept))


def patch_embedding(model: nn.Module) -> nn.Module:
    """Find the module of a ViT of timm's form that makes tokens of patches.

    Raises:
        ValueError: if there is none.
    """
    embedding = getattr(model, "patch_embed", None)
    if not isinstance(embedding, nn.Module):
        raise ValueError(
            f"no patch embedding to mix behind in {type(model).__name__}; choose a ViT, or mix "
            "spmix"
        )
    return embedding


def join(plans: Sequence[MixPlan]) -> MixPlan:
    """Make one plan of several batches of one size, put one after the other."""
    first = plans[0]
    batch = len(first.partner)
    return MixPlan(
        torch.cat([plan.partner + place * batch for place, plan in enumerate(plans)]),
        torch.cat([plan.ratios for plan in plans]),
        torch.cat([plan.targets for plan in plans]),
        first.patch_size,
        first.image_size,
    )


@contextmanager
def _inside(embedding: nn.Module, plans: Sequence[MixPlan], kept: Tensor | None) -> Iterator[None]:
    """Mix what the embedding gives, then let only the rows that are kept go on."""
    with join(plans).hooked(embedding):
        handle = embedding.register_forward_hook(
            lambda module, inputs, output: output if kept is None else output[kept]
        )
        try:
            yield
        finally:
            handle.remove()
