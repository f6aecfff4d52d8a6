"""Compiled, a mixer is one graph for all batches, and gives what it gives uncompiled."""

import copy
import pickle
import re
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from spmix_aug import SaliencyPatchMix

BATCHES = (8, 8, 5, 7, 64, 2)  # torch makes a graph of its own for sizes of 0 and 1


def brightness(images, labels, model):
    """Maps that take no time to compile."""
    return images.mean(dim=1)


whole = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 traces less"
)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch.compiler.reset()


def data(batch, size=(32, 48), dtype=torch.float32):
    images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
    return (255 * images).to(dtype) if dtype == torch.uint8 else images, torch.arange(batch) % 3


def compiled(function, backend="eager"):
    """Compile for any size, without graph breaks; return the counter of graphs as well."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True, dynamic=True), counter


def equal(one, other):
    return all(map(torch.equal, one, other))


@whole
@pytest.mark.parametrize(
    ("saliency", "settings"),
    [
        ("spectral_residual", {}),
        ("spectral_residual", {"jitter": 0.1, "target": "ratio", "generator": torch.Generator()}),
        ("fine_grained", {"generator": torch.Generator(), "pairing": "any", "patch_size": 7}),
        ("border_contrast", {"jitter": 0.1, "class_counts": [9, 5, 1], "mean": 0.5, "std": 0.2}),
    ],
)
def test_a_mixer_is_one_graph_and_gives_what_it_gives_eagerly(saliency, settings):
    settings = {"num_classes": 3, "p": 0.8, "patch_size": 8} | settings
    mixer = SaliencyPatchMix(saliency=saliency, **settings)
    mix, counter = compiled(mixer)
    generator = mixer.generator or torch.default_generator
    for batch in BATCHES:
        images, labels = data(batch)
        images = (images - 0.5) / 0.2 if "mean" in settings else images
        generator.manual_seed(batch)
        expected = mixer(images, labels)
        after = torch.get_rng_state(), generator.get_state()
        generator.manual_seed(batch)
        assert equal(mix(images, labels), expected)
        assert equal((torch.get_rng_state(), generator.get_state()), after)
    assert counter.frame_count == 1


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, (120, 130)), (torch.uint8, (50, 67))])
def test_applying_a_plan_is_one_graph(dtype, size):
    def apply(plan, images, tokens, inplace):
        return plan.images(images, inplace=inplace), plan.tokens(tokens, prefix_tokens=1)

    mixer = SaliencyPatchMix(num_classes=3, saliency=brightness, patch_size=4)
    run, counter = compiled(apply, "aot_eager")
    for inplace in (False, True):
        counter.frame_count = 0
        for batch in range(2, 12):  # equal to no other side, which torch would take for the same
            images, labels = data(batch, size, dtype)
            plan = mixer.plan(images, labels)
            tokens = torch.rand(batch, 1 + plan.ratios[0].numel(), 19)
            expected = apply(plan, images.clone(), tokens, inplace)
            found = run(plan, images, tokens, inplace)
            torch.testing.assert_close(found, expected)
            assert (found[0] is images) == inplace
        assert counter.frame_count == 1


@pytest.mark.parametrize("own", [False, True], ids=["global stream", "own streams"])
def test_mixers_in_one_function_draw_in_their_order(own):
    generators = [torch.Generator() if own else None for _ in range(2)]
    first, second = (
        SaliencyPatchMix(num_classes=3, saliency=brightness, jitter=0.1, generator=generator)
        for generator in generators
    )

    def mix(images, labels):
        once = second(*first(images, labels))
        return (*once, *first(images, labels))

    run, _ = compiled(mix, "aot_eager")
    for batch in (8, 5):
        results = []
        for function in (mix, run):
            for seed, generator in enumerate(generators):
                (generator or torch.default_generator).manual_seed(seed)
            results.append(function(*data(batch)))
        torch.testing.assert_close(*results, rtol=0, atol=1e-6)
        images = results[1][0], results[1][2]
        assert not torch.equal(*images)  # two calls of one mixer draw two times


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda mixer: pickle.loads(pickle.dumps(mixer))]
)
def test_a_copy_draws_from_its_own_generator(copied):
    generator = torch.Generator().manual_seed(3)
    mixer = SaliencyPatchMix(num_classes=3, saliency=brightness, generator=generator)
    images, labels = data(8)
    mix, _ = compiled(mixer)
    first = mix(images, labels)
    twin = copied(mixer)
    state = mixer.generator.get_state()
    again, _ = compiled(twin)
    results = [again(images, labels) for _ in range(2)]
    assert torch.equal(mixer.generator.get_state(), state)
    assert all(equal(mixer(images, labels), result) for result in results)
    assert not equal(first, results[0])


def test_a_generator_that_is_set_later_draws():
    mixer, (images, labels) = SaliencyPatchMix(num_classes=3, saliency=brightness), data(8)
    mix, _ = compiled(mixer)
    mix(images, labels)
    mixer.generator = torch.Generator().manual_seed(4)
    found, before = mix(images, labels), torch.get_rng_state()
    mixer.generator = torch.Generator().manual_seed(4)
    assert equal(mix(images, labels), found)
    assert torch.equal(torch.get_rng_state(), before)


@whole
@pytest.mark.parametrize("form", [dict, tuple])
def test_a_batch_in_a_form_of_its_own_is_one_graph(form):
    mixer = SaliencyPatchMix(num_classes=3, saliency=brightness, p=0.0)
    mix, counter = compiled(mixer)
    images, labels = data(8)
    batch = {"image": images, "label": labels, "id": 5} if form is dict else (images, labels, 5)
    found, expected = mix(batch), mixer(batch)
    assert type(found) is form
    places = ("image", "label", "id") if form is dict else (0, 1, 2)
    assert equal([found[at] for at in places[:2]], [expected[at] for at in places[:2]])
    assert found[places[2]] == 5
    assert counter.frame_count == 1


@whole
@pytest.mark.parametrize("saliency", ["grad_cam", "input_gradient"])
def test_a_step_with_saliency_of_its_model_compiles_around_it(saliency):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    images, labels = data(8)
    model(images)
    mixer = SaliencyPatchMix(num_classes=3, saliency=saliency, patch_size=8, p=1.0)
    torch.manual_seed(0)
    expected = mixer(images, labels, model)
    torch.manual_seed(0)
    step = torch.compile(lambda *batch: mixer(*batch, model), backend="eager")
    assert equal(step(images, labels), expected)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Torchinductor")  # torch's own
@pytest.mark.parametrize(
    ("saliency", "dynamic"),
    [
        ("spectral_residual", None),
        ("spectral_residual", True),
        ("fine_grained", True),
        ("border_contrast", None),
        ("border_contrast", True),
    ],
)
def test_the_draws_survive_the_default_backend(saliency, dynamic):
    mixer = SaliencyPatchMix(num_classes=3, saliency=saliency, patch_size=8, target="ratio")

    def mix(images, labels):
        plan = mixer.plan(images, labels)
        return plan.partner, plan.ratios, plan.targets, plan.images(images)

    run = torch.compile(mix, fullgraph=True, dynamic=dynamic)
    for batch in (8, 5):
        torch.manual_seed(batch)
        expected = mix(*data(batch))
        torch.manual_seed(batch)
        found = run(*data(batch))
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@whole
@pytest.mark.parametrize("saliency", ["spectral_residual", "border_contrast"])
def test_a_training_step_with_the_mixer_is_one_graph(saliency):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(3),
    )
    model(data(2)[0])
    mixer = SaliencyPatchMix(num_classes=3, saliency=saliency, generator=torch.Generator())

    def loss_of(images, labels):
        mixed, targets = mixer(images, labels)
        return torch.nn.functional.cross_entropy(model(mixed), targets)

    run, counter = compiled(loss_of)
    for batch in BATCHES:
        steps = []
        for function in (loss_of, run):
            mixer.generator.manual_seed(batch)
            model.zero_grad()
            loss = function(*data(batch))
            loss.backward()
            steps.append([loss, *(parameter.grad for parameter in model.parameters())])
        torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Torchinductor")
@pytest.mark.parametrize(("saliency", "most"), [("border_contrast", 25), ("spectral_residual", 15)])
def test_the_default_backend_makes_few_kernels(saliency, most):
    mixer = SaliencyPatchMix(num_classes=3, saliency=saliency, p=1.0)
    run = torch.compile(mixer, fullgraph=True)
    _, (code,) = run_and_get_code(run, *data(64, (224, 224)))
    _, _, calls = code.partition("def call(")
    kernels = re.findall(r"^ +cpp_fused_\w+\(", calls, flags=re.MULTILINE)
    assert 1 < len(kernels) <= most
