"""What mixing leaves of artefacts and of lesions, by the map that guides it; nothing is trained."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from examples.isic2018.data import CLASSES
from examples.isic2018.metrics import percent
from spmix_aug import SaliencyPatchMix

from .engine import BATCH, CROP, Images, K, Method, crop, hardened, provider_of, random_boxes
from .plan import CHOOSING_FOLDS, METHODS
from .traps import SETS, TIED, plant_all

LEFT = "maps.json"
MEASURED = {
    "spmix_border": METHODS["spmix_border"],
    "exchange_spectral": replace(METHODS["exchange"], saliency="spectral_residual"),
    **{
        name: METHODS[name]
        for name in (
            "exchange",
            "exchange_centred",
            "exchange_centred_coarse",
            "exchange_centred_hard",
            "exchange_middle",
            "exchange_masks",
            "exchange_masks_hard",
        )
    },
}
PARTS = ("artefact", "lesion")

Left = Mapping[str, Mapping[str, Mapping[str, float]]]  # by method, artefact and part


def measure_left(images: Images, methods: Mapping[str, Method]) -> Left:
    """Measure what mixes leave of the own image, in its artefact and in its lesion.

    The own images are those of the three rare classes of the choosing folds, cut as in training,
    each with one of the artefacts; their partners are any others of these folds, with an artefact
    of the same set or none, as in training. Every sample is mixed.

    Args:
        images: the data set.
        methods: by name; of each, map, bounds, patches and scores are used.

    Returns:
        For each method and artefact, the mean over images of the own image's mean ratio, in
        [0, 1], over what the artefact changed, weighted by how much, and over the lesion.
    """
    usable = torch.isin(images.folds, torch.tensor([int(fold) for fold in CHOOSING_FOLDS]))
    rare = torch.isin(images.labels, torch.tensor([CLASSES.index(name) for name in TIED]))
    own, any_class = (usable & rare).nonzero().flatten(), usable.nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    other = any_class[torch.randint(len(any_class), own.shape, generator=generator)]
    others_kinds = torch.randint(4, own.shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = random_boxes(2 * len(own), tuple(images.pixels.shape[2:]), CROP)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    for of, kinds in SETS.items():
        for number, kind in enumerate(kinds):
            planted = torch.full_like(own, number)
            sums: dict[str, list[Tensor]] = {name: [] for name in methods}
            for place in torch.arange(len(own)).split(BATCH // 2):
                pairs = torch.cat([own[place], other[place]])
                cut = torch.cat([boxes[place], boxes[len(own) + place]])
                kinds_of_pairs = torch.cat([planted[place], others_kinds[place]])
                views = _views(images, pairs, kinds_of_pairs, of, cut)
                for name, method in methods.items():
                    sums[name].append(_left(method, *views))
            for name, parts in sums.items():
                left = torch.cat(parts).nanmean(dim=0)  # not all crops have the artefact
                found[name][kind] = dict(zip(PARTS, left.tolist(), strict=True))
    return found


def _views(
    images: Images, pairs: Tensor, kinds: Tensor, of: str, boxes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut images with artefacts, `(B,3,H,W)` in [0, 1], what these changed, and the masks."""
    plain, masks = images.pixels[pairs], images.masks[pairs].float()
    pixels = plant_all(plain, images.masks[pairs], kinds, of, pairs.tolist())
    change = (pixels.float() - plain.float()).abs().amax(dim=1, keepdim=True) / 255
    flips = torch.zeros(len(pairs), 2, dtype=torch.bool)
    parts = (pixels.float() / 255, change, masks)
    views, changed, lesions = (crop(part, boxes, flips) for part in parts)
    return views, changed, lesions


def _left(method: Method, views: Tensor, changed: Tensor, lesions: Tensor) -> Tensor:
    """Mix the first half of views with the second: what is left of each part, `(B/2,2)`.

    NaN where an image does not have the part.
    """
    half, has_masks = len(views) // 2, method.saliency == "masks"
    partner = torch.arange(2 * half).roll(half)
    mixer = SaliencyPatchMix(
        num_classes=K,
        saliency="border_contrast" if has_masks else provider_of(method),
        patch_size=method.patch_size,
        alpha=method.alpha,
        floor=method.floor,
        normalize=method.normalize,
        p=1.0,
        pairing="any",
    )
    maps = lesions.squeeze(1) if has_masks else None
    labels = torch.zeros(2 * half, dtype=torch.int64)
    plan = mixer.plan(views, labels, saliency=maps, partner=partner)
    if method.hard:
        plan = hardened(plan)
    # Mixing is linear: with nothing in the partners, what comes out is what is left of the own.
    parts = torch.cat([changed, lesions], dim=1)
    parts[half:] = 0
    return plan.images(parts)[:half].sum(dim=(2, 3)) / parts[:half].sum(dim=(2, 3))


def write_left(left: Left) -> str:
    """Write a table of what `measure_left` found, the casts together."""
    columns = {"cast": SETS["casts"], **{kind: (kind,) for kind in SETS["objects"]}}
    heads = [f"{part}, {column}" for part in PARTS for column in columns]
    lines = [f"| method | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}\n"]
    for name, found in left.items():
        cells = [
            percent(fmean(found[kind][part] for kind in kinds))
            for part in PARTS
            for kinds in columns.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return "".join(lines)
