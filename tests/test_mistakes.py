"""Kinds of mistakes that are mended or refused with a way out, each with several inputs."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import (
    MixPlan,
    SaliencyPatchMix,
    SaliencyPatchMixCollate,
    TailHeadPairSampler,
    class_counts,
)
from spmix_aug.saliency import (
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SpectralResidual,
)
from spmix_aug.saliency.guard import unwrap

LABELS = [0] * 40 + [1] * 16 + [2] * 8


def sampler_of(**options):
    return TailHeadPairSampler(LABELS, 8, **options)


def batches_of(epoch, **options):
    sampler = sampler_of(**options)
    sampler.set_epoch(epoch)
    return list(sampler)


class TestEpochs:
    """A place within an epoch belongs to one epoch, whoever sets it."""

    def test_the_epoch_moves_on_with_each_pass(self):
        sampler = sampler_of()
        assert [list(sampler) for _ in range(3)] == [batches_of(epoch) for epoch in range(3)]

    def test_it_moves_at_the_next_iter_not_with_the_last_batch(self):
        sampler = sampler_of()
        for _ in sampler:
            assert sampler.state_dict()["epoch"] == 0
        assert sampler.state_dict() == {"epoch": 0, "next_batch": len(sampler)}
        iter(sampler)
        assert sampler.state_dict() == {"epoch": 1, "next_batch": 0}

    def test_an_iterator_that_nobody_asked_is_no_pass(self):
        sampler = sampler_of()
        iter(sampler)  # as a DataLoader with workers does
        assert list(sampler) == batches_of(0)

    @pytest.mark.parametrize("taken", [1, 5])
    def test_a_pass_that_was_cut_short_counts(self, taken):
        sampler = sampler_of()
        batches = iter(sampler)
        for _ in range(taken):
            next(batches)
        assert list(sampler) == batches_of(1)

    def test_a_loader_that_stops_early_goes_on_to_the_next_epoch(self):
        data = TensorDataset(torch.arange(64))
        for workers, persistent in ((0, False), (1, False), (1, True)):
            loader = DataLoader(
                data,
                batch_sampler=sampler_of(),
                num_workers=workers,
                persistent_workers=persistent,
            )
            (first,) = next(iter(loader))
            assert first.tolist() == batches_of(0)[0]
            assert [batch.tolist() for (batch,) in loader] == batches_of(1)
            assert [batch.tolist() for (batch,) in loader] == batches_of(2)

    @pytest.mark.parametrize("inner", [False, True])
    @pytest.mark.parametrize("epochs", [(0, 0), (3, 3), (2, 1), (1, 2)])
    def test_set_epoch_always_wins(self, inner, epochs):
        sampler = sampler_of()
        for epoch in epochs:
            (sampler.sampler if inner else sampler).set_epoch(epoch)
            assert list(sampler) == batches_of(epoch)
        assert list(sampler) == batches_of(epochs[-1] + 1)

    @pytest.mark.parametrize("inner", [False, True])
    @pytest.mark.parametrize("place", [0, 5])
    def test_a_place_stays_with_the_epoch_it_is_of(self, inner, place):
        sampler = sampler_of()
        sampler.load_state_dict({"epoch": 2, "next_batch": place})
        setter = sampler.sampler if inner else sampler
        setter.set_epoch(2)
        assert list(sampler) == batches_of(2)[place:]
        sampler.load_state_dict({"epoch": 2, "next_batch": place})
        setter.set_epoch(4)
        assert list(sampler) == batches_of(4)

    @pytest.mark.parametrize("inner", [False, True])
    def test_a_place_at_the_end_of_an_epoch(self, inner):
        state = {"epoch": 2, "next_batch": len(sampler_of())}
        for epoch in (2, 3, 0):
            sampler = sampler_of()
            sampler.load_state_dict(state)
            (sampler.sampler if inner else sampler).set_epoch(epoch)
            assert list(sampler) == batches_of(epoch)
        sampler = sampler_of()
        sampler.load_state_dict(state)
        assert sampler.state_dict() == state
        assert list(sampler) == batches_of(3)

    @pytest.mark.parametrize("taken", range(0, 17, 4))
    def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(self, taken):
        whole = [batch for epoch in range(3) for batch in batches_of(epoch)]
        sampler = sampler_of()
        batches = iter(sampler)
        seen = [next(batches) for _ in range(taken)]
        resumed = sampler_of()
        resumed.load_state_dict(sampler.state_dict())
        while len(seen) < len(whole):
            seen += list(resumed)
        assert seen == whole

    def test_looking_moves_nothing(self):
        viz = pytest.importorskip("spmix_aug.viz")
        sampler = sampler_of()
        batches = iter(sampler)
        next(batches)
        state = sampler.state_dict()
        viz.describe(sampler)
        viz.plot_sampler(sampler)
        len(sampler)
        copy.deepcopy(sampler)
        assert sampler.state_dict() == state
        assert [*batches] == batches_of(0)[1:]
        assert list(sampler) == batches_of(1)

    def test_describe_says_how_many_batches_an_epoch_has(self):
        viz = pytest.importorskip("spmix_aug.viz")
        assert "2.0 times the batches of a plain pass" in viz.describe(sampler_of())
        assert "1.0 times the batches" in viz.describe(sampler_of(tail_fraction=0.0))


class TestContainers:
    @pytest.mark.parametrize(
        "labels",
        [["nv", "mel", "nv"], np.array(["a", "b"]), np.array(["a", "b"], dtype=object), ("x",)],
    )
    @pytest.mark.parametrize("use", [lambda y: TailHeadPairSampler(y, 2), class_counts])
    def test_names_of_classes_are_to_be_numbered(self, labels, use):
        with pytest.raises(
            TypeError, match=r"`labels` to be .*numpy.unique\(labels, return_inverse"
        ):
            use(labels)
        numbers = np.unique(labels, return_inverse=True)[1]  # the way out
        assert len(class_counts(numbers)) == len(set(labels))

    @pytest.mark.parametrize("rows", [[[0, 1], [1, 0], [1, 0]], np.eye(3)[[0, 1, 1, 2]]])
    def test_rows_are_to_be_classes(self, rows):
        with pytest.raises(
            ValueError, match=r"`labels` to have shape .*numpy.argmax\(labels, axis=1\)"
        ):
            class_counts(rows)
        assert class_counts(np.argmax(rows, axis=1)).sum() == len(rows)

    def test_floats_are_to_be_integers(self):
        with pytest.raises(TypeError, match=r"integers, but got float64.*astype\(int\)"):
            class_counts([0.0, 1.0])

    @pytest.mark.parametrize("labels", [{0, 1}, {"a": 0, "b": 1}, iter([0, 1]), None, "01"])
    def test_what_has_no_order_is_refused(self, labels):
        with pytest.raises(TypeError, match="`labels` to be a sequence, array or tensor"):
            class_counts(labels)

    @pytest.mark.parametrize("labels", [[0, 1, 2, 0], (0, 1, 2, 0), np.array([0, 1, 2, 0])])
    def test_labels_of_a_batch_are_tensors(self, labels):
        mixer = SaliencyPatchMix(num_classes=3)
        with pytest.raises(TypeError, match=r"`labels` to be a tensor.*torch.as_tensor\(labels\)"):
            mixer(torch.rand(4, 3, 16, 16), labels)
        mixer(torch.rand(4, 3, 16, 16), torch.as_tensor(labels))


class TestPlacesInTuples:
    images, labels = torch.rand(8, 3, 32, 32), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    other = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])

    @pytest.mark.parametrize("kind", [tuple, list])
    @pytest.mark.parametrize(
        ("order", "keys"),
        [
            ("iol", {"label_key": 2}),
            ("ilo", {"label_key": 1}),
            ("loi", {"image_key": 2, "label_key": 0}),
            ("oli", {"image_key": -1, "label_key": -2}),
            ("li", {"image_key": 1}),
        ],
    )
    def test_places_are_named(self, kind, order, keys):
        items = {"i": self.images, "o": self.other, "l": self.labels}
        batch = kind(items[name] for name in order)
        mixer = SaliencyPatchMix(num_classes=3, p=1.0, **keys)
        out = mixer(batch)
        assert type(out) is kind
        got = dict(zip(order, out, strict=True))
        assert torch.equal(got["l"], F.one_hot(self.labels, 3).float())
        assert got["i"].shape == self.images.shape
        assert not torch.equal(got["i"], self.images)
        assert "o" not in got or got["o"] is self.other

    @pytest.mark.parametrize(
        "other", [other, other.view(8, 1), other.to(torch.uint8), labels + 100]
    )
    def test_several_items_that_could_be_the_labels_are_refused(self, other):
        mixer = SaliencyPatchMix(num_classes=3)
        for batch in ((self.images, other, self.labels), [self.images, self.labels, other]):
            with pytest.raises(ValueError, match=r"`labels` to be the only .*\[1, 2\].*label_key="):
                mixer(batch)

    @pytest.mark.parametrize(
        "other", [labels, F.one_hot(labels % 2, 2).flip(1), torch.full((8, 2), 0.5)]
    )
    def test_rows_that_could_be_the_labels_are_refused(self, other):
        mixer, rows = SaliencyPatchMix(num_classes=2), F.one_hot(self.labels % 2, 2).float()
        with pytest.raises(ValueError, match=r"`labels` to be the only .*\[1, 2\].*label_key="):
            mixer((self.images, rows, other))
        mixer.label_key = 1
        assert mixer((self.images, rows, other))[2] is other

    @pytest.mark.parametrize(
        "other",
        [["a"] * 8, torch.rand(8), torch.rand(8, 5), torch.ones(8).bool(), torch.arange(3), None],
    )
    def test_other_items_pass(self, other):
        out = SaliencyPatchMix(num_classes=3)((self.images, self.labels, other))
        assert out[2] is other

    def test_a_place_that_no_tuple_has_is_refused(self):
        with pytest.raises(ValueError, match="`label_key` to be at most 1000000"):
            SaliencyPatchMix(num_classes=3, label_key=10**5000)

    def test_a_scalar_for_images_is_refused(self):
        with pytest.raises(ValueError, match=r"`images` to have shape .*, but got shape \(\)"):
            SaliencyPatchMix(num_classes=3)((torch.tensor(1.0), self.labels))

    @pytest.mark.parametrize(
        ("keys", "text"),
        [
            ({"label_key": 3}, "`label_key` to be a place in a batch of 2 items, but got .*3"),
            ({"image_key": -3}, "`image_key` to be a place"),
            ({"image_key": "image"}, "`image_key` to be a place .*'image'"),
            ({"image_key": 1, "label_key": 1}, "`label_key` to differ"),
        ],
    )
    def test_places_that_are_not_there_are_refused(self, keys, text):
        with pytest.raises(ValueError, match=text):
            SaliencyPatchMix(num_classes=3, **keys)((self.images, self.labels))


class Net(nn.Module):
    """A small classifier that gives what `gives` makes of features and logits."""

    def __init__(self, gives=lambda features, logits: logits, classes=3, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)
        self.gives = gives

    def forward(self, images):
        features = self.body(self.stem(images)).mean((2, 3))
        return self.gives(features, self.head(features))


PROVIDERS = [InputGradient(), GradCAM()]
BATCH = torch.rand(8, 3, 32, 32), torch.arange(8) % 3


def ratios(provider, model, classes=3):
    mixer = SaliencyPatchMix(num_classes=classes, saliency=provider, p=1.0, patch_size=8)
    return mixer.plan(BATCH[0], BATCH[1] % classes, model, partner=torch.arange(8).roll(1)).ratios


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
class TestWhatAModelReturns:
    @pytest.mark.parametrize(
        "gives",
        [
            lambda f, z: (f, z),
            lambda f, z: [z, f],
            lambda f, z: {"features": f, "scores": z},
            lambda f, z: {"features": z[:, :2], "logits": z},
            lambda f, z: (f.view(8, 4, 4), z, None),
        ],
    )
    def test_the_logits_are_what_fits_the_classes(self, provider, gives):
        torch.manual_seed(0)
        model = Net()
        right = ratios(provider, model)
        model.gives = gives
        assert torch.equal(ratios(provider, model), right)

    @pytest.mark.parametrize(
        ("gives", "error", "text"),
        [
            (
                lambda f, z: (z, 2 * z),
                ValueError,
                "`model` to return logits .* once, but got several",
            ),
            (lambda f, z: z[:, :2], ValueError, r"logits \(B,K\) of K = 3 classes.*\(8, 2\)"),
            (lambda f, z: (f, z[:, :1]), ValueError, "of K = 3 classes"),
            (lambda f, z: z.flatten(), TypeError, r"`model` to return logits.*\(24,\)"),
            (lambda f, z: "logits", TypeError, "`model` to return logits.*no tensor"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, provider, gives, error, text):
        with pytest.raises(error, match=text):
            ratios(provider, Net(gives))

    def test_one_logit_for_two_classes_has_a_way_out(self, provider):
        with pytest.raises(ValueError, match=r"K = 2 classes.*torch.cat\(\[-z, z\], dim=1\) / 2"):
            ratios(provider, Net(classes=1), classes=2)
        ratios(provider, Net(lambda f, z: torch.cat([-z, z], dim=1) / 2, classes=1), classes=2)

    def test_a_model_that_fails_is_named(self, provider):
        class Metadata(Net):
            def forward(self, images, *, age):
                return super().forward(images)

        class Broken(Net):
            def forward(self, images):
                return super().forward(images.flatten(1))

        class Lookup(Net):
            def forward(self, images):
                return {}["batch"]

        for model, reason in (
            (Metadata(), "age"),
            (Broken(), "RuntimeError"),
            (Lookup(), "KeyError"),
        ):
            flags = [module.training for module in model.modules()]
            with pytest.raises(
                ValueError, match=f"`model` to run on images .* alone, but got .*{reason}"
            ):
                ratios(provider, model)
            assert [module.training for module in model.modules()] == flags


class FabricLike(nn.Module):
    """A wrapper of Lightning Fabric's form."""

    def __init__(self, forward_module, original):
        super().__init__()
        self._forward_module, self._original_module = forward_module, original

    def forward(self, images):
        raise AssertionError("the wrapper was run")


# dynamo reads `.grad` of tensors in the middle of a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
class TestWrappers:
    def test_parts_that_are_compiled_give_the_same_maps(self, provider):
        torch.manual_seed(0)
        model = Net().eval()
        right = provider(*BATCH, model)
        for part in ("stem", "body", "head"):
            partly = copy.deepcopy(model)
            setattr(partly, part, torch.compile(getattr(partly, part), backend="eager"))
            partly(BATCH[0]).sum().backward()
            torch.testing.assert_close(provider(*BATCH, partly), right)
        whole = copy.deepcopy(model)
        whole.compile(backend="eager")
        whole(BATCH[0])
        torch.testing.assert_close(provider(*BATCH, whole), right)
        inside = copy.deepcopy(model)
        inside.body[0].compile(backend="eager")
        inside(BATCH[0])
        torch.testing.assert_close(provider(*BATCH, inside), right)

    def test_a_compiled_model_stays_compiled(self, provider):
        calls = []

        def backend(graph, inputs):
            calls.append(graph)
            return graph.forward

        torch._dynamo.reset()
        model = torch.compile(Net().eval(), backend=backend)
        model(BATCH[0])
        before = len(calls)
        provider(*BATCH, model)
        model(BATCH[0])
        assert len(calls) == before == 1

    def test_fabric_is_taken_off(self, provider):
        model = Net().eval()
        right = provider(*BATCH, model)
        wrapped = FabricLike(torch.compile(model, backend="eager"), model)
        torch.testing.assert_close(provider(*BATCH, wrapped), right)
        assert unwrap(wrapped) is model

    def test_sharded_parameters_are_refused(self, provider):
        class FlatParameter(nn.Parameter):
            """Named like that of FSDP."""

        model = Net()
        model.head.bias = FlatParameter(model.head.bias.data)
        with pytest.raises(ValueError, match="`model` to have whole parameters, but got sharded"):
            provider(*BATCH, model)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"),
    reason="hooks reach compiled parts from 2.6",
)
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_named_layers_of_a_compiled_part_are_found():
    model = Net().eval()
    right = GradCAM("body.0")(*BATCH, model)
    model.body = torch.compile(model.body, backend="eager")
    model(BATCH[0])
    torch.testing.assert_close(GradCAM("body.0")(*BATCH, model), right)
    torch.testing.assert_close(GradCAM(model.body)(*BATCH, model), GradCAM("body")(*BATCH, model))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_models_and_parts_are_refused_by_grad_cam_alone():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    scripted = torch.jit.script(model)
    partly = nn.Sequential(torch.jit.script(model[:2]), *model[2:])
    traced = torch.jit.trace(model, BATCH[0])
    for other in (scripted, partly, traced):
        torch.testing.assert_close(InputGradient()(*BATCH, other), InputGradient()(*BATCH, model))
        with pytest.raises(ValueError, match=r"`model` to take hooks.*scripted.*input_gradient"):
            GradCAM()(*BATCH, other)


def test_a_layer_that_never_runs_is_an_error():
    model = Net()
    model.unused = nn.Conv2d(3, 8, 3)
    with pytest.raises(ValueError, match=r"`model` to give feature maps .* at `target_layer`"):
        GradCAM("unused")(*BATCH, model)


@pytest.mark.parametrize("value", [-100, -1, 3, 255])
def test_labels_to_be_ignored_have_a_way_out(value):
    labels = torch.tensor([0, 1, value, 2])
    mixer = SaliencyPatchMix(num_classes=3)
    with pytest.raises(ValueError, match=f"in 0 to 2, but got {value};.*labels >= 0"):
        mixer(torch.rand(4, 3, 16, 16), labels)


def test_a_plan_goes_where_the_model_is():
    plan = SaliencyPatchMix(num_classes=3, p=1.0).plan(*BATCH)
    for method, value in (("tokens", torch.rand(8, 256, 4)), ("images", BATCH[0])):
        with pytest.raises(ValueError, match=r"on the plan's device cpu.*plan.to\(device\)"):
            getattr(plan, method)(value.to("meta"))
        there = getattr(plan.to("meta"), method)(value.to("meta"))
        assert there.shape == value.shape
        assert there.device.type == "meta"
    assert isinstance(plan.to("cpu"), MixPlan)


def test_nothing_is_of_the_default_device_or_dtype():
    viz = pytest.importorskip("spmix_aug.viz")
    labels = [0] * 30 + [1] * 6
    mixer_settings = {"num_classes": 3, "p": 1.0, "jitter": 0.1, "target": "ratio"}

    def everything():
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        sampler = TailHeadPairSampler(labels, 8)
        plan = SaliencyPatchMix(generator=generator, **mixer_settings).plan(*BATCH)
        mixed = plan.images(BATCH[0])
        tokens = plan.tokens(torch.ones(8, 49, 2, device="cpu", dtype=torch.float32))
        collate = SaliencyPatchMixCollate(SaliencyPatchMix(generator=generator, **mixer_settings))
        batch = collate(list(zip(BATCH[0], BATCH[1].tolist(), strict=True)))
        keyed = collate([{"image": image, "label": 1} for image in BATCH[0]])
        tensors = plan.partner, plan.ratios, plan.targets, mixed, tokens, *batch, *keyed.values()
        texts = [viz.describe(sampler), viz.plot_sampler(sampler).get_label()]
        texts.append(viz.plot_plan(BATCH[0], plan).get_label())
        values = [(value.tolist(), value.dtype) for value in tensors]
        return [*sampler, *texts, class_counts(labels).tolist(), *values]

    usual = everything()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            assert everything() == usual
        finally:
            torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert everything() == usual


def test_figures_show_themselves_in_notebooks():
    viz = pytest.importorskip("spmix_aug.viz")
    plan = SaliencyPatchMix(num_classes=3, p=1.0).plan(*BATCH)
    for figure in (viz.plot_plan(BATCH[0], plan), viz.plot_sampler(sampler_of())):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_normalised_images_are_drawn_as_they_were():
    viz = pytest.importorskip("spmix_aug.viz")
    images = (BATCH[0] - 0.5) / 0.25
    plan = SaliencyPatchMix(num_classes=3, p=1.0, mean=0.5, std=0.25).plan(images, BATCH[1])
    shown = viz.plot_plan(images, plan, rows=1).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, BATCH[0][0].permute(1, 2, 0).numpy(), atol=1e-5)


class TestSettings:
    """Settings are checked whenever they are set, also those of samplers and providers."""

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("tail_fraction", 7, r"in \[0, 1\]"),
            ("gamma", float("nan"), r"in \[0, 10\]"),
            ("gamma", -3, r"in \[0, 10\]"),
            ("batch_size", 0, "at least 1"),
            ("drop_last", "no", "True or False"),
        ],
    )
    def test_of_a_sampler(self, name, value, text):
        with pytest.raises((TypeError, ValueError), match=f"`{name}` to be .*{text}"):
            setattr(sampler_of(), name, value)

    @pytest.mark.parametrize(
        "later", [{"tail_fraction": 0.0}, {"tail_fraction": 1}, {"gamma": 0.5}, {"drop_last": True}]
    )
    def test_a_schedule_of_a_sampler_takes_effect(self, later):
        sampler = sampler_of()
        for name, value in later.items():
            setattr(sampler, name, value)
        assert list(sampler) == list(sampler_of(**later))
        assert len(sampler) == len(sampler_of(**later))

    def test_a_larger_batch_keeps_the_share_of_the_tail(self):
        sampler = sampler_of()
        sampler.batch_size = 16
        assert list(sampler) == list(TailHeadPairSampler(LABELS, 16))

    @pytest.mark.parametrize(
        ("provider", "name", "value", "text"),
        [
            (BorderContrast(), "border", 3, r"in \[0, 0.5\]"),
            (BorderContrast(), "center_prior", 0, "at least 0.01"),
            (SpectralResidual(), "size", 7, "at least 8"),
            (FineGrained(), "size", 7, "at least 8"),
            (InputGradient(), "sigma", -1, r"in \[0, 1000\]"),
            (InputGradient(), "sigma", "a", "a number"),
            (GradCAM(), "target_layer", 5, "a module, its dotted name or None"),
            (GradCAM(), "reshape_transform", 5, "callable or None"),
        ],
    )
    def test_of_a_provider(self, provider, name, value, text):
        with pytest.raises((TypeError, ValueError), match=f"`{name}` to be .*{text}"):
            setattr(provider, name, value)


class TestWaysOut:
    """What a refusal asks for is there for what came."""

    @pytest.mark.parametrize(
        ("labels", "text"),
        [
            (["nv", "df"], r"the whole data set's once, numpy.unique\(all_labels"),
            ([0, 1], r"torch.as_tensor\(labels\)"),
            (None, r"a whole batch \(images, labels\)"),
            (torch.zeros(2, 1, dtype=torch.bool), "label_key="),
            (torch.tensor([0.0, 1.0]), r"labels.long\(\)"),
        ],
    )
    def test_of_labels(self, labels, text):
        with pytest.raises((TypeError, ValueError), match=text):
            SaliencyPatchMix(num_classes=3)(torch.rand(2, 3, 8, 8), labels)

    @pytest.mark.parametrize(
        ("images", "text"),
        [
            ([torch.rand(3, 8, 8)] * 2, r"torch.stack\(tuple\(images\)\)"),
            ([torch.rand(3, 8, 8), torch.rand(3, 9, 8)], "collate samples of one size"),
            ([torch.rand(2, 3, 8, 8)] * 2, r"mixer.plan\(view, labels, partner="),
            ([{"image": torch.rand(3, 8, 8)}] * 2, "collate samples with torch"),
            ({"image": torch.rand(2, 3, 8, 8)}, r"a whole batch alone, mixer\(batch\)"),
            (np.zeros((2, 3, 8, 8), np.float32), r"torch.as_tensor\(images\)"),
            (["a.png", "b.png"], "read the files"),
            (torch.arange(2), "image_key="),
            (torch.rand(2, 3, 8, 8, 8), "volumes are not mixed"),
        ],
    )
    def test_of_images(self, images, text):
        with pytest.raises((TypeError, ValueError), match=text):
            SaliencyPatchMix(num_classes=3)(images, torch.tensor([0, 1]))

    @pytest.mark.parametrize(
        ("maps", "text"),
        [
            ("fine_grained", "mixer.saliency = 'fine_grained'"),
            (torch.rand(2, 8, 8, 1), r"maps\[..., 0\]"),
            (torch.rand(2, 4, 4), "functional.interpolate"),
        ],
    )
    def test_of_maps(self, maps, text):
        with pytest.raises((TypeError, ValueError), match=text):
            SaliencyPatchMix(num_classes=3)(torch.rand(2, 3, 8, 8), torch.arange(2), saliency=maps)

    def test_of_counts(self):
        with pytest.raises(TypeError, match=r"a dict by class"):
            SaliencyPatchMix(class_counts={0: 5, 1: 3}.values())

    def test_of_counts_without_the_last_class(self):
        with pytest.raises(ValueError, match=r"or spmix_aug.class_counts\(labels, 3\), 0"):
            SaliencyPatchMix(class_counts=[5, 3], num_classes=3)
        with pytest.raises(ValueError, match="4 counts, but got 5; give one of the two"):
            SaliencyPatchMix(class_counts=[5, 3, 2, 1, 1], num_classes=4)

    def test_of_a_model_with_more_classes(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        mixer = SaliencyPatchMix(num_classes=3, saliency="input_gradient")
        with pytest.raises(ValueError, match="give the mixer the model's `num_classes`"):
            mixer(torch.rand(2, 3, 8, 8), torch.arange(2), model)

    @pytest.mark.parametrize(
        ("setting", "function", "text"),
        [
            ("saliency", lambda images: images.mean(dim=1), "(images, labels, model)"),
            ("saliency", nn.Conv2d(3, 1, 1), "(images, labels, model)"),
            ("pairing", lambda labels: labels, "(labels, class_counts, generator)"),
        ],
    )
    def test_of_a_function_of_other_arguments(self, setting, function, text):
        wanted = rf"`{setting}` to be callable with {re.escape(text)}, but got one with .*wrap it"
        with pytest.raises(TypeError, match=wanted):
            SaliencyPatchMix(num_classes=3, **{setting: function})

    @pytest.mark.parametrize(
        ("labels", "text"),
        [
            (np.arange(3).astype(object), r"numpy.asarray\(labels\).astype\(int\)"),
            ([0.0, 1.0], r"numpy.asarray\(labels\).astype\(int\)"),
            ([0.0, float("nan")], "NaN; leave such samples out"),
        ],
    )
    def test_of_the_labels_of_a_data_set(self, labels, text):
        with pytest.raises(TypeError, match=text):
            TailHeadPairSampler(labels, 2)

    def test_of_a_plan_for_other_images(self):
        plan = SaliencyPatchMix(num_classes=2).plan(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="a plan for each batch and size"):
            plan.images(torch.rand(2, 1, 4, 4))
        with pytest.raises(ValueError, match="a plan for each part of a batch"):
            plan.tokens(torch.rand(1, 16, 8))

    @pytest.mark.parametrize("name", ["GradCAM", "gradcam", "Border_Contrast"])
    def test_of_a_name_in_other_letters(self, name):
        with pytest.raises(ValueError, match=r"did you mean '(grad_cam|border_contrast)'"):
            SaliencyPatchMix(num_classes=2, saliency=name)

    @pytest.mark.parametrize("device", [torch.float16, torch.rand(2), None])
    def test_of_a_plan_that_is_to_move(self, device):
        plan = SaliencyPatchMix(num_classes=2).plan(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        with pytest.raises(TypeError, match="`device` to be a device"):
            plan.to(device)

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
    def test_of_a_scripted_module_that_is_to_be_hooked(self):
        plan = SaliencyPatchMix(num_classes=2).plan(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        scripted = torch.jit.trace(nn.Conv2d(3, 2, 1), torch.rand(1, 3, 8, 8))
        text = "`module` to take hooks, but got a scripted one"
        with pytest.raises(ValueError, match=text), plan.hooked(scripted):
            pass


def test_a_function_that_writes_into_what_it_gets_reaches_nobody():
    def brightness(images, labels, model):
        labels.zero_()
        return images.mul_(2).mean(dim=1)

    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 2])
    before = images.clone(), labels.clone()
    SaliencyPatchMix(num_classes=3, saliency=brightness, p=1.0).plan(images, labels)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])

    class OfAModel:
        needs_model = True

        def __call__(self, images, labels, model):
            return brightness(images, labels, model)

    def own_partners(labels, counts, generator):
        return labels.copy_(torch.arange(4))

    mixer = SaliencyPatchMix(num_classes=3, saliency=OfAModel(), pairing=own_partners, p=1.0)
    mixed, _ = mixer(images, labels, nn.Identity())
    assert torch.equal(mixed, before[0])
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
