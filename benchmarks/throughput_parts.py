"""The parts of the throughput benchmark, each measured in a process of its own.

`in_child` starts such a process: what an allocator and OpenMP do is settled before torch starts.
"""

import ctypes
import functools
import gc
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers import (
    ENTRIES,
    Batch,
    Call,
    Entry,
    check,
    load,
    new_mixer,
    new_plan,
    new_tokens,
)
from spmix_aug import MixPlan, TailHeadPairSampler
from spmix_aug.saliency.base import FAR_OUTSIDE, WHITE, finite, grey_levels, is_flat, round_levels_
from spmix_aug.saliency.spectral import spectral_residual

# With glibc's own thresholds, each tensor above 32 MiB is mapped anew, and faulted in page by page.
NO_FAULTS = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
ALLOCATORS = {"no page faults": NO_FAULTS, "default": None}
# OpenMP threads that spin while they wait now and then leave all of them on one core.
SPIN_COUNT = "5000"

WARM_UP_ROUNDS = 2
LIBRARIES = (
    "torch",
    "numpy",
    "kornia",
    "torchvision",
    "timm",
    "mixup",
    "mlxops_aug",
    "cv2",
    "captum",
    "torchcam",
)
FORMATS = {
    "float32, contiguous": (torch.float32, torch.contiguous_format),
    "float32, channels_last": (torch.float32, torch.channels_last),
    "bfloat16, contiguous": (torch.bfloat16, torch.contiguous_format),
    "bfloat16, channels_last": (torch.bfloat16, torch.channels_last),
}


def in_child(
    function: Callable[..., Any], allocator: str, limit_s: float | None = None, **arguments: Any
) -> Any:
    """Call a function in a fresh process under an allocator setting.

    Its module calls `answer` where it is run.

    Raises:
        RuntimeError: if the process fails, with the end of what it said.
        subprocess.TimeoutExpired: if it takes longer than `limit_s`.
    """
    environment = {**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT}
    environment.pop("GLIBC_TUNABLES", None)
    if ALLOCATORS[allocator] is not None:
        environment["GLIBC_TUNABLES"] = str(ALLOCATORS[allocator])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        ended = subprocess.run(
            [sys.executable, "-m", function.__module__, function.__name__, str(out)],
            input=json.dumps(arguments),
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
            timeout=limit_s,
            stderr=subprocess.PIPE,  # also of a process that dies without a traceback
            check=False,
        )
        sys.stderr.write(ended.stderr)
        if ended.returncode:
            said = ended.stderr[-4000:].strip()
            status = f"Expected {function.__name__} to end with status 0, but got"
            raise RuntimeError(f"{status} {ended.returncode}:\n{said}")
        return json.loads(out.read_text())


def answer(functions: Mapping[str, Any]) -> None:
    """Call the function that `in_child` asked for, by its name."""
    name, out = sys.argv[1:]
    Path(out).write_text(json.dumps(functions[name](**json.load(sys.stdin))))


def milliseconds(work: Call, device: str) -> float:
    """Time one call, until its result is there and is freed again."""
    if torch.device(device).type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record(torch.cuda.current_stream(device))
        work()
        end.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end))
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def interleave(
    works: Mapping[str, tuple[Call, Call]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Time every work once a round, after rounds that do not count.

    The order is drawn anew each round, so that none always follows the same other.

    Args:
        works: by name, what to do before each call, untimed, and the call.
        rounds: that count.
        device: that the works run on.

    Returns:
        Milliseconds of each round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(0)
    gc.freeze()  # what is there now need not be gone through each round
    for number in range(-WARM_UP_ROUNDS, rounds):
        gc.collect()
        gc.disable()
        for name in order.sample(list(works), len(works)):
            before, call = works[name]
            before()
            taken = milliseconds(call, device)
            if number >= 0:
                times[name].append(round(taken, 4))
        gc.enable()
    gc.unfreeze()
    return times


def seed() -> None:
    """Seed all the sources that entries draw from."""
    random.seed(0)
    np.random.seed(0)  # timm, mixup and mlxops-aug draw from it
    torch.manual_seed(0)


def chosen(parts: Collection[str]) -> list[Entry]:
    """List the entries of some parts whose libraries are there."""
    return [entry for entry in ENTRIES if entry.part in parts and entry.installed]


def speed(
    parts: list[str],
    size: int,
    side: int,
    rounds: int,
    device: str,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """Time the entries of some parts, or the named of them, on one batch; check our output."""
    seed()
    batch = Batch(size, side, device)
    checked = check(batch)
    works = {
        entry.name: (batch.restore, entry.make(batch))
        for entry in chosen(parts)
        if names is None or entry.name in names
    }
    return {
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "checked": checked,
        "ms": interleave(works, rounds, device),
    }


def about() -> dict[str, Any]:
    """Describe the machine, the settings and the versions."""
    # packages_distributions() names a distribution once for each of its files that it counts.
    distributions = packages_distributions()
    versions = {
        name: f"{found} {version(found)}"
        for library in LIBRARIES
        for name, found in [(library, min(distributions.get(library, []), default=""))]
        if found
    }
    return {
        "python": platform.python_version(),
        "versions": versions,
        "not_installed": [library for library in LIBRARIES if library not in versions],
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "allocators": ALLOCATORS,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """Name the processor and how many of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def status(field: str) -> int:
    """Read a field of this process's memory status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_extra(work: Call, device: str = "cpu") -> int:
    """Find how much more memory a call holds at its peak than there was before, in bytes."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - held
    # Memory that is free, but not yet given back, must not serve the call unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    held = status("VmRSS")
    work()
    return max(0, status("VmHWM") - held)


def memory(name: str, part: str, size: int, side: int, device: str) -> int:
    """Find the peak extra memory of one entry's call, in bytes."""
    seed()
    entry = next(entry for entry in chosen([part]) if entry.name == name)
    entry.make(Batch(2, 32, device))()  # loads what is loaded once
    batch = Batch(size, side, device)
    return peak_extra(entry.make(batch), device)


def growth(
    name: str, sizes: list[tuple[int, int]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Time an entry that mixes on batches of several sizes."""
    seed()
    entry = next(entry for entry in chosen(["mix"]) if entry.name == name)
    works: dict[str, tuple[Call, Call]] = {}
    for size, side in sizes:
        batch = Batch(size, side, device)
        works[f"{size}x{side}"] = batch.restore, entry.make(batch)
    return interleave(works, rounds, device)


def stages(size: int, side: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Time what our mixer with spectral residual does, and the least that each part of it takes."""
    seed()
    batch = Batch(size, side, device)
    images, mix = batch.images, new_mixer(saliency="spectral_residual")
    plan, pixels = new_plan(batch), mix.saliency.size
    levels = grey_levels(images)

    def shrink() -> Tensor:
        small = functional.interpolate(levels, (pixels, pixels), mode="bilinear")
        return round_levels_(finite(small, FAR_OUTSIDE * WHITE))

    small, buffer = shrink(), torch.empty_like(images)
    calls: dict[str, Call] = {
        "the whole call": lambda: mix(images, batch.labels),
        "plan": lambda: mix.plan(images, batch.labels),
        "plan, saliency": lambda: mix.saliency.low_res_maps(images),
        "plan, saliency, grey levels": lambda: grey_levels(images),
        "plan, saliency, shrinking": shrink,
        "plan, saliency, flat images": lambda: is_flat(small),
        "plan, saliency, residual": lambda: spectral_residual(small),
        "blend": lambda: plan.images(images),
        "floor: read images (`sum`)": images.sum,
        "floor: `fft2` and `ifft2`": lambda: torch.fft.ifft2(torch.fft.fft2(small)),
        "floor: `lerp` into a buffer": lambda: torch.lerp(batch.given, images, 0.5, out=buffer),
    }
    return interleave({name: (batch.restore, call) for name, call in calls.items()}, rounds, device)


def formats(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Time our mixer on the dtypes and memory formats."""
    seed()
    works: dict[str, tuple[Call, Call]] = {}
    held = {}
    for name, (dtype, memory_format) in FORMATS.items():
        batch = Batch(size, side, device, dtype, memory_format)
        held[name] = batch.images.nbytes
        mix, plan = new_mixer(saliency="spectral_residual"), new_plan(batch)
        works[f"spectral residual: {name}"] = (
            batch.restore,
            functools.partial(mix, batch.images, batch.labels),
        )
        works[f"plan given: {name}"] = batch.restore, functools.partial(plan.images, batch.images)
    return {"bytes": held, "ms": interleave(works, rounds, device)}


def compiled(
    batches: Sequence[int], size: int, side: int, rounds: int, device: str
) -> dict[str, Any]:
    """Count what compiling the application of a plan takes, and time it against eager.

    Raises:
        AssertionError: if a compiled result is not the eager one.
    """
    seed()
    compile_graph = load("torch._inductor.compile_fx").compile_fx
    found: dict[str, Any] = {"batches": batches, "graphs": {}}
    works: dict[str, tuple[Call, Call]] = {}
    timed = Batch(size, side, device)

    def images(plan: MixPlan, own: Tensor) -> Tensor:
        return plan.images(own)

    def tokens(plan: MixPlan, own: Tensor) -> Tensor:
        return plan.tokens(own)

    for apply in (images, tokens):
        graphs: list[object] = []

        def backend(graph: Any, inputs: Any, graphs: list[object] = graphs) -> Any:
            graphs.append(graph)
            return compile_graph(graph, inputs)

        fast = torch.compile(apply, fullgraph=True, dynamic=True, backend=backend)
        for batch in (*(Batch(number, side, device) for number in batches), timed):
            plan = new_plan(batch)
            own = batch.images if apply is images else new_tokens(batch, plan)
            assert torch.allclose(fast(plan, own), apply(plan, own), atol=1e-6)
        found["graphs"][apply.__name__] = len(graphs)
        for name, function in (("eager", apply), ("compiled", fast)):
            works[f"{apply.__name__}, {name}"] = (
                timed.restore,
                functools.partial(function, plan, own),
            )
    return {**found, "ms": interleave(works, rounds, device)}


def sampler(samples: int, batch_size: int) -> dict[str, float]:
    """Time the indices of an epoch of the pair sampler, and find its peak memory."""
    seed()
    shares = torch.tensor([0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01])
    labels = torch.multinomial(shares, samples, replacement=True)
    taken: dict[str, float] = {}
    drawn = 0

    def work() -> None:
        nonlocal drawn
        started = time.perf_counter()
        pairs = TailHeadPairSampler(labels, batch_size)
        built = time.perf_counter()
        drawn = sum(map(len, pairs))
        taken["build_s"], taken["epoch_s"] = built - started, time.perf_counter() - built

    peak = peak_extra(work)
    return {
        "samples": samples,
        "batch_size": batch_size,
        "drawn": drawn,
        **taken,
        "peak_extra_bytes": peak,
        "labels_bytes": labels.nbytes,
    }


def loader(size: int, side: int, rounds: int) -> dict[str, Any]:
    """Time what a loader's worker does for a batch, with and without mixing."""
    from benchmarks.loading import new_works, photos  # Pillow is not everywhere

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        with photos(size) as paths:
            # Seeded before each call, so that both crop the same.
            works = {name: (seed, work) for name, work in new_works(paths, side).items()}
            file_bytes = sum(path.stat().st_size for path in paths)
            return {"file_bytes": file_bytes, "ms": interleave(works, rounds, "cpu")}
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    answer(globals())
