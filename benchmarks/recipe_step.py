"""Measure a training step of the papers' full-size recipe: seconds, memory, and SPMix's share.

    python -m benchmarks.recipe_step --out benchmarks/results/recipe_step

benchmarks/README.md says what is measured.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.isic2018.files import write_json, write_text
from examples.isic2018.mixing import Mixed, ViewMixer, join
from examples.isic2018.origin import commit
from examples.isic2018.phantom import draw_phantom
from examples.isic2018.settings import parse
from examples.isic2018.train import Trainer
from spmix_aug import MixPlan

CASES = {
    "tokens": ["--recipe", "spmix2024"],
    "tokens, pairs of the authors' code": ["--recipe", "spmix2024_code"],
    "pixels": ["--recipe", "spmix2024", "--mix", "spmix"],
    "no mixing": ["--recipe", "spmix2024", "--mix", "none"],
}


def timed(mixer: ViewMixer, taken: list[float]) -> Callable[..., Mixed]:
    """Make a mixer of views that notes how long each of its calls takes."""

    def mix(*arguments: Any) -> Mixed:
        started = time.perf_counter()
        mixed = mixer(*arguments)
        taken.append(time.perf_counter() - started)
        return mixed

    return mix


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def mixing_tokens(plan: MixPlan, shape: Sequence[int]) -> Callable[[], object]:
    """Make a function that mixes tokens and takes their gradients."""
    tokens = torch.rand(shape, requires_grad=True)
    gradients = torch.rand(shape)
    return lambda: torch.autograd.grad(plan.tokens(tokens), tokens, gradients)


def token_plan(trainer: Trainer, views: Sequence[Tensor], maps: Sequence[Tensor]) -> MixPlan:
    """Make the plan by which a step mixes its tokens."""
    assert trainer.mixer is not None
    labels = torch.zeros(len(views[0]), dtype=torch.int64)
    pairs = zip(views, maps, strict=True)
    return join([trainer.mixer.plan(v.float() / 255, labels, saliency=m.float()) for v, m in pairs])


def measure(case: str, data: str, out: str, rounds: int) -> dict[str, Any]:
    """Take steps of one case, in a process of its own, after one that does not count."""
    common = ["--no-pretrained", "--device", "cpu", "--precision", "float32", "--workers", "0"]
    settings = parse([*CASES[case], *common, "--data", data, "--out", out, "--hold-out", "test"])
    trainer = Trainer(settings)
    trainer.trained.train()
    result: dict[str, Any] = {"plan": [], "load": [], "step": [], "tokens": []}
    trainer.mix = timed(trainer.mix, result["plan"])  # type: ignore[assignment]
    for parts in list(trainer.batches.epoch(0))[: rounds + 1]:
        result["step"].append(seconds(lambda parts=parts: trainer._step(parts)))
    result["peak_gb"] = peak_memory()
    for name in ("plan", "step"):
        del result[name][0]
    dataset = trainer.batches.train.dataset
    for index in range(len(dataset)):
        result["load"].append(seconds(lambda index=index: dataset[index]))
    if settings.mix == "spmix_tokens":
        views, maps, _ = parts[0]
        plan = token_plan(trainer, views, maps)
        shape = len(plan.partner), trainer.model.patch_embed.num_patches, trainer.model.embed_dim
        work = mixing_tokens(plan, shape)
        result["tokens"] = [seconds(work) for _ in range(rounds + 1)][1:]
    return result


def table(result: dict[str, Any]) -> str:
    """Write the medians as Markdown."""
    lines = [
        f"# A step of the papers' recipe, commit {result['commit']}, {result['threads']} threads",
        "",
        "| mixing | step, s | range | peak memory, GB | plan, ms | mixing tokens, ms | SPMix's "
        "share of the step | loading an image and its two views, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, found in result["cases"].items():
        step = statistics.median(found["step"])
        plan = statistics.median(found["plan"])
        tokens = statistics.median(found["tokens"]) if found["tokens"] else 0.0
        share = "-" if case == "no mixing" else f"{(plan + tokens) / step:.2%}"
        lines.append(
            f"| {case} | {step:.1f} | {min(found['step']):.1f} to {max(found['step']):.1f} | "
            f"{found['peak_gb']:.1f} | {1000 * plan:.0f} | {1000 * tokens:.0f} | {share} | "
            f"{1000 * statistics.median(found['load']):.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and write JSON and a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe_step", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="path of the results, no suffix")
    parser.add_argument("--rounds", type=int, default=5, help="steps that count")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "benchmark": "recipe_step",
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "phantom"
        images = 16 * (options.rounds + 1)
        draw_phantom(data, train_images=images, test_per_class=1, size=(450, 600), progress=False)
        for case in CASES:
            # A process each, whose peak memory is that of the case.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
                work = one.submit(measure, case, str(data), f"{folder}/{case}", options.rounds)
                result["cases"][case] = work.result()
    write_json(options.out.with_suffix(".json"), result)
    text = table(result)
    write_text(options.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
