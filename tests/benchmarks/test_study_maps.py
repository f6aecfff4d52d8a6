"""What mixing leaves of artefacts and lesions, against cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from benchmarks.isic2018 import __main__ as command
from benchmarks.isic2018 import maps, plan, traps
from benchmarks.isic2018.engine import Images, provider_of
from benchmarks.records import TEST

KINDS = [kind for kinds in traps.SETS.values() for kind in kinds]


@pytest.fixture(scope="module")
def images():
    """Dark lesions in the middle of light skin, and a test image that is not to be looked at."""
    labels = torch.tensor([3, 5, 6, 0, 1, 2, 4, 3])
    masks = torch.zeros(8, 1, 128, 128, dtype=torch.uint8)
    masks[:, :, 40:88, 40:88] = 1
    skin = torch.tensor([220, 180, 160], dtype=torch.uint8).view(1, 3, 1, 1)
    pixels = torch.where(masks == 1, torch.tensor(70, dtype=torch.uint8), skin)
    folds = torch.tensor([0, 1, 2, 0, 1, 2, 0, TEST])
    masks[7] = 0
    return Images(labels, torch.arange(8), folds, np.full(8, ""), pixels, masks)


@pytest.fixture(autouse=True)
def _whole_images(monkeypatch):
    """No crops, so that patches end where lesions do."""
    whole = torch.tensor([0.0, 0.0, 128.0, 128.0])
    monkeypatch.setattr(maps, "random_boxes", lambda number, size, scale: whole.repeat(number, 1))


def test_true_masks_leave_the_lesion_and_no_artefact(images):
    names = ("exchange_masks", "exchange_masks_hard")
    soft, hard = maps.measure_left(images, {n: plan.METHODS[n] for n in names}).values()
    assert list(hard) == KINDS
    for found in hard.values():
        assert found == pytest.approx({"artefact": 0, "lesion": 1})
    for found in soft.values():  # the mean, where the threshold stands, is not far from either
        assert found["lesion"] > 0.99
        assert 0.1 < found["artefact"] < 0.2


def test_a_uniform_ratio_leaves_the_same_of_all(images):
    method = replace(plan.METHODS["uniform_any"], saliency="border_contrast", floor=0.65)
    left = maps.measure_left(images, {"uniform": method})["uniform"]
    for found in left.values():
        assert found == pytest.approx({"artefact": 0.65, "lesion": 0.65})


def test_a_prior_for_the_middle_leaves_less_of_a_ruler(images):
    left = maps.measure_left(images, {n: plan.METHODS[n] for n in ("exchange", plan.CENTRED)})
    ruler = {name: found["ruler"]["artefact"] for name, found in left.items()}
    assert ruler[plan.CENTRED] < ruler["exchange"] - 0.1


def test_the_control_is_the_prior_without_the_contrast():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, centred, middle = (
        provider_of(plan.METHODS[name])(images, None, None)
        for name in ("exchange", plan.CENTRED, plan.MIDDLE)
    )
    assert torch.equal(middle[0], middle[1])
    torch.testing.assert_close(centred, plain * middle)


def test_the_global_stream_is_left_alone(images, monkeypatch):
    monkeypatch.undo()
    state = torch.get_rng_state()
    first, again = (maps.measure_left(images, {"a": plan.METHODS["exchange"]}) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_keeps_what_it_measures_and_prints_a_table(
    tmp_path, monkeypatch, capsys, images
):
    monkeypatch.setattr(command, "KEPT", tmp_path)
    monkeypatch.setattr(command, "load_images", lambda data: images)
    monkeypatch.setattr(command, "MEASURED", {"exchange": plan.METHODS["exchange"]})
    command.main(["maps", "--data", "anywhere"])
    left = command.json.loads((tmp_path / maps.LEFT).read_text())
    assert left == maps.measure_left(images, command.MEASURED)
    assert maps.write_left(left) in capsys.readouterr().out


def test_the_table_has_casts_together():
    shares = {kind: (place + 1) ** 2 / 100 for place, kind in enumerate(KINDS)}
    left = {"a": {kind: {"artefact": of, "lesion": 1 - of} for kind, of in shares.items()}}
    head, _, row = maps.write_left(left).splitlines()
    assert head.startswith("| method | artefact, cast | artefact, vignette | artefact, ruler |")
    # of casts the mean of 1, 4 and 9
    assert row == "| a | 4.7 | 16.0 | 25.0 | 36.0 | 95.3 | 84.0 | 75.0 | 64.0 |"


def test_what_is_kept_is_of_the_methods_that_are_measured():
    left = command.json.loads((command.KEPT / maps.LEFT).read_text())
    assert set(left) == set(maps.MEASURED)
