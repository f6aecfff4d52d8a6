"""Whatever comes in, the library works and keeps its promises, or says what it expected.

Each try calls one public entry with valid arguments, up to two of which were replaced. What is
refused is refused by a check of the library's own, before anything was changed; errors of a user's
model or callable are the user's and come through.
"""

import contextlib
import random
import time
import traceback
import types
import warnings
from collections import Counter, UserDict, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from reference import snapshot_of_a_model
from torch import nn

import spmix_aug
from spmix_aug import (
    SaliencyPatchMix,
    SaliencyPatchMixCollate,
    TailHeadPairSampler,
    class_counts,
    head_tail_split,
)
from spmix_aug.saliency import (
    PROVIDERS,
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SpectralResidual,
)

# What may be a mistake is warned of; here it is one.
pytestmark = pytest.mark.filterwarnings("ignore:Expected .*:UserWarning")
HOME = str(Path(spmix_aug.__file__).parent)
COLLATING = "torch/utils/data/_utils/collate.py"
CLASSES = 3
PATIENCE = 30.0  # seconds; the slowest try takes less than one
Pair = namedtuple("Pair", ["pixels", "classes"])


class Tagged(torch.Tensor):
    """A subclass of tensors, as torchvision's `tv_tensors` are."""


class Network(nn.Module):
    """A classifier with batch norm, dropout and operations in place, which returns `answer`."""

    def __init__(self, channels=3, answer=None):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.head = nn.Linear(4, CLASSES)
        self.answer = answer

    def forward(self, images):
        logits = self.head(self.features(images.float()).mean(dim=(2, 3)))
        return logits if self.answer is None else self.answer(logits)


class OwnError(Exception):
    """What a user's callable raises."""


def complain(*_):
    raise OwnError


class Refusing:
    def __init__(self, *_):
        raise OwnError


def quietly(make):
    """Make a value whose making may warn, such as a nested tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


def put(value):
    """Return a twist that writes a value into the middle of a tensor."""

    def twist(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[tensor.numel() // 2 :] = value
        return tensor

    return twist


GARBAGE = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "one": lambda: 1,
    "minus": lambda: -1,
    "half": lambda: 0.5,
    "large": lambda: 2**31,
    "larger": lambda: 2**63,
    "googol": lambda: 10**400,
    "minus googol": lambda: -(10**400),
    "unprintable": lambda: 10**5000,
    "tiny": lambda: 5e-324,
    "huge": lambda: 1e308,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus inf": lambda: -float("inf"),
    "complex": lambda: 1j,
    "fraction": lambda: Fraction(1, 3),
    "decimal": lambda: Decimal("0.5"),
    "numpy float": lambda: np.float32(0.5),
    "numpy int": lambda: np.uint8(200),
    "numpy bool": lambda: np.bool_(1),
    "string": lambda: "spectral",
    "braces": lambda: "{image}",
    "empty string": lambda: "",
    "number in a string": lambda: "3",
    "bytes": lambda: b"abc",
    "list": list,
    "numbers": lambda: [1, 2, 3],
    "floats": lambda: [0.5, float("nan"), 1e300],
    "ragged": lambda: [[1], [2, 3]],
    "large numbers": lambda: [2**62, 10**30],
    "large labels": lambda: [0, 2**40],
    "strings": lambda: ["a", "b"],
    "tensors": lambda: [torch.zeros(()), torch.ones(())],
    "two": lambda: (2, 2),
    "large pair": lambda: (2**63, 2**63),
    "dict": lambda: {"image": 1, "label": 2},
    "empty dict": dict,
    "set": lambda: {1, 2},
    "range": lambda: range(4),
    "generator": lambda: iter([1, 2]),
    "object": object,
    "class": lambda: Refusing,
    "function": lambda: complain,
    "module": lambda: nn.Linear(2, 2),
    "modules": lambda: nn.Sequential(nn.Identity(), nn.Identity()),
    "lazy module": lambda: quietly(lambda: nn.LazyLinear(2)),
    "array": lambda: np.arange(4),
    "array of objects": lambda: np.array([object()]),
    "empty array": lambda: np.zeros((0, 3)),
    "dates": lambda: np.array(["2018-01-01"], dtype="datetime64[D]"),
    "scalar tensor": lambda: torch.tensor(1),
    "flags": lambda: torch.tensor([True, False]),
    "indices": lambda: torch.tensor([0, 1, 2, 1]),
    "bfloats": lambda: torch.ones(3, dtype=torch.bfloat16),
    "empty tensor": lambda: torch.empty(0),
    "on meta": lambda: torch.ones(3, device="meta"),
    "on sparse": lambda: torch.eye(3).to_sparse(),
}

TWISTS = {
    "meta": lambda t: t.to("meta"),
    "coo": lambda t: t.to_sparse(),
    "csr": lambda t: quietly(lambda: t.reshape(len(t) or 1, -1).to_sparse_csr()),
    "mkldnn": lambda t: t.float().to_mkldnn(),
    "nested": lambda t: quietly(lambda: torch.nested.nested_tensor(list(t))),
    "jagged": lambda t: quietly(lambda: torch.nested.nested_tensor(list(t), layout=torch.jagged)),
    "quantized": lambda t: quietly(
        lambda: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8)
    ),
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "negative view": lambda t: torch._neg_view(t),
    "imaginary": lambda t: t.to(torch.complex64).conj().imag,
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.bool(),
    "int8": lambda t: t.to(torch.int8),
    "uint8": lambda t: t.to(torch.uint8),
    "uint16": lambda t: t.to(torch.uint16),
    "uint64": lambda t: t.to(torch.uint64),
    "int64": lambda t: t.to(torch.int64),
    "half": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "double": lambda t: t.double(),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "float": lambda t: t.float(),
    "inference": inference,
    "requires grad": lambda t: t.float().detach().requires_grad_(),
    "not a leaf": lambda t: t.float().detach().requires_grad_() * 1,
    "parameter": lambda t: nn.Parameter(t.float().detach()),
    "subclass": lambda t: t.as_subclass(Tagged),
    "expanded": lambda t: t[:1].expand_as(t),
    "windows": lambda t: torch.as_strided(t.contiguous(), t.shape, [1] * t.ndim),
    "reversed": lambda t: t.flip(0),
    "strided": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda t: t.transpose(-1, 0),
    "shorter": lambda t: t[1:],
    "longer": lambda t: torch.cat([t, t]),
    "empty": lambda t: t[:0],
    "without pixels": lambda t: t[..., :0],
    "narrow": lambda t: t[..., :1],
    "first": lambda t: t[0],
    "one more side": lambda t: t.unsqueeze(-1),
    "one more side first": lambda t: t.unsqueeze(0),
    "many sides": lambda t: t.reshape(*[1] * 40, -1),
    "scalar": lambda t: t.sum(),
    "nan": lambda t: put(float("nan"))(t.float()),
    "inf": lambda t: put(float("inf"))(t.float()),
    "huge": lambda t: put(3e38)(t.float()),
    "huge double": lambda t: put(-1e300)(t.double()),
    "tiny": lambda t: t.float() * 1e-45,
    "minus": lambda t: -1 - t,
    "large": lambda t: put(2**62)(t.to(torch.int64)),
    "zeros": torch.zeros_like,
    "array": lambda t: t.numpy(),
    "list": lambda t: t.tolist(),
}


def images_of(draw):
    """Draw a small batch of images, finite and in [0, 1]."""
    batch = draw(st.sampled_from([4, 2, 1, 0, 6]))
    channels = draw(st.sampled_from([3, 1, 4]))
    size = draw(st.sampled_from([(8, 8), (1, 1), (5, 9), (12, 7), (1, 6)]))
    images = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(batch))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.float64, torch.uint8]))
    return (255 * images).to(dtype) if dtype == torch.uint8 else images.to(dtype)


def labels_of(draw, batch):
    classes = torch.arange(batch) % CLASSES
    form = draw(st.sampled_from(["indices", "column", "rows"]))
    if form == "rows":
        return nn.functional.one_hot(classes, CLASSES).float()
    return classes.unsqueeze(1) if form == "column" else classes


def replacement(draw, value):
    """Draw something else: garbage, or the tensor with a twist."""
    if isinstance(value, torch.Tensor) and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(TWISTS)))
        try:
            return name, TWISTS[name](value)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
            return "as it was", value  # no such tensor exists
    name = draw(st.sampled_from(sorted(GARBAGE)))
    return name, GARBAGE[name]()


def spoil(draw, arguments, least=0):
    """Replace up to two arguments."""
    names = st.lists(st.sampled_from(sorted(arguments)), min_size=least, max_size=2, unique=True)
    for name in draw(names):
        how, arguments[name] = replacement(draw, arguments[name])
        note(f"{name}: {how}")
    return arguments


def choose(draw, **options):
    """Draw a value for some of the names; the others keep their defaults."""
    names = draw(st.lists(st.sampled_from(sorted(options)), max_size=4, unique=True))
    return {name: draw(st.sampled_from(options[name])) for name in names}


def is_plain(value):
    """Tell whether the numbers of a tensor can be read and its bytes compared."""
    return (
        isinstance(value, torch.Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_conj() or value.is_neg())
    )


def content(value):
    """Describe what must not change in an argument."""
    if isinstance(value, nn.Module):
        lazy = any(map(nn.parameter.is_lazy, value.parameters()))
        return None if lazy else snapshot_of_a_model(value)
    if isinstance(value, dict | UserDict | types.MappingProxyType):
        return {str(key): content(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [content(item) for item in value]
    if is_plain(value):
        flat = (
            value.detach()
            .as_subclass(torch.Tensor)
            .flatten()
            .clone(memory_format=torch.contiguous_format)
        )
        return value.shape, value.dtype, value.requires_grad, flat.view(torch.uint8).tolist()
    return None


def random_states():
    return torch.get_rng_state().tolist(), random.getstate()


def is_the_users(error):
    """Tell whether an error came from a model or callable that the library called."""
    files = [(frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    last = max(i for i, (file, _) in enumerate(files) if file.startswith(HOME) or i == 0)
    return any(
        file == __file__ or name == "_call_impl" or file.endswith(COLLATING)
        for file, name in files[last + 1 :]
    )


def is_ours(error):
    return (
        isinstance(error, TypeError | ValueError)
        and str(error).startswith("Expected ")
        and traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HOME)
    )


def attempt(call, arguments, writes=()):
    """Call, and check that a refusal is in order; return the result, or None when refused."""
    before = {name: content(value) for name, value in arguments.items()}
    states, started = random_states(), time.monotonic()
    result = refusal = None
    try:
        result = call(**arguments)
    except OwnError:
        pass
    except Exception as error:
        refusal = None if is_the_users(error) else error
    if refusal is not None:
        if not is_ours(refusal):
            raise refusal
        assert random_states() == states
        assert {name: content(value) for name, value in arguments.items()} == before
    assert time.monotonic() - started < PATIENCE
    for name, value in arguments.items():
        assert name in writes or content(value) == before[name]
    return result


def check_rows(targets, batch):
    assert targets.shape == (batch, CLASSES)
    assert not targets.requires_grad
    if is_plain(targets):
        assert bool((targets >= 0).all())
        assert bool(((targets.sum(dim=1) - 1).abs() <= 2e-2).all())


def check_mixed(mixed, given):
    """Check what can be said of mixed images without mixing again."""
    assert isinstance(mixed, torch.Tensor)
    assert (mixed.shape, mixed.dtype, mixed.device) == (given.shape, given.dtype, given.device)
    if is_plain(mixed) and given.numel():
        mixed, given = mixed.detach(), given.detach()
        low, high = given.double().min(), given.double().max()
        if bool(given.double().isfinite().all()) and float(high - low) < 1e30:
            slack = 1e-2 * float(high - low)
            assert bool((mixed.double() >= low - slack).all())
            assert bool((mixed.double() <= high + slack).all())


def in_form(form, images, labels):
    """Put a batch into one of the forms that loaders give."""
    return {
        "tuple": lambda: (images, labels, "name"),
        "list": lambda: [images, labels],
        "named": lambda: Pair(images, labels),
        "dict": lambda: {"image": images, "label": labels, 3: "name"},
        "user dict": lambda: UserDict({"x": images, "y": labels}),
        "frozen": lambda: types.MappingProxyType({"img": images, "label": labels}),
        "short": lambda: (images,),
        "no labels": lambda: {"image": images, "name": labels},
        "two images": lambda: {"image": images, "x": images, "label": labels},
    }[form]()


FORMS = [
    "tuple",
    "list",
    "named",
    "dict",
    "user dict",
    "frozen",
    "short",
    "no labels",
    "two images",
]


def settings_of(draw):
    """Draw settings of a transform, all of them valid."""
    chosen = choose(
        draw,
        saliency=[*PROVIDERS, *(make() for make in PROVIDERS.values()), lambda x, *_: x.mean(1)],
        patch_size=[1, 3, 16, np.int64(4)],
        normalize=["min_max", "soft_threshold"],
        jitter=[0.0, 0.1, 3],
        p=[0.0, 0.5, 1.0],
        pairing=["relative", "any"],
        target=["own", "ratio"],
        image_key=["image", "x"],
        label_key=["label", "y"],
        inplace=[False, True],
    )
    if draw(st.booleans()):
        chosen |= draw(st.sampled_from([{"mean": 0.5, "std": [0.2]}, {"mean": [0.5], "std": 3}]))
    if draw(st.booleans()):
        bounds = [(0.0, 0.0), (0.0, 0.8), (0.5, 1), (1, 1.0)]
        chosen["floor"], chosen["alpha"] = draw(st.sampled_from(bounds))
    if draw(st.booleans()):
        chosen["generator"] = torch.Generator().manual_seed(1)
    counts = {"class_counts": draw(st.sampled_from([[50, 5, 5], torch.tensor([9.0, 3.0, 1.0])]))}
    return chosen | (counts if draw(st.booleans()) else {"num_classes": CLASSES})


def mix_something(draw, mixer):
    """Mix a valid batch by a transform that was made of odd settings."""
    if mixer is None or (mixer.num_classes or 0) > 1000:
        return
    channels = max((len(v) for v in (mixer.mean, mixer.std) if v is not None), default=3)
    images = torch.rand(4, channels, 6, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(4, dtype=torch.int64)
    arguments = {"images": images, "labels": labels, "model": Network(channels)}
    found = attempt(mixer, arguments, writes=("images",) if mixer.inplace else ())
    if found is not None:
        check_mixed(found[0], images)
        assert bool(found[0].isfinite().all())
        assert bool(found[1].isfinite().all())


def a_constructor(draw):
    arguments = settings_of(draw)
    unset = ["saliency", "pairing", "jitter", "mean", "std", "generator", "inplace", "image_key"]
    arguments |= dict.fromkeys(draw(st.lists(st.sampled_from(unset), max_size=1)))
    mixer = attempt(SaliencyPatchMix, spoil(draw, arguments))
    if mixer is not None:
        repr(mixer)
    mix_something(draw, mixer)


def an_assignment(draw):
    mixer = SaliencyPatchMix(**settings_of(draw))
    for name, value in spoil(draw, settings_of(draw), least=1).items():
        kept = getattr(mixer, name)
        arguments = {"mixer": mixer, "name": name, "value": value}
        accepted = attempt(lambda mixer, name, value: [setattr(mixer, name, value)], arguments)
        assert accepted or getattr(mixer, name) is kept
        mix_something(draw, mixer)
    assert mixer.state_dict() == {}
    repr(mixer)


def a_mixer_call(draw):
    chosen = settings_of(draw)
    mixer = SaliencyPatchMix(**chosen).train(draw(st.integers(0, 4)) > 0)
    images = images_of(draw)
    batch, channels = images.shape[:2]
    parts = {"images": images, "labels": labels_of(draw, batch), "model": Network(channels)}
    if draw(st.booleans()):
        parts["saliency"] = torch.rand(batch, *images.shape[2:])
    if draw(st.booleans()):
        parts["partner"] = torch.arange(batch).flip(0)
    parts = spoil(draw, parts)
    method = draw(st.sampled_from(["call", "plan", "packed"]))
    writes = ("images", "labels") if mixer.inplace else ()
    state = None if mixer.generator is None else mixer.generator.get_state()
    if method == "plan":
        plan = attempt(mixer.plan, parts)
        found = None if plan is None else (None, plan.targets)
    elif method == "call":
        found = attempt(mixer, parts, writes)
    else:
        form = draw(st.sampled_from(FORMS))
        note(f"form: {form}")
        given_images, given_labels = parts["images"], parts.pop("labels")
        packed = parts | {"images": in_form(form, given_images, given_labels)}
        found = attempt(mixer, packed, writes)
        if found is not None:
            assert type(found) is type(packed["images"])
            if isinstance(found, dict | UserDict):
                keys = mixer.image_key or ("x" if "y" in found else "image"), "label"
                found = found[keys[0]], found["y" if "y" in found else keys[1]]
    if found is None:
        assert state is None or torch.equal(state, mixer.generator.get_state())
        return
    if found[0] is not None:
        check_mixed(found[0], parts["images"])
        assert not found[0].requires_grad
    check_rows(found[1], len(parts["images"]))


def callables_that_return_garbage(draw):
    images, labels = images_of(draw), None
    labels = labels_of(draw, len(images))
    maps = replacement(draw, torch.rand(len(images), *images.shape[2:]))
    partner = replacement(draw, torch.arange(len(images)).flip(0))
    answer = replacement(draw, torch.rand(len(images), CLASSES))
    note(f"maps: {maps[0]}, partner: {partner[0]}, answer: {answer[0]}")
    which = draw(st.sampled_from(["saliency", "pairing", "model", "reshape"]))
    chosen = {"num_classes": CLASSES, "p": draw(st.sampled_from([0.5, 1.0]))}
    model = Network(images.shape[1])
    if which == "saliency":
        chosen["saliency"] = lambda *_: maps[1]
    elif which == "pairing":
        chosen["pairing"] = lambda *_: partner[1]
    elif which == "reshape":
        features = replacement(draw, torch.rand(len(images), 4, 2, 2))
        note(f"features: {features[0]}")
        chosen["saliency"] = GradCAM(reshape_transform=lambda _: features[1])
    else:
        twist = draw(st.sampled_from(sorted(TWISTS)))
        note(f"twist: {twist}")
        chosen["saliency"] = draw(st.sampled_from(["input_gradient", "grad_cam"]))
        answers = [lambda _: answer[1], lambda logits: TWISTS[twist](logits), lambda x: {"a": x}]
        model.answer = draw(st.sampled_from(answers))
    mixer = SaliencyPatchMix(**chosen)
    found = attempt(mixer, {"images": images, "labels": labels, "model": model})
    if found is not None:
        check_mixed(found[0], images)
        check_rows(found[1], len(images))


MAKERS = {
    SpectralResidual: {"size": [8, 64, 9]},
    FineGrained: {"size": [None, 8, 30]},
    BorderContrast: {"border": [0.0, 0.08, 0.5], "center_prior": [None, 0.3]},
    InputGradient: {"sigma": [0, 2.0, 0.3]},
    GradCAM: {"target_layer": [None, "features.4", "features"], "reshape_transform": [None]},
}


def a_provider(draw):
    kind = draw(st.sampled_from(sorted(MAKERS, key=lambda kind: kind.__name__)))
    options = {name: draw(st.sampled_from(values)) for name, values in MAKERS[kind].items()}
    if draw(st.booleans()):
        options = spoil(draw, options)
    provider = attempt(kind, options)
    if provider is None:
        return
    repr(provider)
    images = images_of(draw)
    arguments = {
        "images": images,
        "labels": labels_of(draw, len(images)),
        "model": Network(images.shape[1]),
    }
    arguments = spoil(draw, arguments)
    maps = attempt(provider, arguments)
    if maps is not None:
        images = arguments["images"]
        assert maps.shape == (len(images), *images.shape[2:])
        assert maps.dtype == torch.float32
        if is_plain(maps):
            assert bool(maps.isfinite().all())
            assert bool((maps >= 0).all())


def a_plan(draw):
    images = images_of(draw)
    batch, height, width = len(images), *images.shape[2:]
    mixer = SaliencyPatchMix(num_classes=CLASSES, patch_size=draw(st.sampled_from([1, 4, 16])))
    return mixer.plan(images, torch.arange(batch) % CLASSES), images, (height, width)


def images_of_a_plan(draw):
    plan, images, _ = a_plan(draw)
    arguments = spoil(draw, {"images": images, "inplace": draw(st.booleans())})
    inplace = bool(arguments["inplace"]) if isinstance(arguments["inplace"], bool) else True
    before = arguments["images"]
    expected = None
    if inplace and is_plain(before):
        with contextlib.suppress(TypeError, ValueError):
            expected = plan.images(before)
    mixed = attempt(plan.images, arguments, writes=("images",) if inplace else ())
    if mixed is not None:
        check_mixed(mixed, arguments["images"])
        if expected is not None:
            assert torch.equal(mixed.nan_to_num(), expected.nan_to_num())


def tokens_of(draw, plan, batch, size):
    rows, columns = plan.ratios.shape[1:]
    prefix = draw(st.sampled_from([0, 0, 1, 2]))
    form = draw(st.sampled_from(["tokens", "first", "last"]))
    if form == "tokens":
        return {"tokens": torch.rand(batch, rows * columns + prefix, 5), "prefix_tokens": prefix}
    if form == "first":
        return {"tokens": torch.rand(batch, 5, *size), "layout": "NCHW"}
    return {"tokens": torch.rand(batch, *size, 5), "layout": "NHWC", "grid": size}


def tokens_of_a_plan(draw):
    plan, images, size = a_plan(draw)
    arguments = {"grid": None} | tokens_of(draw, plan, len(images), size)
    arguments = spoil(draw, arguments)
    mixed = attempt(plan.tokens, arguments)
    if mixed is not None:
        check_mixed(mixed, arguments["tokens"])


class Returning(nn.Module):
    """Returns what it is told to."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def a_hooked_module(draw):
    plan, images, size = a_plan(draw)
    arguments = {"grid": None, "layout": None} | tokens_of(draw, plan, len(images), size)
    _, returned = replacement(draw, arguments.pop("tokens"))
    module = Returning(returned)
    arguments = spoil(draw, arguments | {"module": module})

    def run(**options):
        with plan.hooked(**options):
            return options["module"](images)

    attempt(run, arguments, writes=("module",))  # a lazy one becomes what it is when it runs
    assert not module._forward_hooks


def sampler_of(draw, spoilt=True):
    labels = [0] * 9 + [1] * 4 + [3]
    forms = [labels, np.array(labels), torch.tensor(labels), torch.tensor(labels)[:, None]]
    arguments = {"labels": draw(st.sampled_from(forms)), "batch_size": 4} | choose(
        draw,
        tail_fraction=[0.0, 0.5, 1],
        gamma=[0, 1.0, 3.0, 0.5],
        num_replicas=[1, 3],
        rank=[0],
        seed=[0, 2**64 - 1],
        drop_last=[True, False],
    )
    return spoil(draw, arguments) if spoilt else arguments


def a_sampler(draw):
    arguments = sampler_of(draw)
    sampler = attempt(TailHeadPairSampler, arguments)
    if sampler is not None and sampler.batch_size <= 1000:
        batches = attempt(lambda: list(sampler), {})
        assert batches is not None
        assert len(batches) == len(sampler)
        number = int(sampler.class_counts.sum())
        assert all(0 <= index < number for batch in batches for index in batch)
        assert all(len(batch) == sampler.batch_size for batch in batches)


def a_sampler_that_goes_on(draw):
    sampler = TailHeadPairSampler(**sampler_of(draw, spoilt=False))
    before = sampler.state_dict()
    if draw(st.booleans()):
        attempt(sampler.set_epoch, spoil(draw, {"epoch": 2}, least=1))
    else:
        state = spoil(draw, {"epoch": 1, "next_batch": 1, "other": 0})
        state = {name: state[name] for name in draw(st.sets(st.sampled_from(sorted(state))))}
        arguments = {"state": state}
        if not draw(st.integers(0, 3)):
            arguments = spoil(draw, arguments, least=1)
        accepted = attempt(lambda state: sampler.load_state_dict(state) or True, arguments)
        assert accepted or sampler.state_dict() == before
    list(sampler)


def counts_of_labels(draw):
    arguments = spoil(draw, {"labels": torch.tensor([0, 2, 1, 1]), "num_classes": None})
    sizes = attempt(class_counts, arguments)
    if sizes is not None:
        assert sizes.dtype == torch.int64
        assert int(sizes.sum()) == np.asarray(arguments["labels"]).size


def a_split(draw):
    arguments = {"counts": torch.tensor([5, 3, 1]), "many": 4, "few": 2.0}
    split = attempt(head_tail_split, spoil(draw, arguments))
    if split is not None:
        assert sorted(split.many + split.medium + split.few) == list(range(sum(map(len, split))))


def a_collate(draw):
    chosen = settings_of(draw) | {"saliency": "border_contrast"}
    arguments = {"mixer": SaliencyPatchMix(**chosen)}
    images = images_of(draw)
    answer = in_form(draw(st.sampled_from(FORMS)), images, labels_of(draw, len(images)))
    if draw(st.booleans()):
        answer = replacement(draw, images)[1], torch.zeros(len(images), dtype=torch.int64)
    if draw(st.booleans()):
        arguments["collate_fn"] = lambda _: answer
    if draw(st.booleans()):
        arguments = spoil(draw, arguments)
    collate = attempt(SaliencyPatchMixCollate, arguments)
    if collate is None or not isinstance(collate.mixer, SaliencyPatchMix):
        return
    samples = [(torch.rand(collate_channels(chosen), 6, 5), label) for label in (0, 1, 2, 0)]
    samples = spoil(draw, {"samples": samples})
    attempt(collate, samples)


def collate_channels(chosen):
    return 3 if "mean" not in chosen else 1


ENTRIES = [
    a_constructor,
    an_assignment,
    a_mixer_call,
    callables_that_return_garbage,
    a_provider,
    images_of_a_plan,
    tokens_of_a_plan,
    a_hooked_module,
    a_sampler,
    a_sampler_that_goes_on,
    counts_of_labels,
    a_split,
    a_collate,
]


def fuzz(entry, tries):
    """Try an entry so many times, and count."""
    count = Counter()

    @settings(
        max_examples=tries,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        count["tries"] += 1
        entry(data.draw)

    run()
    return count["tries"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_a_few_odd_calls_work_or_are_refused(entry):
    assert fuzz(entry, 100) >= 100


@pytest.mark.slow
def test_twenty_thousand_odd_calls_work_or_are_refused():
    assert sum(fuzz(entry, 1700) for entry in ENTRIES) >= 20_000
