"""Results of runs: written one by one, read back, gathered into two files, and never mixed up."""

import json

import numpy as np
import pytest
import torch

from benchmarks import records
from benchmarks.records import Cases, Record, gather, read, write_cases, write_run


@pytest.fixture
def cases():
    labels = torch.tensor([1, 0, 2, 1, 0, 300])
    return Cases(labels, torch.tensor([7, 7, 9, 70_000, 1, 2]), torch.tensor([0, 0, 1, 1, -1, -1]))


def record_of(arm="plain", fold="0", seed=0, images=2, **figures):
    predictions = torch.rand(images, 3).numpy().astype(np.float16)
    settings = {"model": "small", "p": 0.5, "prior": None}
    return Record("first", arm, fold, seed, settings, "abc1234+", "cpu", 1.5, figures, predictions)


def assert_same(found, expected):
    assert {key: record.row() for key, record in found.runs.items()} == {
        record.key: record.row() for record in expected
    }
    for record in expected:
        there = found.runs[record.key].predictions
        assert there.dtype == np.float16
        assert there.tolist() == record.predictions.tolist()


def test_parts_are_those_of_the_fold(cases):
    assert cases.part("0", held=True).tolist() == [0, 1]
    assert cases.part("0", held=False).tolist() == [2, 3]
    assert cases.part("test", held=True).tolist() == [4, 5]
    assert cases.part("test", held=False).tolist() == [0, 1, 2, 3]


def test_what_is_written_is_read_from_either_kind_of_folder(cases, tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    nothing = read(runs, kept)
    assert (nothing.runs, nothing.cases) == ({}, None)
    written = [
        record_of(recall={"A": 1 / 3, "B": None}, losses=[0.1234567, 2]),
        record_of("other.arm", "test", 12),
        record_of(images=0, seed=3, share=0.25),
    ]
    write_cases(runs, cases)
    write_cases(runs, cases)
    for record in written:
        write_run(runs, record)
    (runs / "first/plain/0/7.pt").write_bytes(b"weights")
    assert gather(runs, kept) == 3
    for found in (read(runs), read(kept), read(kept, runs), read(tmp_path / "none", kept)):
        assert_same(found, written)
        for name in ("labels", "groups", "folds"):
            assert torch.equal(getattr(found.cases, name), getattr(cases, name))
    first = read(kept).runs["first/plain/0/0"]
    assert first.figures == {"recall": {"A": 0.333333, "B": None}, "losses": [0.123457, 2]}
    torch.testing.assert_close(first.probabilities, torch.tensor(first.predictions).float())
    assert read(kept).runs["first/plain/0/3"].predictions.shape == (0, 0)


def test_gathering_adds_replaces_and_gives_the_same_files(cases, tmp_path):
    runs, more, kept = (tmp_path / name for name in ("runs", "more", "kept"))
    old, new = record_of(loss=1.0), record_of(loss=2.0)
    for folder, found in ((runs, [old, record_of("b")]), (more, [new, record_of("a")])):
        write_cases(folder, cases)
        for record in found:
            write_run(folder, record)
    gather(runs, kept)
    before = [(kept / name).read_bytes() for name in (records.TABLE, records.PREDICTIONS)]
    gather(runs, kept)
    assert [(kept / name).read_bytes() for name in (records.TABLE, records.PREDICTIONS)] == before
    assert gather(more, kept) == 2
    lines = (kept / records.TABLE).read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["a", "b", "plain"]
    assert (read(kept).runs[new.key].predictions == new.predictions).all()
    assert read(kept, runs).runs[new.key].figures == {"loss": 1.0}
    (kept / records.TABLE).write_text("\n".join(lines[1:]) + "\n")
    assert list(read(kept).runs) == ["first/b/0/0", "first/plain/0/0"]


def test_an_interrupted_write_leaves_no_run(cases, tmp_path, monkeypatch):
    write_cases(tmp_path, cases)
    with monkeypatch.context() as context:
        context.setattr("os.fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            write_run(tmp_path, record_of())
    assert not read(tmp_path).runs
    with pytest.raises(ValueError, match=r"Expected finished runs in .*, but there are none"):
        gather(tmp_path, tmp_path / "kept")


def test_runs_about_other_images_are_refused(cases, tmp_path):
    others = Cases(cases.labels, cases.groups, cases.folds.flip(0))
    message = r"Expected the runs in .*two to be about the same images"
    write_cases(tmp_path / "two", cases)
    with pytest.raises(ValueError, match=message):
        write_cases(tmp_path / "two", others)
    write_cases(tmp_path / "one", others)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "one", tmp_path / "two")
    fewer = Cases(*(part[1:] for part in (cases.labels, cases.groups, cases.folds)))
    with pytest.raises(ValueError, match=message):
        write_cases(tmp_path / "two", fewer)


@pytest.mark.parametrize("images", [1, 0])
def test_files_that_do_not_belong_together_are_refused(cases, tmp_path, images):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    write_cases(runs, cases)
    write_run(runs, record_of(images=images))
    gather(runs, kept)
    old = (kept / records.PREDICTIONS).read_bytes()
    write_run(runs, record_of())
    gather(runs, kept)
    (kept / records.PREDICTIONS).write_bytes(old)
    with pytest.raises(
        ValueError, match=r"predictions of 2 images for first/plain/0/0.*one commit"
    ):
        read(kept)
