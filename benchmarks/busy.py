"""Keep every core busy beside a measurement: one pinned process a core, which ends by itself.

`python -m benchmarks.busy CORE PARENT SECONDS` is such a process. It imports no more than it
needs, so that it is there at once.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LONGEST = 900.0  # seconds, in case that all else fails


def spin(core: int, parent: int, seconds: float) -> None:
    """Keep one core busy until the parent is gone or the time is up."""
    os.sched_setaffinity(0, {core})
    print("pinned", flush=True)
    end = time.monotonic() + seconds
    # A parent that was killed cannot end its children, but they get another parent.
    while os.getppid() == parent and time.monotonic() < end:
        for _ in range(100_000):
            pass


@contextmanager
def busy_cores(seconds: float = LONGEST) -> Iterator[list[int]]:
    """Keep every core that this process may use busy, one process each.

    Args:
        seconds: after which the load ends, whatever happens.

    Yields:
        The cores.

    Raises:
        RuntimeError: if the load did not last as long as what ran beside it.
    """
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        processes = []
        for core in cores:
            command = [sys.executable, "-m", __name__, *map(str, (core, os.getpid(), seconds))]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
            )
            stack.enter_context(process)  # waits for it
            stack.callback(process.kill)
            processes.append(process)
        started = [process.stdout.readline() for process in processes if process.stdout]
        yield cores
        lasted = [process.poll() is None for process in processes]
    if started != ["pinned\n"] * len(cores) or not all(lasted):
        raise RuntimeError(
            f"Expected the load to last through what ran beside it, but on cores {cores} it "
            f"started with {started} and was there at the end: {lasted}; it ends after "
            f"{seconds:g} s, so measure fewer rounds."
        )


if __name__ == "__main__":
    spin(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
