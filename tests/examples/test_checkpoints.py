"""No work is lost: runs that are killed, disks that fill up, files that break."""

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
from examples.isic2018 import checkpoints, train
from examples.isic2018.phantom import draw_phantom


@pytest.fixture
def saved(tmp_path):
    """A folder with two checkpoints."""
    for epochs in (1, 2):
        checkpoints.save(tmp_path, epochs, {"epochs": epochs, "weights": torch.rand(500)})
    return tmp_path


def newest(folder):
    return max(folder.glob("checkpoint-*.pt"))


def test_the_newest_is_found_and_older_ones_go(saved):
    checkpoints.save(saved, 3, {"epochs": 3})
    assert len(list(saved.iterdir())) == 2
    path, broken = checkpoints.find(saved)
    assert not broken
    assert checkpoints.load(path) == {"epochs": 3}
    assert checkpoints.find(saved / "elsewhere") == (None, [])


def test_an_epoch_that_is_saved_again_replaces_the_broken_one(saved):
    older, broken = sorted(saved.iterdir())
    broken.write_bytes(shorten(broken.read_bytes(), 100))
    checkpoints.save(saved, 2, {"epochs": 2})
    path, found = checkpoints.find(saved)
    assert not found
    assert sorted(saved.iterdir()) == [older, path]


def shorten(content, place):
    return content[:place]


def flip_a_bit(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("harm", [shorten, flip_a_bit])
def test_a_broken_one_is_passed_over_wherever_it_broke(saved, harm):
    path = newest(saved)
    content = path.read_bytes()
    for place in random.Random(0).sample(range(len(content)), 40):
        path.write_bytes(harm(content, place))
        found, broken = checkpoints.find(saved)
        assert checkpoints.load(found)["epochs"] == 1
        assert broken == [path]


def test_without_a_whole_one_it_says_so_and_touches_nothing(saved):
    for path in saved.iterdir():
        path.write_bytes(shorten(path.read_bytes(), 100))
    before = {path: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match=r"no checkpoint is whole, .*00002.* choose another --out"):
        checkpoints.find(saved)
    assert before == {path: path.read_bytes() for path in saved.iterdir()}


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


def test_a_file_from_a_stranger_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save(tmp_path, 1, {"model": Attack()})
    path, _ = checkpoints.find(tmp_path)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoints.load(path)
    assert not Path("attacked").exists()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    draw_phantom(root / "data", train_images=24, test_per_class=1, size=(40, 56), progress=False)
    return train.Settings(
        data=str(root / "data"),
        out=str(root / "whole"),
        hold_out="test",
        image_size=32,
        batch_size=8,
        epochs=6,
        workers=0,
        device="cpu",
    )


def run(settings, limit=None, killed_at=None):
    """Train in this process: files have at most so many bytes, it dies within the n-th write."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    torch.set_num_threads(1)
    if killed_at is not None:
        write, states = checkpoints._write, []

        def write_half(path, state):
            states.append(state)
            write(path, state)
            if len(states) == killed_at:
                path.write_bytes(shorten(path.read_bytes(), 5000))
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints._write = write_half
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train.Trainer(train.Settings(**settings)).run()
    except OSError:
        sys.exit(3)


def start(settings, *arguments):
    """Train in a process of its own, which has torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.isic2018.train"])
    process = context.Process(target=run, args=(asdict(settings), *arguments))
    process.start()
    return process


def parameters(settings):
    path, _ = checkpoints.find(Path(settings.out))
    return checkpoints.load(path)["model"]


def kill_at_random(settings, kills, seed):
    """Kill runs at random moments, starting each again until it is finished; list the folders."""
    draw = random.Random(seed)
    start(settings).join()
    started = time.perf_counter()  # the first start takes longer
    start(replace(settings, out=f"{settings.out}_{seed}_timed")).join()
    whole = time.perf_counter() - started
    finished = 0
    tried = replace(settings, out=f"{settings.out}_{seed}_0")
    while kills > 0:
        process = start(tried)
        process.join(draw.uniform(0, whole))
        if process.is_alive():
            process.kill()
            process.join()
            kills -= 1
            continue
        assert process.exitcode == 0
        yield tried
        finished += 1
        tried = replace(settings, out=f"{settings.out}_{seed}_{finished}")
    process = start(tried)
    process.join()
    assert process.exitcode == 0
    yield tried


def assert_killed_runs_end_alike(settings, kills, seed):
    for tried in kill_at_random(settings, kills, seed):
        expected, found = parameters(settings), parameters(tried)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        for name in ("predictions.csv", "class_counts.json"):
            assert (Path(tried.out) / name).read_text() == (Path(settings.out) / name).read_text()
        assert len((Path(tried.out) / "metrics.jsonl").read_text().splitlines()) == tried.epochs
        assert not list(Path(tried.out).glob(".*"))


@pytest.mark.slow
def test_many_runs_killed_at_random_moments_end_alike(settings):
    assert_killed_runs_end_alike(settings, 100, seed=1)


@pytest.mark.parametrize("write", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 6))])
def test_a_run_killed_within_a_write_ends_alike(settings, tmp_path, write):
    tried = replace(settings, out=str(tmp_path / "cut"))
    process = start(tried, None, write)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for each in (tried, settings):  # the latter is trained once, and then left as it is
        process = start(each)
        process.join()
        assert process.exitcode == 0
    expected, found = parameters(settings), parameters(tried)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not list(tmp_path.glob("cut/.*"))


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(settings, tmp_path):
    tried = replace(settings, out=str(tmp_path / "full"))
    process = start(tried, 200_000)  # a checkpoint takes more
    process.join()
    assert process.exitcode == 3
    assert not list(tmp_path.glob("full/.*"))
    assert not list(tmp_path.glob("full/checkpoint*"))
    process = start(tried)
    process.join()
    assert process.exitcode == 0
    assert len((tmp_path / "full/metrics.jsonl").read_text().splitlines()) == tried.epochs


def test_a_run_goes_on_from_the_older_checkpoint_where_the_newer_is_broken(settings, tmp_path):
    tried = replace(settings, out=str(tmp_path / "flipped"), epochs=3)
    whole = replace(tried, out=str(tmp_path / "whole"))
    for each in (tried, whole):
        process = start(each)
        process.join()
    path = newest(tmp_path / "flipped")
    path.write_bytes(flip_a_bit(path.read_bytes(), 5000))
    process = start(tried)
    process.join()
    assert process.exitcode == 0
    expected, found = parameters(whole), parameters(tried)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
