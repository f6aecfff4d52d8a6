"""Measure how well saliency finds lesions, and what a mix keeps of them.

    python -m benchmarks.lesion_focus --data FOLDER --out benchmarks/results/lesion_focus_fold0

FOLDER is in the ISIC 2018 challenge's layout and has a folder `lesion_masks` of PNG files beside
its images. Images of the test split are never read. benchmarks/README.md says what is measured.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from examples.isic2018.data import (
    CLASSES,
    LesionImages,
    Record,
    folds_of,
    read_lesion_mask,
    read_records,
)
from examples.isic2018.files import write_json, write_text
from examples.isic2018.origin import commit
from examples.isic2018.pictures import save
from examples.isic2018.train import load_model, split
from examples.isic2018.views import MEAN, STD
from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, class_counts
from spmix_aug.functional import NORMALIZATIONS, mix_ratios, patch_scores, raise_floor
from spmix_aug.saliency import (
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SaliencyProvider,
    SpectralResidual,
    border,
)

SIDE = 112  # pixels along the shorter side of whole images, and of both sides of crops
PATCHES_A_SIDE = (14, 28)
ALPHA = 0.8
PAPERS_FLOOR = 0.5
MATCHED_RATIO = 0.65  # the middle of [floor, alpha]
BATCH = 64

Maps = Callable[[Tensor, Tensor], Tensor]  # images (B,3,H,W) in [0, 1], labels (B,) -> (B,H,W)


@dataclass(frozen=True)
class View:
    """Images as a training might see them: uint8 `(N,3,H,W)`, and lesion masks `(N,H,W)`."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Pairs:
    """Which images are mixed: indices `(M,)` of own and partner."""

    own: Tensor
    partner: Tensor


# ---------------------------------------------------------------------------------------- data


def read_images(root: Path, folds: Sequence[int]) -> tuple[list[Record], Tensor, Tensor]:
    """Read the training images of some folds, `(N,3,H,W)`, and their masks, `(N,H,W)`."""
    records = read_records(root)
    places = folds_of(root, records, split_file=None, seed=0)
    chosen = [record for record, fold in zip(records, places, strict=True) if fold in folds]
    if not chosen:
        raise ValueError(f"no training images in folds {list(folds)}; see the split file")
    images, masks = [], []
    for (image, _), record in zip(
        tqdm(LesionImages(chosen), desc="images", unit=""), chosen, strict=True
    ):
        images.append(image)
        masks.append(read_lesion_mask(root, record.image))
    return chosen, torch.stack(images), torch.stack(masks)


def whole_view(images: Tensor, masks: Tensor) -> View:
    """Bring whole images to `SIDE` pixels along the shorter side."""
    resize = v2.Resize(SIDE)
    parts = [
        resize(tv_tensors.Image(image), tv_tensors.Mask(mask))
        for image, mask in zip(images.split(BATCH), masks.split(BATCH), strict=True)
    ]
    return _view(parts)


def crop_view(images: Tensor, masks: Tensor, seed: int) -> View:
    """Take one random resized crop of each image, 0.08 to 1 of its area, as the papers train."""
    torch.manual_seed(seed)
    crop = v2.RandomResizedCrop(SIDE, scale=(0.08, 1))
    parts = [
        crop(tv_tensors.Image(image[None]), tv_tensors.Mask(mask[None]))
        for image, mask in zip(images, masks, strict=True)
    ]
    return _view(parts)


def _view(parts: Sequence[tuple[Tensor, Tensor]]) -> View:
    images, masks = (torch.cat(part).as_subclass(Tensor) for part in zip(*parts, strict=True))
    return View(images, masks)


def draw_pairs(labels: Sequence[int], seed: int) -> Pairs:
    """Pair images over one epoch as the pair sampler and the mixer do."""
    sampler = TailHeadPairSampler(labels, BATCH, seed=seed)
    mixer = SaliencyPatchMix(
        class_counts=class_counts(labels, len(CLASSES)),
        p=1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    own, partner = [], []
    for batch in map(torch.tensor, sampler):
        nothing = torch.zeros(len(batch), 1, 1)
        plan = mixer.plan(nothing[:, None], torch.tensor(labels)[batch], saliency=nothing)
        mixed = plan.partner != torch.arange(len(batch))
        own.append(batch[mixed])
        partner.append(batch[plan.partner[mixed]])
    return Pairs(torch.cat(own), torch.cat(partner))


# ------------------------------------------------------------------------------------ saliency


def model_free(provider: SaliencyProvider) -> Maps:
    """Look at the images alone."""
    return lambda images, labels: provider(images)


def enlarged(provider: SaliencyProvider, factor: int) -> Maps:
    """Look at images enlarged: fine-grained saliency has surrounds of fixed sizes in pixels."""

    def maps(images: Tensor, labels: Tensor) -> Tensor:
        found = []
        for few in images.split(4):  # larger pieces of memory would be new ones each time
            large = F.interpolate(few, scale_factor=factor, mode="bilinear")
            found.append(F.avg_pool2d(provider(large).unsqueeze(1), factor).squeeze(1))
        return torch.cat(found)

    return maps


def model_based(provider: SaliencyProvider, run: Path, scale: float = 1.0) -> Maps:
    """Look through the model of a finished training, at `scale` times the resolution."""
    model = load_model(run)[1]

    def maps(images: Tensor, labels: Tensor) -> Tensor:
        seen = v2.functional.normalize(images, MEAN, STD)
        if scale != 1:
            seen = F.interpolate(seen, scale_factor=scale, mode="bilinear", antialias=True)
        found = provider(seen, labels, model).unsqueeze(1)
        return F.interpolate(found, images.shape[2:], mode="bilinear").squeeze(1)

    return maps


def centre_gaussian(images: Tensor, labels: Tensor) -> Tensor:
    """Look at the centre: a Gaussian of 0.35 of each side."""
    rows, columns = (
        torch.exp(-0.5 * (torch.linspace(-0.5, 0.5, side) / 0.35) ** 2) for side in images.shape[2:]
    )
    return (rows[:, None] * columns).expand(len(images), -1, -1)


def every_saliency(runs: Sequence[Path]) -> dict[str, Maps]:
    """Name what is compared, yardsticks that need the masks apart."""
    found = {
        "spectral residual": model_free(SpectralResidual()),
        "fine-grained": model_free(FineGrained()),
        "fine-grained, image enlarged 4 times": enlarged(FineGrained(), 4),
        "border contrast": model_free(BorderContrast()),
        "border contrast, centre prior 0.3": model_free(BorderContrast(center_prior=0.3)),
    }
    for run in runs:
        for name, provider in (("Grad-CAM", GradCAM()), ("input gradient", InputGradient())):
            found[f"{name}, {run.name}"] = model_based(provider, run)
            found[f"{name}, {run.name}, half resolution"] = model_based(provider, run, 0.5)
    found["centre Gaussian"] = centre_gaussian
    found["random"] = lambda images, labels: torch.rand(len(images), *images.shape[2:])
    return found


def border_variants() -> dict[str, Maps]:
    """Name what was tried for a border contrast that holds on crops."""
    found = {f"border contrast, {rounds} rounds": with_rounds(rounds) for rounds in (0, 1, 2, 4, 8)}
    for width in (0.02, 0.04, 0.08, 0.12):
        found[f"border contrast, border {width}"] = model_free(BorderContrast(width))
    for sigma in (0.25, 0.3, 0.35, 0.5):
        prior = BorderContrast(center_prior=sigma)
        found[f"border contrast, centre prior {sigma}"] = model_free(prior)
    found["border contrast"] = model_free(BorderContrast())
    found["mean distance from the four sides"] = distance_from_sides
    found["darkness"] = lambda images, labels: 1 - images.mean(dim=1)
    found["centre Gaussian"] = centre_gaussian
    return found


def with_rounds(rounds: int) -> Maps:
    """Weigh the border's pixels anew another number of times."""

    def maps(images: Tensor, labels: Tensor) -> Tensor:
        with mock.patch.object(border, "ROUNDS", rounds):
            return BorderContrast()(images)

    return maps


def distance_from_sides(images: Tensor, labels: Tensor) -> Tensor:
    """Take each side's colours for a background of its own, and the mean of the distances."""
    colours = border.lab(images)
    width = round(0.08 * min(images.shape[2:]))
    sides = (
        colours[:, :, :width],
        colours[:, :, -width:],
        colours[:, :, :, :width],
        colours[:, :, :, -width:],
    )
    total = torch.zeros(len(images), 1, colours[0, 0].numel())
    for side in sides:
        pixels = side.flatten(2)
        mean = pixels.mean(dim=2, keepdim=True)
        covariance = (pixels - mean) @ (pixels - mean).mT / pixels.shape[2]
        covariance += border.ROUNDING_VARIANCE * torch.eye(len(covariance[0]))
        centred = colours.flatten(2) - mean
        squared = (centred * torch.linalg.solve(covariance, centred)).sum(dim=1, keepdim=True)
        total += squared.clamp(min=0).sqrt()
    return total.reshape(len(images), *images.shape[2:])


# ------------------------------------------------------------------------------------- figures


def weighted_auc(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Area under the ROC curve of each row, ties counting half; NaN where a row has one kind.

    Args:
        scores: `(N,n)`.
        positive: weight of each score as a positive, `(N,n)`.
        negative: weight of each score as a negative, `(N,n)`.
    """
    scores, order = scores.sort(dim=1)
    positive, negative = (weight.double().gather(1, order) for weight in (positive, negative))
    below = F.pad(negative.cumsum(dim=1), (1, 0))
    first, last = (torch.searchsorted(scores, scores, right=right) for right in (False, True))
    beaten = (below.gather(1, first) + below.gather(1, last)) / 2
    return (positive * beaten).sum(1) / (positive.sum(1) * negative.sum(1))


def count_pixels(masks: Tensor, patch_size: int) -> Tensor:
    """Count the pixels of `masks (N,H,W)` in each patch: `(N,gh,gw)`."""
    pooled = F.avg_pool2d(masks[:, None].float(), patch_size, ceil_mode=True, divisor_override=1)
    return pooled.squeeze(1)


def rank_scores(scores: Tensor) -> Tensor:
    """Replace each image's `scores (N,gh,gw)` by their ranks, in [0, 1]."""
    ranks = scores.flatten(1).argsort(dim=1).argsort(dim=1).float()
    return (ranks / (ranks.shape[1] - 1)).view_as(scores)


TRIED: dict[str, Callable[[Tensor], Tensor]] = {**NORMALIZATIONS, "rank": rank_scores}


class Regions:
    """The pixels of each pair that a mix should keep, hold down, or exchange."""

    def __init__(self, masks: Tensor, pairs: Pairs, patch_size: int) -> None:
        keep, hold, exchange = [], [], []
        for i, j in zip(pairs.own.split(512), pairs.partner.split(512), strict=True):
            keep.append(count_pixels(masks[i], patch_size))
            hold.append(count_pixels(masks[j] & ~masks[i], patch_size))
            exchange.append(count_pixels(~masks[j] & ~masks[i], patch_size))
        self.keep, self.hold, self.exchange = map(torch.cat, (keep, hold, exchange))
        self.all = self.keep + self.hold + self.exchange

    def mean_ratio(self, ratios: Tensor) -> float:
        """Average the `ratios (M,gh,gw)` of the pairs over all their pixels."""
        return _mean(_mean_in(ratios, self.all))

    def measure(self, ratios: Tensor) -> dict[str, float]:
        """Average the `ratios (M,gh,gw)` of the pairs over their regions."""
        preservation = _mean_in(ratios, self.keep)
        return {
            "mean_ratio": self.mean_ratio(ratios),
            "preservation": _mean(preservation),
            "preservation_p10": round(float(preservation.quantile(0.1)), 5),
            "interference": _mean(_mean_in(1 - ratios, self.hold)),
            "exchange": _mean(_mean_in(1 - ratios, self.exchange)),
        }


def _mean_in(values: Tensor, pixels: Tensor) -> Tensor:
    """Mean of the `values (M,gh,gw)` over the `pixels` of each patch, of pairs that have any."""
    total = pixels.sum(dim=(1, 2))
    return ((values * pixels).sum(dim=(1, 2)) / total)[total > 0]


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 5)


def _standard_error(values: Tensor) -> float:
    return round(float(values.std()) / len(values) ** 0.5, 5)


def ratios_of(normalized: Tensor, pairs: Pairs, floor: float) -> Tensor:
    """Mix as the package does, from each image's normalised scores."""
    lifted = raise_floor(normalized, floor)
    return mix_ratios(lifted[pairs.own], lifted[pairs.partner], ALPHA)


def matching_floor(normalized: Tensor, regions: Regions, pairs: Pairs) -> float:
    """Find the floor at which the mean ratio is `MATCHED_RATIO`, in [0, alpha]."""
    low, high = 0.0, ALPHA
    for _ in range(13):
        middle = (low + high) / 2
        mean_ratio = regions.mean_ratio(ratios_of(normalized, pairs, middle))
        low, high = (middle, high) if mean_ratio < MATCHED_RATIO else (low, middle)
    return high


def measure_mixes(scores: Tensor, regions: Regions, pairs: Pairs) -> dict[str, Any]:
    """Measure each normalisation of `scores (N,gh,gw)`, with several floors and the matched one."""
    measured = {}
    for name, normalize in TRIED.items():
        normalized = normalize(scores)

        def at(floor: float, normalized: Tensor = normalized) -> dict[str, float]:
            ratios = ratios_of(normalized, pairs, floor)
            return {"floor": floor, **regions.measure(ratios)}

        measured[name] = {
            "papers_floor": at(PAPERS_FLOOR),
            "matched": at(matching_floor(normalized, regions, pairs)),
            "curve": [at(step / 5) for step in range(5)],
        }
    return measured


def measure_auc(scores: Tensor, masks: Tensor, patches_a_side: int) -> dict[str, float]:
    """Measure how well `scores (N,gh,gw)` tell the pixels of lesions from those of skin."""
    lesion, skin = (count_pixels(m, SIDE // patches_a_side).flatten(1) for m in (masks, ~masks))
    auc = weighted_auc(scores.flatten(1), lesion, skin)
    auc = auc[auc.isfinite()]
    return {
        "auc": _mean(auc),
        "auc_p10": round(float(auc.quantile(0.1)), 5),
        "auc_se": _standard_error(auc),
        "auc_images": len(auc),
    }


def measure_view(
    view: View, labels: Tensor, pairs: Pairs, saliency: Mapping[str, Maps], seed: int
) -> Iterator[dict[str, Any]]:
    """Measure every saliency, and the yardsticks, on one view of the images."""
    regions = {a: Regions(view.masks, pairs, SIDE // a) for a in PATCHES_A_SIDE}
    torch.manual_seed(seed)
    order = torch.randperm(len(labels))
    others = torch.empty_like(order).scatter_(0, order, order.roll(1))
    yardsticks = {
        "border contrast of another image": ("border contrast", others),
        "true masks": (None, None),
    }
    kept: dict[str, dict[int, Tensor]] = {}
    for name in tqdm([*saliency, *yardsticks], desc="saliency", unit=""):
        if name in saliency:
            kept[name] = scores_of(saliency[name], view, labels)
        elif name == "true masks":
            kept[name] = {a: scores_in(view.masks.float(), a) for a in PATCHES_A_SIDE}
        else:
            source, order = yardsticks[name]
            kept[name] = {a: scores[order] for a, scores in kept[source].items()}
        for a, scores in kept[name].items():
            found = {"saliency": name, "patches_a_side": a, **measure_auc(scores, view.masks, a)}
            yield {**found, "mixes": measure_mixes(scores, regions[a], pairs)}
    for a in PATCHES_A_SIDE:
        ratios = torch.full_like(regions[a].all, MATCHED_RATIO)
        yield {"saliency": "uniform ratio", "patches_a_side": a, "auc": 0.5, "auc_p10": 0.5} | {
            "mixes": {"constant": {"matched": regions[a].measure(ratios)}}
        }


def scores_of(maps: Maps, view: View, labels: Tensor) -> dict[int, Tensor]:
    """Compute the patch scores of all images, `(N,gh,gw)` for each number of patches a side."""
    scores: dict[int, list[Tensor]] = {a: [] for a in PATCHES_A_SIDE}
    for images, classes in zip(view.images.split(BATCH), labels.split(BATCH), strict=True):
        found = maps(images.float() / 255, classes)
        for a, parts in scores.items():
            parts.append(scores_in(found, a))
    return {a: torch.cat(parts) for a, parts in scores.items()}


def scores_in(maps: Tensor, patches_a_side: int) -> Tensor:
    """Average `maps (N,H,W)` over patches, of which the shorter side has so many."""
    return patch_scores(maps, SIDE // patches_a_side, (maps.shape[1], maps.shape[2]))


# -------------------------------------------------------------------------------------- report


def table(rows: Sequence[Mapping[str, Any]], view: str, patches: int) -> str:
    """Write the rows of one view and patch size as Markdown, best preservation first."""
    lines = [
        "| saliency | AUC | 10th percentile | scores | floor | preservation | interference "
        "| exchange |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    chosen = [row for row in rows if (row["view"], row["patches_a_side"]) == (view, patches)]

    def preservation(row: Mapping[str, Any]) -> float:
        return max(mix["matched"]["preservation"] for mix in row["mixes"].values())

    for row in sorted(chosen, key=preservation, reverse=True):
        for name, mix in row["mixes"].items():
            found = mix["matched"]
            floor = f"{found['floor']:.2f}" if "floor" in found else ""
            lines.append(
                f"| {row['saliency']} | {row['auc']:.3f} | {row['auc_p10']:.2f} | "
                f"{name.replace('_', '-')} | {floor} | {found['preservation']:.3f} | "
                f"{found['interference']:.3f} | {found['exchange']:.3f} |"
            )
    return "\n".join(lines)


def report(result: Mapping[str, Any]) -> str:
    """Write all tables as Markdown."""
    parts = [
        f"# Lesion focus, folds {', '.join(map(str, result['folds']))}",
        f"{result['images']} images, {result['pairs']} pairs, commit {result['commit']}, "
        f"seed {result['seed']}. Preservation, interference and exchange at a mean ratio of "
        f"{MATCHED_RATIO}, which the floor is set for. The standard error of an AUC is at most "
        f"{max(row.get('auc_se', 0) for row in result['rows']):.3f}.",
    ]
    for view in ("whole", "crop"):
        for patches in PATCHES_A_SIDE:
            parts += [
                f"## {view.capitalize()} images, {patches} patches a side"
                if view == "whole"
                else f"## Random resized crops, {patches} patches a side",
                table(result["rows"], view, patches),
            ]
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path, shown: Sequence[str]) -> None:
    """Draw what is kept and held down against what is exchanged, as the floor moves."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for column, view in zip(panels.T, ("whole", "crop"), strict=True):
        chosen = {
            row["saliency"]: row
            for row in rows
            if (row["view"], row["patches_a_side"]) == (view, PATCHES_A_SIDE[0])
        }
        for axes, key in zip(column, ("preservation", "interference"), strict=True):
            for number, name in enumerate(n for n in shown if n in chosen):
                mixes = chosen[name]["mixes"]
                for normalize, style in (("min_max", "--"), ("soft_threshold", "-")):
                    curve = mixes[normalize]["curve"]
                    axes.plot(
                        [point["exchange"] for point in curve],
                        [point[key] for point in curve],
                        style,
                        color=f"C{number}",
                        label=name if style == "-" else None,
                    )
            axes.plot([0.2, 1], [0.8, 0] if key == "preservation" else [0.2, 1], color="0.7", lw=1)
            axes.set(ylabel=key, title=f"{'whole images' if view == 'whole' else 'crops'}")
            axes.grid(alpha=0.3)
        column[-1].set_xlabel("exchange")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(
        "Own lesion kept, and partner's lesion let in, against background exchanged "
        "(solid: soft threshold, dashed: min-max, grey: uniform ratio)",
        fontsize=10,
    )
    save(figure, path)


def compare_border_variants(views: Mapping[str, View], labels: Tensor) -> str:
    """Write the AUC of what was tried for border contrast as Markdown, 14 patches a side."""
    lines = [
        "| saliency | whole: AUC | 10th percentile | crops: AUC | 10th percentile |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    first = PATCHES_A_SIDE[0]
    for name, maps in tqdm(border_variants().items(), desc="variants", unit=""):
        cells = []
        for view in views.values():
            found = measure_auc(scores_of(maps, view, labels)[first], view.masks, first)
            cells.append(f"{found['auc']:.3f} ± {found['auc_se']:.3f} | {found['auc_p10']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says, and write JSON, tables and figure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lesion_focus", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in the challenge's layout")
    parser.add_argument("--out", type=Path, required=True, help="path of the results, no suffix")
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="training folds to use")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        help="finished trainings of examples.isic2018.train that held these folds out",
    )
    parser.add_argument(
        "--border-variants", action="store_true", help="compare what was tried for it instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="of crops, pairs and random maps")
    options = parser.parse_args(arguments)
    try:
        measured = commit()  # before the time in which there may be another
        records, images, masks = read_images(options.data, options.folds)
        for run in options.runs:
            held = {record.image for record in split(load_model(run)[0])[1]}
            if not {record.image for record in records} <= held:
                raise ValueError(f"{run} was trained on some of these images; hold the fold out")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    labels = [record.label for record in records]
    views = {
        "whole": whole_view(images, masks),
        "crop": crop_view(images, masks, options.seed),
    }
    if options.border_variants:
        title = f"# Border contrast, what was tried: folds {options.folds}, commit {measured}\n\n"
        text = title + compare_border_variants(views, torch.tensor(labels))
        write_text(options.out.with_suffix(".md"), text)
        print(text)
        return
    pairs = draw_pairs(labels, options.seed)
    saliency = every_saliency(options.runs)
    rows = []
    for name, view in views.items():
        found = measure_view(view, torch.tensor(labels), pairs, saliency, options.seed)
        rows += [{"view": name, **row} for row in found]
    result = {
        "benchmark": "lesion_focus",
        "commit": measured,
        "torch": torch.__version__,
        "folds": options.folds,
        "seed": options.seed,
        "images": len(labels),
        "pairs": len(pairs.own),
        "matched_ratio": MATCHED_RATIO,
        "runs": [run.name for run in options.runs],
        "rows": rows,
    }
    write_json(options.out.with_suffix(".json"), result)
    write_text(options.out.with_suffix(".md"), report(result))
    shown = (
        "true masks",
        "border contrast",
        "border contrast, centre prior 0.3",
        "spectral residual",
        "fine-grained",
        "centre Gaussian",
    )
    draw(rows, options.out.with_suffix(".png"), shown)
    print(report(result))


if __name__ == "__main__":
    main()
