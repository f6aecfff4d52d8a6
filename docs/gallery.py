"""Draw the pictures of the documentation: PYTHONPATH=. python docs/gallery.py docs/pictures."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from examples.isic2018.phantom import TOTALS, draw_lesion
from spmix_aug import SaliencyPatchMix, TailHeadPairSampler
from spmix_aug.functional import min_max_scores, patch_scores, soft_threshold_scores
from spmix_aug.saliency import BorderContrast, FineGrained, SpectralResidual
from spmix_aug.viz import plot_plan, plot_sampler

NAMES = list(TOTALS)
COUNTS = torch.tensor(list(TOTALS.values()))
SIDE, PATCH = 112, 8  # 14 patches a side, as in the papers

MODEL_FREE = {
    "spectral residual": SpectralResidual(),
    "fine-grained": FineGrained(),
    "border contrast": BorderContrast(),
    "border contrast,\ncentre prior 0.3": BorderContrast(center_prior=0.3),
}


def lesions(*classes: str) -> tuple[Tensor, Tensor]:
    """Draw a lesion of each class: images `(B,3,H,W)` in [0, 1] and labels `(B,)`."""
    drawn = [
        draw_lesion(name, lesion=number, size=(SIDE, SIDE))[0]
        for number, name in enumerate(classes, start=3)
    ]
    images = torch.stack([torch.from_numpy(image) for image in drawn]).permute(0, 3, 1, 2)
    return images.float() / 255, torch.tensor([NAMES.index(name) for name in classes])


def panels(rows: int, columns: int, titles: list[str], names: list[str]) -> Figure:
    """Lay out square panels with a title for each column and a name for each row."""
    figure = Figure(figsize=(1.5 * columns + 1.2, 1.5 * rows + 0.4))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set(xticks=[], yticks=[])
        row, column = divmod(place, columns)
        if row == 0 and titles:
            axes.set_title(titles[column], fontsize=10)
        if column == 0:
            axes.set_ylabel(names[row], fontsize=9)
    return figure


def draw_plan() -> Figure:
    """Draw three pairs of a rare class and the most frequent one."""
    images, labels = lesions("DF", "VASC", "AKIEC", "NV", "NV", "NV")
    mixer = SaliencyPatchMix(class_counts=COUNTS, saliency="border_contrast", patch_size=PATCH)
    plan = mixer.plan(images, labels, partner=torch.tensor([3, 4, 5, 3, 4, 5]))
    return plot_plan(images, plan, labels, rows=3, class_names=NAMES)


def draw_hero() -> Figure:
    """Draw pairs beside plain mixup of the same strength and the mix."""
    images, labels = lesions("DF", "VASC", "AKIEC", "NV", "NV", "NV")
    mixer = SaliencyPatchMix(class_counts=COUNTS)
    plan = mixer.plan(images, labels, partner=torch.tensor([3, 4, 5, 3, 4, 5]))
    share = plan.ratios.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    plain = share * images + (1 - share) * images[plan.partner]
    titles = ["image", "partner", "plain mixup", "SPMix"]
    figure = panels(3, len(titles), titles, [NAMES[label] for label in labels[:3]])
    shown = [images, images[plan.partner], plain, plan.images(images)]
    for place, axes in enumerate(figure.axes):
        row, column = divmod(place, len(titles))
        axes.imshow(shown[column][row].permute(1, 2, 0).numpy())
    return figure


def draw_scores() -> Figure:
    """Draw the way from an image to patch scores, with both normalisations."""
    images, labels = lesions("DF", "VASC", "NV")
    maps = BorderContrast()(images)
    scores = patch_scores(maps, PATCH, (SIDE, SIDE))
    titles = ["image", "saliency", "patch scores", "min-max", "soft threshold"]
    figure = panels(len(images), len(titles), titles, [NAMES[label] for label in labels])
    shown = [images.permute(0, 2, 3, 1), maps, scores]
    shown += [min_max_scores(scores), soft_threshold_scores(scores)]
    for place, axes in enumerate(figure.axes):
        row, column = divmod(place, len(titles))
        axes.imshow(shown[column][row].numpy(), vmin=0, vmax=1 if column > 2 else None)
    return figure


def draw_bounds() -> Figure:
    """Draw one pair under several settings: its ratio above, its mix below."""
    images, labels = lesions("VASC", "NV")
    settings = {
        "defaults": {},
        "soft threshold": {"normalize": "soft_threshold"},
        "floor 0, alpha 1": {"floor": 0.0, "alpha": 1.0},
        "floor 0.65": {"floor": 0.65},
        "uniform 0.8": {"floor": 0.8, "alpha": 0.8},
    }
    figure = panels(2, len(settings), list(settings), ["ratio of own", "mix"])
    for column, arguments in enumerate(settings.values()):
        mixer = SaliencyPatchMix(
            class_counts=COUNTS, saliency="border_contrast", patch_size=PATCH, **arguments
        )
        plan = mixer.plan(images, labels, partner=torch.tensor([1, 1]))
        figure.axes[column].imshow(plan.ratios[0].numpy(), vmin=0, vmax=1)
        mix = plan.images(images)[0].permute(1, 2, 0)
        figure.axes[len(settings) + column].imshow(mix.numpy())
    return figure


def draw_providers() -> Figure:
    """Draw the maps of every provider that needs no model, a row a provider."""
    images, labels = lesions("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    maps = {name: provider(images) for name, provider in MODEL_FREE.items()}
    titles = [NAMES[label] for label in labels]
    figure = panels(1 + len(maps), len(images), titles, ["image", *maps])
    shown = [images.permute(0, 2, 3, 1), *maps.values()]
    for place, axes in enumerate(figure.axes):
        row, column = divmod(place, len(images))
        axes.imshow(shown[row][column].numpy())
    return figure


def other_class(labels: Tensor, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a partner of another class, as the page on pairing shows."""
    chance = torch.rand(len(labels), len(labels), generator=generator)
    chance[labels.unsqueeze(1) == labels] = -1.0
    best, partner = chance.max(dim=1)
    return torch.where(best < 0, torch.arange(len(labels)), partner)


def draw_pairing(pairing: object) -> Figure:
    """Draw whom each image of a batch is mixed with: own above, partner below."""
    images, labels = lesions("DF", "VASC", "AKIEC", "MEL", "NV", "NV", "NV")
    mixer = SaliencyPatchMix(
        class_counts=COUNTS,
        pairing=pairing,
        p=1.0,
        patch_size=PATCH,
        generator=torch.Generator().manual_seed(5),
    )
    plan = mixer.plan(images, labels)
    figure = panels(2, len(images), [NAMES[label] for label in labels], ["own", "partner"])
    for column, partner in enumerate(plan.partner.tolist()):
        own, other = figure.axes[column], figure.axes[len(images) + column]
        own.imshow(images[column].permute(1, 2, 0).numpy())
        other.imshow(images[partner].permute(1, 2, 0).numpy())
        other.set_xlabel("itself" if partner == column else NAMES[labels[partner]], fontsize=9)
    return figure


def draw_sampler() -> Figure:
    """Draw what the pair sampler does with class counts like those of ISIC 2018."""
    labels = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)
    return plot_sampler(TailHeadPairSampler(labels, batch_size=64), class_names=NAMES)


FIGURES: dict[str, Callable[[], Figure]] = {
    "hero.webp": draw_hero,
    "plan.webp": draw_plan,
    "scores.webp": draw_scores,
    "bounds.webp": draw_bounds,
    "providers.webp": draw_providers,
    "pairing_relative.webp": lambda: draw_pairing("relative"),
    "pairing_any.webp": lambda: draw_pairing("any"),
    "pairing_own.webp": lambda: draw_pairing(other_class),
    "sampler.webp": draw_sampler,
}


def draw_all(folder: Path) -> None:
    """Write all figures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw().savefig(folder / name, dpi=100, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
