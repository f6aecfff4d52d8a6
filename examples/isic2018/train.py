"""Train a classifier on the ISIC 2018 folder layout, with or without SPMix.

Example:
    python -m examples.isic2018.train --data data/phantom --out runs/spmix

Every epoch's random numbers follow from the seed and the epoch, for the same device and number of
workers, so a run that was stopped goes on, when the command is given again, to the result it would
have had.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, class_counts
from spmix_aug.patches import NORMALIZATIONS
from spmix_aug.saliency import PROVIDERS

from .data import CLASSES, LesionImages, Record, folds_of, hold_out, read_records
from .files import write_json, write_text, write_whole
from .metrics import measure
from .model import SMALL_CNN, build_model

# Mean and standard deviation of the ISIC 2018 training images, as the papers have them.
MEAN = (0.765, 0.545, 0.569)
STD = (0.140, 0.151, 0.169)

# What may differ between the runs that one checkpoint came from and goes on to.
FREE = ("out", "workers", "device")


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """Describe a field of `Settings` for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """All that decides a run; the fields are the options of the command line."""

    data: str = option(MISSING, "folder in the challenge's layout")
    out: str = option(MISSING, "folder of the run: settings, metrics, checkpoint, predictions")
    split_file: str | None = option(
        None, "CSV with columns image, split, fold; else the one in the data, else made by lesion"
    )
    hold_out: str = option("0", "fold to report on, or 'test'")
    model: str = option(SMALL_CNN, "small_cnn or any model of timm")
    pretrained: bool = option(False, "start from timm's pretrained weights")
    image_size: int = option(64, "side of the images the model sees, in pixels")
    batch_size: int = option(64, "images in a batch")
    epochs: int = option(8, "epochs of ceil(training images / batch size) steps")
    learning_rate: float = option(2e-3, "highest learning rate of AdamW")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    warmup_epochs: int = option(1, "epochs of linear warm-up before the cosine")
    sampler: str = option(
        "pair", "half of each batch class-balanced, or none", ("pair", "instance")
    )
    tail_fraction: float = option(0.5, "share of class-balanced places (pair sampler)")
    gamma: float = option(1.0, "strength of the balancing (pair sampler)")
    mix: str = option("spmix", "mix the batches, or not", ("spmix", "none"))
    saliency: str = option("spectral_residual", "saliency provider", tuple(PROVIDERS))
    patch_size: int = option(4, "side of a patch, in pixels; the papers have 14 patches a side")
    alpha: float = option(0.8, "upper bound of the own image's ratio")
    floor: float = option(0.5, "lower bound of the own image's ratio")
    normalize: str = option(
        "min_max", "how patch scores are brought to [0, 1]", tuple(NORMALIZATIONS)
    )
    jitter: float = option(0.0, "noise on patch scores, in standard deviations")
    p: float = option(0.5, "probability of a sample to be mixed")
    pairing: str = option("relative", "who may be a partner", ("relative", "any"))
    target: str = option("own", "labels of mixed images", ("own", "ratio"))
    seed: int = option(0, "seed of everything random")
    workers: int = option(2, "processes that load images")
    device: str = option("auto", "auto, cpu, cuda, mps, ...")


@dataclass(frozen=True)
class Batches:
    """The loaders of a run, and the number of training images of each class."""

    train: DataLoader[Any]
    held: DataLoader[Any]
    held_records: list[Record]
    counts: Tensor
    steps: int

    def epoch(self, epoch: int) -> Iterator[Any]:
        """Draw the batches of one epoch: the same number for every sampler."""
        if isinstance(self.train.batch_sampler, TailHeadPairSampler):
            self.train.batch_sampler.set_epoch(epoch)
        return islice(self.train, self.steps)


def train_transform(size: int) -> v2.Transform:
    """Crop, flip and shift colours of one uint8 image `(3,H,W)`, to `size` pixels a side."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.5, 1)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )


def eval_transform(size: int) -> v2.Transform:
    """Resize and cut out the centre of one uint8 image, 224 of 256 parts as in the papers."""
    return v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])


def split(settings: Settings) -> tuple[list[Record], list[Record]]:
    """Read the records of a run: those to train on and those held out.

    Raises:
        DataError: if something is wrong with the data.
    """
    root = Path(settings.data)
    records = read_records(root)
    split_file = None if settings.split_file is None else Path(settings.split_file)
    folds = folds_of(root, records, split_file=split_file, seed=settings.seed)
    return hold_out(records, folds, settings.hold_out)


def make_batches(settings: Settings) -> Batches:
    """Read and split the data, and make the loaders; nothing is written.

    Raises:
        DataError: if something is wrong with the data.
    """
    train, held = split(settings)
    labels = [record.label for record in train]
    shared: dict[str, Any] = {
        "num_workers": settings.workers,
        "generator": torch.Generator(),
        "pin_memory": pick_device(settings.device).type == "cuda",
    }
    if settings.sampler == "pair":
        order: dict[str, Any] = {
            "batch_sampler": TailHeadPairSampler(
                labels,
                settings.batch_size,
                tail_fraction=settings.tail_fraction,
                gamma=settings.gamma,
                seed=settings.seed,
            )
        }
    else:
        order = {"batch_size": settings.batch_size, "shuffle": True}
    return Batches(
        DataLoader(LesionImages(train, train_transform(settings.image_size)), **order, **shared),
        DataLoader(LesionImages(held, eval_transform(settings.image_size)), 128, **shared),
        held,
        class_counts(labels, len(CLASSES)),
        math.ceil(len(train) / settings.batch_size),
    )


def pick_device(name: str) -> torch.device:
    """Take the device of that name, or the accelerator if there is one.

    Raises:
        ValueError: if there is no such device.
    """
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"no device `{name}` here ({reason}); choose auto or cpu") from error
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def half_precision(device: torch.device) -> torch.dtype | None:
    """Choose the dtype of autocast: bfloat16 where it is fast, float16 elsewhere, none on CPUs."""
    if device.type == "cpu":
        return None
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def make_mixer(settings: Settings, counts: Tensor) -> SaliencyPatchMix:
    """Make the transform of a run, which sees normalised images."""
    return SaliencyPatchMix(
        class_counts=counts,
        saliency=settings.saliency,
        patch_size=settings.patch_size,
        alpha=settings.alpha,
        floor=settings.floor,
        normalize=settings.normalize,
        jitter=settings.jitter,
        p=settings.p,
        pairing=settings.pairing,
        target=settings.target,
        mean=MEAN,
        std=STD,
        generator=torch.Generator(),
    )


class Trainer:
    """One run: model, optimiser and loaders, from the first epoch or from a checkpoint on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out = Path(settings.out)
        self.batches = make_batches(settings)
        self.device = pick_device(settings.device)
        self.half = half_precision(self.device)
        torch.manual_seed(settings.seed)
        self.model = build_model(settings.model, len(CLASSES), pretrained=settings.pretrained)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.mixer = make_mixer(settings, self.batches.counts) if settings.mix == "spmix" else None
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = LambdaLR(self.optimizer, self._learning_rate_at)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.device.type == "cuda" and self.half == torch.float16
        )
        self.history: list[dict[str, Any]] = []
        self._resume()

    def _learning_rate_at(self, step: int) -> float:
        """Share of the highest learning rate: linear warm-up, then a cosine to 0."""
        warmup = self.settings.warmup_epochs * self.batches.steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        rest = max(1, self.settings.epochs * self.batches.steps - warmup)
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / rest))) / 2

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def _resume(self) -> None:
        """Load the checkpoint of this run, if there is one.

        Raises:
            ValueError: if it came from other settings.
        """
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        now = asdict(self.settings)
        differing = [k for k in now if k not in FREE and saved["settings"].get(k) != now[k]]
        if differing:
            was = ", ".join(f"{name}={saved['settings'].get(name)!r}" for name in differing)
            raise ValueError(
                f"{path} is of a run with {was}; give the same settings to go on with it, or "
                "another --out to start anew"
            )
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.history = saved["history"]

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"settings": asdict(self.settings), "history": self.history}
        write_whole(self.out / "checkpoint.pt", lambda path: torch.save(state, path))
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        write_text(self.out / "metrics.jsonl", lines)

    def run(self) -> None:
        """Train the epochs that are left; the last one writes the predictions."""
        if len(self.history) == self.settings.epochs:
            tqdm.write(f"{self.out} is finished; nothing to do", file=sys.stderr)
            return
        write_json(self.out / "settings.json", asdict(self.settings))
        write_json(self.out / "class_counts.json", self.batches.counts.tolist())
        for epoch in range(len(self.history), self.settings.epochs):
            started = time.perf_counter()
            loss = self._train_epoch(epoch)
            probabilities, labels = self._predict()
            row = {
                "epoch": epoch,
                "loss": loss,
                "learning_rate": self.schedule.get_last_lr()[0],
                "seconds": time.perf_counter() - started,
                **measure(probabilities, labels, self.batches.counts),
            }
            self.history.append(row)
            if epoch + 1 == self.settings.epochs:
                self._write_predictions(probabilities)
            self._save()
            tqdm.write(
                f"epoch {epoch + 1}/{self.settings.epochs}: loss {loss:.3f}, balanced accuracy "
                f"{row['balanced_accuracy']:.3f}, {row['seconds']:.0f} s",
                file=sys.stderr,
            )

    def _train_epoch(self, epoch: int) -> float:
        """Train one epoch and return its mean loss."""
        # One seed for each of the three streams of this epoch, so that no state needs saving.
        seed = 3 * (self.settings.seed * 1_000_003 + epoch)
        torch.manual_seed(seed)
        for stream, owner in enumerate((self.batches.train, self.mixer), start=1):
            if owner is not None:
                owner.generator.manual_seed(seed + stream)
        self.model.train()
        total = torch.zeros((), device=self.device)
        progress = tqdm(
            self.batches.epoch(epoch),
            desc=f"epoch {epoch + 1}",
            total=self.batches.steps,
            unit="step",
            disable=None,
            leave=False,
        )
        for images, labels in progress:
            total += self._step(self._to_device(images), labels.to(self.device, non_blocking=True))
        return float(total) / self.batches.steps

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one optimiser step and return its loss."""
        targets = labels
        if self.mixer is not None:
            images, targets = self.mixer(images, labels, self.model)
        with self._autocast():
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach()

    def _autocast(self) -> Any:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)

    def _to_device(self, images: Tensor) -> Tensor:
        """Bring uint8 images to the device, normalised, `(B,3,H,W)` float32."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return v2.functional.normalize(images.float() / 255, MEAN, STD)

    @torch.inference_mode()
    def _predict(self) -> tuple[Tensor, Tensor]:
        """Predict the held-out images: probabilities `(N,K)` and labels `(N,)`, on the CPU."""
        self.model.eval()
        logits = []
        for images, _ in tqdm(
            self.batches.held, desc="held out", unit="batch", disable=None, leave=False
        ):
            with self._autocast():
                logits.append(self.model(self._to_device(images)).float().cpu())
        labels = [record.label for record in self.batches.held_records]
        return torch.cat(logits).softmax(dim=1), torch.tensor(labels)

    def _write_predictions(self, probabilities: Tensor) -> None:
        """Write the probabilities `(N,K)` of the held-out images in the challenge's columns."""
        rows = [",".join(["image", *CLASSES, "label"])]
        for record, row in zip(self.batches.held_records, probabilities.tolist(), strict=True):
            numbers = [f"{value:.6f}" for value in row]
            rows.append(",".join([record.image, *numbers, CLASSES[record.label]]))
        write_text(self.out / "predictions.csv", "\n".join(rows) + "\n")


def load_model(run: Path) -> tuple[Settings, nn.Module]:
    """Load the settings and the model, in eval mode on the CPU, of a run's checkpoint."""
    saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    settings = Settings(**saved["settings"])
    model = build_model(settings.model, len(CLASSES))
    model.load_state_dict(saved["model"])
    return settings, model.eval()


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the settings from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.train",
        description="Train a classifier on the ISIC 2018 folder layout, with or without SPMix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for option in fields(Settings):
        name = "--" + option.name.replace("_", "-")
        if option.type is bool:
            parser.add_argument(name, action="store_true", help=option.metadata["help"])
            continue
        required = option.default is MISSING
        parser.add_argument(
            name,
            type=option.type if option.type in (int, float) else str,
            choices=option.metadata["choices"],
            help=option.metadata["help"],
            **({"required": True} if required else {"default": option.default}),
        )
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says; problems end with their message and exit code 1."""
    settings = parse(arguments)
    try:
        Trainer(settings).run()
    except (ValueError, OSError) as error:  # DataError among them
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
