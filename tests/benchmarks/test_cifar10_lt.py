"""CIFAR-10-LT: frames are tied to classes as they should be, every method trains, runs are kept."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from PIL import Image

from benchmarks import cifar10_lt as bench
from benchmarks.records import read

LABELS = torch.arange(10).repeat(200)


def drawn(test, seed=0):
    return bench.draw_frames(LABELS, test, torch.Generator().manual_seed(seed))


def test_frames_tell_the_rarer_half_in_training_alone():
    tied, own = bench.TIED.start <= LABELS, LABELS - bench.TIED.start
    same, random, exchanged = (drawn(test) for test in ("same", "random", "exchanged"))
    assert torch.equal(same[tied], own[tied])
    assert not (exchanged == own)[tied].any()
    assert sorted(exchanged[tied].unique().tolist()) == list(range(5))
    for kinds in (same[~tied], random[tied], random[~tied], exchanged[~tied]):
        shares = torch.bincount(kinds, minlength=6) / len(kinds)
        assert shares.min() > 0.12
        assert shares.max() < 0.22
    assert (drawn("none") == bench.NO_FRAME).all()
    assert torch.equal(drawn("random"), random)
    assert not torch.equal(drawn("random", seed=1), random)


def test_a_frame_covers_the_border_alone():
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    before = images.clone()
    framed = bench.frame(images, torch.tensor([1, bench.NO_FRAME]))
    assert torch.equal(images, before)
    assert torch.equal(framed[1], images[1])
    assert torch.equal(framed[0, :, 4:-4, 4:-4], images[0, :, 4:-4, 4:-4])
    changed = framed[0] == bench.COLOURS[1].byte().view(3, 1, 1)
    for side in (changed, changed.flip(1), changed.mT, changed.mT.flip(1)):
        assert side[:, :4].all()


def test_images_are_shifted_over_black_and_flipped():
    images = torch.arange(1, 33, dtype=torch.uint8).expand(400, 3, 32, 32)
    found = bench.augment(images, torch.Generator().manual_seed(0))
    rows = {tuple(row.tolist()) for row in found[:, 0, 16]}
    line = [0] * 4 + list(range(1, 33)) + [0] * 4
    shifted = {tuple(line[start : start + 32]) for start in range(9)}
    assert rows == shifted | {row[::-1] for row in shifted}
    assert (found[:, 0, 0] == 0).all(1).float().mean() > 0.3


def test_the_rate_rises_and_falls():
    short = [bench.learning_rate(step / 100, 15) for step in range(100)]
    assert short[0] < 0.001
    assert max(short) == pytest.approx(0.1)
    assert short[-1] < 1e-4
    assert [bench.learning_rate(done, 200) for done in (0.5, 0.85, 0.95)] == [0.1, 1e-3, 1e-5]


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    for part, number in (("train", 24), ("test", 2)):
        for name in bench.CLASSES:
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "data"


def test_every_method_trains_once_and_is_reported(data, tmp_path, monkeypatch, capsys):
    for stage in ("plain", "framed"):
        short = bench.Stage(stage == "framed", blocks=1, epochs=1)
        monkeypatch.setitem(bench.STAGES, stage, short)
    monkeypatch.setattr(bench, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(bench, "SEEDS", (0,))
    (tmp_path / "kept").mkdir()
    runs = tmp_path / "runs"
    command = ["--data", str(data), "--runs", str(runs), "--seeds", "0"]
    bench.main(["plain", *command, "--minutes", "0"])
    assert not read(runs).runs
    bench.main(["framed", *command])
    found, labels = read(runs).runs, read(runs).cases.labels
    assert set(found) == {f"framed/{arm}/test/0" for arm in bench.METHODS}
    for record in found.values():
        assert record.predictions.shape == (20, 4)
        hits = (record.predictions == labels.numpy()[:, None]).mean(0)
        assert record.figures["accuracy"] == hits.tolist()
    capsys.readouterr()
    bench.main(["framed", *command])
    assert capsys.readouterr().err == ""  # nothing is run again
    bench.main(["gather", "--runs", str(runs)])
    bench.main(["report"])
    page = (tmp_path / "kept.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| cmo |")]
    assert len(rows) == 4  # a test each
    assert "## framed, frames in the test: exchanged (ResNet-8, 1 epochs)" in page
    assert "## plain (ResNet-8, 1 epochs)\n\nShown when all runs are done: 0 of 10.\n" in page


def test_one_seed_gives_one_result(data, monkeypatch):
    monkeypatch.setitem(bench.STAGES, "framed", bench.Stage(True, blocks=1, epochs=1))
    train, test = (bench.load_images(data / part) for part in ("train", "test"))
    first, second, other = (
        bench.Trainer("framed", "cutmix", seed, train, "cpu").result(test).predictions
        for seed in (0, 0, 1)
    )
    assert (first == second).all()
    assert (first != other).any()


def test_a_missing_class_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"airplane.*give the folder"):
        bench.load_images(tmp_path)


def test_a_stage_needs_images(capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["plain"])
    assert "the stage plain needs images: --data FOLDER" in capsys.readouterr().err


def test_a_seed_that_no_report_would_show_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["plain", "--data", ".", "--seeds", "0", "7"])
    assert "invalid choice: 7" in capsys.readouterr().err
