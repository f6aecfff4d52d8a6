"""The promises of the README, over the space of what users may give.

The cases cover every pair of values of `TABLE` (not the full product); each test asserts one
promise for every case that it applies to. A slow test walks at random through the same space.
"""

import copy
import itertools
import random

import pytest
import torch
from reference import snapshot_of_a_model
from torch import nn

from spmix_aug import SaliencyPatchMix

pytestmark = pytest.mark.filterwarnings("ignore:Expected `patch_size` to give 16 patches")
MEAN, STD = (0.5, 0.4, 0.3, 0.6), (0.25, 0.2, 0.3, 0.2)


def shifted(labels, counts, generator):
    """Pair each sample with the next one."""
    return torch.arange(1, len(labels) + 1, device=labels.device) % max(1, len(labels))


def darkness(images, labels, model):
    return -images.float().sum(dim=1)


TABLE = {
    "saliency": [
        "spectral_residual",
        "fine_grained",
        "border_contrast",
        "input_gradient",
        "grad_cam",
        darkness,
        "given",
    ],
    "dtype": [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8],
    "size": [(64, 64), (8, 8), (9, 31), (37, 64), (225, 300), (600, 450), (8, 600)],
    "batch": [5, 0, 1, 2, 8, 257],
    "labels": ["int64", "int32", "column", "one_hot", "soft_half", "soft_double"],
    "patch_size": [16, 1, 4, 7, 600],
    "memory": ["contiguous", "channels_last", "strided"],
    "channels": [3, 1, 4],
    "pairing": ["relative", "any", shifted, "given"],
    "target": ["own", "ratio"],
    "normalize": ["min_max", "soft_threshold"],
    "normalized": [False, True],
    "inplace": [False, True],
    "jitter": [0.0, 0.1],
}
PIXELS = 600 * 450 * 4  # of a batch, so that a case takes a fraction of a second


def may_go_together(case):
    """Tell whether values of a case, or some of them, make a batch that is small and accepted."""
    height, width = case.get("size", (8, 8))
    return (
        case.get("batch", 1) * height * width <= PIXELS
        and not (case.get("saliency") == "input_gradient" and case.get("dtype") == torch.uint8)
        and not (case.get("patch_size") == 1 and height * width > 64 * 64)
    )


def name_of(value):
    return getattr(value, "__name__", str(value).removeprefix("torch."))


def pairs_of(case):
    """List the pairs of values of a case, each by its name and place in the table."""
    places = [(name, TABLE[name].index(value)) for name, value in case.items()]
    return set(itertools.combinations(sorted(places), 2))


def pairwise_cover():
    """Build cases until every pair of values that may go together is in one, greedily."""
    values = [{name: value} for name, options in TABLE.items() for value in options]
    pairs = [one | other for one, other in itertools.combinations(values, 2)]
    pairs = [pair for pair in pairs if len(pair) == 2 and may_go_together(pair)]
    missing = set().union(*map(pairs_of, pairs))
    cases = []
    for pair in pairs:
        if not pairs_of(pair) <= missing:
            continue
        case = pair
        for name in [name for name in TABLE if name not in pair]:
            options = [{**case, name: value} for value in TABLE[name]]
            options = [option for option in options if may_go_together(option)]
            case = max(options, key=lambda option: len(pairs_of(option) & missing))
        missing -= pairs_of(case)
        cases.append({name: case[name] for name in TABLE})
    assert not missing
    return cases


CASES = pairwise_cover()


def random_cases(number, seed):
    """Draw cases from the full product."""
    draw = random.Random(seed)
    while number > 0:
        values = [draw.choice(options) for options in TABLE.values()]
        case = dict(zip(TABLE, values, strict=True))
        if may_go_together(case):
            number -= 1
            yield case


class Classifier(nn.Module):
    """What models do that a saliency pass might disturb: dropout, batch norm, in-place ReLU."""

    def __init__(self, channels):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return {"logits": self.head(self.features(images.float()).mean(dim=(2, 3)))}


NEED_MODEL = ("input_gradient", "grad_cam")


def has_model(case):
    return case["saliency"] in NEED_MODEL


def can_be_broken(case):
    return case["dtype"] != torch.uint8 and case["batch"] >= 2


class Given:
    """A case's images, labels, model and transform."""

    def __init__(self, case, device, seed=0):
        torch.manual_seed(seed)
        self.case = case
        batch, channels, (height, width) = case["batch"], case["channels"], case["size"]
        images = torch.rand(batch, channels, height, width, dtype=torch.float64)
        self.mean = torch.tensor(MEAN[:channels]) if case["normalized"] else None
        self.std = torch.tensor(STD[:channels]) if case["normalized"] else None
        if case["dtype"] == torch.uint8:
            images = (images * 255).round()
        elif case["normalized"]:
            images = (images - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        self.images = self._laid_out(images.to(device, case["dtype"]))
        self.labels = self._labels(torch.randint(4, (batch,)), case["labels"]).to(device)
        self.model = Classifier(channels).to(device) if has_model(case) else None
        self.kwargs = {}
        if case["saliency"] == "given":
            self.kwargs["saliency"] = torch.rand(batch, height, width).to(device)
        if case["pairing"] == "given":
            self.kwargs["partner"] = torch.randint(max(batch, 1), (batch,)).to(device)
        self.generator = torch.Generator().manual_seed(seed)

    def _laid_out(self, images):
        if self.case["memory"] == "channels_last":
            return images.contiguous(memory_format=torch.channels_last)
        if self.case["memory"] == "strided":
            return images.repeat_interleave(2, dim=3)[..., ::2]
        return images

    def _labels(self, classes, form):
        if form == "column":
            return classes.unsqueeze(1)
        if form in ("int64", "int32"):
            return classes.to(getattr(torch, form))
        rows = nn.functional.one_hot(classes, 4)
        if form == "one_hot":
            return rows.float()
        dtype = torch.float16 if form == "soft_half" else torch.float64
        return (0.75 * rows + 0.25 / 4).to(dtype)

    def mixer(self, **options):
        names = ("patch_size", "target", "normalize", "inplace", "jitter")
        chosen = {name: self.case[name] for name in names}
        for name in ("saliency", "pairing"):
            if self.case[name] != "given":
                chosen[name] = self.case[name]
        return SaliencyPatchMix(
            class_counts=[60, 30, 30, 5],
            p=0.8,
            mean=self.mean,
            std=self.std,
            generator=self.generator,
            **{**chosen, **options},
        )

    def mix(self, **options):
        return self.mixer(**options)(self.images, self.labels, self.model, **self.kwargs)

    def plan(self):
        return self.mixer().plan(self.images, self.labels, self.model, **self.kwargs)


def slow_target(plan, rows, patch_size, row):
    """Weight the labels of own and partner by the share of the pixels of each."""
    height, width = plan.image_size
    pixels = plan.ratios[row].repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)
    share = pixels[:height, :width].double().mean()
    return share * rows[row] + (1 - share) * rows[plan.partner[row]]


def check_inputs_and_outputs(case, device):
    given = Given(case, device)
    before, labels = given.images.clone(), given.labels.clone()
    layout = given.images.stride(), given.images.data_ptr()
    if case["dtype"] != torch.uint8 and not case["inplace"]:
        given.images.requires_grad_()
    mixed, targets = given.mix()
    assert (mixed is given.images) == case["inplace"]
    if not case["inplace"]:
        assert torch.equal(given.images, before)
    assert (given.images.stride(), given.images.data_ptr()) == layout
    assert torch.equal(given.labels, labels)
    assert not mixed.requires_grad
    assert not targets.requires_grad
    assert (mixed.shape, mixed.dtype, mixed.device) == (before.shape, before.dtype, before.device)
    if case["memory"] == "channels_last":
        assert mixed.is_contiguous(memory_format=torch.channels_last)
    elif case["memory"] == "contiguous":
        assert mixed.is_contiguous()


def check_the_model(case, device):
    given = Given(case, device)
    for training in (True, False):
        given.model.train(training)
        before = snapshot_of_a_model(given.model)
        given.mix()
        assert before == snapshot_of_a_model(given.model)


def check_samples_apart(case, device):
    clean, broken = Given(case, device), Given(case, device)
    for given in (clean, broken):
        given.kwargs["partner"] = torch.arange(case["batch"], device=device).roll(-1)
    broken.images[0] = float("nan")
    if case["batch"] > 2:
        broken.images[1, :, 0, 0] = float("inf")
    expected, targets = clean.mix()
    found, others = broken.mix()
    receive = [0, 1, case["batch"] - 1] if case["batch"] > 2 else [0, 1]
    apart = [row for row in range(case["batch"]) if row not in receive]
    assert torch.equal(found[apart], expected[apart])
    assert bool(found[apart].isfinite().all())
    assert bool(others.isfinite().all())
    torch.testing.assert_close(others[apart], targets[apart], rtol=0, atol=0)


def check_targets(case, device):
    given, again = Given(case, device), Given(case, device)
    rows = given.labels
    if not rows.is_floating_point():
        rows = nn.functional.one_hot(rows.flatten().long(), 4)
    rows = rows.double()
    plan = given.plan()
    _mixed, targets = again.mix()
    assert targets.shape == (case["batch"], 4)
    assert targets.dtype == (torch.float64 if case["labels"] == "soft_double" else torch.float32)
    assert bool((targets >= 0).all())
    torch.testing.assert_close(targets.sum(1), torch.ones_like(targets.sum(1)), rtol=0, atol=2e-6)
    for row in range(0, case["batch"], max(1, case["batch"] // 8)):
        expected = rows[row]
        if case["target"] == "ratio":
            expected = slow_target(plan, rows, case["patch_size"], row)
        torch.testing.assert_close(targets[row].double(), expected, rtol=0, atol=3e-6)


def check_pixels(case, device):
    given, again = Given(case, device), Given(case, device)
    images = given.images.double()
    plan = given.plan()
    mixed, _ = again.mix()
    passes = plan.partner == torch.arange(case["batch"], device=device)
    assert torch.equal(mixed[passes], given.images[passes])
    size = case["patch_size"]
    tolerance = {torch.uint8: 0.5001, torch.float16: 2e-3, torch.bfloat16: 2e-2}
    for row in range(0, case["batch"], max(1, case["batch"] // 4)):
        ratio = plan.ratios[row].double().repeat_interleave(size, 0).repeat_interleave(size, 1)
        ratio = ratio[: case["size"][0], : case["size"][1]]
        expected = ratio * images[row] + (1 - ratio) * images[plan.partner[row]]
        atol = tolerance.get(case["dtype"], 1e-5)
        torch.testing.assert_close(mixed[row].double(), expected, rtol=0, atol=atol)
        assert float(plan.ratios[row].min()) >= 0.5 - 1e-6
        allowed = plan.ratios[row] <= 0.8 + 1e-6
        assert bool((allowed | passes[row]).all())


def check_random_numbers(case, device):
    first, second = Given(case, device), Given(case, device)
    if first.model is not None:
        first.model.train()
        second.model.load_state_dict(first.model.state_dict())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = first.mix()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    two = second.mix()
    for found, expected in zip(one, two, strict=True):
        assert torch.equal(found, expected)
    mixer = second.mixer()
    clone = copy.deepcopy(mixer)
    state = mixer.generator.get_state()
    plans = [
        each.plan(first.images, first.labels, first.model, **first.kwargs)
        for each in (mixer, clone)
    ]
    assert torch.equal(plans[0].partner, plans[1].partner)
    assert torch.equal(plans[0].ratios, plans[1].ratios)
    mixer.generator.set_state(state)
    resumed = mixer.plan(first.images, first.labels, first.model, **first.kwargs)
    assert torch.equal(resumed.ratios, plans[0].ratios)


def over(applies=lambda case: True):
    """Run a test for each case that its promise applies to."""
    cases = [
        pytest.param(case, id="-".join(map(name_of, case.values())))
        for case in CASES
        if applies(case)
    ]
    return pytest.mark.parametrize("case", cases)


@over()
def test_inputs_are_kept_and_outputs_are_like_them(case, device):
    check_inputs_and_outputs(case, device)


@over(has_model)
def test_the_model_is_left_as_it_was(case, device):
    check_the_model(case, device)


@over(can_be_broken)
def test_what_is_broken_stays_in_its_image(case, device):
    check_samples_apart(case, device)


@over()
def test_targets_are_exact(case, device):
    check_targets(case, device)


@over()
def test_pixels_are_the_blend_of_the_plan(case, device):
    check_pixels(case, device)


@over()
def test_one_seed_gives_one_result(case, device):
    check_random_numbers(case, device)


@pytest.mark.slow
def test_a_random_walk_through_all_cases(device):
    for case in random_cases(1000, seed=0):
        print(case)  # shown when it fails
        check_inputs_and_outputs(case, device)
        check_targets(case, device)
        check_pixels(case, device)
        check_random_numbers(case, device)
        if has_model(case):
            check_the_model(case, device)
        if can_be_broken(case):
            check_samples_apart(case, device)
