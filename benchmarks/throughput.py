"""Measure mixing and saliency against the peers on the same batches, in the same process.

    python -m benchmarks.throughput --out benchmarks/results/throughput
    python -m benchmarks.throughput --out OUT --only mix saliency --sizes 64x224 --rounds 12
    python -m benchmarks.throughput --out OUT --only busy
    python -m benchmarks.throughput --out benchmarks/results/throughput --render

benchmarks/README.md says what is measured.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import throughput_parts as parts
from benchmarks.busy import busy_cores
from benchmarks.throughput_report import (
    BUSY,
    FIXED_COST_SIZE,
    GROWN,
    chart,
    entries_of,
    fit_growth,
    table,
)
from examples.isic2018.files import write_text, write_whole
from examples.isic2018.origin import commit

SIZES = ("64x224", "2x32", "16x224", "64x64", "256x224", "64x512")  # the first is the targets'
ON_BATCHES = ("mix", "saliency", "tokens", "collate")
OF_ALL = (
    *ON_BATCHES,
    "models",
    "memory",
    "stages",
    "growth",
    "compiled",
    "formats",
    "loader",
    "sampler",
)
PARTS = (*OF_ALL, "busy")  # which loads the machine, so only where it is asked for
GROWTH = {
    "batch": [(size, 64) for size in (16, 32, 64, 128, 256, 512, 1024)],
    "pixels": [(16, side) for side in (32, 64, 128, 256, 512)],
}
COMPILED_BATCHES = (2, 3, 4, 5, 7, 8, 12, 16, 31, 32)
EPOCH_SAMPLES, EPOCH_BATCH = 10_000_000, 64
REFERENCE_PIXELS = 64 * 224**2


def batch_size(text: str) -> tuple[int, int]:
    """Read `64x224` as 64 images of 224 pixels a side."""
    size, side = text.split("x")
    return int(size), int(side)


def rounds_at(size: int, side: int, rounds: int) -> int:
    """Choose the rounds of a batch: more of small ones, fewer of large ones, within bounds."""
    wanted = rounds * REFERENCE_PIXELS // (size * side**2)
    return min(max(wanted, min(rounds, 5)), 4 * rounds)


def as_json(result: dict[str, Any]) -> str:
    """Write JSON with a list of numbers a line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def measure(options: argparse.Namespace) -> None:
    """Measure the parts that were asked for; what is done so far is always on the disk."""
    out = options.out.with_suffix(".json")
    result: dict[str, Any] = {
        "benchmark": "throughput",
        "commit": commit(),
        "device": options.device,
        "rounds": options.rounds,
        **parts.in_child(parts.about, "default"),
        "parts": {},
        "speed": {},
    }
    for entry in parts.chosen(options.only):
        result["parts"].setdefault(entry.part, []).append(entry.name)
    on_batches = [part for part in ON_BATCHES if part in options.only]
    first = batch_size(options.sizes[0])
    models = options.model_batch, first[1]
    device, rounds = options.device, options.rounds

    def both(function: Any, **arguments: Any) -> dict[str, Any]:
        return {
            allocator: parts.in_child(function, allocator, device=device, **arguments)
            for allocator in parts.ALLOCATORS
        }

    def note(name: str, value: Any) -> None:
        result[name] = value
        write_text(out, as_json(result))
        print(f"measured: {name}", flush=True)

    for text in options.sizes if on_batches else ():
        size, side = batch_size(text)
        found = both(
            parts.speed,
            parts=on_batches,
            size=size,
            side=side,
            rounds=rounds_at(size, side, rounds),
        )
        note("speed", {**result["speed"], text: found})
    if "models" in options.only:
        size, side = models
        found = both(
            parts.speed, parts=["models"], size=size, side=side, rounds=options.model_rounds
        )
        note("models", {"size": f"{size}x{side}", **found})
    if "memory" in options.only:
        peaks: dict[str, dict[str, int]] = {}
        for entry in parts.chosen(options.only):
            size, side = models if entry.part == "models" else first
            of_part = peaks.setdefault(entry.part, {})
            of_part[entry.name] = parts.in_child(
                parts.memory,
                "default",
                name=entry.name,
                part=entry.part,
                size=size,
                side=side,
                device=device,
            )
        note("peak_extra_bytes", peaks)
    if "stages" in options.only:
        found = {}
        for text in dict.fromkeys((options.sizes[0], FIXED_COST_SIZE)):
            size, side = batch_size(text)
            found[text] = parts.in_child(
                parts.stages,
                "no page faults",
                size=size,
                side=side,
                rounds=rounds_at(size, side, rounds),
                device=device,
            )
        note("stages", found)
    if "growth" in options.only:
        grown: dict[str, dict[str, Any]] = {}
        for along, sizes in GROWTH.items():
            amounts = [size if along == "batch" else side**2 for size, side in sizes]
            for name in entries_of([GROWN]):
                times = parts.in_child(
                    parts.growth,
                    "no page faults",
                    name=name,
                    sizes=sizes,
                    rounds=2 * rounds,
                    device=device,
                )
                found = {"amounts": amounts, "ms": times, **fit_growth(amounts, times)}
                grown.setdefault(along, {})[name] = found
        note("growth", grown)
    if "compiled" in options.only:
        size, side = first
        found = both(
            parts.compiled,
            batches=COMPILED_BATCHES,
            size=size,
            side=side,
            rounds=2 * rounds,
        )
        note("compiled", found)
    if "formats" in options.only:
        size, side = first
        note("formats", both(parts.formats, size=size, side=side, rounds=rounds))
    if "loader" in options.only:
        size, side = first
        found = {
            allocator: parts.in_child(
                parts.loader, allocator, size=size, side=side, rounds=rounds_at(size, side, rounds)
            )
            for allocator in parts.ALLOCATORS
        }
        note("loader", {"size": options.sizes[0], **found})
    if "sampler" in options.only:
        found = parts.in_child(
            parts.sampler, "default", samples=EPOCH_SAMPLES, batch_size=EPOCH_BATCH
        )
        note("sampler", found)
    if "busy" in options.only:
        size, side = first
        with busy_cores() as cores:
            found = both(
                parts.speed,
                parts=["mix"],
                names=entries_of(BUSY),
                size=size,
                side=side,
                rounds=rounds,
            )
        note("busy", {"size": options.sizes[0], "cores": cores, **found})


def render(out: Path) -> None:
    """Make the table and the chart from the JSON alone."""
    result = json.loads(out.with_suffix(".json").read_text())
    text = table(result)
    write_text(out.with_suffix(".md"), text)
    if result["speed"]:
        write_whole(out.with_suffix(".png"), lambda path: chart(result, path))
    print(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write JSON, a table and a chart."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="path of the results, no suffix")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="images x pixels a side")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=OF_ALL, help="parts to measure")
    parser.add_argument("--busy", action="store_true", help="also beside a load on every core")
    parser.add_argument("--rounds", type=int, default=20, help="that count, at 64x224")
    parser.add_argument("--model-batch", type=int, default=16, help="images that models get")
    parser.add_argument("--model-rounds", type=int, default=8, help="that count, of models")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--render", action="store_true", help="only make table and chart anew")
    options = parser.parse_args(arguments)
    if options.busy:
        options.only = [*options.only, "busy"]
    if not options.render:
        measure(options)
    render(options.out)


if __name__ == "__main__":
    main()
