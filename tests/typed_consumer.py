"""The public names as a user with a type checker writes them; checked, never run.

`make lint` checks it with mypy, and `.ci/full` with mypy and pyright against the installed wheel,
both strictly.
"""

# pyright: strict

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import assert_type  # in typing from Python 3.11 on; torch brings it

from spmix_aug import (
    MixPlan,
    SaliencyPatchMix,
    SaliencyPatchMixCollate,
    TailHeadPairSampler,
    class_counts,
    head_tail_split,
)
from spmix_aug.saliency import PROVIDERS, BorderContrast, GradCAM, SaliencyProvider
from spmix_aug.viz import describe, plot_plan, plot_sampler


class Lesions(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(3, 64, 64), index % 7


class Brightness:
    """A provider of the user's own, which inherits nothing."""

    needs_model = False

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        return images.mean(dim=1)


def darkness(images: Tensor, labels: Tensor | None, model: nn.Module | None) -> Tensor:
    return 1 - images.mean(dim=1)


def neighbours(labels: Tensor, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.arange(len(labels)).roll(1)


class View(NamedTuple):
    images: Tensor
    labels: Tensor


def train(model: nn.Module, loss_of: nn.CrossEntropyLoss) -> None:
    sampler = TailHeadPairSampler([0, 0, 1], batch_size=64, tail_fraction=0.5, seed=3)
    assert_type(sampler.class_counts, Tensor)
    loader = DataLoader(Lesions(), batch_sampler=sampler)
    images: Tensor  # torch says nothing of what a loader yields
    labels: Tensor
    mixer = SaliencyPatchMix(
        class_counts=sampler.class_counts, saliency="grad_cam", mean=0.5, std=1
    )
    for images, labels in loader:
        mixed, targets = mixer(images, labels, model)
        assert_type(mixed, Tensor)
        assert_type(targets, Tensor)
        loss_of(model(mixed), targets).backward()
    sampler.set_epoch(1)
    assert_type(sampler.state_dict(), dict[str, int])
    for indices in sampler:
        assert_type(indices, list[int])


def forms_of_a_batch(images: Tensor, labels: Tensor, model: nn.Module) -> None:
    mixer = SaliencyPatchMix(num_classes=7, normalize="soft_threshold", pairing="any")
    assert_type(mixer(images, labels), tuple[Tensor, Tensor])
    assert_type(mixer(images, labels, partner=labels), tuple[Tensor, Tensor])
    assert_type(mixer((images, labels, images)), tuple[Tensor, Tensor, Tensor])
    assert_type(mixer([images, labels]), list[Tensor])
    assert_type(mixer({"image": images, "label": labels}), dict[str, Tensor])
    assert_type(mixer(View(images, labels)), View)
    bound = mixer.bind(model)
    assert_type(bound(images, labels), tuple[Tensor, Tensor])
    assert_type(bound({"image": images, "label": labels}), dict[str, Tensor])
    bound.mixup_enabled = False


def plans(images: Tensor, labels: Tensor, vit: nn.Module) -> None:
    mixer = SaliencyPatchMix(num_classes=7, saliency=BorderContrast(center_prior=0.3))
    plan = mixer.plan(images, labels)
    assert_type(plan, MixPlan)
    assert_type(plan.partner, Tensor)
    assert_type(plan.image_size, tuple[int, int])
    assert_type(plan.saliency, Tensor | None)
    assert_type(plan.images(images, inplace=True), Tensor)
    assert_type(plan.tokens(images, 1, (4, 4), layout="NHWC"), Tensor)
    with plan.hooked(vit, prefix_tokens=1) as nothing:
        assert_type(nothing, None)
    by_hand = MixPlan(labels, plan.ratios, plan.targets, patch_size=16, image_size=(64, 64))
    assert_type(by_hand.targets, Tensor)


def own_saliency_and_pairing() -> None:
    provider: SaliencyProvider = Brightness()
    mixer = SaliencyPatchMix(num_classes=7, saliency=provider, pairing=neighbours)
    SaliencyPatchMix(num_classes=7, saliency=Brightness())
    SaliencyPatchMix(num_classes=7, saliency=darkness)
    mixer.saliency = GradCAM()
    mixer.saliency = darkness
    assert_type(PROVIDERS["fine_grained"](), SaliencyProvider)


def workers() -> None:
    collate = SaliencyPatchMixCollate(SaliencyPatchMix(num_classes=7))
    DataLoader(Lesions(), 8, collate_fn=collate)


def reports(sampler: TailHeadPairSampler, images: Tensor, plan: MixPlan) -> None:
    counts = class_counts([0, 1, 1], num_classes=7)
    assert_type(counts, Tensor)
    assert_type(head_tail_split(counts, many=100, few=10).few, list[int])
    assert_type(plot_plan(images, plan, rows=2), Figure)
    assert_type(describe(sampler, p=1.0), str)
    assert_type(plot_sampler(sampler, class_names=["a", "b"]), Figure)


def refused(images: Tensor, labels: Tensor) -> None:
    """Calls that a type checker has to refuse: an unneeded ignore is an error, too."""
    SaliencyPatchMix(num_classes=7, target="both")  # type: ignore[arg-type]
    SaliencyPatchMix(7)  # type: ignore[call-arg]
    SaliencyPatchMix(num_classes=7)(images)  # type: ignore[call-overload]
    SaliencyPatchMix(num_classes=7, saliency=lambda images: images)  # type: ignore[arg-type, misc]
