"""The throughput benchmark: its committed results, its fits, and its measuring at a tiny size."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from benchmarks import loading, peers, throughput, throughput_parts, throughput_report
from benchmarks.busy import busy_cores
from benchmarks.throughput_report import (
    ALLOCATORS,
    BUSY,
    FIXED_COST,
    FIXED_COST_SIZE,
    GROWN,
    LOADER,
    PAIRS,
)
from spmix_aug import MixPlan

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "throughput.json"
TARGET_SIZE = throughput.SIZES[0]


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULTS.read_text())


def assert_times(ms, rounds=None):
    assert ms
    for name, values in ms.items():
        assert len(values) == (rounds or len(values)) > 0, name
        assert all(math.isfinite(value) and value > 0 for value in values), name


def test_results_tell_where_they_come_from(committed):
    assert committed["benchmark"] == "throughput"
    assert committed["commit"] not in ("", "unknown")
    assert committed["threads"] >= 1
    assert committed["cpu"]
    assert committed["gomp_spincount"] == throughput_parts.SPIN_COUNT
    assert committed["allocators"] == throughput_parts.ALLOCATORS
    assert committed["not_installed"] == []
    assert set(committed["versions"]) == set(throughput_parts.LIBRARIES)
    assert set(committed["allocators"]) == set(ALLOCATORS)


@pytest.mark.parametrize("pair", [*PAIRS, *FIXED_COST], ids=lambda pair: pair.what)
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_results_have_every_pair(committed, pair, allocator):
    size = FIXED_COST_SIZE if pair in FIXED_COST else TARGET_SIZE
    found = committed["models"] if pair.part == "models" else committed["speed"][size]
    ms = found[allocator]["ms"]
    assert len(ms[pair.ours]) == len(ms[pair.theirs]) > 1
    assert pair.what in RESULTS.with_suffix(".md").read_text()


def test_results_are_finite_and_positive_and_were_checked(committed):
    batches = [*committed["speed"].values(), committed["models"]]
    for found in [batch[allocator] for batch in batches for allocator in ALLOCATORS]:
        assert_times(found["ms"])
        assert max(found["checked"].values()) < 1e-6
    for allocator, setting in throughput_parts.ALLOCATORS.items():
        assert {batch[allocator]["glibc_tunables"] for batch in batches} == {setting}
    growths = [found for entries in committed["growth"].values() for found in entries.values()]
    assert len(growths) == 4
    for found in growths:
        assert_times(found["ms"])
        low, high = found["exponent_quartiles"]
        assert 0.5 <= low <= high <= 1.5
        assert found["fixed_ms"] >= 0
    for ms in committed["stages"].values():
        assert_times(ms)
    for part in ("compiled", "formats"):
        for allocator in ALLOCATORS:
            assert_times(committed[part][allocator]["ms"])
    assert committed["sampler"]["epoch_s"] > 0


def test_results_have_every_entry(committed):
    for part, names in committed["parts"].items():
        assert names == [entry.name for entry in peers.ENTRIES if entry.part == part]
        assert set(committed["peak_extra_bytes"][part]) == set(names)
        assert min(committed["peak_extra_bytes"][part].values()) >= 0


def test_the_table_is_made_from_the_results(committed):
    assert throughput_report.table(committed) == RESULTS.with_suffix(".md").read_text()
    assert throughput.as_json(committed) == RESULTS.read_text()


def test_pairs_name_entries():
    names = {(entry.part == "models", entry.name) for entry in peers.ENTRIES}
    assert len(names) == len(peers.ENTRIES)
    for pair in [*PAIRS, *FIXED_COST]:
        assert {(pair.part == "models", pair.ours), (pair.part == "models", pair.theirs)} <= names
        assert pair.ours.startswith(throughput_report.OURS)


def test_ratios_are_taken_round_by_round():
    # The second round was slow for both, which must not show.
    assert throughput_report.ratio([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("exponent", [0.9, 1.0, 1.1])
def test_growth_is_fitted_above_the_fixed_cost(exponent):
    amounts = [16, 32, 64, 128, 256, 512, 1024]
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal((len(amounts), 20))
    times = (3.0 + 0.05 * np.array(amounts)[:, None] ** exponent) * noise
    found = throughput_report.fit_growth(amounts, dict(enumerate(times.tolist())))
    assert found["exponent"] == pytest.approx(exponent, abs=0.03)
    assert found["fixed_ms"] == pytest.approx(3.0, rel=0.15)
    low, high = found["exponent_quartiles"]
    assert low <= found["exponent"] <= high
    assert high - low < 0.05


def test_rounds_suit_the_batch():
    assert throughput.rounds_at(64, 224, 12) == 12
    assert throughput.rounds_at(2, 32, 12) == 48
    assert throughput.rounds_at(256, 512, 12) == 5
    assert throughput.rounds_at(256, 512, 2) == 2


def test_rounds_are_interleaved_and_restored():
    calls = []
    works = {
        name: (lambda: calls.append("before"), lambda name=name: calls.append(name))
        for name in "abc"
    }
    times = throughput_parts.interleave(works, rounds=4, device="cpu")
    assert_times(times, rounds=4)
    assert calls[::2] == ["before"] * 18
    rounds = [calls[start + 1 : start + 6 : 2] for start in range(0, len(calls), 6)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_the_check_sees_a_wrong_pixel(monkeypatch):
    batch = peers.Batch(4, 40)
    assert max(peers.check(batch).values()) < 1e-6
    monkeypatch.setattr(MixPlan, "images", lambda _, images, inplace=False: images + 0)
    with pytest.raises(AssertionError, match="pixels are off"):
        peers.check(batch)


def test_peak_memory_is_that_of_the_call():
    size = 50_000_000
    found = throughput_parts.peak_extra(lambda: torch.ones(size, dtype=torch.uint8))
    assert 0.95 * size < found < 1.5 * size  # Linux counts pages roughly


def test_a_child_has_its_allocator():
    arguments = {"parts": ["tokens"], "size": 2, "side": 32, "rounds": 1, "device": "cpu"}
    found = throughput_parts.in_child(throughput_parts.speed, "no page faults", **arguments)
    assert found["glibc_tunables"] == throughput_parts.NO_FAULTS
    assert_times(found["ms"], rounds=1)


def test_a_child_that_fails_says_why():
    arguments = {"name": "no such entry", "part": "mix", "size": 2, "side": 32, "device": "cpu"}
    with pytest.raises(RuntimeError, match=r"(?s)memory to end .* but got 1:\n.*StopIteration"):
        throughput_parts.in_child(throughput_parts.memory, "default", **arguments)


def test_a_tiny_run_measures_mixes_and_saliency(monkeypatch, tmp_path):
    needs = {"spmix_aug", "torch", "torchvision", "timm", "kornia"}
    some = [e for e in peers.ENTRIES if e.needs in needs and e.part != "models"]
    monkeypatch.setattr(throughput_parts, "ENTRIES", some)
    monkeypatch.setattr(
        throughput_parts,
        "in_child",
        lambda function, allocator, **arguments: function(**arguments),
    )
    out = tmp_path / "throughput"
    parts = ["mix", "saliency", "tokens", "collate", "formats"]
    throughput.main(["--out", str(out), "--sizes", "2x32", "--rounds", "2", "--only", *parts])
    result = json.loads(out.with_suffix(".json").read_text())
    for allocator in ALLOCATORS:
        ms = result["speed"]["2x32"][allocator]["ms"]
        assert set(ms) == {entry.name for entry in some}
        assert_times(ms, rounds=8)
        assert_times(result["formats"][allocator]["ms"], rounds=2)
    text = out.with_suffix(".md").read_text()
    assert "| **spmix plan given** | " in text
    assert "torchvision `v2.MixUp`" in text
    assert out.with_suffix(".png").stat().st_size > 10_000
    throughput.main(["--out", str(out), "--render"])
    assert out.with_suffix(".md").read_text() == text


def test_a_tiny_run_of_a_loader(monkeypatch, tmp_path):
    monkeypatch.setattr(
        throughput_parts,
        "in_child",
        lambda function, allocator, **arguments: function(**arguments),
    )
    threads = torch.get_num_threads()
    out = tmp_path / "throughput"
    throughput.main(["--out", str(out), "--sizes", "3x32", "--rounds", "2", "--only", "loader"])
    found = json.loads(out.with_suffix(".json").read_text())["loader"]
    assert found["size"] == "3x32"
    for allocator in ALLOCATORS:
        assert set(found[allocator]["ms"]) == {LOADER.ours, LOADER.theirs}
        assert_times(found[allocator]["ms"], rounds=8)
        bits = 8 * found[allocator]["file_bytes"] / (3 * 600 * 450)
        assert 2 < bits < 4  # as photos have
    text = out.with_suffix(".md").read_text()
    assert "in a loader's worker of one thread, 3x32" in text
    assert f"| {LOADER.what} | " in text
    assert torch.get_num_threads() == threads


def test_both_collates_get_the_same_crops():
    with loading.photos(3, (60, 80)) as paths:
        batches = []
        for work in loading.new_works(paths, 32).values():
            throughput_parts.seed()
            batches.append(work()[0])
    assert not paths[0].exists()
    plain, mixed = batches
    assert plain.shape == mixed.shape == (3, 3, 32, 32)
    first = mixed[0] - plain[0]  # the only one of its class mixes with one of the others
    assert float(first.abs().max()) > 0
    assert float((mixed - plain).abs().mean()) < float((plain.roll(1, 0) - plain).abs().mean())


def test_a_tiny_run_beside_a_load(monkeypatch, tmp_path):
    loads, others = [], children_of(os.getpid())  # as the tracker of other tests' pools

    def in_this_process(function, allocator, **arguments):
        if function is throughput_parts.speed:
            loads.append(children_of(os.getpid()) - others)
        return function(**arguments)

    monkeypatch.setattr(throughput_parts, "in_child", in_this_process)
    out = tmp_path / "throughput"
    throughput.main(["--out", str(out), "--sizes", "2x32", "--rounds", "2", "--only", "busy"])
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["busy"]["size"] == "2x32"
    assert result["busy"]["cores"] == sorted(os.sched_getaffinity(0))
    for allocator, load in zip(ALLOCATORS, loads, strict=True):
        assert_times(result["busy"][allocator]["ms"], rounds=2)
        assert set(result["busy"][allocator]["ms"]) == set(throughput_report.entries_of(BUSY))
        assert len(load) >= len(result["busy"]["cores"])
    assert not loads[0] & children_of(os.getpid())
    text = out.with_suffix(".md").read_text()
    assert "## Beside a busy process on each of " in text
    assert all(f"| {pair.what} | " in text for pair in BUSY)


def running():
    """Find the processes that run, by /proc, and their parents."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if state != "Z":
            found[int(path.parent.name)] = int(parent)
    return found


def children_of(parent):
    return {process for process, of in running().items() if of == parent}


def test_a_load_ends_with_a_parent_that_is_killed():
    code = (
        "import time\nfrom benchmarks.busy import busy_cores\n"
        "with busy_cores(60): print('busy', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout.readline() == b"busy\n"
        load = children_of(parent.pid)
        affinities = [os.sched_getaffinity(process) for process in load]
        parent.kill()
    assert sorted(affinities, key=min) == [{core} for core in sorted(os.sched_getaffinity(0))]
    ends = time.monotonic() + 20
    while load & running().keys():
        assert time.monotonic() < ends, "the load outlives its parent"
        time.sleep(0.05)


def test_a_load_that_ends_too_early_is_told():
    with pytest.raises(RuntimeError, match=r"load to last .* it ends after 0.1 s"), busy_cores(0.1):
        time.sleep(2)


def test_the_load_is_measured_where_it_is_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(throughput, "measure", lambda options: asked.append(options.only))
    monkeypatch.setattr(throughput, "render", lambda out: None)
    for more in ([], ["--busy"], ["--only", "mix", "--busy"]):
        throughput.main(["--out", str(tmp_path / "out"), *more])
    assert ["busy" in only for only in asked] == [False, True, True]
    assert asked[2] == ["mix", "busy"]


def test_memory_sampler_and_growth_are_measured():
    peak = throughput_parts.memory("spmix plan given", "mix", size=8, side=64, device="cpu")
    assert peak < 64e6
    found = throughput_parts.sampler(samples=10_000, batch_size=64)
    assert found["drawn"] == 64 * math.ceil(10_000 / 32)
    assert found["epoch_s"] > 0
    times = throughput_parts.growth(GROWN.theirs, [(2, 16), (2, 32)], 2, "cpu")
    assert_times(times, rounds=2)
    assert set(times) == {"2x16", "2x32"}
    assert_times(throughput_parts.stages(size=2, side=32, rounds=2, device="cpu"), rounds=2)


def test_stages_are_shares_of_the_call_in_the_same_rounds():
    ms = {"the whole call": [10.0, 100.0, 20.0], "blend": [4.0, 40.0, 8.0]}
    text = "\n".join(throughput_report.stages_table({"64x224": ms}))
    assert "| the whole call | 20 (15 to 60) | 100 % |" in text
    assert "| blend | 8 (6 to 24) | 40 % |" in text
