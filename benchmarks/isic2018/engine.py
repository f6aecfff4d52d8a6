"""Train one method on all folds but one, fast enough for a study on a CPU.

All images lie in memory, geometry and colour are batched tensor operations, and every method gets
the same steps, schedule and geometry.
"""

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align
from torchvision.transforms import v2
from tqdm import tqdm

from benchmarks.records import TEST, Cases, Record
from examples.isic2018.data import CLASSES, LesionImages, folds_of, read_lesion_mask, read_records
from examples.isic2018.origin import commit
from examples.isic2018.views import MEAN, STD
from spmix_aug import MixPlan, SaliencyPatchMix, TailHeadPairSampler, class_counts
from spmix_aug.functional import soft_threshold_scores
from spmix_aug.saliency import PROVIDERS, BorderContrast, FineGrained, GradCAM
from spmix_aug.saliency.border import centred_gaussian

from .baselines import (
    CosineClassifier,
    LDAMLoss,
    balanced_mixup,
    cmo,
    drw_weights,
    logit_adjusted_cross_entropy,
    remix,
)
from .models import build_model, replace_classifier
from .partners import DESCRIPTORS, draw_most_similar
from .statistics import measure
from .traps import TESTS, draw_kinds, plant_all

K = len(CLASSES)
SIDE = 64
BATCH = 64
CROP = (0.5, 1.0)  # of an image's area, in training
FEWEST = 10  # images of a class in a collection, to be measured there
CAM_LAYER = {"lite0": "_blocks.10"}  # the last whose features are 4 x 4 and not 2 x 2
TORCHVISION_MIXERS = {"mixup": v2.MixUp, "cutmix": v2.CutMix}


@dataclass(frozen=True)
class Method:
    """All that tells one method of the study from another."""

    tail_fraction: float = 0.5
    gamma: float = 1.0
    loss: str = "cross_entropy"  # or logit_adjusted, ldam_drw
    mixer: str = "none"  # mixup, cutmix, remix, balanced_mixup, cmo, spmix
    beta: float = 1.0  # parameter of the Beta distribution of the mixer's weight
    share: float = 1.0  # of the samples, that Remix mixes
    saliency: str = "border_contrast"  # a provider, or uniform, random, middle, masks
    center_prior: float | None = None
    saliency_first: bool = False  # maps of whole images, cropped along with them
    patch_size: int = 4
    alpha: float = 0.8
    floor: float = 0.5
    normalize: str = "min_max"
    p: float = 0.5
    mixed_classes: str = "all"  # or tail: only classes with fewer images than the largest
    pairing: str = "relative"  # or any; balanced: partners from a second, class-balanced loader
    match: str = "nothing"  # or skin, size: the most similar of a few eligible partners
    backgrounds: int = 1  # partners of each sample, whose mixes are averaged
    random_strength: bool = False  # each sample takes a random share, 0 to 1, of its partner's part
    hard: bool = False  # each patch is the own image's alone, or the partner's
    blur: float = 0.0  # of a mask of pixels in place of patches, in sides of the image; 0 is none
    soft_half: bool = False  # half of the samples, drawn anew, keep to ratios of 0.5 to 0.8
    target: str = "own"
    mixed_epochs: float = 1.0  # share of the epochs, from the first, in which anything is mixed
    classifier_last: bool = False  # the last epoch is the classifier's alone, on balanced images
    cam_epochs: int = 0  # the last so many take their maps from the network's own class activation


@dataclass(frozen=True)
class Run:
    """One training: the stage it is for, a method, what is held out, a seed, and a model."""

    stage: str
    arm: str  # the name of the method
    method: Method = field(compare=False)
    fold: str = "0"  # or the name of a collection
    seed: int = 0
    model: str = "lite0"
    epochs: int = 6
    traps: str = "none"  # or the set of artefacts that are tied to rare classes
    rho: float = 1.0  # how strongly

    @property
    def key(self) -> str:
        """The name of its record."""
        return f"{self.stage}/{self.arm}/{self.fold}/{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides it besides its fold and seed."""
        own = ("model", "epochs", "traps", "rho")
        return {name: getattr(self, name) for name in own} | asdict(self.method)


@dataclass(frozen=True)
class Collections(Cases):
    """The images of a data set with the names of the collections that they come from.

    `sources (N,)` is empty where that is unknown.
    """

    sources: np.ndarray

    def part(self, fold: str, *, held: bool) -> Tensor:
        """Index the images of a fold as `Cases` does, or those of a collection.

        A collection's classes of fewer than `FEWEST` images are left out of what is held out with
        it, and none of its lesions is trained on. Test images are in neither part.
        """
        if fold not in self.sources:
            return super().part(fold, held=held)
        there = torch.from_numpy(self.sources == fold)
        lesions = self.groups[there]
        usable = self.folds != TEST
        if not held:
            return (usable & ~torch.isin(self.groups, lesions)).nonzero().flatten()
        enough = torch.bincount(self.labels[usable & there], minlength=K) >= FEWEST
        return (usable & there & enough[self.labels]).nonzero().flatten()


@dataclass(frozen=True)
class Images(Collections):
    """The data set in memory, with pixels `(N,3,H,W)` and masks `(N,1,H,W)` of 0 and 1, uint8."""

    pixels: Tensor
    masks: Tensor


def read_cases(root: Path) -> Cases:
    """Read the labels, lesions and folds of a folder in the challenge's layout."""
    records = read_records(root)
    folds = folds_of(root, records, split_file=None, seed=0)
    # Numbers in the order of the names, in which the bootstrap draws.
    _, lesions = np.unique([record.lesion for record in records], return_inverse=True)
    return Cases(
        torch.tensor([record.label for record in records]),
        torch.from_numpy(lesions),
        torch.tensor([TEST if fold is None else fold for fold in folds]),
    )


def load_images(root: Path) -> Images:
    """Read a folder in the challenge's layout, with lesion masks."""
    cases, records = read_cases(root), read_records(root)
    pixels, masks = [], []
    for (image, _), record in zip(
        tqdm(LesionImages(records), desc="images", disable=None), records, strict=True
    ):
        pixels.append(image)
        masks.append(read_lesion_mask(root, record.image).byte()[None])
    sources = read_sources(root, [record.image for record in records])
    return Images(
        **vars(cases), pixels=torch.stack(pixels), masks=torch.stack(masks), sources=sources
    )


def read_sources(root: Path, images: list[str]) -> np.ndarray:
    """Read which collection each image comes from, empty where the folder does not say.

    The file is `splits/sources.csv`, with the columns image and source.
    """
    path = root / "splits" / "sources.csv"
    if not path.exists():
        return np.full(len(images), "")
    with path.open(encoding="utf-8", newline="") as file:
        source = {row["image"]: row["source"] for row in csv.DictReader(file)}
    return np.array([source[image] for image in images])


def random_boxes(number: int, size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """Draw crops as torchvision's RandomResizedCrop: `(N,4)` of left, top, right, bottom."""
    boxes = [
        v2.RandomResizedCrop(1, scale=scale).make_params([torch.empty(1, *size)])
        for _ in range(number)
    ]
    corners = [
        (box["left"], box["top"], box["left"] + box["width"], box["top"] + box["height"])
        for box in boxes
    ]
    return torch.tensor(corners, dtype=torch.float32)


def crop(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Resample the boxes of `images (B,C,H,W)` to `(B,C,SIDE,SIDE)`, and flip some."""
    index = torch.arange(len(images), dtype=boxes.dtype).unsqueeze(1)
    found = roi_align(images, torch.cat([index, boxes], 1), SIDE, sampling_ratio=2, aligned=True)
    for axis, chosen in zip((2, 3), flips.unbind(1), strict=True):
        found = torch.where(chosen.view(-1, 1, 1, 1), found.flip(axis), found)
    return found


def shift_colours(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of `images (B,3,H,W)` by `factors (B,3)`."""
    brightness, contrast, saturation = factors.unbind(1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
        return torch.lerp(other, images, factor.view(-1, 1, 1, 1)).clamp(0, 1)

    images = blend(images, torch.zeros(()), brightness)
    grey = (images * luma).sum(dim=(1, 2, 3), keepdim=True) / (SIDE * SIDE)
    images = blend(images, grey, contrast)
    return blend(images, (images * luma).sum(dim=1, keepdim=True), saturation)


def centre_view(images: Tensor) -> Tensor:
    """Bring whole uint8 images to the held-out view, 224 of 256 parts as in the papers."""
    resize = v2.Compose([v2.Resize(round(SIDE * 256 / 224)), v2.CenterCrop(SIDE)])
    return torch.cat([resize(part) for part in images.split(256)])


def normalized(images: Tensor) -> Tensor:
    """Normalise images in [0, 1] for the model."""
    return v2.functional.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)


class Trainer:
    """One run of the study."""

    def __init__(self, run: Run, images: Images) -> None:
        self.run, self.method, self.images = run, run.method, images
        self.train, self.held = images.part(run.fold, held=False), images.part(run.fold, held=True)
        self.labels = images.labels[self.train]
        self.counts = class_counts(self.labels, K)
        self.steps = math.ceil(len(self.train) / BATCH)
        torch.manual_seed(run.seed)
        self.generator = torch.Generator().manual_seed(1_000_003 * run.seed + 1)
        self.model = build_model(run.model, K)
        if self.method.loss == "ldam_drw":
            replace_classifier(self.model, CosineClassifier)
        self.model.to(memory_format=torch.channels_last)
        self._start_optimizer(max(1, run.epochs - self.method.classifier_last))
        self.pixels = self._trapped() if run.traps != "none" else images.pixels
        self.mixer = self._make_mixer()
        self.maps = self._whole_maps() if self.method.saliency_first else None
        self.ldam = LDAMLoss(self.counts) if self.method.loss == "ldam_drw" else None

    def result(self) -> Record:
        """Train, predict, and return what is kept."""
        started, code = time.perf_counter(), commit()
        losses = [self._train_epoch(epoch) for epoch in range(self.run.epochs)]
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of {self.run.key} is {losses[-1]}")
        trapped = self.run.traps != "none"
        images = self._tests() if trapped else [self.pixels[self.held]]
        parts = [self._predict(part).numpy().astype(np.float16) for part in images]
        if trapped:  # of four tests only the classes named are asked, and digits take space
            parts = [part.round(3) for part in parts]
        record = self._record(code, started, {"losses": losses}, np.concatenate(parts))
        labels = self.images.labels[self.held]
        if len(labels.unique()) == K:  # else there is no recall of some class
            measured = [measure(p, labels) for p in record.probabilities.split(len(labels))]
            tests = dict(zip(TESTS, measured, strict=True)) if len(parts) > 1 else measured[0]
            record.figures.update(tests)
        elif self.run.fold in self.images.sources:
            record.figures["recall"] = recall_of_present(record.probabilities, labels)
        return record

    def _trapped(self) -> Tensor:
        """Plant an artefact in each training image, the same in every epoch."""
        kinds = draw_kinds(self.labels, "same", self.run.rho, self.run.seed)
        pixels = self.images.pixels.clone()
        pixels[self.train] = self._plant(self.train, kinds)
        return pixels

    def _tests(self) -> Iterator[Tensor]:
        """Make the images held out with the artefacts of each of `TESTS`, alike for all seeds."""
        labels = self.images.labels[self.held]
        for test in TESTS:
            yield self._plant(self.held, draw_kinds(labels, test, self.run.rho, seed=0))

    def _plant(self, places: Tensor, kinds: Tensor) -> Tensor:
        pixels, masks = self.images.pixels[places], self.images.masks[places]
        return plant_all(pixels, masks, kinds, self.run.traps, places.tolist())

    def mixing_cue(self) -> Record:
        """Find what "was it mixed" tells of the class in one epoch of SPMix; nothing is trained.

        Its figures are the share of each class's drawn samples that is `mixed`, and the balanced
        accuracy of the better `guess` of two, NV where mixed or NV where not.
        """
        started, code = time.perf_counter(), commit()
        classes, mixed = [], []
        for batch in self._batches(0):
            labels = self.labels[batch]
            # Only who is mixed is asked, so the smallest images and maps will do.
            images, maps = torch.zeros(len(batch), 3, 1, 1), torch.ones(len(batch), 1, 1)
            plan = self.mixer.plan(images, labels, saliency=maps)
            classes.append(labels)
            mixed.append(plan.partner != torch.arange(len(batch)))
        label, was_mixed = torch.cat(classes), torch.cat(mixed).double()
        shares = {name: float(was_mixed[label == k].mean()) for k, name in enumerate(CLASSES)}
        nevi = label == CLASSES.index("NV")
        gap = float((was_mixed[nevi].mean() - was_mixed[~nevi].mean()).abs())
        return self._record(code, started, {"mixed": shares, "guess": 0.5 + gap / 2})

    def _record(
        self, code: str, started: float, figures: dict[str, Any], *predictions: np.ndarray
    ) -> Record:
        run, seconds = self.run, round(time.perf_counter() - started, 1)
        name = (run.stage, run.arm, run.fold, run.seed)
        return Record(*name, run.settings, code, "cpu", seconds, figures, *predictions)

    # ------------------------------------------------------------------------------ batches

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """Draw the batches of an epoch, indices into the training images."""
        tail_fraction = 1.0 if self._is_classifiers(epoch) else self.method.tail_fraction
        sampler = TailHeadPairSampler(
            self.labels,
            BATCH,
            tail_fraction=tail_fraction,
            gamma=self.method.gamma,
            seed=self.run.seed,
            drop_last=tail_fraction == 0,  # a last batch is filled with balanced draws
        )
        drawn = 0
        while drawn < self.steps:
            sampler.set_epoch(1000 * epoch + drawn)
            for batch in sampler:
                if drawn < self.steps:
                    yield torch.tensor(batch)
                drawn += 1

    def _views(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cut, flip and colour the images of a batch: in [0, 1], and their maps where needed."""
        chosen = self.train[batch]
        size = (self.pixels.shape[2], self.pixels.shape[3])
        boxes = random_boxes(len(batch), size, CROP)
        flips = torch.rand(len(batch), 2) < 0.5
        factors = 0.8 + 0.4 * torch.rand(len(batch), 3)
        views = crop(self.pixels[chosen].float() / 255, boxes, flips)
        maps = None
        if self.method.saliency == "masks":
            maps = crop(self.images.masks[chosen].float(), boxes, flips).squeeze(1)
        elif self.maps is not None:
            maps = crop(self.maps[batch], boxes, flips).squeeze(1)
        return shift_colours(views, factors), maps

    def _whole_maps(self) -> Tensor:
        """Compute the maps of all whole training images, `(N,1,H,W)`."""
        pixels = self.pixels[self.train]
        provider, scale, size = provider_of(self.method), 1, pixels.shape[2:]
        if self.method.saliency == "fine_grained":
            # Its surrounds have fixed sizes, made for images of 600 x 450 pixels.
            provider, scale = FineGrained(size=min(size)), 4
        return torch.cat(
            [
                F.interpolate(provider(F.interpolate(part, scale_factor=scale)).unsqueeze(1), size)
                for part in pixels.split(64)
            ]
        )

    def _balanced_views(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw a second batch, class-balanced, for the mixers that need one."""
        weights = (1 / self.counts.double())[self.labels]
        batch = torch.multinomial(weights, BATCH, replacement=True, generator=self.generator)
        views, maps = self._views(batch)
        return views, self.labels[batch], maps

    # ------------------------------------------------------------------------------- mixing

    def _make_mixer(self) -> Any:
        method = self.method
        if method.mixer in TORCHVISION_MIXERS:
            return TORCHVISION_MIXERS[method.mixer](alpha=method.beta, num_classes=K)
        if method.mixer != "spmix":
            return None
        constant = {"uniform": torch.ones, "random": torch.rand}
        draw = constant.get(method.saliency)
        given = method.saliency == "masks" or method.saliency_first
        return SaliencyPatchMix(
            class_counts=self.counts,
            saliency=(
                (lambda images, labels, model: draw(len(images), *images.shape[2:]))
                if draw
                else ("spectral_residual" if given else provider_of(method))
            ),
            patch_size=method.patch_size,
            alpha=method.alpha,
            floor=method.alpha if method.saliency == "uniform" else method.floor,
            normalize=method.normalize,
            p=method.p,
            pairing=self._pairing(),
            target=method.target,
            mean=MEAN,
            std=STD,
            generator=self.generator,
        )

    def _pairing(self) -> Any:
        if self.method.mixed_classes == "tail":
            return self._tail_only
        return "any" if self.method.pairing == "any" else "relative"

    def _tail_only(self, labels: Tensor, counts: Tensor, generator: Any) -> Tensor:
        """Mix with a strictly more frequent class only, so that the most frequent never is."""
        frequency = counts[labels]
        partner = torch.arange(len(labels))
        for i in range(len(labels)):
            eligible = (frequency > frequency[i]).nonzero().flatten()
            if len(eligible):
                pick = torch.randint(len(eligible), (), generator=generator)
                partner[i] = eligible[pick]
        return partner

    def _mix(self, batch: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Make the images and targets of a step: labels `(B,)`, or rows `(B,K)`."""
        views, maps = self._views(batch)
        images, labels = normalized(views), self.labels[batch]
        method = self.method
        ended = epoch >= method.mixed_epochs * self.run.epochs or self._is_classifiers(epoch)
        if method.mixer == "none" or ended:
            return images, labels
        if method.mixer == "spmix":
            return self._mix_patches(views, images, labels, maps)
        if method.mixer in TORCHVISION_MIXERS:
            # They pair neighbours, and the sampler puts its two halves one after the other.
            order = torch.randperm(BATCH)
            mixed: tuple[Tensor, Tensor] = self.mixer(images[order], labels[order])
            return mixed
        if method.mixer == "remix":
            mixed, targets = remix(
                images, labels, self.counts, alpha=method.beta, generator=self.generator
            )
            if method.share == 1:
                return mixed, targets
            is_mixed = torch.rand(len(labels), 1, generator=self.generator) < method.share
            targets = torch.where(is_mixed, targets, F.one_hot(labels, K))
            return torch.where(is_mixed.view(-1, 1, 1, 1), mixed, images), targets
        other, classes, _ = self._balanced_views()
        other = normalized(other)
        if method.mixer == "cmo":
            return cmo(
                images, labels, other, classes, K, alpha=method.beta, generator=self.generator
            )
        return balanced_mixup(
            images,
            F.one_hot(labels, K).float(),
            other,
            F.one_hot(classes, K).float(),
            alpha=method.beta,
            generator=self.generator,
        )

    def _mix_patches(
        self, views: Tensor, images: Tensor, labels: Tensor, maps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mix by our own transform, with partners as the method has them."""
        if self.method.pairing == "balanced":
            return self._mix_with_balanced(images, labels, maps)
        plans = []
        for _ in range(self.method.backgrounds):
            partner = None
            if self.method.match != "nothing":
                descriptors = DESCRIPTORS[self.method.match](views)
                partner = draw_most_similar(
                    descriptors, self.counts[labels], p=self.method.p, generator=self.generator
                )
            plan = self.mixer.plan(images, labels, self.model, saliency=maps, partner=partner)
            if self.method.random_strength:
                strength = torch.rand(len(labels), 1, 1, generator=self.generator)
                plan = replace(plan, ratios=1 - strength * (1 - plan.ratios))
            if self.method.hard:
                plan = hardened(plan)
            if self.method.soft_half:  # what the papers' bounds make of the same scores
                is_soft = torch.rand(len(labels), 1, 1, generator=self.generator) < 0.5
                soft = (0.5 + 0.5 * plan.ratios).clamp(max=0.8)
                plan = replace(plan, ratios=torch.where(is_soft, soft, plan.ratios))
            plans.append(plan)
        if self.method.blur:
            plan, maps = plans[0], plans[0].saliency
            return exchange_pixels(images, plan.partner, maps, self.method.blur), plan.targets
        mixed = torch.stack([plan.images(images) for plan in plans]).mean(dim=0)
        return mixed, torch.stack([plan.targets for plan in plans]).mean(dim=0)

    def _mix_with_balanced(
        self, images: Tensor, labels: Tensor, maps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mix every sample with one of a class-balanced loader, as the authors' code does."""
        other, classes, other_maps = self._balanced_views()
        both, place = torch.cat([images, normalized(other)]), torch.arange(2 * BATCH)
        partner = torch.where(place < BATCH, place + BATCH, place)
        mixed, targets = self.mixer(
            both,
            torch.cat([labels, classes]),
            saliency=None if maps is None or other_maps is None else torch.cat([maps, other_maps]),
            partner=partner,
        )
        return mixed[:BATCH], targets[:BATCH]

    # ----------------------------------------------------------------------------- training

    def _loss(self, logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        if self.method.loss == "logit_adjusted":
            natural, fraction = self.counts / self.counts.sum(), self.method.tail_fraction
            balanced = self.counts ** (1 - self.method.gamma)
            prior = (1 - fraction) * natural + fraction * balanced / balanced.sum()
            return logit_adjusted_cross_entropy(logits, targets, prior)
        if self.ldam is not None:
            deferred = epoch >= 0.8 * self.run.epochs
            return self.ldam(logits, targets, drw_weights(self.counts) if deferred else None)
        return F.cross_entropy(logits, targets)

    def _start_optimizer(self, epochs: int) -> None:
        """Start the optimiser of what is trained, and its schedule over so many epochs."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 1e-3, total_steps=epochs * self.steps
        )

    def _is_classifiers(self, epoch: int) -> bool:
        return self.method.classifier_last and epoch == self.run.epochs - 1

    def _start_classifier(self) -> None:
        """Leave nothing to train but the last linear layer, and forget the statistics of mixes."""
        self.model.requires_grad_(False)
        [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1].requires_grad_(True)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches that follow
        self._start_optimizer(1)

    def _train_epoch(self, epoch: int) -> float:
        """Train one epoch and return its mean loss."""
        torch.manual_seed(1_000_003 * self.run.seed + epoch)
        if self._is_classifiers(epoch):
            self._start_classifier()
        if epoch >= self.run.epochs - self.method.cam_epochs:
            self.mixer.saliency = GradCAM(CAM_LAYER.get(self.run.model))
        self.model.train()
        total = 0.0
        progress = tqdm(
            self._batches(epoch),
            desc=f"{self.run.key} {epoch + 1}/{self.run.epochs}",
            total=self.steps,
            disable=None,
            leave=False,
        )
        for batch in progress:
            images, targets = self._mix(batch, epoch)
            loss = self._loss(self.model(images), targets, epoch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
        return total / self.steps

    def _predict(self, images: Tensor) -> Tensor:
        scale = 1.0 if self.ldam is None else self.ldam.scale
        return predict_with(self.model, images, scale)


def provider_of(method: Method) -> Any:
    """Make the saliency of a method that has neither masks nor constants for maps."""
    if method.saliency == "border_contrast":
        return BorderContrast(center_prior=method.center_prior)
    if method.saliency == "middle":  # the prior without the contrast
        return lambda images, labels, model: centred_gaussian(
            images[:, :1], method.center_prior
        ).expand(len(images), -1, -1)
    return PROVIDERS[method.saliency]()


def hardened(plan: MixPlan) -> MixPlan:
    """Round the ratios of a plan to 0 and 1."""
    return replace(plan, ratios=(plan.ratios > 0.5).to(plan.ratios.dtype))


def exchange_pixels(images: Tensor, partner: Tensor, maps: Tensor, blur: float) -> Tensor:
    """Exchange backgrounds by `b = blur((1 - own)(1 - partner))`, the partner's share of a pixel.

    Args:
        images: `(B,C,H,W)`.
        partner: `(B,)`, itself where an image stays as it is.
        maps: saliency `(B,h,w)`.
        blur: standard deviation of the Gaussian blur, in widths of the image.
    """
    size, sigma = images.shape[2:], blur * images.shape[3]
    maps = F.interpolate(maps.unsqueeze(1), size, mode="bilinear").squeeze(1)
    rest = 1 - soft_threshold_scores(maps).unsqueeze(1)
    kernel = 2 * round(3 * sigma) + 1
    share = v2.functional.gaussian_blur(rest * rest[partner], [kernel, kernel], [sigma, sigma])
    mixed = torch.lerp(images, images[partner], share)
    return mixed.contiguous(memory_format=torch.channels_last)


def recall_of_present(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the recall of each class that is among `labels (N,)`, by name."""
    right = (probabilities.argmax(dim=1) == labels).double()
    return {CLASSES[k]: float(right[labels == k].mean()) for k in labels.unique().tolist()}


@torch.inference_mode()
def predict_with(model: nn.Module, images: Tensor, scale: float = 1.0) -> Tensor:
    """Predict whole uint8 images `(N,3,H,W)`: probabilities `(N,K)`."""
    model.eval()
    views = centre_view(images).split(256)
    return torch.cat([(scale * model(normalized(v.float() / 255))).softmax(1) for v in views])
