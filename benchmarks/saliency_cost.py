"""Measure what saliency costs of a training step.

    python -m benchmarks.saliency_cost --out benchmarks/results/saliency_cost

benchmarks/README.md says what is measured.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from examples.isic2018.files import write_json, write_text
from examples.isic2018.model import small_cnn
from examples.isic2018.origin import commit
from spmix_aug.saliency import (
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SpectralResidual,
)

CASES = {
    "small CNN, 64 x 3 x 112 x 112": (lambda: small_cnn(7), 64, 112),
    "ResNet-18, 16 x 3 x 224 x 224": (
        lambda: timm.create_model("resnet18", num_classes=7),
        16,
        224,
    ),
    "ViT-Ti/16, 16 x 3 x 224 x 224": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=7, dynamic_img_size=True),
        16,
        224,
    ),
}
PROVIDERS = {
    "spectral residual": SpectralResidual(),
    "border contrast": BorderContrast(),
    "fine-grained": FineGrained(),
    "Grad-CAM": GradCAM(),
    "input gradient": InputGradient(),
}


def train_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Make a function that trains `model` one step."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def at_half_resolution(images: Tensor) -> Tensor:
    """Bring images to half their height and width."""
    return F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(model: nn.Module, batch: int, side: int, rounds: int) -> dict[str, list[float]]:
    """Time a step and every saliency, in interleaved rounds after one that does not count."""
    images, labels = torch.rand(batch, 3, side, side), torch.randint(7, (batch,))
    work = {"training step": train_step(model, images, labels)}
    for name, provider in PROVIDERS.items():
        work[name] = lambda provider=provider: provider(images, labels, model)
        if provider.needs_model:
            work[f"{name}, half resolution"] = lambda provider=provider: provider(
                at_half_resolution(images), labels, model
            )
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in tqdm(range(rounds + 1), disable=None):
        for name, call in work.items():
            taken = seconds(call)
            if number > 0:
                times[name].append(taken)
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and write JSON and a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saliency_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="path of the results, no suffix")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    result = {
        "benchmark": "saliency_cost",
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "rounds": options.rounds,
        "cases": {
            case: measure(build(), batch, side, options.rounds)
            for case, (build, batch, side) in CASES.items()
        },
    }
    write_json(options.out.with_suffix(".json"), result)
    lines = [
        f"# Cost of saliency, commit {result['commit']}, {result['threads']} threads",
        "",
        "| case | what | median ms | quartiles | share of the step |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for case, times in result["cases"].items():
        step = torch.tensor(times["training step"])
        for name, values in times.items():
            taken = torch.tensor(values)
            low, middle, high = (1000 * taken).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
            share = float((taken / step).median())
            lines.append(
                f"| {case} | {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {share:.1%} |"
            )
    table = "\n".join(lines) + "\n"
    write_text(options.out.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    main()
