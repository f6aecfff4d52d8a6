"""The GPU benchmark, on the CPU: all that needs no GPU runs, and what fails is told."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import gpu, gpu_parts, peers, throughput_parts

ROOT = Path(__file__).parents[2]


def in_this_process(function, allocator, limit_s=None, **arguments):
    return function(**arguments)


def run(out, *more):
    arguments = ["--out", str(out), "--device", "cpu", "--batch", "4x32", "--rounds", "1"]
    status = gpu.main([*arguments, *more])
    return status, json.loads(out.with_suffix(".json").read_text())


def test_a_trial_on_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(throughput_parts, "in_child", in_this_process)
    monkeypatch.setattr(gpu_parts, "WARM_UP_CALLS", 1)
    # Tracing takes seconds each.
    formats = dict(list(throughput_parts.FORMATS.items())[::3])
    mixers = {name: gpu_parts.MIXERS[name] for name in ("border contrast", "uniform ratio")}
    monkeypatch.setattr(gpu_parts, "FORMATS", formats)
    monkeypatch.setattr(gpu_parts, "MIXERS", mixers)
    status, result = run(tmp_path / "gpu")
    assert [found["errors"] for found in result["parts"].values()] == [{}] * 5
    assert status == 0
    assert result["left_out"] == ["tests", "captured graphs", "synchronisations", "launches"]
    ms = {part: found["ms"] for part, found in result["parts"].items()}
    for part, found in result["parts"].items():
        assert set(found["ms"]) == set(found["host_ms"]) == set(found["peak_extra_bytes"]), part
        for values in (*found["ms"].values(), *found["host_ms"].values()):
            assert len(values) == 1
            assert math.isfinite(values[0])
            assert values[0] > 0
    for name in mixers:
        assert f"spmix {name}" in ms["eager"]
        assert f"spmix {name}, compiled" in ms["whole"]
        assert {f"spmix {name}, {how}, captured" for how in ("eager", "compiled")} <= set(
            ms["graphs"]
        )
    for name in formats:
        assert {f"spmix border contrast, {how}: {name}" for how in ("eager", "compiled")} <= set(
            ms["formats"]
        )
    text = (tmp_path / "gpu.md").read_text()
    for title in gpu.TITLES.values():
        assert f"## {title}\n" in text
    for aim in gpu.AIMS:
        yardstick = aim.theirs in ms[aim.part]  # torchvision may not be there
        assert (f"| {aim.what} | " in text) == yardstick
    assert "| host time of spmix border contrast, compiled, ms | " in text


def test_what_fails_is_told_and_loses_nothing_else(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(throughput_parts, "in_child", in_this_process)

    def broken(batch):
        raise ValueError("a broken peer")

    entries = [*peers.ENTRIES, peers.Entry("kornia RandomMixUpV2", "mix", broken)]
    monkeypatch.setattr(gpu_parts, "ENTRIES", entries)
    monkeypatch.setitem(gpu.PARTS, "blend", (broken_part, 60.0))
    status, result = run(tmp_path / "gpu", "--only", "blend", "eager")
    assert status == 1
    assert "RuntimeError: a broken part" in result["parts"]["blend"]["errors"]["the whole part"]
    found = result["parts"]["eager"]
    assert list(found["errors"]) == ["kornia RandomMixUpV2"]
    assert "spmix border contrast" in found["ms"]
    text = (tmp_path / "gpu.md").read_text()
    assert "- blend, the whole part: `RuntimeError: a broken part`" in text
    assert "- eager, kornia RandomMixUpV2: `ValueError: a broken peer`" in text
    assert "failed: eager, kornia RandomMixUpV2" in capsys.readouterr().err


def broken_part(**arguments):
    raise RuntimeError("a broken part")


def test_a_part_has_a_process_and_a_time_limit(monkeypatch, tmp_path):
    monkeypatch.setitem(gpu.PARTS, "eager", (gpu_parts.eager, 0.1))
    status, result = run(tmp_path / "gpu", "--only", "eager")
    assert status == 1
    assert "TimeoutExpired" in result["parts"]["eager"]["errors"]["the whole part"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_how_to_try(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", str(tmp_path / "gpu")])
    assert "torch sees no GPU here; --device cpu makes a trial" in capsys.readouterr().err


def test_aims_are_judged():
    ms = {"spmix border contrast": [6.0, 60.0, 5.2], gpu_parts.YARDSTICK: [1.0, 10.0, 1.0]}
    compiled = {"spmix border contrast, compiled": [0.4, 0.5, 0.4]}
    result = {
        "parts": {
            "eager": {"ms": ms, "synchronisations": {"spmix a": 0, gpu_parts.YARDSTICK: 3}},
            "whole": {"ms": {}, "host_ms": compiled, "synchronisations": {"spmix b": 1}},
        }
    }
    assert gpu.aims(result) == [
        ["border contrast, eager / torchvision `v2.MixUp`", "6 (5.6 to 6)", "5, missed"],
        ["host time of spmix border contrast, compiled, ms", "0.4 (0.4 to 0.45)", "0.5"],
        ["synchronisations of a call, most", "1", "0, missed"],
    ]


def test_events_of_a_profile_are_told_apart():
    events = [
        ("aten::lerp", DeviceType.CPU),
        ("cudaLaunchKernel", DeviceType.CPU),
        ("cuLaunchKernelEx", DeviceType.CPU),
        ("cudaGraphLaunch", DeviceType.CPU),
        ("cudaMemcpyAsync", DeviceType.CPU),
        ("void at::native::vectorized_elementwise_kernel", DeviceType.CUDA),
        ("triton_poi_fused_lerp_0", DeviceType.CUDA),
        ("Memset (Device)", DeviceType.CUDA),
        ("Memcpy DtoD (Device -> Device)", DeviceType.CUDA),
        ("Memcpy HtoD (Pageable -> Device)", DeviceType.CUDA),
    ]
    assert gpu_parts.kinds_of(iter(events)) == {
        "kernels": 2,
        "copies": 2,
        "pageable": 1,
        "launches": 3,
    }


def test_constants_are_brought_to_the_device_once():
    mode, values = gpu_parts.ConstantsOnDevice(), torch.arange(3.0)

    def work(number):
        there = (values * number).to("meta", non_blocking=True), torch.ones(2).to(device="meta")
        return (*there, values.to(torch.float64) * number)

    with mode:
        first = work(1)
    with mode:
        second = work(2)
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, True, False]
    assert second[2].tolist() == [0, 2, 4]  # what stays on its device is computed anew


def test_the_tests_for_a_gpu_are_in_the_files_that_are_run():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"mark\.cuda\b|def test_\w+\([^)]*\bdevice\b", path.read_text())
    ]
    assert set(gpu_parts.TEST_FILES) == set(found) - {"tests/test_mistakes.py"}
