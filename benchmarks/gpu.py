"""Show on a GPU, in under 8 minutes, that the tests hold there and what mixing costs.

    python -m benchmarks.gpu --out benchmarks/results/gpu
    python -m benchmarks.gpu --out OUT --device cpu --batch 2x32 --rounds 2   # a trial without one

Each part runs in a process of its own. One that fails is told in the results, and the exit status
is 1. benchmarks/README.md says what is measured.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import gpu_parts, throughput_parts
from benchmarks.gpu_parts import LERP, YARDSTICK, on_gpu
from benchmarks.throughput import as_json, batch_size
from benchmarks.throughput_report import OURS, quartiles, ratio, rows, section, spread, three
from examples.isic2018.files import write_text
from examples.isic2018.origin import commit

# In this order, each with the seconds that it may take: what may take long comes last.
PARTS = {
    "eager": (gpu_parts.eager, 60.0),
    "whole": (gpu_parts.whole, 120.0),
    "blend": (gpu_parts.blend, 60.0),
    "graphs": (gpu_parts.graphs, 120.0),
    "tests": (gpu_parts.tests, 180.0),
    "formats": (gpu_parts.formats, 150.0),
}
TITLES = {
    "eager": "Eager",
    "whole": "Compiled whole",
    "blend": "The blend alone",
    "graphs": "CUDA graphs of maps, ratios and blend",
    "formats": "Formats, border contrast",
}
BUDGET = 465.0  # seconds for all
ONLY_ON_GPU = ("tests", "captured graphs", "synchronisations", "launches")


class Aim(NamedTuple):
    """What is aimed at: the time of one entry against another's in the same rounds."""

    what: str
    part: str
    ours: str
    theirs: str
    at_most: float


AIMS = (
    Aim(
        "border contrast, compiled / torchvision `v2.MixUp`",
        "whole",
        "spmix border contrast, compiled",
        YARDSTICK,
        1.5,
    ),
    Aim(
        "border contrast, eager / torchvision `v2.MixUp`",
        "eager",
        "spmix border contrast",
        YARDSTICK,
        5.0,
    ),
    Aim(
        "blend in place, eager / `torch.lerp` into a buffer",
        "blend",
        "spmix blend in place, eager",
        LERP,
        1.1,
    ),
    Aim(
        "blend in place, compiled / `torch.lerp` into a buffer",
        "blend",
        "spmix blend in place, compiled",
        LERP,
        1.1,
    ),
)
HOST_AIM = 0.5  # milliseconds of a compiled call


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for; what is done so far is always on the disk."""
    started = time.monotonic()
    size, side = batch_size(options.batch)
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "commit": commit(),
        "device": options.device,
        "batch": options.batch,
        "rounds": options.rounds,
        **throughput_parts.about(),
        "cuda": torch.version.cuda,
        "left_out": [] if on_gpu(options.device) else list(ONLY_ON_GPU),
        "parts": {},
    }
    given = {"size": size, "side": side, "rounds": options.rounds}
    for name in options.only:
        function, seconds = PARTS[name]
        if name in result["left_out"]:
            continue
        seconds = min(seconds, BUDGET - (time.monotonic() - started))
        arguments = {"seconds": seconds - 5} if name == "tests" else given
        begun = time.monotonic()
        try:
            found = throughput_parts.in_child(
                function, "default", limit_s=max(seconds, 1), device=options.device, **arguments
            )
        except Exception:  # whatever it is, the other parts go on
            found = {"errors": {"the whole part": traceback.format_exc(limit=-3)}}
        result["parts"][name] = {**found, "took_s": round(time.monotonic() - begun, 1)}
        result["took_s"] = round(time.monotonic() - started, 1)
        write_text(options.out.with_suffix(".json"), as_json(result))
        print(f"measured: {name}, {len(found['errors'])} errors", flush=True)
    return result


def failures(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List part, entry and error of all that failed."""
    return [
        (part, entry, error)
        for part, found in result["parts"].items()
        for entry, error in found["errors"].items()
    ]


def table(result: Mapping[str, Any]) -> str:
    """Write all that was measured as Markdown."""
    machine = result["accelerator"] if on_gpu(result["device"]) else result["cpu"]
    versions = ", ".join(result["versions"].values())
    lines = [
        f"# On {machine}, commit {result['commit']}",
        "",
        f"Device {result['device']}, CUDA {result['cuda']}; Python {result['python']}; {versions}. "
        f"Not installed: {', '.join(result['not_installed']) or 'none'}. "
        f"Left out: {', '.join(result['left_out']) or 'none'}. "
        f"Batches of {result['batch']}, float32 where nothing else is said; milliseconds a call: "
        "medians, and quartiles in brackets. Ratios are medians of those of each round.",
    ]
    lines += section("Aims", rows(["what", "found", "aim"], aims(result)))
    for part, title in TITLES.items():
        if result["parts"].get(part, {}).get("ms"):
            lines += section(title, part_table(result["parts"][part]))
    if "tests" in result["parts"]:
        found = result["parts"]["tests"]
        lines += section("Tests", [found.get("summary") or "They did not run to their end."])
    failed = [f"- {part}, {entry}: `{cause_of(error)}`" for part, entry, error in failures(result)]
    lines += section("Failed", failed)
    return "\n".join(lines) + "\n"


def cause_of(error: str) -> str:
    """Take the line of a traceback that says what went wrong."""
    return error.strip().splitlines()[-1][:200].replace("`", "'")


def aims(result: Mapping[str, Any]) -> list[list[str]]:
    """Write the rows of what is aimed at, of which there are figures."""
    parts, body = result["parts"], []
    for aim in AIMS:
        ms = parts.get(aim.part, {}).get("ms", {})
        if aim.ours in ms and aim.theirs in ms:
            found = ratio(ms[aim.ours], ms[aim.theirs])
            body.append([aim.what, spread(found), judged(found[1], aim.at_most)])
    compiled = {
        name: values
        for name, values in parts.get("whole", {}).get("host_ms", {}).items()
        if name.startswith(OURS)
    }
    for name, values in compiled.items():
        found = quartiles(values)
        body.append([f"host time of {name}, ms", spread(found), judged(found[1], HOST_AIM)])
    counts = [
        count
        for found in parts.values()
        for name, count in found.get("synchronisations", {}).items()
        if name.startswith(OURS)
    ]
    if counts:
        body.append(["synchronisations of a call, most", str(max(counts)), judged(max(counts), 0)])
    return body


def judged(found: float, aim: float) -> str:
    """Write an aim, and whether it was missed."""
    return f"{aim:g}, missed" if found > aim else f"{aim:g}"


def part_table(found: Mapping[str, Any]) -> list[str]:
    """List the entries of a part with all that was measured of them, the fastest first."""
    body = []
    for name in sorted(found["ms"], key=lambda name: quartiles(found["ms"][name])[1]):
        launched = found["launches"].get(name, {})
        body.append(
            [
                f"**{name}**" if name.startswith(OURS) else name,
                spread(quartiles(found["ms"][name])),
                three(quartiles(found["host_ms"][name])[1]),
                str(found["synchronisations"].get(name, "")),
                *(
                    f"{launched[kind]:g}" if launched else ""
                    for kind in ("launches", "kernels", "copies", "pageable")
                ),
                f"{found['peak_extra_bytes'][name] / 1e6:.0f}",
            ]
        )
    head = ["what", "ms", "host, ms", "synchronisations", "launches", "kernels", "copies"]
    return rows([*head, "of them not pinned", "peak extra memory, MB"], body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write JSON and a table; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="path of the results, no suffix")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a trial")
    parser.add_argument("--batch", default="64x224", help="images x pixels a side")
    parser.add_argument("--rounds", type=int, default=50, help="that count")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS), help="parts")
    options = parser.parse_args(arguments)
    if on_gpu(options.device) and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu makes a trial without one")
    result = measure(options)
    text = table(result)
    write_text(options.out.with_suffix(".md"), text)
    print(text)
    for part, entry, error in failures(result):
        print(f"failed: {part}, {entry}\n{error}", file=sys.stderr)
    return 1 if failures(result) else 0


if __name__ == "__main__":
    sys.exit(main())
