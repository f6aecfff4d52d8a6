"""Run a stage of the study, or as much of it as there is time for; finished runs are kept.

python -m examples.isic2018.study STAGE --data FOLDER --out FOLDER [--minutes 60]
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import torch

from .engine import Images, Run, decode, load_images
from .plan import MINUTES, STAGES
from .statistics import measure, summarise
from .worker import start_worker, work


def missing(runs: Sequence[Run], out: Path) -> list[Run]:
    """Choose the runs that have no result yet."""
    return [run for run in runs if not (out / run.path).exists()]


def report(runs: Sequence[Run], images: Images, out: Path) -> str:
    """Write the stage's table: methods over the folds and seeds that all of a method's have."""
    lines = [
        "| method | runs | balanced accuracy | 95 % interval | tail | rare | NV | macro F1 | ECE |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = []
    for name in dict.fromkeys(run.name for run in runs):
        pooled, number, places = [], 0, torch.empty(0)
        mine = [run for run in runs if run.name == name]
        for seed in sorted({run.seed for run in mine}):
            found = [run for run in mine if run.seed == seed and (out / run.path).exists()]
            if len(found) < len({run.fold for run in mine}):
                continue
            results = [json.loads((out / run.path).read_text()) for run in found]
            pooled.append(torch.cat([decode(result["probabilities"]) for result in results]))
            places = torch.cat([images.part(run.fold, held=True) for run in found])
            number += len(found)
        if not pooled:
            continue
        labels = images.labels[places]
        lesions = [images.lesions[i] for i in places.tolist()]
        probabilities = torch.stack(pooled)
        summary = summarise(probabilities, labels, lesions)
        each = [measure(part, labels) for part in probabilities]
        mean = {k: sum(m[k] for m in each) / len(each) for k in ("macro_f1", "calibration_error")}
        balanced = summary["balanced_accuracy"]
        low, high = balanced["interval"]
        others = [summary[key]["mean"] for key in ("tail_recall", "rare_recall", "nv_recall")]
        cells = [balanced["mean"], *others, mean["macro_f1"], mean["calibration_error"]]
        text = [f"{100 * cell:.1f}" for cell in cells]
        text.insert(1, f"{100 * low:.1f} to {100 * high:.1f}")
        rows.append((balanced["mean"], f"| {name} | {number} | {' | '.join(text)} |"))
    return "\n".join(lines + [row for _, row in sorted(rows, reverse=True)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing of a stage, then print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.study", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, required=True, help="folder in the challenge's layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, help="start no run that would end later")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--weights", action="store_true", help="keep each new run's weights too")
    options = parser.parse_args(arguments)
    runs = STAGES[options.stage]
    todo = missing(runs, options.out)
    budget = sum(MINUTES[run.model] for run in todo) / options.jobs
    print(f"{len(runs)} runs, {len(todo)} to do: about {budget:.0f} minutes", file=sys.stderr)
    deadline = None if options.minutes is None else time.time() + 60 * options.minutes
    with ProcessPoolExecutor(
        options.jobs,
        multiprocessing.get_context("spawn"),
        start_worker,
        (options.data,),
    ) as pool:
        latest = [None if deadline is None else deadline - 60 * MINUTES[run.model] for run in todo]
        seconds = pool.map(work, todo, repeat(options.out), latest, repeat(options.weights))
        for run, spent in zip(todo, seconds, strict=True):
            if spent is not None:
                print(f"{run.path}: {spent:.0f} s", file=sys.stderr, flush=True)
    print(report(runs, load_images(options.data), options.out))


if __name__ == "__main__":
    main()
