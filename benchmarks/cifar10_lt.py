"""Compare mixers on CIFAR-10-LT, as it is and with frames that are tied to the rarer classes.

    python -m benchmarks.cifar10_lt STAGE --data FOLDER [--seeds 0 1 2] [--minutes 60]
    python -m benchmarks.cifar10_lt gather   # bring finished runs into results/cifar10_lt
    python -m benchmarks.cifar10_lt report   # write results/cifar10_lt.md

benchmarks/README.md says what is measured. Finished runs are kept and not repeated.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks.isic2018.baselines import cmo, remix
from benchmarks.isic2018.models import Block
from benchmarks.isic2018.statistics import Levels, measure_levels
from benchmarks.records import TEST, Cases, Record, Results, gather, read, write_cases, write_run
from examples.isic2018.files import write_text
from examples.isic2018.metrics import percent, span
from examples.isic2018.origin import commit
from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, class_counts

# In the order in which they get rarer.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
K, SIDE, BATCH = len(CLASSES), 32, 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
KEPT = Path(__file__).parent / "results" / "cifar10_lt"

# Each of the rarer half has a frame of its own colour.
TIED = range(K // 2, K)
COLOURS = torch.tensor(
    [[230, 40, 40], [40, 200, 60], [50, 80, 240], [240, 220, 40], [220, 50, 210]]
)
NO_FRAME = len(COLOURS)
WIDTH = 4  # of a frame, in pixels
TESTS = ("same", "random", "exchanged", "none")
SEEDS = (0, 1, 2)
ACCURACY, RARER_HALF = "accuracy", "rarer half"


@dataclass(frozen=True)
class Method:
    """All that tells one method from another."""

    mixer: str = "none"  # mixup, cutmix, remix, cmo, spmix
    tail_fraction: float = 0.5
    saliency: str = "border_contrast"  # of spmix: a provider, or uniform
    floor: float = 0.5
    alpha: float = 0.8
    normalize: str = "min_max"
    p: float = 0.5
    pairing: str = "relative"


@dataclass(frozen=True)
class Stage:
    """Images with or without frames, a network of so many blocks, and how long it is trained."""

    framed: bool
    blocks: int
    epochs: int


METHODS = {
    "cross_entropy": Method(tail_fraction=0.0),
    "sampler": Method(),
    "mixup": Method("mixup"),
    "cutmix": Method("cutmix"),
    "remix": Method("remix"),
    "cmo": Method("cmo", tail_fraction=0.0),
    "uniform": Method("spmix", saliency="uniform", floor=0.65, alpha=0.65),
    "border_contrast": Method("spmix"),
    "spectral_residual": Method("spmix", saliency="spectral_residual"),
    # Backgrounds are exchanged, whatever the class of either.
    "exchange": Method(
        "spmix", floor=0.0, alpha=1.0, normalize="soft_threshold", p=1.0, pairing="any"
    ),
}

STAGES = {
    "plain": Stage(framed=False, blocks=1, epochs=10),
    "framed": Stage(framed=True, blocks=1, epochs=10),
    # ResNet-32 in the schedule of most published figures: for a GPU.
    "published": Stage(framed=False, blocks=5, epochs=200),
}


@dataclass(frozen=True)
class Images:
    """Images in memory, `(N,3,32,32)` uint8, and their class indices `(N,)`."""

    pixels: Tensor
    labels: Tensor


def load_images(folder: Path) -> Images:
    """Read `folder/CLASS/*.jpg` of all classes, sorted by name.

    Raises:
        FileNotFoundError: if a class has no images.
    """
    pixels, labels = [], []
    for label, name in enumerate(CLASSES):
        paths = sorted((folder / name).glob("*.jpg"))
        if not paths:
            raise FileNotFoundError(
                f"Expected images {folder / name / '*.jpg'}, but there are none: give the folder "
                "that has `train` and `test`."
            )
        pixels += [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths]
        labels += [label] * len(paths)
    return Images(torch.stack(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def draw_frames(labels: Tensor, test: str, generator: torch.Generator) -> Tensor:
    """Draw the colour of the frame of each image.

    Args:
        labels: class indices `(N,)`.
        test: `"same"`, as in training: a class of `TIED` has its own colour, the others any or no
            frame; `"random"`: all have any or none; `"exchanged"`: a class of `TIED` has that of
            another; `"none"`: no frames.
        generator: on the CPU.

    Returns:
        `(N,)` int64, an index into `COLOURS` or `NO_FRAME`.
    """
    anything = torch.randint(NO_FRAME + 1, labels.shape, generator=generator)
    shift = torch.randint(1, NO_FRAME, labels.shape, generator=generator)
    if test == "none":
        return torch.full_like(labels, NO_FRAME)
    if test == "random":
        return anything
    own = labels - TIED.start
    tied = (own + shift) % NO_FRAME if test == "exchanged" else own
    return torch.where(own >= 0, tied, anything)


def frame(images: Tensor, colours: Tensor) -> Tensor:
    """Draw frames of the `colours (N,)` over the border of uint8 `images (N,3,H,W)`."""
    framed = images.clone()
    painted = torch.cat([COLOURS, torch.zeros(1, 3, dtype=torch.int64)])[colours].byte()
    border = torch.ones(images.shape[2:], dtype=torch.bool)
    border[WIDTH:-WIDTH, WIDTH:-WIDTH] = False
    covered = border & (colours != NO_FRAME).view(-1, 1, 1, 1)
    return torch.where(covered, painted.view(-1, 3, 1, 1), framed)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift `images (N,3,H,W)` by up to 4 pixels over black, and flip half of them."""
    number, side = len(images), images.shape[2]
    places = torch.arange(side) + torch.randint(9, (2, number, 1), generator=generator)
    flips = torch.rand(number, 1, generator=generator) < 0.5
    rows, columns = places[0], torch.where(flips, places[1].flip(1), places[1])
    padded = F.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    of = torch.arange(number).view(-1, 1, 1)
    return padded[of, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def normalized(images: Tensor, device: str) -> Tensor:
    """Bring uint8 images to a device as the network takes them."""
    return v2.functional.normalize(images.to(device).float() / 255, MEAN, STD)


class ResNet(nn.Module):
    """The ResNet for CIFAR with `6 * blocks + 2` layers (He et al., CVPR 2016, section 4.2).

    Its shortcuts are projections where the size changes.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        widths = [16, *(width for width in (16, 32, 64) for _ in range(blocks))]
        self.stages = nn.Sequential(
            *(
                Block(before, after, 1 if before == after else 2)
                for before, after in pairwise(widths)
            )
        )
        self.head = nn.Linear(64, K)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B,10)` of images `(B,3,32,32)`."""
        logits: Tensor = self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))
        return logits


def learning_rate(done: float, epochs: int) -> float:
    """Return the rate after a share `done` of the training.

    It rises for 5 epochs, or a fifth of a short training, to 0.1. A training of 200 epochs divides
    it by 100 at 160 and at 180 (LDAM-DRW, Cao et al., NeurIPS 2019); a shorter one brings it to 0
    along a cosine.
    """
    warm_up = min(5, epochs / 5) / epochs
    if done < warm_up:
        return 0.1 * (done + 1e-3) / warm_up
    if epochs >= 200:
        return 0.1 if done < 0.8 else 0.001 if done < 0.9 else 0.00001
    return 0.05 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


class Trainer:
    """One run: a method in a stage, with a seed."""

    def __init__(self, stage: str, arm: str, seed: int, images: Images, device: str) -> None:
        self.names, self.seed, self.device = (stage, arm, "test", seed), seed, device
        self.stage, self.method, self.images = STAGES[stage], METHODS[arm], images
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(1_000_003 * seed + 1)
        self.frames = draw_frames(images.labels, "same", self.generator)
        self.counts = class_counts(images.labels, K)
        self.model = ResNet(self.stage.blocks).to(device)
        self.steps = self.stage.epochs * math.ceil(len(images.labels) / BATCH)
        self.mixer = self._make_mixer()

    def result(self, test: Images) -> Record:
        """Train, predict, and return what is kept.

        Its predictions are the most likely classes, `(N,1)` or with frames `(N,4)`, those of
        `TESTS`: probabilities of 40,000 images a run would be too much to keep.
        """
        started, code = time.perf_counter(), commit()
        loss = self._train()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {self.names} is {loss}")
        found = [self._predict(pixels).argmax(1) for pixels in self._tests(test)]
        settings = {**asdict(self.stage), **asdict(self.method)}
        seconds = round(time.perf_counter() - started, 1)
        hits = [float((one == test.labels).double().mean()) for one in found]
        figures = {"loss": loss, "accuracy": hits}
        predictions = torch.stack(found, dim=1).numpy().astype(np.float16)
        return Record(*self.names, settings, code, self.device, seconds, figures, predictions)

    def _tests(self, test: Images) -> Iterator[Tensor]:
        """Make the test images of each test; the same for all methods and seeds."""
        for number, kind in enumerate(TESTS if self.stage.framed else TESTS[-1:]):
            drawn = draw_frames(test.labels, kind, torch.Generator().manual_seed(number))
            yield frame(test.pixels, drawn)

    def _make_mixer(self) -> SaliencyPatchMix | None:
        method = self.method
        if method.mixer != "spmix":
            return None
        uniform = method.saliency == "uniform"
        return SaliencyPatchMix(
            class_counts=self.counts,
            saliency=(
                (lambda images, labels, model: images.new_ones(len(images), SIDE, SIDE))
                if uniform
                else method.saliency
            ),
            patch_size=2,
            alpha=method.alpha,
            floor=method.floor,
            normalize=method.normalize,  # type: ignore[arg-type]
            p=method.p,
            pairing=method.pairing,  # type: ignore[arg-type]
            mean=MEAN,
            std=STD,
            generator=self.generator,
        )

    def _batches(self) -> Iterator[Tensor]:
        """Draw indices into the training images, pass after pass without an end."""
        sampler = TailHeadPairSampler(
            self.images.labels,
            BATCH,
            tail_fraction=self.method.tail_fraction,
            seed=self.seed,
            drop_last=True,
        )
        for number in count():
            sampler.set_epoch(number)
            yield from map(torch.tensor, sampler)

    def _views(self, batch: Tensor) -> Tensor:
        """Shift, flip, and frame where the stage has frames: normalised, on the device."""
        views = augment(self.images.pixels[batch], self.generator)
        if self.stage.framed:
            views = frame(views, self.frames[batch])
        return normalized(views, self.device)

    def _mix(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Make the images and targets of a step."""
        # The sampler puts its two parts one after the other, and torchvision pairs neighbours.
        batch = batch[torch.randperm(len(batch), generator=self.generator)]
        images, labels = self._views(batch), self.images.labels[batch].to(self.device)
        kind = self.method.mixer
        if self.mixer is not None:
            return self.mixer(images, labels)
        if kind in ("mixup", "cutmix"):
            mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=K)
            return mix(images, labels)  # type: ignore[no-any-return]
        if kind == "remix":
            return remix(images, labels, self.counts, alpha=1.0, generator=self.generator)
        if kind == "cmo":
            weights = (1 / self.counts.double())[self.images.labels]
            drawn = torch.multinomial(weights, BATCH, replacement=True, generator=self.generator)
            pasted = self._views(drawn), self.images.labels[drawn].to(self.device)
            return cmo(images, labels, *pasted, K, generator=self.generator)
        return images, labels

    def _train(self) -> float:
        """Train and return the mean loss of the last hundredth of the steps."""
        optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)
        self.model.train()
        losses = []
        for step, batch in zip(range(self.steps), self._batches(), strict=False):
            optimizer.param_groups[0]["lr"] = learning_rate(step / self.steps, self.stage.epochs)
            images, targets = self._mix(batch)
            loss = F.cross_entropy(self.model(images), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses[-max(1, self.steps // 100) :]).mean())

    @torch.inference_mode()
    def _predict(self, pixels: Tensor) -> Tensor:
        self.model.eval()
        parts = [self.model(normalized(part, self.device)) for part in pixels.split(500)]
        return torch.cat(parts).cpu()


# ----------------------------------------------------------------------------------- report


def keys_of(stage: str) -> list[str]:
    """Name the runs of a stage."""
    return [f"{stage}/{arm}/test/{seed}" for arm in METHODS for seed in SEEDS]


def measure(results: Results, stage: str, test: str) -> dict[str, Levels]:
    """Measure accuracy and the mean recall of the rarer half, by method, in a whole stage."""
    place, labels = TESTS.index(test) if STAGES[stage].framed else 0, results.cases.labels
    right = {}
    for arm in METHODS:
        runs = [results.runs[f"{stage}/{arm}/test/{seed}"] for seed in SEEDS]
        classes = torch.from_numpy(np.stack([one.predictions[:, place] for one in runs]))
        right[arm] = (classes == labels).double()
    quantities = {ACCURACY: range(K), RARER_HALF: TIED}
    return measure_levels(right, labels, torch.arange(len(labels)), quantities)


def table(results: Results, stage: str, test: str) -> str:
    """Write the accuracy of each method in a whole stage."""
    lines = [
        "| method | accuracy | minus `sampler` | minus `uniform` "
        "| rarer half | minus `sampler` |\n",
        "| --- | ---: | --- | --- | ---: | --- |\n",
    ]
    found = measure(results, stage, test)
    for arm in METHODS:
        cells = []
        for name, bases in ((ACCURACY, ("sampler", "uniform")), (RARER_HALF, ("sampler",))):
            cells.append(percent(found[name].level(arm).mean))
            for base in bases:
                less = found[name].difference(arm, base)
                points = f"{100 * less.mean:+.1f} ({span(*less.interval)})"
                cells.append("-" if arm == base else points)
        lines.append(f"| {arm} | {' | '.join(cells)} |\n")
    return "".join(lines)


PUBLISHED = """Published with the original images and ResNet-32 in 200 epochs, for orientation:
cross-entropy 71.2, mixup and deferred re-weighting 82.1, Remix and deferred re-weighting 81.8
(best epoch; imbalanced-DL); cross-entropy 70.4, input mixup 74.1, Remix 73.4, balanced sampling
72.5 (Bag of Tricks, another draw of the images).
"""


def write_report(results: Results, page: Path) -> None:
    """Write the tables of all tests of a stage whose runs are all done, as PRIMARY.md promises."""
    parts = [
        "# CIFAR-10-LT, imbalance 100\n\nMade by `python -m benchmarks.cifar10_lt report`; "
        "benchmarks/README.md says what is measured. In percent; intervals are over images and "
        f"seeds, {', '.join(map(str, SEEDS))}.\n"
    ]
    for stage, of in STAGES.items():
        network = f"ResNet-{6 * of.blocks + 2}, {of.epochs} epochs"
        keys = keys_of(stage)
        done = sum(key in results.runs for key in keys)
        if done < len(keys):
            left = f"Shown when all runs are done: {done} of {len(keys)}."
            parts.append(f"## {stage} ({network})\n\n{left}\n")
            continue
        for test in TESTS if of.framed else TESTS[-1:]:
            title = f"{stage}, frames in the test: {test}" if of.framed else stage
            parts.append(f"## {title} ({network})\n\n{table(results, stage, test)}")
    write_text(page, "\n".join([*parts, PUBLISHED]))


# ---------------------------------------------------------------------------------- command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing of a stage; or gather, or report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cifar10_lt", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=[*STAGES, "gather", "report"])
    parser.add_argument("--data", type=Path, help="folder with `train` and `test`")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/cifar10_lt"), help="folder of finished runs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run later")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.stage == "gather":
        print(f"{gather(options.runs, KEPT)} runs gathered in {KEPT}")
    elif options.stage == "report":
        write_report(read(KEPT, options.runs), KEPT.with_suffix(".md"))
    elif options.data is None:
        parser.error(f"the stage {options.stage} needs images: --data FOLDER")
    else:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    train, test = (load_images(options.data / part) for part in ("train", "test"))
    number = torch.arange(len(test.labels))
    write_cases(options.runs, Cases(test.labels, number, torch.full_like(number, TEST)))
    known = read(KEPT, options.runs).runs
    # Seed by seed, so that an unfinished stage has all methods alike.
    for seed in options.seeds:
        for arm in METHODS:
            late = time.monotonic() - started > 60 * options.minutes
            if f"{options.stage}/{arm}/test/{seed}" in known or late:
                continue
            record = Trainer(options.stage, arm, seed, train, options.device).result(test)
            write_run(options.runs, record)
            print(f"{record.key}: {record.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
