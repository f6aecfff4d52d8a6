"""What a process of the study does: run after run, on images that it loads once."""

import time
from pathlib import Path

import torch

from benchmarks.records import write_run

from .engine import Images, Run, Trainer, load_images
from .predict import save_weights

_images: list[Images] = []


def start_worker(data: Path) -> None:
    """Load the images; one thread, as two runs of one thread are faster than one of two."""
    torch.set_num_threads(1)
    _images[:] = [load_images(data)]


def work(run: Run, out: Path, latest_start: float | None, weights: bool) -> float | None:
    """Finish one run and return its seconds, or None if it is past `latest_start`."""
    if latest_start is not None and time.time() > latest_start:
        return None
    trainer = Trainer(run, _images[0])
    record = trainer.mixing_cue() if run.stage == "cue" else trainer.result()
    if weights:
        save_weights(trainer.model, run.model, out / f"{run.key}.pt")
    write_run(out, record)
    return record.seconds
