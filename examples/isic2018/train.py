"""Train a classifier on labelled images, with or without SPMix.

Examples:
    python -m examples.isic2018.train --data data/phantom --out runs/spmix
    python -m examples.isic2018.train --data FOLDER --layout folders --out runs/mine
    torchrun --nproc-per-node 2 -m examples.isic2018.train --recipe spmix2024 --data D --out O

Every epoch's random numbers follow from the seed, the epoch and the rank, for the same device and
number of workers and ranks, so a run that was stopped goes on, when the command is given again, to
the result it would have had.
"""

import csv
import io
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, class_counts

from . import checkpoints
from .contrastive import FeatureQueue, ParametricContrastiveLoss, TwoViewClassifier
from .data import CLASSES, LesionImages, Record, authors_split, folds_of, hold_out, read_folder
from .distributed import Ranks, start_ranks
from .files import remove_leftovers, write_json, write_text
from .metrics import measure
from .mixing import ViewMixer, patch_embedding, second_batch
from .model import build_model
from .origin import commit, versions
from .settings import MAY_DIFFER_ON_RESUME, Settings, parse
from .views import (
    MEAN,
    STD,
    LesionViews,
    cache_maps,
    eval_transform,
    plain_view,
    strong_view,
    weak_view,
)


@dataclass(frozen=True)
class Batches:
    """The loaders of a rank, and the number of training images of each class."""

    train: DataLoader[Any]
    held: DataLoader[Any]
    held_records: list[Record]
    classes: Sequence[str]
    counts: Tensor
    steps: int
    accumulate: int
    warning: str | None

    def epoch(self, epoch: int) -> Iterator[list[Any]]:
        """Draw the batches of one epoch, each in its parts: the same number for every sampler."""
        sampler = self.train.batch_sampler
        if isinstance(sampler, TailHeadPairSampler):
            sampler.set_epoch(epoch)
        parts = iter(self.train)
        for _ in range(self.steps):
            yield list(islice(parts, self.accumulate))


class Split(NamedTuple):
    """The records of a run: those to train on, those held out, what to beware of, the classes."""

    train: list[Record]
    held: list[Record]
    warning: str | None
    classes: Sequence[str]


def split(settings: Settings) -> Split:
    """Read and divide the records of a run.

    Raises:
        DataError: if something is wrong with the data.
    """
    root = Path(settings.data)
    found, classes = None, CLASSES
    if settings.protocol == "authors":
        train, held, found = authors_split(root)
    else:
        table, groups, split_file = (
            None if file is None else Path(file)
            for file in (settings.csv, settings.groups, settings.split_file)
        )
        columns = {role: getattr(settings, role) for role in ("image", "label", "group")}
        records, classes = read_folder(
            root, settings.layout, table=table, groups=groups, columns=columns
        )
        folds = folds_of(root, records, split_file=split_file, seed=settings.seed)
        train, held = hold_out(records, folds, settings.hold_out, classes)
    trained = {record.lesion for record in train}
    shared = sum(record.lesion in trained for record in held)
    if shared == 0:
        return Split(train, held, found, classes)
    leak = (
        f"{shared} of the {len(held)} held-out images show a lesion that is trained on, so figures "
        "are too high"
    )
    return Split(train, held, leak if found is None else f"{leak}; {found}", classes)


def make_batches(settings: Settings, ranks: Ranks | None = None) -> Batches:
    """Read and split the data, and make the loaders; nothing is written but saliency maps.

    Raises:
        DataError: if something is wrong with the data.
    """
    ranks = ranks or Ranks()
    train, held, warning, classes = split(settings)
    labels = [record.label for record in train]
    shared: dict[str, Any] = {
        "num_workers": settings.workers,
        "generator": torch.Generator(),
        "pin_memory": pick_device(settings.device).type == "cuda",
    }
    part = settings.batch_size // settings.accumulate
    with_second = settings.pairing == "second_batch"
    sampler = TailHeadPairSampler(
        labels,
        2 * part if with_second else part,
        tail_fraction=0.5 if with_second else settings.balanced_share,
        gamma=settings.gamma,
        num_replicas=ranks.size,
        rank=ranks.rank,
        seed=settings.seed,
    )
    maps = None
    if settings.mix != "none" and settings.saliency_of == "image":
        cache = Path(settings.saliency_cache or Path(settings.out) / "saliency")
        share = ranks.share(train)
        maps = cache_maps(share, cache, settings.saliency, workers=settings.workers)
        ranks.wait()
    size = settings.image_size
    views = (
        [plain_view(size)]
        if settings.loss == "cross_entropy"
        else [strong_view(size), weak_view(size)]
    )
    held_out = LesionImages(ranks.share(held), eval_transform(size))
    return Batches(
        DataLoader(LesionViews(train, views, maps), batch_sampler=sampler, **shared),
        DataLoader(held_out, 128, **shared),
        held,
        classes,
        class_counts(labels, len(classes)),
        math.ceil(len(train) / (settings.batch_size * ranks.size)),
        settings.accumulate,
        warning,
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


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Choose the dtype of autocast; by itself bfloat16 where it is fast, none on CPUs."""
    if precision != "auto":
        named = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
        return named[precision]
    if device.type == "cpu":
        return None
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def drawn_counts(counts: Tensor, settings: Settings) -> Tensor:
    """Divide the number of training images among classes as batches draw them, `(K,)`.

    As the prior of the loss. The papers take the frequencies of the data, by which rare classes are
    favoured twice where half of each batch is class-balanced. A second batch has partners alone.
    """
    counts = counts.double()
    balanced = torch.where(counts > 0, counts ** (1 - settings.gamma), 0)
    return torch.lerp(counts, counts.sum() * balanced / balanced.sum(), settings.balanced_share)


def make_mixer(settings: Settings, counts: Tensor) -> SaliencyPatchMix:
    """Make the transform of a run, which sees normalised images."""
    if settings.mix == "mixup":  # whose one ratio is drawn for each batch; here as for a picture
        return SaliencyPatchMix(
            class_counts=counts,
            floor=0.5,
            alpha=0.5,
            p=1.0,
            pairing="any",
            target="ratio",
            mean=MEAN,
            std=STD,
            generator=torch.Generator(),
        )
    return SaliencyPatchMix(
        class_counts=counts,
        saliency=settings.saliency,
        patch_size=settings.patch_size,
        alpha=settings.alpha,
        floor=settings.floor,
        normalize=settings.normalize,
        jitter=settings.jitter,
        p=settings.p,
        pairing=second_batch if settings.pairing == "second_batch" else settings.pairing,
        target=settings.target,
        mean=MEAN,
        std=STD,
        generator=torch.Generator(),
    )


class Trainer:
    """One run on this rank: model, optimiser, loaders, from the start or from a checkpoint on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out = Path(settings.out)
        self.ranks, self.device = start_ranks(pick_device(settings.device))
        self.half = half_precision(settings.precision, self.device)
        self.batches = make_batches(settings, self.ranks)
        num_classes = len(self.batches.classes)
        torch.manual_seed(settings.seed)
        self.model = build_model(
            settings.model,
            num_classes,
            pretrained=settings.pretrained,
            image_size=settings.image_size,
        )
        in_tokens = settings.mix == "spmix_tokens"
        embedding = patch_embedding(self.model) if in_tokens else None
        self.queue = FeatureQueue(0, settings.feature_width, num_classes)
        self.trained = self.model
        if settings.loss == "contrastive":
            self.trained = TwoViewClassifier(
                self.model, width=settings.feature_width, hidden=settings.hidden_width
            )
            self.queue = FeatureQueue(settings.queue_size, settings.feature_width, num_classes)
        self.queue.to(self.device)
        self.trained.to(self.device, memory_format=torch.channels_last)
        self.contrast = ParametricContrastiveLoss(
            drawn_counts(self.batches.counts, settings),
            temperature=settings.temperature,
            alpha=settings.sample_weight,
        ).to(self.device)
        self.mixer = make_mixer(settings, self.batches.counts) if settings.mix != "none" else None
        self.mix = ViewMixer(self.mixer, embedding, half=settings.pairing == "second_batch")
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = LambdaLR(self.optimizer, self._learning_rate_at)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half == torch.float16)
        self.history: list[dict[str, Any]] = []
        self._resume()
        self.network: nn.Module = self.trained
        if self.ranks.size > 1:
            self.network = DistributedDataParallel(self.trained)

    def _learning_rate_at(self, step: int) -> float:
        """Share of the highest learning rate: linear warm-up, then a cosine to 0."""
        warmup = self.settings.warmup_epochs * self.batches.steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        rest = max(1, self.settings.epochs * self.batches.steps - warmup)
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / rest))) / 2

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        if isinstance(self.trained, TwoViewClassifier):
            parts |= {
                "projector": self.trained.projector,
                "predictor": self.trained.predictor,
                "queue": self.queue,
            }
        return parts

    def _resume(self) -> None:
        """Load the checkpoint of this run, if there is one.

        Raises:
            ValueError: if it came from other settings, or checkpoints are broken.
        """
        path, broken = checkpoints.find(self.out)
        if path is None:
            return
        for each in broken:
            self._say(f"{each} is broken, not what was saved; going on from {path.name}")
        saved = checkpoints.load(path, self.device)
        now = {**asdict(self.settings), "ranks": self.ranks.size}
        found = {"ranks": 1, **saved["settings"]}
        differing = [k for k in now if k not in MAY_DIFFER_ON_RESUME and found.get(k) != now[k]]
        if differing:
            was = ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            raise ValueError(
                f"{path} is of a run with {was}; give the same settings to go on with it, or "
                "another --out to start anew"
            )
        for name, part in self._parts().items():
            if saved[name]:  # a scaler that was off has no state
                part.load_state_dict(saved[name])
        self.history = saved["history"]

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        settings = {**asdict(self.settings), "ranks": self.ranks.size}
        state |= {"settings": settings, "history": self.history}
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        write_text(self.out / "metrics.jsonl", lines)
        # The last to be written: an epoch that has its checkpoint has all of its files.
        checkpoints.save(self.out, len(self.history), state)

    def announce(self) -> None:
        """Say what is trained on, and what to do afterwards."""
        settings, batches = self.settings, self.batches
        images, size = int(batches.counts.sum()), settings.batch_size * self.ranks.size
        self._say(
            f"{images:,} images of {len(batches.classes)} classes to train on, "
            f"{len(batches.held_records):,} held out; epochs: {settings.epochs}, each of "
            f"{batches.steps:,} steps of {size} images. Afterwards: "
            f"python -m examples.isic2018.report {settings.out} --out report"
        )

    def run(self) -> None:
        """Train the epochs that are left; the last one writes the predictions.

        Raises:
            ValueError: if the loss is no longer a number; the checkpoint stays as it was.
        """
        if len(self.history) == self.settings.epochs:
            self._say(f"{self.out} is finished; nothing to do")
            return
        if self.ranks.is_first:
            remove_leftovers(self.out)
            write_json(self.out / "settings.json", asdict(self.settings))
            write_json(self.out / "class_counts.json", self.batches.counts.tolist())
            self._write_origin()
        for epoch in range(len(self.history), self.settings.epochs):
            started = time.perf_counter()
            loss = self._train_epoch(epoch)
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss of epoch {epoch + 1} is {loss}; lower --learning-rate, or choose "
                    "--precision float32"
                )
            probabilities, labels = self._predict()
            row = {
                "epoch": epoch,
                "loss": loss,
                "learning_rate": self.schedule.get_last_lr()[0],
                "seconds": time.perf_counter() - started,
                **measure(probabilities, labels, self.batches.counts, self.batches.classes),
            }
            if self.batches.warning is not None:
                row["warning"] = self.batches.warning
            self.history.append(row)
            if self.ranks.is_first:
                if epoch + 1 == self.settings.epochs:
                    self._write_predictions(probabilities)
                self._save()
            self._say(
                f"epoch {epoch + 1}/{self.settings.epochs}: loss {loss:.3f}, balanced accuracy "
                f"{row['balanced_accuracy']:.3f}, {row['seconds']:.0f} s"
                + ("" if self.batches.warning is None else f" (beware: {self.batches.warning})")
            )

    def _write_origin(self) -> None:
        """Write what this run is made by: an entry a start, where it went on by something else."""
        path = self.out / "origin.json"
        entries = []
        if self.history:  # begun earlier, perhaps by code that kept no such file
            entries = json.loads(path.read_text()) if path.exists() else [{"commit": "unknown"}]
        # A report that is made elsewhere finds the data by the folder.
        where = {"device": str(self.device), "ranks": self.ranks.size, "folder": str(Path.cwd())}
        entry = {"commit": commit(), **versions(), **where}
        if entry not in entries[-1:]:
            write_json(path, [*entries, entry])

    def _say(self, message: str) -> None:
        if self.ranks.is_first:
            tqdm.write(message, file=sys.stderr)

    def _progress(self, parts: Iterable[Any], what: str, total: int, unit: str) -> Any:
        quiet = None if self.ranks.is_first else True  # None is for terminals alone
        return tqdm(parts, desc=what, total=total, unit=unit, disable=quiet, leave=False)

    def _train_epoch(self, epoch: int) -> float:
        """Train one epoch and return its mean loss over the ranks."""
        # One seed for each of the three streams of this epoch, so that no state needs saving.
        seed = 3 * (self.settings.seed * 1_000_003 + epoch) + 1_000_000_007 * self.ranks.rank
        torch.manual_seed(seed)
        for stream, owner in enumerate((self.batches.train, self.mixer), start=1):
            if owner is not None:
                owner.generator.manual_seed(seed + stream)
        self.trained.train()
        total = torch.zeros((), device=self.device)
        taken = torch.zeros((), device=self.device)
        steps = self.batches.steps
        for parts in self._progress(self.batches.epoch(epoch), f"epoch {epoch + 1}", steps, "step"):
            loss = self._step(parts)
            # The scaler of half precision skips a step that overflows, and so does the mean.
            counts = loss.isfinite() if self.scaler.is_enabled() else torch.ones_like(loss).bool()
            total += torch.where(counts, loss, 0)
            taken += counts
        return float(self.ranks.mean(total) / self.ranks.mean(taken))

    def _step(self, parts: Sequence[Any]) -> Tensor:
        """Take one optimiser step on the parts of a batch and return its loss.

        The parts' gradients add up to those of their mean loss; pairing, batch norm and the
        contrast set see one part at a time.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for place, part in enumerate(parts, start=1):
            with self._no_sync_before_last(place == len(parts)):
                loss = self._loss(*part) / len(parts)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return total

    def _no_sync_before_last(self, last: bool) -> AbstractContextManager[Any]:
        """Average gradients over the ranks in the last part's backward pass alone."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def _loss(self, views: Sequence[Tensor], maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mix the views of a batch and compute its loss."""
        labels = labels.to(self.device, non_blocking=True)
        if self.settings.mix == "mixup":  # (Zhang and others 2018), from a uniform distribution
            share = float(torch.rand((), generator=self.mixer.generator))
            self.mixer.floor = self.mixer.alpha = share
        mixed = self.mix(
            [self._to_device(view) for view in views],
            [each.to(self.device, non_blocking=True) for each in maps],
            labels,
            self.model,
        )
        with mixed.inside, self._autocast():
            output = self.network(mixed.images)
        if self.settings.loss == "cross_entropy":
            return F.cross_entropy(output.float(), mixed.targets)
        logits, features = output
        loss: Tensor = self.contrast(
            features, logits, mixed.classes, self.queue.features, self.queue.labels
        )
        keys = len(features) // 2
        self.queue.push(features[keys:].detach(), mixed.classes[keys:])
        return loss

    def _autocast(self) -> Any:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)

    def _to_device(self, images: Tensor) -> Tensor:
        """Bring uint8 images to the device, normalised, `(B,3,H,W)` float32."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return v2.functional.normalize(images.float() / 255, MEAN, STD)

    @torch.inference_mode()
    def _predict(self) -> tuple[Tensor, Tensor]:
        """Predict the held-out images: probabilities `(N,K)` and labels `(N,)`, on the CPU."""
        self.ranks.agree(self.model)
        self.model.eval()
        logits = [torch.empty(0, len(self.batches.classes))]  # a rank may have no share
        batches = self._progress(self.batches.held, "held out", len(self.batches.held), "batch")
        for images, _ in batches:
            with self._autocast():
                logits.append(self.model(self._to_device(images)).float().cpu())
        labels = torch.tensor([record.label for record in self.batches.held_records])
        return self.ranks.collect(torch.cat(logits).softmax(dim=1), len(labels)), labels

    def _write_predictions(self, probabilities: Tensor) -> None:
        """Write the probabilities `(N,K)` of the held-out images, a column a class."""
        classes, text = self.batches.classes, io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image", *classes, "label"])
        for record, row in zip(self.batches.held_records, probabilities.tolist(), strict=True):
            numbers = [f"{value:.6f}" for value in row]
            rows.writerow([record.image, *numbers, classes[record.label]])
        write_text(self.out / "predictions.csv", text.getvalue())


def load_model(run: Path) -> tuple[Settings, nn.Module]:
    """Load the settings and the model, in eval mode on the CPU, of a run's newest checkpoint.

    Raises:
        ValueError: if there is none that is whole.
    """
    path, _ = checkpoints.find(run)
    if path is None:
        raise ValueError(f"no checkpoint in {run}; let the run finish an epoch")
    saved = checkpoints.load(path)
    chosen = {name: value for name, value in saved["settings"].items() if name != "ranks"}
    settings = Settings(**chosen)
    num_classes = len(json.loads((run / "class_counts.json").read_text(encoding="utf-8")))
    model = build_model(settings.model, num_classes, image_size=settings.image_size)
    model.load_state_dict(saved["model"])
    return settings, model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says; problems end with their message and exit code 1."""
    try:
        trainer = Trainer(parse(arguments))
        trainer.announce()
        trainer.run()
    except (ValueError, OSError) as error:  # DataError among them
        # One of a loader's worker comes with that worker's traceback before its own words.
        sys.exit(f"error: {str(error).rpartition('DataError: ')[2].rstrip()}")
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
