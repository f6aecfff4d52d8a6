"""Mistakes of a first day are told of once, and ordinary pipelines hear nothing."""

import copy
import warnings
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spmix_aug import SaliencyPatchMix
from spmix_aug._guards import value_range
from spmix_aug.saliency import BorderContrast

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photographs(batch=12, size=(48, 64), seed=0):
    """Draw 8-bit images of a disk on a background of their own, with noise: (B,3,H,W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    disk = ((rows.view(-1, 1) ** 2 + columns**2) < 0.3).float()
    colours = torch.rand(2, batch, 3, 1, 1, generator=generator)
    images = colours[0] * disk + colours[1] * (1 - disk)
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    return (255 * (images + noise).clamp(0, 1)).round().to(torch.uint8)


def normalised(images, mean=MEAN, std=STD):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


def labels_of(images):
    return torch.arange(len(images)) % 3


def call(images, **settings):
    settings = {"num_classes": 3, "p": 1.0, **settings}
    return SaliencyPatchMix(**settings)(images, labels_of(images))


RAW = photographs()
UNIT = RAW.float() / 255

WRONG = {
    "raw, with mean and std": (UNIT, {"mean": MEAN, "std": STD}, "normalised by `mean`"),
    "raw float64": (UNIT.double(), {"mean": 0.5, "std": 0.5}, "normalised by `mean`"),
    "raw and resized": (
        nn.functional.interpolate(torch.rand(12, 3, 40, 40), 64, mode="nearest"),
        {"mean": MEAN, "std": STD},
        "normalised by `mean`",
    ),
    "normalised, without mean": (normalised(RAW), {}, "give `mean` and `std`"),
    "normalised to -1 and 1": (normalised(RAW, [0.5], [0.5]), {}, "give `mean` and `std`"),
    "half precision": (normalised(RAW).bfloat16(), {}, "give `mean` and `std`"),
    "divided by 255 twice": (UNIT / 255, {}, "divide 8-bit images by 255 once"),
    "that, then normalised": (
        normalised(RAW / 255),
        {"mean": MEAN, "std": STD},
        "divide 8-bit images by 255 once",
    ),
    "floats to 255": (RAW.float(), {}, "divide them by 255"),
    "floats to 255 with mean": (RAW.float(), {"mean": MEAN, "std": STD}, "divide them by 255"),
    "normalised twice": (
        normalised(255 * normalised(RAW)),
        {"mean": MEAN, "std": STD},
        "give those used",
    ),
    "resized floats to 255": (20 + 200 * torch.rand(6, 3, 32, 32), {}, "divide them by 255"),
    "12 bits": (4000 * torch.rand(6, 1, 32, 32), {}, "the largest value of their format"),
    "mean and std of 8 bits": (
        normalised(RAW),
        {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]},
        "of 8 bits, divide both by 255",
    ),
    "grey (B,H,W,1)": (torch.rand(6, 48, 48, 1), {}, "images.permute"),
    "patches of the image's size": (UNIT, {"patch_size": 64}, "`patch_size` to give 16"),
    "few patches": (UNIT, {"patch_size": 16}, "16 gives 3 x 4"),
    "flat maps": (UNIT, {"saliency": lambda x, y, m: 0 * x[:, 0]}, "flat maps of a whole batch"),
    "maps of ones": (
        normalised(RAW),
        {"saliency": lambda x, y, m: torch.ones(len(x), 48, 64), "mean": MEAN, "std": STD},
        "flat maps of a whole batch",
    ),
    "a provider's NaN": (
        UNIT,
        {"saliency": lambda x, y, m: (x[:, 0] - 2).sqrt()},
        "gave NaN or infinity",
    ),
    "one NaN": (
        UNIT,
        {
            "saliency": lambda x, y, m: x[:, 0].index_put(
                (torch.tensor([3]),), torch.tensor(torch.inf)
            )
        },
        "gave NaN or infinity",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_once_with_the_way_out(case):
    images, settings, text = WRONG[case]
    mixer = SaliencyPatchMix(num_classes=3, p=1.0, **settings)
    with pytest.warns(UserWarning, match=text) as told:
        mixer(images, labels_of(images))
    assert len(told) == 1
    mixer(images, labels_of(images))  # warnings are errors


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, images):
        return self.head(self.stage(images).relu().mean((2, 3)))


ORDINARY = {
    "bytes": (RAW, {}),
    "bytes with mean": (RAW, {"mean": MEAN, "std": STD}),
    "unit": (UNIT, {}),
    "half": (UNIT.half(), {}),
    "normalised": (normalised(RAW), {"mean": MEAN, "std": STD}),
    "normalised bfloat16": (normalised(RAW).bfloat16(), {"mean": MEAN, "std": STD}),
    "normalised to -1 and 1": (normalised(RAW, [0.5], [0.5]), {"mean": 0.5, "std": 0.5}),
    "by nothing": (UNIT, {"mean": 0.0, "std": 1.0}),
    "bright, normalised, inside [0, 1]": (
        normalised((150 + RAW // 16).to(torch.uint8), [0.5], [0.25]),
        {"mean": 0.5, "std": 0.25},
    ),
    "bright floats, normalised": (
        (0.55 + 0.15 * torch.rand(8, 3, 32, 32) - 0.5) / 0.25,
        {"mean": 0.5, "std": 0.25},
    ),
    "zeros": (torch.zeros(4, 3, 32, 32), {}),
    "zeros, normalised": (torch.zeros(4, 3, 32, 32), {"mean": MEAN, "std": STD}),
    "ones": (torch.ones(4, 3, 32, 32), {}),
    "one grey": (torch.full((4, 3, 32, 32), 0.5), {}),
    "a binary mask as image": (((UNIT > 0.5).float() - 0.3) / 0.4, {"mean": 0.3, "std": 0.4}),
    "dark": (0.02 * UNIT, {}),
    "white below bright objects": (
        (0.5 + 0.5 * torch.rand(8, 3, 32, 32)).index_fill(3, torch.tensor([0]), 1.0) * 2 - 1,
        {"mean": 0.5, "std": 0.5},
    ),
    "two levels, the brighter white": (
        torch.where(UNIT > 0.5, 1.0, 51 / 255),
        {"mean": 0.0, "std": 0.99},
    ),
    "boolean maps": (UNIT, {"saliency": lambda x, y, m: x.mean(dim=1) > 0.5}),
    "one image of infinity": (UNIT.index_fill(0, torch.tensor([3]), torch.inf), {}),
    "dark, normalised": (normalised(RAW // 32), {"mean": MEAN, "std": STD}),
    "black and normalised": (normalised(0 * RAW), {"mean": MEAN, "std": STD}),
    "grey": (UNIT[:, :1], {}),
    "nine bands": (UNIT.repeat(1, 3, 1, 1), {}),
    "overshooting a little": ((1.02 * UNIT - 0.01).clone(), {}),
    "erased with noise": (
        torch.where(torch.rand(12, 1, 48, 64) < 0.1, torch.randn(12, 3, 48, 64), normalised(RAW)),
        {"mean": MEAN, "std": STD},
    ),
    "two images": (UNIT[:2], {}),
    "one image": (UNIT[:1], {}),
    "no image": (UNIT[:0], {}),
    "tiny images": (UNIT[:, :, :4, :5], {}),
    "one pixel": (UNIT[:, :, :1, :1], {}),
    "28 pixels": (UNIT[:, :, :28, :28], {}),
    "patches of one pixel": (UNIT[:, :, :3, :3], {"patch_size": 1}),
    "one ratio": (UNIT, {"floor": 0.7, "alpha": 0.7, "patch_size": 64}),
    "a model in charge of the range": (normalised(RAW), {"saliency": "grad_cam"}),
    "channels last in memory": (UNIT.contiguous(memory_format=torch.channels_last), {}),
    "three pixels wide": (torch.rand(4, 3, 48, 3), {"patch_size": 2}),
    "spectral residual": (UNIT, {"saliency": "spectral_residual"}),
    "fine-grained": (UNIT, {"saliency": "fine_grained"}),
    "never": (normalised(RAW), {"p": 0.0}),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_pipelines_hear_nothing(case):
    images, settings = ORDINARY[case]
    mixer = SaliencyPatchMix(**{"num_classes": 3, "p": 1.0, **settings})
    for labels in (labels_of(images), torch.zeros(len(images), dtype=torch.long)):
        for _ in range(2):
            mixer(images, labels, Classifier())


def spread(low, high, levels=200, number=768):
    """Values over a range, whose ends are among them, on none of the 255 levels but by chance."""
    steps = torch.arange(number) % levels
    return (low + (high - low) * steps / (levels - 1)).view(1, 3, 16, 16)


def of_levels(low, high, off=0.0):
    """Values on the levels from `low` to `high`, or off them by a part of a level."""
    values = (low + torch.arange(768) % (high - low + 1) + off) / 255
    return values.view(1, 3, 16, 16)


def partly(value, share, others=0.5):
    images = torch.full((1, 3, 20, 20), others)
    images.view(-1)[: round(share * images.numel())] = value
    return images


BY_IMAGENET, BY_HALF = (MEAN, STD), (0.5, 0.25)
RANGES = {  # images, mean and std, what is told, what is in doubt
    "levels of few": (of_levels(60, 200), BY_IMAGENET, "normalise them", ""),
    "levels of few, float64": (of_levels(60, 200).double(), BY_IMAGENET, "normalise them", ""),
    "levels in half precision": (of_levels(60, 200).half(), BY_HALF, "", "cannot decide"),
    "nearly levels": (of_levels(60, 200, 5e-4), BY_IMAGENET, "normalise them", ""),
    "not quite levels": (of_levels(60, 200, 2e-3), BY_IMAGENET, "", "cannot decide"),
    "between levels": (of_levels(60, 200, 0.5), BY_IMAGENET, "", "cannot decide"),
    "eight levels": (of_levels(60, 67), BY_IMAGENET, "normalise them", ""),
    "seven levels": (of_levels(60, 66), BY_IMAGENET, "", "cannot decide"),
    "levels once they are raw": ((of_levels(180, 220) - 0.5) / 0.25, BY_HALF, "", ""),
    "wide": (spread(0.015, 0.985), BY_IMAGENET, "normalise them", ""),
    "not from black": (spread(0.025, 0.985), BY_IMAGENET, "", "cannot decide"),
    "not to white": (spread(0.015, 0.975), BY_IMAGENET, "", "cannot decide"),
    "a little below 0": (spread(-0.01, 0.9), BY_HALF, "", ""),
    "a little above 1": (spread(0.1, 1.01), BY_HALF, "", ""),
    "overshooting": (spread(-0.045, 1.045), None, "", ""),
    "above by more": (partly(1.06, 1.0), None, "give `mean` and `std`", ""),
    "below by more": (partly(-0.06, 1.0), None, "give `mean` and `std`", ""),
    "in a twentieth": (partly(3.0, 0.045), None, "", ""),
    "in more than that": (partly(3.0, 0.06), None, "give `mean` and `std`", ""),
    "whole to 3": (partly(3.0, 0.5, 0.0), None, "divide them", ""),
    "whole to 2": (partly(2.0, 0.5, 0.0), None, "give `mean` and `std`", ""),
    "whole from -1": (partly(3.0, 0.5, -1.0), None, "give `mean` and `std`", ""),
    "not whole": (partly(3.5, 0.5, 0.0), None, "give `mean` and `std`", ""),
    "by nearly nothing": (of_levels(0, 255), (0.005, 1.005), "", ""),
    "by hardly nothing": (of_levels(0, 255), (0.02, 1.0), "normalise them", ""),
    "by a std alone": (of_levels(0, 255), (0.0, 0.98), "normalise them", ""),
    "by a mean below 0": (of_levels(0, 255), (-0.02, 1.0), "normalise them", ""),
    "NaN and infinity": (partly(torch.inf, 0.04, torch.nan), BY_HALF, "", "cannot decide"),
    "minus infinity": (partly(-torch.inf, 0.04), None, "", ""),
    "nothing": (UNIT[:0], BY_IMAGENET, "", ""),
    "bytes": (RAW, BY_IMAGENET, "", ""),
}


@pytest.mark.parametrize("case", RANGES)
def test_ranges_are_judged_by_their_values(case):
    images, by, mistake, doubt = RANGES[case]
    mixer = SaliencyPatchMix(num_classes=3, mean=by and by[0], std=by and by[1])
    found = value_range(images, mixer.mean, mixer.std)
    for text, part in zip(found, (mistake, doubt), strict=True):
        assert part in text
        assert bool(part) == bool(text)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_the_first_three_calls_are_looked_at(call):
    mixer = SaliencyPatchMix(num_classes=3, p=1.0)
    for _ in range(call - 1):
        mixer(UNIT, labels_of(UNIT))
    with pytest.warns(UserWarning, match="give `mean` and `std`"):
        mixer(normalised(RAW), labels_of(RAW))


@pytest.mark.parametrize(
    ("name", "value"),
    [("saliency", "spectral_residual"), ("patch_size", 4), ("mean", 0.0), ("std", 1.0)],
)
def test_what_is_set_is_looked_at_again(name, value):
    mixer = SaliencyPatchMix(num_classes=3, p=1.0, mean=0.0, std=1.0)
    for _ in range(4):
        mixer(UNIT, labels_of(UNIT))
    setattr(mixer, name, value)
    with pytest.warns(UserWarning, match="divide them"):
        mixer(RAW.float(), labels_of(RAW))


def test_the_first_eight_images_are_looked_at():
    images = UNIT.clone()
    images[7] = 10.0
    with pytest.warns(UserWarning, match="give `mean` and `std`"):
        SaliencyPatchMix(num_classes=3)(images, labels_of(images))


def test_maps_given_are_the_callers_own_business():
    mixer = SaliencyPatchMix(num_classes=3, p=1.0)
    mixer(normalised(RAW), labels_of(RAW), saliency=torch.zeros(12, 48, 64))


def test_labels_for_counts_are_told():
    labels = labels_of(UNIT)
    mixer = SaliencyPatchMix(class_counts=[0, 0, *range(10)])  # as labels of 12 images
    with pytest.warns(UserWarning, match=r"`class_counts` .* but \[0, 1, 2\] have 0: give samples"):
        mixer(UNIT, labels)
    SaliencyPatchMix(class_counts=[5, 2, 1, 0])(UNIT, labels)  # a class that is in no batch


def test_given_maps_that_are_not_finite_are_told():
    maps = torch.rand(12, 48, 64)
    maps[3, 5, 7] = torch.nan
    mixer = SaliencyPatchMix(num_classes=3)
    with pytest.warns(UserWarning, match="the given maps hold NaN or infinity, taken as 0"):
        mixer(UNIT, labels_of(UNIT), saliency=maps)
    mixer(UNIT, labels_of(UNIT), saliency=maps)  # once
    for dtype, value in ((torch.float8_e4m3fn, 1.0), (torch.float64, 1e300)):
        maps = torch.full((12, 48, 64), value, dtype=torch.float64).to(dtype)
        SaliencyPatchMix(num_classes=3)(UNIT, labels_of(UNIT), saliency=maps)


def test_after_three_calls_nobody_looks_until_a_setting_changes():
    mixer = SaliencyPatchMix(num_classes=3, p=1.0)
    for _ in range(3):
        mixer(UNIT, labels_of(UNIT))
    mixer(normalised(RAW), labels_of(RAW))
    mixer.alpha = 0.9
    mixer(normalised(RAW), labels_of(RAW))
    mixer.mean, mixer.std = 0.5, 0.1
    with pytest.warns(UserWarning, match="normalise them"):
        mixer(UNIT, labels_of(UNIT))
    mixer.mean = 0.4
    mixer(UNIT, labels_of(UNIT))  # was told once


def test_copies_are_told_for_themselves():
    mixer = SaliencyPatchMix(num_classes=3, p=1.0)
    twin = copy.deepcopy(mixer)
    for one in (mixer, twin):
        with pytest.warns(UserWarning, match="give `mean` and `std`"):
            one(normalised(RAW), labels_of(RAW))


class Operations(TorchDispatchMode):
    """Count what runs."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        self.names = []
        return super().__enter__()


def test_from_the_fourth_call_on_looking_costs_no_operation():
    mixer = SaliencyPatchMix(num_classes=3, p=1.0)
    never = SaliencyPatchMix(num_classes=3, p=1.0)
    never._looks = 0
    counted = []
    for one in (mixer, mixer, mixer, mixer, never):
        with Operations() as operations:
            one.plan(UNIT, labels_of(UNIT))
        counted.append(operations.names)
    assert counted[3] == counted[4]
    assert len(counted[0]) > len(counted[3])


@pytest.mark.parametrize("case", WRONG)
def test_check_finds_what_a_call_warns_of(case, capsys):
    images, settings, text = WRONG[case]
    mixer = SaliencyPatchMix(num_classes=3, p=1.0, **settings)
    state = torch.get_rng_state()
    mixer.check(images, labels_of(images))
    assert text.replace("images.permute", "permute") in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)


def test_check_looks_at_every_value(capsys):
    images = UNIT.clone()
    images[-1] = normalised(RAW)[-1] - 3  # the last of twelve
    mixer = SaliencyPatchMix(num_classes=3)
    mixer(images, labels_of(images))
    mixer.check(images, labels_of(images))
    assert "give `mean` and `std`" in capsys.readouterr().out


def test_check_says_what_it_cannot_decide_and_when_all_is_well(capsys):
    images = 0.2 + 0.5 * torch.rand(8, 3, 32, 32)
    SaliencyPatchMix(num_classes=3, mean=0.5, std=0.25).check(images, labels_of(images))
    out = capsys.readouterr().out
    assert "cannot decide whether images are normalised" in out
    assert "nothing found that looks like a mistake" in out
    SaliencyPatchMix(class_counts=[9, 5, 2]).check(UNIT, labels_of(UNIT))
    out = capsys.readouterr().out
    assert "[4, 4, 4] in this batch" in out
    assert "[9, 5, 2]" in out
    assert "cannot decide" not in out


class TestCounts:
    @pytest.mark.parametrize("floor", [0.5, 0.21])
    def test_alpha_below_floor_is_no_beta_parameter(self, floor):
        with pytest.raises(ValueError, match=r"`alpha` to be at least `floor`.*got 0.2;.*no Beta"):
            SaliencyPatchMix(num_classes=3, alpha=0.2, floor=floor)
        mixer = SaliencyPatchMix(num_classes=3)
        mixer.alpha = 0.2  # a schedule may set floor next
        with pytest.raises(ValueError, match="`alpha` to be at least `floor`"):
            mixer(UNIT, labels_of(UNIT))
        mixer.floor = 0.2
        mixer(UNIT, labels_of(UNIT))

    @pytest.mark.parametrize("counts", [[0.1, 0.9], [10.0, 2.5], torch.tensor([1.0, 1e-3])])
    def test_weights_are_no_counts(self, counts):
        with pytest.raises(ValueError, match=r"`class_counts` to be whole .* give counts: weights"):
            SaliencyPatchMix(class_counts=counts)

    def test_whole_floats_are_counts(self):
        assert SaliencyPatchMix(class_counts=[10.0, 3.0]).class_counts.tolist() == [10, 3]

    @pytest.mark.parametrize("kind", [dict, Counter])
    def test_counts_by_class_are_read_by_class(self, kind):
        assert SaliencyPatchMix(class_counts=kind({2: 7, 0: 1, 1: 4})).class_counts.tolist() == [
            1,
            4,
            7,
        ]

    @pytest.mark.parametrize(
        "counts", [{0: 3, 2: 5}, {1: 3, 2: 5}, {"mel": 3, "nv": 5}, {0: 3, -1: 5}, {0.0: 3, 1.0: 5}]
    )
    def test_a_missing_or_foreign_class_is_refused(self, counts):
        with pytest.raises(
            ValueError, match=r"`class_counts` to have a count for each class.*number"
        ):
            SaliencyPatchMix(class_counts=counts)
        mixer = SaliencyPatchMix(num_classes=2)
        with pytest.raises(ValueError, match="a count for each class"):
            mixer.class_counts = counts

    def test_a_series_is_read_by_its_index(self):
        pandas = pytest.importorskip("pandas")
        series = pandas.Series([5, 9, 1], index=[2, 0, 1])
        assert SaliencyPatchMix(class_counts=series).class_counts.tolist() == [9, 1, 5]
        twice = pandas.Series([5, 9], index=[0, 0])
        with pytest.raises(ValueError, match="a count for each class"):
            SaliencyPatchMix(class_counts=twice)


@pytest.mark.parametrize("shape", [(8, 32, 32, 3), (8, 16, 16, 4), (2, 224, 224, 3)])
def test_channels_in_the_last_place_are_refused(shape):
    mixer, images = SaliencyPatchMix(num_classes=3, p=1.0), torch.rand(shape)
    for refused in (
        lambda: mixer(images, labels_of(images)),
        lambda: mixer.plan(images, labels_of(images)),
        lambda: mixer.check(images, labels_of(images)),
        lambda: BorderContrast()(images),
    ):
        with pytest.raises(ValueError, match=r"`images` to be \(B,C,H,W\).*permute\(0, 3, 1, 2\)"):
            refused()


@pytest.mark.parametrize(
    ("name", "near"),
    [("gradcam", "grad_cam"), ("border", "border_contrast"), ("Grad_Cam", "grad_cam")],
)
def test_a_name_that_is_nearly_right_is_asked_about(name, near):
    with pytest.raises(ValueError, match=rf"did you mean '{near}'\?$"):
        SaliencyPatchMix(num_classes=3, saliency=name)


@pytest.mark.parametrize(
    ("side", "patches"),
    [(224, 14), (64, 13), (28, 14), (32, 16), (8, 4), (2, 1), (1, 1), (600, 14)],
)
def test_patches_are_a_fourteenth_of_the_shorter_side(side, patches):
    images = torch.rand(2, 1, side, 2 * side)
    plan = SaliencyPatchMix(num_classes=2, saliency="border_contrast").plan(images, torch.arange(2))
    assert plan.patch_size == min(max(2, round(side / 14)), 2 * side)
    assert plan.ratios.shape[1] == patches


def test_functions_and_classes_get_the_same_values():
    seen = []

    def function(images, labels, model):
        seen.append(images.clone())
        return images.mean(dim=1)

    class Provider:
        needs_model = False

        def __call__(self, images, labels=None, model=None):
            return function(images, labels, model)

    class Silent:
        def __call__(self, images, labels, model):
            return function(images, labels, model)

    for images in (normalised(RAW), RAW):
        for provider in (function, Provider(), Silent()):
            call(images, saliency=provider, mean=MEAN, std=STD)
    assert len(seen) == 6
    for images in seen:
        torch.testing.assert_close(images, UNIT, rtol=0, atol=1e-6)


def test_the_plan_carries_the_statistics():
    mixer = SaliencyPatchMix(num_classes=3, mean=MEAN, std=STD, p=1.0)
    plan = mixer.plan(normalised(RAW), labels_of(RAW))
    torch.testing.assert_close(plan.mean, torch.tensor(MEAN))
    torch.testing.assert_close(plan.std, torch.tensor(STD))
    moved = plan.to("meta")
    assert {
        value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)
    } == {"meta"}
    assert plan.partner.device.type == "cpu"


@pytest.mark.parametrize("how", ["call", "plan", "bind"])
def test_warnings_are_where_the_user_called(how):
    mixer = SaliencyPatchMix(num_classes=3)
    call = {"call": mixer, "plan": mixer.plan, "bind": mixer.bind()}[how]
    with pytest.warns(UserWarning, match="give `mean` and `std`") as told:
        call(normalised(RAW), labels_of(RAW))
    assert told[0].filename == __file__


def test_check_takes_what_a_call_takes(capsys):
    SaliencyPatchMix(num_classes=3).check(UNIT[:0], labels_of(UNIT[:0]))
    SaliencyPatchMix(num_classes=3).check(UNIT * torch.nan, labels_of(UNIT))
    assert f"finite, but {UNIT.numel()} values are not" in capsys.readouterr().out


def test_warnings_are_of_the_users_kind():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call(normalised(RAW))
    assert [warning.category for warning in told] == [UserWarning]
