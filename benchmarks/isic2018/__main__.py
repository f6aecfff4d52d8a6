"""Run a stage of the study, or as much of it as there is time for; finished runs are kept.

python -m benchmarks.isic2018 STAGE --data FOLDER --out FOLDER [--minutes 60]

The stage `report` trains nothing: it writes the tables and figures of REPORT.md beside FOLDER.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from .engine import Images, Run, load_images
from .plan import MINUTES, STAGES
from .report import held_images, load_method, table, write_report
from .worker import start_worker, work


def missing(runs: Sequence[Run], out: Path, weights: bool = False) -> list[Run]:
    """Choose the runs that have no result yet, or no weights where those are wanted too."""
    suffix = ".pt" if weights else ".json"
    return [run for run in runs if not (out / run.path).with_suffix(suffix).exists()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing of a stage, then print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isic2018", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=[*STAGES, "report"])
    parser.add_argument("--data", type=Path, required=True, help="folder in the challenge's layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, help="start no run that would end later")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument(
        "--weights", action="store_true", help="keep weights too, beside each result"
    )
    options = parser.parse_args(arguments)
    if options.stage == "report":
        write_report(load_images(options.data), options.out, options.out.parent / "REPORT.md")
        return
    runs = STAGES[options.stage]
    todo = missing(runs, options.out, options.weights)
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
    if options.stage in ("final", "second"):  # looked at once, in the report
        print(
            f"{len(missing(runs, options.out))} runs left; the report shows them when all are done"
        )
    else:
        print(_table(runs, load_images(options.data), options.out))


def _table(runs: Sequence[Run], images: Images, out: Path) -> str:
    """Write the stage's table, of the methods that a seed has on all folds."""
    names, folds = (
        list(dict.fromkeys(values))
        for values in zip(*((r.name, r.fold) for r in runs), strict=True)
    )
    folder = (out / runs[0].path).parents[1]
    found = [load_method(folder, name, folds) for name in names]
    return table([m for m in found if m is not None], held_images(images, folds))


if __name__ == "__main__":
    main()
