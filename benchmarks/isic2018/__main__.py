"""Run a stage of the study, or as much of it as there is time for; finished runs are kept.

python -m benchmarks.isic2018 STAGE --data FOLDER [--minutes 60]
python -m benchmarks.isic2018 gather   # bring finished runs into results.jsonl and predictions.npz
python -m benchmarks.isic2018 report   # write tables and figures into REPORT.md, docs/from-53.md
python -m benchmarks.isic2018 background --data FOLDER    # how much of the class it tells
python -m benchmarks.isic2018 maps --data FOLDER          # what they leave of artefacts
python -m benchmarks.isic2018 collections --data FOLDER   # which one each image comes from
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

from benchmarks import cifar10_lt
from benchmarks.records import gather, read, write_cases
from examples.isic2018.files import write_json

from .backgrounds import (
    COLLECTIONS,
    LOOKED_AT_ONCE,
    TOLD,
    measure_background,
    write_backgrounds,
    write_collections,
)
from .engine import Run, load_images, read_cases
from .maps import LEFT, MEASURED, measure_left, write_left
from .plan import MINUTES, STAGES
from .report import stage_table, write_report
from .steps import write_steps
from .worker import start_worker, work

KEPT = Path(__file__).parent
FROM_DATA = ("background", "maps", "collections")
STEPS = KEPT.parents[1] / "docs/from-53.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing of a stage, then print its table; or gather, or report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isic2018", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=[*STAGES, "gather", "report", *FROM_DATA])
    parser.add_argument("--data", type=Path, help="folder in the challenge's layout")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/isic2018"), help="folder of finished runs"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="names of runs, STAGE/ARM/FOLD/SEED"
    )
    parser.add_argument("--minutes", type=float, help="start no run that would end later")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument(
        "--weights", action="store_true", help="keep weights too, beside each run's file"
    )
    options = parser.parse_args(arguments)
    if options.stage == "gather":
        print(f"{gather(options.runs, KEPT)} runs gathered in {KEPT}")
    elif options.stage == "report":
        results = read(KEPT, options.runs)
        write_report(results, KEPT / "REPORT.md")
        write_backgrounds(results, read(cifar10_lt.KEPT), KEPT / "REPORT.md")
        write_steps(results, STEPS)
    elif options.data is None:
        parser.error(f"the stage {options.stage} needs images: --data FOLDER")
    elif options.stage == "background":
        print(json.dumps(measure_background(options.data, KEPT / TOLD), indent=1))
    elif options.stage == "maps":
        left = measure_left(load_images(options.data), MEASURED)
        write_json(KEPT / LEFT, left)
        print(write_left(left))
    elif options.stage == "collections":
        write_collections(options.data, KEPT / COLLECTIONS)
    else:
        runs = {run.key: run for run in STAGES[options.stage]}
        if unknown := [key for key in options.only or () if key not in runs]:
            parser.error(
                f"the stage {options.stage} has no run {unknown[0]}, but {next(iter(runs))}"
            )
        _run([runs[key] for key in options.only or runs], options)


def _run(runs: Sequence[Run], options: argparse.Namespace) -> None:
    """Run those of `runs` that have no result yet, or no weights where those are wanted too."""
    write_cases(options.runs, read_cases(options.data))
    known = read(KEPT, options.runs).runs
    todo = [
        run
        for run in runs
        if (
            not (options.runs / f"{run.key}.pt").exists()
            if options.weights
            else run.key not in known
        )
    ]
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
        seconds = pool.map(work, todo, repeat(options.runs), latest, repeat(options.weights))
        for run, spent in zip(todo, seconds, strict=True):
            if spent is not None:
                print(f"{run.key}: {spent:.0f} s", file=sys.stderr, flush=True)
    results = read(KEPT, options.runs)
    if options.stage in LOOKED_AT_ONCE:  # looked at once, in the report
        left = sum(run.key not in results.runs for run in runs)
        print(f"{left} runs left; the report shows them when all are done")
    else:
        print(stage_table(runs, results))


if __name__ == "__main__":
    main()
