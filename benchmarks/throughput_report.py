"""The table and the chart of the throughput benchmark, from its JSON alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ALLOCATORS = ("no page faults", "default")
BOOTSTRAPS = 100
FORMAT_WORKS = ("spectral residual", "plan given")
OURS = "spmix "  # how the names of our entries begin
BLUE, GREY = "#0072B2", "#B8B8B8"  # apart in lightness, too, for every kind of colour vision


class Pair(NamedTuple):
    """One of our entries against a yardstick, and the ratios aimed at under both allocators."""

    what: str
    ours: str
    theirs: str
    targets: tuple[float, float] | None
    part: str = "speed"


PAIRS = (
    Pair(
        "mixer, border contrast (the default), new output / torchvision `v2.MixUp`",
        "spmix border contrast",
        "torchvision v2.MixUp",
        (1.4, 0.8),
    ),
    Pair(
        "mixer, a uniform ratio, new output / torchvision `v2.MixUp`",
        "spmix uniform ratio",
        "torchvision v2.MixUp",
        (0.9, 0.6),
    ),
    Pair(
        "mixer, spectral residual, new output / torchvision `v2.MixUp`",
        "spmix spectral residual",
        "torchvision v2.MixUp",
        (1.3, 0.8),
    ),
    Pair(
        "the same with p=0.5",
        "spmix spectral residual, p=0.5",
        "torchvision v2.MixUp",
        None,
    ),
    Pair(
        "mixer, spectral residual, in place / timm `Mixup` (in place)",
        "spmix spectral residual, in place",
        "timm Mixup, in place",
        (1.2, 0.8),
    ),
    Pair(
        "the same with p=0.5",
        "spmix spectral residual, in place, p=0.5",
        "timm Mixup, in place",
        None,
    ),
    Pair(
        "mixer, maps given, in place / `torch.lerp` into a buffer",
        "spmix maps given, in place",
        "torch lerp into a buffer",
        (3.0, 3.0),
    ),
    Pair(
        "mixer, spectral residual / mixup `SaliencyMix`",
        "spmix spectral residual",
        "mixup SaliencyMix",
        (0.05, 0.05),
    ),
    Pair(
        "maps, spectral residual / OpenCV's, looped",
        "spmix maps: spectral residual",
        "OpenCV StaticSaliencySpectralResidual, looped",
        (0.6, 0.8),
    ),
    Pair(
        "maps, border contrast / OpenCV's spectral residual, looped",
        "spmix maps: border contrast",
        "OpenCV StaticSaliencySpectralResidual, looped",
        (1.2, 1.2),
    ),
    Pair(
        "maps, fine-grained / OpenCV's, looped",
        "spmix maps: fine-grained",
        "OpenCV StaticSaliencyFineGrained, looped",
        (0.3, 0.5),
    ),
    Pair(
        "maps, fine-grained with `size=112` / OpenCV's, looped at full size",
        "spmix maps: fine-grained, size=112",
        "OpenCV StaticSaliencyFineGrained, looped",
        (0.08, 0.1),
    ),
    Pair(
        "mixing tokens of 768, plan given / the authors' expressions",
        "spmix tokens, plan given",
        "SPMix authors' expressions",
        (0.7, 0.7),
    ),
    Pair(
        "`SaliencyPatchMixCollate` / `default_collate`",
        "spmix SaliencyPatchMixCollate",
        "torch default_collate",
        None,
    ),
    Pair(
        "maps, Grad-CAM of a ResNet-18 / captum `LayerGradCam`",
        "spmix maps: Grad-CAM",
        "captum LayerGradCam",
        (1.05, 1.05),
        "models",
    ),
    Pair(
        "maps, Grad-CAM of a ResNet-18 / torchcam `GradCAM`",
        "spmix maps: Grad-CAM",
        "torchcam GradCAM",
        None,
        "models",
    ),
    Pair(
        "maps, input gradient of a ResNet-18 / a bare `autograd.grad`",
        "spmix maps: input gradient",
        "torch autograd.grad of the loss, bare",
        (1.05, 1.05),
        "models",
    ),
    Pair(
        "the same with `sigma=0`",
        "spmix maps: input gradient, sigma=0",
        "torch autograd.grad of the loss, bare",
        (1.05, 1.05),
        "models",
    ),
    Pair(
        "mixer, spectral residual / a ResNet-50 training step",
        "spmix spectral residual",
        "ResNet-50 training step",
        (0.002, 0.004),
        "models",
    ),
)
LOADER = Pair(
    "decode, crop and mix / decode and crop",
    "spmix SaliencyPatchMixCollate",
    "torch default_collate",
    (1.6, 1.6),
)
FIXED_COST = tuple(
    Pair(
        f"mixer, {saliency} / torchvision `v2.MixUp`, 2 images of 32 pixels",
        f"spmix {saliency}",
        "torchvision v2.MixUp",
        (4.0, 4.0),
    )
    for saliency in ("border contrast", "spectral residual")
)
FIXED_COST_SIZE = "2x32"
GROWN = FIXED_COST[1]  # whose growth is fitted
BUSY = tuple(
    Pair(
        f"mixer, {saliency} / torchvision `v2.MixUp`",
        f"spmix {saliency}",
        "torchvision v2.MixUp",
        (2.0, 2.0),
    )
    for saliency in ("border contrast", "spectral residual", "uniform ratio")
)


def entries_of(pairs: Iterable[Pair]) -> list[str]:
    """List the entries that pairs compare, each once."""
    return list(dict.fromkeys(name for pair in pairs for name in (pair.ours, pair.theirs)))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Take the lower quartile, the median and the upper quartile."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return low, middle, high


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratio, taken round by round."""
    return quartiles([own / other for own, other in zip(ours, theirs, strict=True)])


def fit_growth(amounts: Sequence[int], times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Fit `fixed + c * amount ** exponent` to the medians of the times.

    Least squares of the relative errors, neither `fixed` nor `c` below 0, over a grid of
    exponents. The spread is that of fits to rounds drawn anew with replacement.

    Args:
        amounts: of work, one a size.
        times: milliseconds of each round, one list a size, in the same order.

    Returns:
        The exponent with its quartiles over the draws, and the fixed cost in milliseconds.
    """
    taken = np.array(list(times.values()))  # (sizes, rounds)
    draws = np.random.default_rng(0).integers(taken.shape[1], size=(BOOTSTRAPS, taken.shape[1]))
    fixed, exponent = _fit(np.array(amounts, dtype=float), np.median(taken, axis=1))
    spread = [
        _fit(np.array(amounts, dtype=float), np.median(taken[:, draw], axis=1))[1] for draw in draws
    ]
    low, _, high = quartiles(spread)
    return {"fixed_ms": fixed, "exponent": exponent, "exponent_quartiles": [low, high]}


def _fit(amounts: np.ndarray, medians: np.ndarray) -> tuple[float, float]:
    """Fit the fixed cost and the exponent to one time for each amount."""
    best = (np.inf, 0.0, 0.0)
    for exponent in np.arange(0.5, 1.5, 0.005):
        grown = amounts**exponent / medians
        fixed, factor = np.linalg.lstsq(
            np.stack([1 / medians, grown], axis=1), np.ones_like(medians), rcond=None
        )[0]
        if fixed < 0:
            fixed, factor = 0.0, grown.sum() / (grown**2).sum()
        elif factor < 0:
            continue
        error = ((fixed / medians + factor * grown - 1) ** 2).sum()
        best = min(best, (float(error), float(fixed), float(exponent)))
    return best[1], best[2]


def three(value: float) -> str:
    """Write a number with three significant digits."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def spread(found: tuple[float, float, float]) -> str:
    """Write a median and its quartiles."""
    low, middle, high = map(three, found)
    return f"{middle} ({low} to {high})"


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Make a Markdown table whose first column is text."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *body)]


def head_of(first: str, *each: str) -> list[str]:
    """Make the head of a table that has some columns for each allocator."""
    return [first, *(f"{allocator}: {name}" for allocator in ALLOCATORS for name in each)]


def compare(pair: Pair, found: Mapping[str, Any]) -> list[str]:
    """Write a pair's row."""
    cells = [pair.what]
    for allocator, target in zip(ALLOCATORS, pair.targets or (None, None), strict=True):
        ours, theirs = (found[allocator]["ms"][name] for name in (pair.ours, pair.theirs))
        ratios = ratio(ours, theirs)
        missed = target is not None and ratios[1] > target
        aim = "" if target is None else f"{target:g}"
        cells += [against(ours, theirs), spread(ratios), f"{aim}, missed" if missed else aim]
    return cells


def against(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Write two medians beside one another."""
    return f"{three(quartiles(ours)[1])} / {three(quartiles(theirs)[1])}"


def pairs_table(pairs: Sequence[Pair], found: Mapping[str, Any]) -> list[str]:
    """Write the rows of the pairs of which both were measured."""
    ms = found[ALLOCATORS[0]]["ms"]
    body = [compare(pair, found) for pair in pairs if pair.ours in ms and pair.theirs in ms]
    return rows(head_of("what", "ms", "ratio", "aim"), body) if body else []


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Put a heading above lines, if there are any."""
    return ["", f"## {title}", "", *lines] if lines else []


def table(result: Mapping[str, Any]) -> str:
    """Write all that was measured as Markdown."""
    versions = ", ".join(result["versions"].values())
    missing = ", ".join(result["not_installed"]) or "none"
    machine = result["accelerator"] if result["device"].startswith("cuda") else result["cpu"]
    lines = [
        f"# Throughput, commit {result['commit']}, {result['threads']} threads, {result['device']}",
        "",
        f"{machine}; Python {result['python']}; {versions}. "
        f"Not installed: {missing}. GOMP_SPINCOUNT={result['gomp_spincount']}. Milliseconds a "
        "batch, float32: medians, and quartiles in brackets. Ratios are medians of those of each "
        "round.",
    ]
    peaks = result.get("peak_extra_bytes", {})
    models = result.get("models")
    of_batches = [pair for pair in PAIRS if pair.part == "speed"]
    of_models = [pair for pair in PAIRS if pair.part == "models"]
    for size, found in list(result["speed"].items())[:1]:
        lines += section(f"Against the peers, {size}", pairs_table(of_batches, found))
    if models:
        lines += section(f"Against the peers, {models['size']}", pairs_table(of_models, models))
    if FIXED_COST_SIZE in result["speed"]:
        found = result["speed"][FIXED_COST_SIZE]
        lines += section("Cost of a call", pairs_table(FIXED_COST, found))
    groups = {part: names for part, names in result["parts"].items() if part != "models"}
    for number, (size, found) in enumerate(result["speed"].items()):
        of_size = peaks if number == 0 else {}  # measured at the first size alone
        lines += section(f"Every entry, {size}", entries_table(groups, found, of_size))
    if models:
        groups = {"models": result["parts"]["models"]}
        lines += section(f"Models, {models['size']}", entries_table(groups, models, peaks))
    for name, make in OPTIONAL_TABLES.items():
        if name in result:
            lines += make(result[name])
    return "\n".join(lines) + "\n"


def entries_table(
    groups: Mapping[str, Sequence[str]], found: Mapping[str, Any], peaks: Mapping[str, Any]
) -> list[str]:
    """List every entry with its times and its memory, the fastest of each part first."""
    body = []
    for part, names in groups.items():
        peak = {name: f"{size / 1e6:.0f}" for name, size in peaks.get(part, {}).items()}
        for name in by_time(names, found):
            times = [spread(quartiles(found[allocator]["ms"][name])) for allocator in ALLOCATORS]
            named = f"**{name}**" if name.startswith(OURS) else name
            body.append([named, *times, *([peak.get(name, "")] if peaks else [])])
    memory = ["peak extra memory, MB"] if peaks else []
    return rows([*head_of("what", "ms"), *memory], body)


def by_time(names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """Sort entries by their medians."""
    ms = found[ALLOCATORS[0]]["ms"]
    return sorted(names, key=lambda name: quartiles(ms[name])[1])


def stages_table(stages: Mapping[str, Any]) -> list[str]:
    """List where the time of a call goes, as milliseconds and as its share."""
    body = []
    for name in next(iter(stages.values())):
        cells = [name]
        for ms in stages.values():
            share = ratio(ms[name], ms["the whole call"])[1]
            cells += [spread(quartiles(ms[name])), f"{100 * share:.0f} %"]
        body.append(cells)
    head = ["what", *(f"{size}: {name}" for size in stages for name in ("ms", "of the call"))]
    title = f"Where the time of the mixer with spectral residual goes, {ALLOCATORS[0]}"
    return section(title, rows(head, body))


def growth_table(grown: Mapping[str, Any]) -> list[str]:
    """List the fitted exponents and fixed costs."""
    body = []
    for along, entries in grown.items():
        for name, found in entries.items():
            low, high = found["exponent_quartiles"]
            times = [f"{size}: {three(quartiles(ms)[1])}" for size, ms in found["ms"].items()]
            exponent = spread((low, found["exponent"], high))
            body.append([f"{along}, {name}", exponent, three(found["fixed_ms"]), ", ".join(times)])
    head = ["along", "exponent, aim 0.9 to 1.1", "fixed cost, ms", "ms"]
    return section(f"Growth, {ALLOCATORS[0]}", rows(head, body))


def compiled_table(compiled: Mapping[str, Any]) -> list[str]:
    """List recompilations, and times against eager."""
    body = []
    for applied in ("images", "tokens"):
        cells = [applied]
        for allocator in ALLOCATORS:
            found = compiled[allocator]
            fast, eager = (found["ms"][f"{applied}, {how}"] for how in ("compiled", "eager"))
            again = found["graphs"][applied] - 1
            cells += [str(again), against(fast, eager), spread(ratio(fast, eager))]
        body.append(cells)
    sizes = ", ".join(map(str, compiled[ALLOCATORS[0]]["batches"]))
    head = head_of("plan applied to", "recompilations", "compiled / eager, ms", "ratio")
    return section(f"Compiled, fullgraph and dynamic, batches of {sizes}", rows(head, body))


def formats_table(formats: Mapping[str, Any]) -> list[str]:
    """List what other dtypes and memory formats take for each byte."""
    first, *others = formats[ALLOCATORS[0]]["bytes"]
    body = []
    for name in (f"{work}: {other}" for work in FORMAT_WORKS for other in others):
        work, other = name.split(": ")
        cells = [name]
        for allocator in ALLOCATORS:
            ms, held = formats[allocator]["ms"], formats[allocator]["bytes"]
            per_byte = [value * held[first] / held[other] for value in ms[name]]
            usual = ms[f"{work}: {first}"]
            cells += [against(ms[name], usual), spread(ratio(per_byte, usual))]
        body.append(cells)
    head = head_of(f"format / {first}", "ms", "ratio per byte, aim 1.1")
    return section("Formats", rows(head, body))


def sampler_text(found: Mapping[str, Any]) -> list[str]:
    """Tell what an epoch of the pair sampler takes."""
    text = (
        f"{found['samples']:,} samples, batches of {found['batch_size']}: built in "
        f"{found['build_s']:.2f} s, all {found['drawn']:,} indices of an epoch in "
        f"{found['epoch_s']:.2f} s (aim 5), peak extra memory "
        f"{found['peak_extra_bytes'] / 1e9:.2f} GB (aim 1) beside "
        f"{found['labels_bytes'] / 1e9:.2f} GB of labels."
    )
    return section("Pair sampler", [text])


def loader_table(found: Mapping[str, Any]) -> list[str]:
    """Compare batches of a loader's worker with and without mixing."""
    title = f"A batch from JPEG files in a loader's worker of one thread, {found['size']}"
    return section(title, pairs_table([LOADER], found))


def busy_table(busy: Mapping[str, Any]) -> list[str]:
    """Compare mixers beside a busy process on every core."""
    title = f"Beside a busy process on each of {len(busy['cores'])} cores, {busy['size']}"
    return section(title, pairs_table(BUSY, busy))


OPTIONAL_TABLES = {
    "stages": stages_table,
    "growth": growth_table,
    "compiled": compiled_table,
    "formats": formats_table,
    "sampler": sampler_text,
    "loader": loader_table,
    "busy": busy_table,
}


def chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw milliseconds a batch of every entry as bars, ours apart from the peers'."""
    from matplotlib.figure import Figure  # the tables alone do without

    size, found = next(iter(result["speed"].items()))
    names, places = [], []
    for part, of_part in result["parts"].items():
        if part != "models":
            start = places[-1] + 1.8 if places else 0.0
            names += by_time(of_part, found)
            places += [start + number for number in range(len(of_part))]
    figure = Figure(figsize=(12, 2 + 0.22 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, allocator in zip(panels, ALLOCATORS, strict=True):
        values = [quartiles(found[allocator]["ms"][name])[1] for name in names]
        panel.barh(
            places, values, color=[BLUE if name.startswith(OURS) else GREY for name in names]
        )
        for place, value in zip(places, values, strict=True):
            panel.text(1.06 * value, place, three(value), va="center", fontsize=7)
        panel.set(xscale="log", xlabel="ms a batch", title=allocator)
        panel.set(xlim=(0.6 * min(values), 3 * max(values)), ylim=(places[-1] + 1, -1))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, names, fontsize=8)
    for label in panels[0].get_yticklabels():
        if label.get_text().startswith(OURS):
            label.set(color=BLUE, fontweight="bold")
    figure.suptitle(
        f"{size} pixels, float32, {result['threads']} threads, {result['device']}; "
        "this package in blue"
    )
    figure.savefig(path, dpi=110)
