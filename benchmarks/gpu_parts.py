"""The parts of the GPU benchmark, each measured in a process of its own.

On the CPU, where no GPU is, they run as well, without what only a GPU has: captured graphs, counts
of synchronisations and of launches.
"""

import contextlib
import functools
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from benchmarks.peers import CLASS_COUNTS, ENTRIES, Batch, Call, check, new_mixer, new_plan
from benchmarks.throughput_parts import (
    FORMATS,
    answer,
    interleave,
    peak_extra,
    seed,
)
from spmix_aug.functional import draw_at_least_as_frequent

Works = dict[str, tuple[Call, Call]]  # by name, what to do before each call, and the call

YARDSTICK = "torchvision v2.MixUp"
PEERS = (YARDSTICK, "timm Mixup, in place", "kornia RandomMixUpV2")
MIXERS: dict[str, dict[str, Any]] = {
    "border contrast": {},
    "spectral residual": {"saliency": "spectral_residual"},
    "uniform ratio": {"floor": 0.8, "alpha": 0.8},
}
LERP = "torch lerp into a buffer"
TEST_FILES = (  # those with tests of the marker `cuda` or the fixture `device`
    "tests/test_accelerator.py",
    "tests/test_conformance.py",
    "tests/test_guard.py",
    "tests/test_plan.py",
    "tests/test_saliency.py",
    "tests/test_sampler.py",
)
WARM_UP_CALLS = 4  # compiled code is there after the first, and a mixer looks at values no more


def on_gpu(device: str) -> bool:
    """Tell whether a device is a GPU."""
    return torch.device(device).type == "cuda"


def wait(device: str) -> None:
    """Wait until a device has done all that it was asked to."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Compile for one size of batch; on a CPU only trace, as that is no more than a trial."""
    backend = "inductor" if on_gpu(device) else "eager"
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


@contextlib.contextmanager
def reported(name: str, errors: dict[str, str]) -> Iterator[None]:
    """Keep what goes wrong with one entry from the others."""
    try:
        yield
    except Exception:  # whatever it is, it is told in the results
        errors[name] = traceback.format_exc(limit=-8)


def entries(batch: Batch, names: tuple[str, ...], errors: dict[str, str]) -> Works:
    """Make the entries of that name whose libraries are there."""
    works: Works = {}
    for entry in ENTRIES:
        if entry.part == "mix" and entry.name in names and entry.installed:
            with reported(entry.name, errors):
                works[entry.name] = batch.restore, entry.make(batch)
    return works


def measure(
    works: Mapping[str, tuple[Call, Call]], rounds: int, device: str, errors: dict[str, str]
) -> dict[str, Any]:
    """Measure all of some works: times, host times, and what each asks of the device.

    Args:
        works: by name, what to do before each call, and the call.
        rounds: that count.
        device: that the works run on.
        errors: by name, to which those of these works are added.

    Returns:
        By kind of measure, and then by name; `errors` among them.
    """
    found: dict[str, Any] = {"peak_extra_bytes": {}, "synchronisations": {}, "launches": {}}
    ready: Works = {}
    for name, (before, call) in works.items():
        with reported(name, errors):
            for _ in range(WARM_UP_CALLS):
                before()
                call()
            wait(device)
            found["peak_extra_bytes"][name] = peak_extra(call, device)
            if on_gpu(device):
                found["synchronisations"][name] = synchronisations(call)
                found["launches"][name] = launches(call)
            ready[name] = before, call
    return {
        **found,
        "ms": interleave(ready, rounds, device),
        "host_ms": host_times(ready, rounds, device),
        "errors": errors,
    }


def host_times(
    works: Mapping[str, tuple[Call, Call]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Time how long the host is kept by each call, which does not wait for the device's work."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (before, call) in works.items():
            before()
            wait(device)
            started = time.perf_counter()
            call()
            times[name].append(round(1000 * (time.perf_counter() - started), 4))
            wait(device)
    return times


def synchronisations(work: Call) -> int:
    """Count how often a call makes the host wait, as far as torch's debug mode sees it.

    It does not see copies from memory that is not pinned; `launches` counts these.
    """
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def launches(work: Call) -> dict[str, float]:
    """Count what a call asks of the device.

    A profile may lack some of the first events, so a call counts as half of what three calls have
    beyond one.

    Returns:
        Kernels, copies and those of them from memory that is not pinned, as the device sees them,
        and launches of kernels or graphs by the host.
    """
    one, three = (_events(work, calls) for calls in (1, 3))
    return {kind: (three[kind] - one[kind]) / 2 for kind in one}


def _events(work: Call, calls: int) -> dict[str, int]:
    """Count the events of some calls by their kind."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(calls):
            work()
        torch.cuda.synchronize()
    return kinds_of(
        (event.name, event.device_type)
        for event in found.events()
        if not getattr(event, "is_user_annotation", False)
    )


def kinds_of(events: Iterator[tuple[str, DeviceType]]) -> dict[str, int]:
    """Count events, by name and device, as kernels, copies and launches."""
    counts = {"kernels": 0, "copies": 0, "pageable": 0, "launches": 0}
    for name, device in events:
        if device != DeviceType.CUDA:
            # cudaLaunchKernel, cuLaunchKernelEx, cudaGraphLaunch and their like
            counts["launches"] += name.startswith("cu") and "Launch" in name
        elif name.startswith("Memcpy"):
            counts["copies"] += 1
            counts["pageable"] += "Pageable" in name
        else:
            counts["kernels"] += not name.startswith("Memset")
    return counts


# The parts


def eager(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Measure our mixers and the peers', uncompiled."""
    seed()
    errors: dict[str, str] = {}
    batch = Batch(size, side, device)
    checked = check(batch)
    names = (*PEERS, LERP, *(f"spmix {name}" for name in MIXERS))
    return {"checked": checked, **measure(entries(batch, names, errors), rounds, device, errors)}


def whole(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Measure our mixers, compiled whole."""
    seed()
    errors: dict[str, str] = {}
    batch = Batch(size, side, device)
    works = entries(batch, (YARDSTICK,), errors)
    for name, settings in MIXERS.items():
        mix = compiled(new_mixer(**settings), device)
        works[f"spmix {name}, compiled"] = (
            batch.restore,
            functools.partial(mix, batch.images, batch.labels),
        )
    return measure(works, rounds, device, errors)


def blend(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Measure the blend alone, in place, against one pass over the memory."""
    seed()
    errors: dict[str, str] = {}
    batch = Batch(size, side, device)
    works = entries(batch, (LERP,), errors)
    plan = new_plan(batch)

    def in_place(images: Tensor) -> Tensor:
        return plan.images(images, inplace=True)

    for how, function in (("eager", in_place), ("compiled", compiled(in_place, device))):
        works[f"spmix blend in place, {how}"] = (
            batch.restore,
            functools.partial(function, batch.images),
        )
    return measure(works, rounds, device, errors)


def formats(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Measure the default mixer on the dtypes and memory formats, with torchvision's beside it."""
    seed()
    errors: dict[str, str] = {}
    works: Works = {}
    for name, (dtype, memory_format) in FORMATS.items():
        batch = Batch(size, side, device, dtype, memory_format)
        yardstick = entries(batch, (YARDSTICK,), errors)
        works |= {f"{entry}: {name}": work for entry, work in yardstick.items()}
        mix = new_mixer()
        for how, function in (("eager", mix), ("compiled", compiled(mix, device))):
            works[f"spmix border contrast, {how}: {name}"] = (
                batch.restore,
                functools.partial(function, batch.images, batch.labels),
            )
    return measure(works, rounds, device, errors)


class ConstantsOnDevice(TorchFunctionMode):
    """Bring to the device once what a function brings there in every call.

    A graph captures no copy from memory that is not pinned, and what our maps and ratios bring
    there are weights that depend on nothing but sizes. Copies are told apart by their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.place = 0

    def __enter__(self) -> "ConstantsOnDevice":
        self.place = 0
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = (*args[1:], *kwargs.values()) if func is torch.Tensor.to else ()
        wanted = [torch.device(to).type for to in given if isinstance(to, (str, torch.device))]
        if not wanted or args[0].device.type in wanted:
            return func(*args, **kwargs)
        if self.place == len(self.kept):
            self.kept.append(func(*args, **kwargs))
        self.place += 1
        return self.kept[self.place - 1]


def mix_by_draws(
    device: str, **settings: Any
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Make a function that mixes a batch by random numbers `(B,)` that it is given.

    Draws of the CPU cannot be captured, so they come from outside; all that follows is in here:
    partners, maps, ratios, and the blend.
    """
    mixer, counts = new_mixer(**settings), torch.tensor(CLASS_COUNTS, device=device)

    def mix(images: Tensor, labels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        partner = draw_at_least_as_frequent(counts[labels], uniform)
        mixed, targets = mixer(images, labels, partner=partner)
        return mixed, targets

    return mix


def replayed(function: Callable[..., Any], given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Capture a function as a CUDA graph, whose inputs are copied into buffers at each call."""
    buffers = [tensor.clone() for tensor in given]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            function(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*buffers)

    def replay(*tensors: Tensor) -> Any:
        for buffer, tensor in zip(buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        graph.replay()
        return result

    return replay


def graphs(size: int, side: int, rounds: int, device: str) -> dict[str, Any]:
    """Measure maps, ratios and blend captured as a CUDA graph, uncompiled and compiled.

    Raises:
        AssertionError: if mixing by given draws is not what the mixer does.
    """
    seed()
    errors: dict[str, str] = {}
    batch = Batch(size, side, device)
    works = entries(batch, (YARDSTICK,), errors)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2 * size, generator=generator)[size:]  # the first half is for `p`
    given = batch.images, batch.labels, uniform.to(device)
    for name, settings in MIXERS.items():
        mix = mix_by_draws(device, **settings)
        generator.manual_seed(0)
        expected = new_mixer(generator=generator, **settings)(batch.images, batch.labels)
        torch.testing.assert_close(mix(*given), expected)

        def constants_kept(
            *inputs: Tensor, mix: Any = mix, mode: ConstantsOnDevice | None = None
        ) -> Any:
            with mode or contextlib.nullcontext():
                return mix(*inputs)

        uncompiled = functools.partial(constants_kept, mode=ConstantsOnDevice())
        for how, function in (("eager", uncompiled), ("compiled", compiled(mix, device))):
            entry = f"spmix {name}, {how}, captured"
            with reported(entry, errors):
                run = replayed(function, given) if on_gpu(device) else function
                for found, wanted in zip(run(*given), expected, strict=True):
                    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
                works[entry] = batch.restore, functools.partial(new_draws, run, batch)
    return measure(works, rounds, device, errors)


def new_draws(run: Callable[..., Any], batch: Batch) -> Any:
    """Mix a batch by new draws of the CPU."""
    return run(batch.images, batch.labels, torch.rand(len(batch.images)))


def tests(device: str, seconds: float) -> dict[str, Any]:
    """Run all tests that have something to show on a device.

    Returns:
        pytest's exit status, what it printed last, and, if a test failed, `errors`.

    Raises:
        subprocess.TimeoutExpired: if they take longer than that.
    """
    chosen = ["-m", "cuda and not slow", "--device", device, *TEST_FILES]
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, *chosen],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=seconds,
        check=False,
    )
    lines = ended.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    found = {"status": ended.returncode, "summary": lines[-1] if lines else "", "failed": failed}
    if ended.returncode == 0:
        return {**found, "errors": {}}
    return {**found, "errors": {"pytest": "\n".join([*lines[-200:], ended.stderr[-4000:]])}}


if __name__ == "__main__":
    answer(globals())
