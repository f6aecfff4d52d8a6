"""Pictures of plans, and an audit of a sampler; needs matplotlib, `pip install spmix-aug[viz]`.

Figures belong to no window and to no global state of matplotlib: save them with `savefig`, or show
them in a notebook. The label of each, `figure.get_label()`, is a text alternative.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.pairing import draw_at_least_as_frequent
from spmix_aug.patches import expand_to_pixels, own_share
from spmix_aug.plan import MixPlan
from spmix_aug.sampler import TailHeadPairSampler, head_tail_split
from spmix_aug.targets import class_distribution

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "spmix_aug.viz needs matplotlib; install it with pip install 'spmix-aug[viz]'."
    ) from error

COLUMNS = ("own", "partner", "own saliency", "partner saliency", "ratio of own", "mix")
# Of Okabe and Ito, which colour-blind readers tell apart.
GROUP_COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}


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

    Each map is drawn from 0 to its own maximum, the ratio from 0 to 1. A sample that passes through
    is its own partner and says so.

    Args:
        images: `(B,C,H,W)` that the plan was made for, in [0, 1], uint8, or normalised with `mean`
            and `std`. Three channels are colours; of others the mean is drawn in grey.
        plan: of these images.
        labels: of the images, as a mixer takes them, to be written on own and partner; the mix
            always has its target written on it.
        rows: samples to draw, the first of the batch; all when there are fewer.
        samples: indices of the samples to draw, instead of the first ones.
        class_names: a name for each of the K classes; their numbers when None.
        mean: of the images' normalisation, one number or one a channel.
        std: of the images' normalisation, one number or one a channel.

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
    _checks.instance("plan", plan, MixPlan)
    _checks.images_fit_plan(images, plan.partner, plan.image_size)
    maps = _checks.plan_has_saliency(plan.saliency)
    batch, num_classes = plan.targets.shape
    names = _checks.class_names(class_names, num_classes)
    if samples is None:
        samples = range(min(_checks.integer("rows", rows), batch))
    samples = _checks.samples(samples, batch)
    own_names = [""] * batch
    if labels is not None:
        labels = _checks.labels(labels, batch, num_classes, images.device)
        own_names = [_named(row, names) for row in class_distribution(labels, num_classes)]

    scale = _checks.normalization(mean, std)
    mixed = _viewable(plan.images(images.detach()), *scale)
    own = _viewable(images.detach(), *scale)
    maps = F.interpolate(maps.float().unsqueeze(1), plan.image_size, mode="bilinear").squeeze(1)
    pixels = expand_to_pixels(plan.ratios, plan.patch_size, plan.image_size)
    share = own_share(plan.ratios, plan.patch_size, plan.image_size).tolist()
    partners = plan.partner.tolist()

    height, width = plan.image_size
    figure = Figure(figsize=(1.6 * len(COLUMNS), 1.6 * len(samples) * height / width + 0.4))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02)
    told = []
    for row, i in zip(
        figure.subplots(len(samples), len(COLUMNS), squeeze=False), samples, strict=True
    ):
        partner, target = partners[i], _named(plan.targets[i], names)
        note = "not mixed" if partner == i else f"mean {share[i]:.2f}"
        _show(row[0], own[i], own_names[i])
        _show(row[1], own[partner], own_names[partner])
        _show(row[2], maps[i])
        _show(row[3], maps[partner])
        _show(row[4], pixels[i], note, highest=1.0)
        _show(row[5], mixed[i], f"label {target}")
        told.append(f"sample {i} with {partner}, ratio {note}, label {target}")
    for axes, title in zip(figure.axes, COLUMNS, strict=False):
        axes.set_title(title, fontsize=10)
    figure.set_label(f"Six columns, {', '.join(COLUMNS)}. Rows: {'; '.join(told)}.")
    return figure


def _viewable(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Bring images to what is drawn: `(B,H,W,3)` or grey `(B,H,W,1)`, in [0, 1], on the CPU."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    images = images.cpu()
    if mean is not None and std is not None:
        images = torch.addcmul(mean.view(-1, 1, 1), images, std.view(-1, 1, 1))
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
    """Tell how a sampler treats each class: its size, its share of the batches, its partners.

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
        310 samples of 2 classes. An epoch has 31 batches of 20 samples, 10 of them class-balanced.
        ...
    """
    audit = _audit(sampler, p, epoch)
    groups, names = _groups(sampler, many, few), _checks.class_names(class_names, len(audit.counts))
    ranks, samples = sampler.sampler.num_replicas, len(audit.classes)
    of_ranks = f" on rank {sampler.sampler.rank} of {ranks}" if ranks > 1 else ""
    header = ("class", "group", "samples", "of the data", "of the draws", "draws", "partners")
    table = [header]
    for k, count in enumerate(audit.counts.tolist()):
        draws, partners = audit.draws[audit.classes == k], audit.partners[audit.classes == k]
        data_share, draw_share = count / samples, float(draws.sum()) / float(audit.draws.sum())
        shares = f"{data_share:.1%}", f"{draw_share:.1%}"
        table.append((names[k], groups[k], str(count), *shares, _range(draws), _range(partners)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join(
        [
            f"{samples} samples of {len(audit.counts)} classes. An epoch{of_ranks} has "
            f"{len(sampler)} batches of {sampler.batch_size} samples, {sampler.num_balanced} of "
            "them class-balanced.",
            f"Many-shot: more than {many:g} samples; few-shot: fewer than {few:g}.",
            f"Draws and partners of an image in epoch {epoch}: mean (least to most), mixed with "
            f"p = {p:g} by relative pairing.",
            "",
            *lines,
        ]
    )


def plot_sampler(
    sampler: TailHeadPairSampler,
    *,
    class_names: Sequence[str] | None = None,
    many: float = 1000,
    few: float = 200,
    p: float = 0.5,
    epoch: int = 0,
) -> Figure:
    """Draw what `describe` tells: class sizes, and draws and partners of the images of each class.

    Bars of the sizes, coloured by group; then mean, least and most draws and partners of an image,
    with a dot for each image of the few-shot classes; all on logarithmic axes. Arguments and
    errors are those of `describe`, whose text is the figure's label.

    Returns:
        A figure of three panels.
    """
    audit = _audit(sampler, p, epoch)
    groups, names = _groups(sampler, many, few), _checks.class_names(class_names, len(audit.counts))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    sizes, *spreads = figure.subplots(1, 3)
    for group, colour in GROUP_COLOURS.items():
        members = [k for k, name in enumerate(groups) if name == group]
        if members:
            label = f"{group}-shot"
            sizes.bar(members, audit.counts[members].tolist(), color=colour, label=label)
    sizes.set(yscale="log", title="samples of each class")
    sizes.legend()
    titles = "draws of an image in an epoch", "its distinct partners"
    for axes, values, title in zip(spreads, (audit.draws, audit.partners), titles, strict=True):
        for k, group in enumerate(groups):
            of_class = values[audit.classes == k].float()
            if len(of_class) == 0:
                continue
            colour, middle = GROUP_COLOURS[group], float(of_class.mean())
            reach = [[middle - float(of_class.min())], [float(of_class.max()) - middle]]
            axes.errorbar([k], [middle], reach, fmt="o", color=colour, capsize=4)
            if group == "few":
                beside = (k + torch.linspace(-0.3, 0.3, len(of_class))).tolist()
                axes.plot(beside, of_class.tolist(), ".", color=colour, alpha=0.4, markersize=4)
        axes.set_yscale("symlog", linthresh=1)  # shows 0 as well
        axes.set(ylim=(0, None), title=title)
    for axes in figure.axes:
        axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    text = describe(sampler, class_names=names, many=many, few=few, p=p, epoch=epoch)
    figure.set_label(text)
    return figure


class _Audit(NamedTuple):
    """What an epoch does with each sample of the data set."""

    classes: Tensor  # (N,)
    counts: Tensor  # (K,)
    draws: Tensor  # (N,), places in batches
    partners: Tensor  # (N,), distinct other samples that it was mixed with


def _audit(sampler: TailHeadPairSampler, p: float, epoch: int) -> _Audit:
    """Go through the batches of an epoch and count."""
    _checks.instance("sampler", sampler, TailHeadPairSampler)
    p = _checks.number("p", p, high=1.0)
    own_copy = copy.deepcopy(sampler)  # iterating one moves its place in the epoch
    own_copy.load_state_dict({"epoch": _checks.integer("epoch", epoch, low=0), "next_batch": 0})
    counts = sampler.class_counts
    number = int(counts.sum())
    classes = torch.empty(number, dtype=torch.int64)
    classes[sampler._by_class] = torch.arange(len(counts)).repeat_interleave(counts)
    generator = torch.Generator().manual_seed(sampler.sampler.seed)
    draws, pairs = torch.zeros(number, dtype=torch.int64), [torch.empty(0, dtype=torch.int64)]
    for indices in own_copy:
        batch = torch.tensor(indices)
        draws += torch.bincount(batch, minlength=number)
        gate, pick = torch.rand(2, len(batch), generator=generator)
        partner = batch[draw_at_least_as_frequent(counts[classes[batch]], pick)]
        mixed = (gate < p) & (partner != batch)
        pairs.append(batch[mixed] * number + partner[mixed])
    distinct: Tensor = torch.cat(pairs).unique()  # type: ignore[no-untyped-call]
    return _Audit(classes, counts, draws, torch.bincount(distinct // number, minlength=number))


def _groups(sampler: TailHeadPairSampler, many: float, few: float) -> list[str]:
    """Name the group of each class."""
    split = head_tail_split(sampler.class_counts, many=many, few=few)._asdict()
    of_class = {k: group for group, members in split.items() for k in members}
    return [of_class[k] for k in range(len(sampler.class_counts))]


def _range(values: Tensor) -> str:
    """Write the mean, the least and the most of `values (n,)`."""
    if len(values) == 0:
        return "-"
    return f"{float(values.float().mean()):.1f} ({int(values.min())} to {int(values.max())})"
