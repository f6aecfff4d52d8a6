"""Pictures of plans, and an audit of a sampler; needs matplotlib, `pip install spmix-aug[viz]`.

Figures belong to no window and to no global state of matplotlib: save them with `savefig`, or show
them in a notebook. The label of each, `figure.get_label()`, is a text alternative.
"""

import copy
import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug import functional as steps
from spmix_aug._checks import expect, expect_type, optional
from spmix_aug.batch import unit_range
from spmix_aug.plan import MixPlan
from spmix_aug.sampler import TailHeadPairSampler, head_tail_split

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "spmix_aug.viz needs matplotlib; install it with pip install 'spmix-aug[viz]'."
    ) from error

COLUMNS = ("own", "partner", "own saliency", "partner saliency", "ratio of own", "mix")
# Of Okabe and Ito, which colour-blind readers can distinguish.
GROUP_COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}


class _Shown(Figure):
    """A figure that a notebook shows where a cell ends in it."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def plot_plan(
    images: Tensor,
    plan: MixPlan,
    labels: Tensor | None = None,
    rows: int = 4,
    *,
    samples: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
) -> Figure:
    """Draw what a plan mixes: own, partner, both saliencies, ratio and mix, a row a sample.

    Each map is drawn from 0 to its own maximum, the ratio from 0 to 1. A sample that stays
    unmixed is its own partner; its panel reads "not mixed".

    Args:
        images: `(B,C,H,W)` that the plan was made for, in [0, 1], uint8, or normalised. Three
            channels are colours; of others the mean is drawn in grey.
        plan: of these images.
        labels: of the images, as a mixer takes them, to be written on own and partner; the mix
            always has its target written on it.
        rows: samples to draw, the first of the batch; all when there are fewer.
        samples: indices of the samples to draw, instead of the first ones.
        class_names: a name for each of the K classes; their numbers when None.
        mean: of the images' normalisation, one number or one a channel; the plan's when None.
        std: the same.

    Returns:
        A figure of six columns.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if images, labels or names do not fit the plan, or it has no saliency because
            it mixes nothing.

    Example:
        >>> from spmix_aug import SaliencyPatchMix
        >>> images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 7
        >>> plan = SaliencyPatchMix(num_classes=7).plan(images, labels)
        >>> figure = plot_plan(images, plan, labels, rows=2)
        >>> len(figure.axes)
        12
    """
    _checks.as_instance("plan", plan, MixPlan)
    got = "one that mixes nothing: its mixer was in evaluation mode, or had p = 0"
    expect(plan.saliency is not None, "plan", "to have saliency", got)
    maps = cast(Tensor, plan.saliency)
    batch, num_classes = plan.targets.shape
    mixed = plan.images(_checks.require_images(images).detach())  # checks that they fit
    names = _as_names(class_names, num_classes)
    if samples is None:
        samples = range(min(_checks.as_integer("rows", rows), batch))
    samples = _as_samples(samples, batch)
    own_names = [""] * batch
    if labels is not None:
        labels = _checks.as_labels(labels, batch, num_classes, images.device)
        own_names = [_named(row, names) for row in steps.class_distribution(labels, num_classes)]

    if mean is None and std is None:
        mean, std = plan.mean, plan.std
    as_values = optional(_checks.as_channel_values)
    scale = as_values("mean", mean), as_values("std", std)
    _checks.require_together(*scale)
    own, mixed = (_viewable(each, *scale) for each in (images.detach(), mixed))
    maps = F.interpolate(maps.float().unsqueeze(1), plan.image_size, mode="bilinear").squeeze(1)
    pixels = steps.expand_to_pixels(plan.ratios, plan.patch_size, plan.image_size)
    share = steps.mean_ratio(plan.ratios, plan.patch_size, plan.image_size).tolist()
    partners = plan.partner.tolist()

    height, width = plan.image_size
    figure = _Shown(figsize=(1.6 * len(COLUMNS), 1.6 * len(samples) * height / width + 0.4))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02)
    panels = figure.subplots(len(samples), len(COLUMNS), squeeze=False)
    texts = []
    for row, i in zip(panels, samples, strict=True):
        partner, target = partners[i], _named(plan.targets[i], names)
        note = "not mixed" if partner == i else f"mean {share[i]:.2f}"
        _show(row[0], own[i], own_names[i])
        _show(row[1], own[partner], own_names[partner])
        _show(row[2], maps[i])
        _show(row[3], maps[partner])
        _show(row[4], pixels[i], note, highest=1.0)
        _show(row[5], mixed[i], f"label {target}")
        texts.append(f"sample {i} with {partner}, ratio {note}, label {target}")
    for axes, title in zip(figure.axes, COLUMNS, strict=False):
        axes.set_title(title, fontsize=10)
    figure.set_label(f"Six columns, {', '.join(COLUMNS)}. Rows: {'; '.join(texts)}.")
    return figure


def _as_names(value: Any, num_classes: int) -> list[str]:
    """Accept one name a class; the numbers of the classes when None."""
    if value is None:
        return [str(index) for index in range(num_classes)]
    ok = isinstance(value, Sequence) and not isinstance(value, str)
    expect_type(ok, "class_names", "to be a sequence of names", value)
    wanted = "to have {number} names, one a class"
    expect(len(value) == num_classes, "class_names", wanted, len(value), number=num_classes)
    return [str(name) for name in value]


def _as_samples(value: Any, batch: int) -> list[int]:
    """Accept indices of samples of a batch, at least one."""
    expect_type(isinstance(value, Sequence), "samples", "to be a sequence of indices", value)
    indices = [_checks.as_integer("samples", index, low=0) for index in value]
    ok, wanted = indices and max(indices) < batch, "to be at least one index in 0 to {last}"
    expect(ok, "samples", wanted, indices, last=batch - 1)
    return indices


def _viewable(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Bring images to what is drawn: `(B,H,W,3)` or grey `(B,H,W,1)`, in [0, 1], on the CPU."""
    images = unit_range(images.cpu(), mean, std)
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True)
    return images.clamp(0, 1).permute(0, 2, 3, 1)


def _show(axes: Axes, panel: Tensor, note: str = "", highest: float | None = None) -> None:
    """Show an image `(H,W,C)`, or a map `(H,W)` from 0 to `highest`, with a note in its corner."""
    if panel.ndim == 3 and panel.shape[2] == 1:
        axes.imshow(panel[:, :, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(panel.cpu().numpy(), vmin=0, vmax=highest)
    axes.set_axis_off()
    if note:
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}
        axes.text(0.03, 0.05, note, fontsize=8, transform=axes.transAxes, bbox=box)


def _named(weights: Tensor, names: Sequence[str]) -> str:
    """Write a class distribution `(K,)` in words: its one class, or its largest weights."""
    values, order = weights.float().sort(descending=True, stable=True)
    if float(values[0]) > 0.995:
        return names[int(order[0])]
    largest = zip(order[:3].tolist(), values[:3].tolist(), strict=True)
    return ", ".join(f"{names[k]} {value:.2f}" for k, value in largest if value >= 0.005)


def describe(
    sampler: TailHeadPairSampler,
    *,
    class_names: Sequence[str] | None = None,
    many: float = 1000,
    few: float = 200,
    p: float = 0.5,
    epoch: int = 0,
) -> str:
    """Report how a sampler treats each class: its size, its share of the batches, its partners.

    Counted in one epoch of the sampler's batches, in which samples are mixed with probability `p`
    by relative pairing. A *draw* is a place in a batch; the *partners* of an image are the other
    images that it was mixed with, each counted once. Of several ranks it is this rank's epoch. The
    sampler and torch's global random state are left as they are.

    Args:
        sampler: to be described.
        class_names: a name for each class; their numbers when None.
        many: classes with more samples than this are many-shot.
        few: classes with fewer samples than this are few-shot; the others are medium-shot.
        p: the mixer's probability of a sample to be mixed, in [0, 1].
        epoch: whose batches are drawn.

    Returns:
        A few lines and a table. A row has the group of a class, its samples, its share of the data
        and of the draws, and the mean, least and most draws and partners of its images.

    Raises:
        TypeError: if `sampler` is no `TailHeadPairSampler`, or another argument of the wrong type.
        ValueError: if an argument is out of its range.

    Example:
        >>> sampler = TailHeadPairSampler([0] * 300 + [1] * 10, batch_size=20)
        >>> print(describe(sampler, p=1.0))  # doctest: +NORMALIZE_WHITESPACE
        310 samples of 2 classes. An epoch has 31 batches of 20 samples, 10 of them class-balanced,
        2.0 times the batches of a plain pass.
        ...
    """
    return str(_SamplerAudit(sampler, class_names, many, few, p, epoch))


def plot_sampler(
    sampler: TailHeadPairSampler,
    *,
    class_names: Sequence[str] | None = None,
    many: float = 1000,
    few: float = 200,
    p: float = 0.5,
    epoch: int = 0,
) -> Figure:
    """Draw what `describe` reports: class sizes, draws and partners of the images of each class.

    Bars of the sizes, coloured by group; then mean, least and most draws and partners of an image,
    with a dot for each image of the few-shot classes; all on logarithmic axes. Arguments and
    errors are those of `describe`, whose text is the figure's label.

    Returns:
        A figure of three panels.
    """
    return _SamplerAudit(sampler, class_names, many, few, p, epoch).plot()


class _SamplerAudit:
    """What an epoch of a sampler does with each sample of the data set; see `describe`."""

    def __init__(
        self, sampler: Any, class_names: Any, many: float, few: float, p: float, epoch: int
    ) -> None:
        self.sampler = _checks.as_instance("sampler", sampler, TailHeadPairSampler)
        counts = sampler.class_counts
        self.names = _as_names(class_names, len(counts))
        split = head_tail_split(counts, many=many, few=few)._asdict()
        group_of = {k: group for group, members in split.items() for k in members}
        self.groups = [group_of[k] for k in range(len(counts))]
        self.many, self.few, self.p = many, few, _checks.as_number("p", p, high=1.0)
        self.epoch = _checks.as_integer("epoch", epoch, low=0)
        # Nothing here is of the default device, or of the default dtype.
        of_sorted = torch.arange(len(counts), device="cpu").repeat_interleave(counts)
        self.classes = torch.empty_like(of_sorted)  # (N,)
        self.classes[sampler._by_class] = of_sorted
        self._count()

    def _count(self) -> None:
        """Go through the batches of the epoch: places in them, and distinct partners, `(N,)`."""
        number = len(self.classes)
        sampler = copy.deepcopy(self.sampler)  # iterating one moves its place in the epoch
        sampler.load_state_dict({"epoch": self.epoch, "next_batch": 0})
        generator = np.random.default_rng(sampler.sampler.seed)
        self.draws, pairs = torch.zeros_like(self.classes), [self.classes[:0]]
        for indices in sampler:
            batch = torch.tensor(indices, device="cpu")
            self.draws += torch.bincount(batch, minlength=number)
            gate, pick = torch.from_numpy(generator.random((2, len(batch))))
            frequency = sampler.class_counts[self.classes[batch]]
            partner = batch[steps.draw_at_least_as_frequent(frequency, pick)]
            mixed = (gate < self.p) & (partner != batch)
            pairs.append(batch[mixed] * number + partner[mixed])
        distinct: Tensor = torch.cat(pairs).unique()  # type: ignore[no-untyped-call]
        self.partners = torch.bincount(distinct // number, minlength=number)

    def _table(self) -> list[tuple[str, ...]]:
        """Write the table, a heading and a row a class."""
        heading = "class", "group", "samples", "of the data", "of the draws", "draws", "partners"
        table: list[tuple[str, ...]] = [heading]
        for k, count in enumerate(self.sampler.class_counts.tolist()):
            draws, partners = self.draws[self.classes == k], self.partners[self.classes == k]
            of_data = f"{count / len(self.classes):.1%}"
            of_draws = f"{float(draws.sum()) / float(self.draws.sum()):.1%}"
            spreads = _range(draws), _range(partners)
            table.append((self.names[k], self.groups[k], str(count), of_data, of_draws, *spreads))
        return table

    def __str__(self) -> str:
        """Write what the sampler is, and the table."""
        ranks = self.sampler.sampler.num_replicas
        of_ranks = f" on rank {self.sampler.sampler.rank} of {ranks}" if ranks > 1 else ""
        rank_samples = len(self.sampler.sampler)
        times = len(self.sampler) * self.sampler.batch_size / rank_samples
        columns = []
        for place, column in enumerate(zip(*self._table(), strict=True)):
            width = max(map(len, column))
            columns.append([c.ljust(width) if place < 2 else c.rjust(width) for c in column])
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        text = (
            f"{len(self.classes)} samples of {len(self.names)} classes. An epoch{of_ranks} "
            f"has {len(self.sampler)} batches of {self.sampler.batch_size} samples, "
            f"{self.sampler.num_balanced} of them class-balanced, {times:.1f} times the "
            "batches of a plain pass.\n"
            f"Many-shot: more than {self.many:g} samples; few-shot: fewer than {self.few:g}.\n"
            f"Draws and partners of an image in epoch {self.epoch}: mean (least to most), "
            f"mixed with p = {self.p:g} by relative pairing.\n"
        )
        return "\n".join([text, *lines])

    def plot(self) -> Figure:
        """Draw class sizes, and draws and partners of the images of each class."""
        figure = _Shown(figsize=(11, 3.4), layout="constrained")
        sizes, *spreads = figure.subplots(1, 3)
        counts = self.sampler.class_counts.tolist()
        for group, colour in GROUP_COLOURS.items():
            members = [k for k, name in enumerate(self.groups) if name == group]
            if members:
                heights = [counts[k] for k in members]
                sizes.bar(members, heights, color=colour, label=f"{group}-shot")
        sizes.set(yscale="log", title="samples of each class")
        sizes.legend()
        titles = "draws of an image in an epoch", "its distinct partners"
        for axes, values, title in zip(spreads, (self.draws, self.partners), titles, strict=True):
            for k, group in enumerate(self.groups):
                of_class = values[self.classes == k].double()
                if len(of_class) == 0:
                    continue
                colour, middle = GROUP_COLOURS[group], float(of_class.mean())
                reach = [[middle - float(of_class.min())], [float(of_class.max()) - middle]]
                axes.errorbar([k], [middle], reach, fmt="o", color=colour, capsize=4)
                if group == "few":
                    last = max(1, len(of_class) - 1)
                    beside = [k - 0.3 + 0.6 * i / last for i in range(len(of_class))]
                    axes.plot(beside, of_class.numpy(), ".", color=colour, alpha=0.4, markersize=4)
            axes.set_yscale("symlog", linthresh=1)  # shows 0 as well
            axes.set(ylim=(0, None), title=title)
        for axes in figure.axes:
            rotation = 45 if len(self.names) > 4 else 0
            axes.set_xticks(range(len(self.names)), self.names, rotation=rotation)
        figure.set_label(str(self))
        return figure


def _range(values: Tensor) -> str:
    """Write the mean, the least and the most of `values (n,)`."""
    if len(values) == 0:
        return "-"
    return f"{float(values.double().mean()):.1f} ({int(values.min())} to {int(values.max())})"
