"""A model that was used for saliency is, to the bit, the model it was before."""

import os
import random
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from reference import snapshot_of_a_model
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spmix_aug import SaliencyPatchMix
from spmix_aug.saliency import GradCAM, InputGradient
from spmix_aug.saliency.guard import preserved, unwrap

PROVIDERS = pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
IMAGES, LABELS = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
ON_RANKS = Path(__file__).with_name("saliency_on_ranks.py")


class Counting(nn.Module):
    """Counts its calls in a buffer and draws random numbers, in eval mode as well."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        torch.rand(3)
        return x * 1


class Breaking(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken layer")


def model(*extra):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.5),
        Counting(),
        nn.Conv2d(8, 8, 3, padding=1),
        *extra,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def snapshot(net):
    return (
        snapshot_of_a_model(net),
        torch.get_rng_state().tolist(),
        torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
        random.getstate(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@PROVIDERS
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(provider, training, device):
    images, labels = IMAGES.to(device), LABELS.to(device)
    net = model().to(device).train(training)
    net[2].training = False  # a batch norm frozen by the user
    net[6].weight.requires_grad = False
    F.cross_entropy(net(images.clone()), labels).backward()  # gradients being accumulated
    net[1].bias.grad = None
    before = snapshot(net)
    provider(images, labels, net)
    assert snapshot(net) == before


@PROVIDERS
def test_the_model_is_left_as_found_when_it_raises(provider, device):
    images, labels = IMAGES.to(device), LABELS.to(device)
    net = model(Breaking()).to(device).train()
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"`model` to run .* RuntimeError: broken layer"):
        provider(images, labels, net)
    assert snapshot(net) == before


@PROVIDERS
def test_the_maps_are_those_of_eval_mode(provider, device):
    images, labels = IMAGES.to(device), LABELS.to(device)
    net = model().to(device).train()
    in_training = provider(images, labels, net)
    torch.testing.assert_close(in_training, provider(images, labels, net.eval()))


@PROVIDERS
def test_frozen_models_have_maps(provider, device):
    images, labels = IMAGES.to(device), LABELS.to(device)
    net = model().to(device).eval()
    expected = provider(images, labels, net)
    net.requires_grad_(False)
    torch.testing.assert_close(provider(images, labels, net), expected)


@PROVIDERS
@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.detect_anomaly,
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_maps_are_the_same_in_every_context(provider, context):
    net = model().eval()
    expected = provider(IMAGES, LABELS, net)
    with context():
        maps = provider(IMAGES.clone(), LABELS.clone(), net)
    torch.testing.assert_close(maps, expected)


@PROVIDERS
def test_images_in_half_precision_meet_a_float32_model(provider, device):
    images, labels = IMAGES.to(device), LABELS.to(device)
    maps = provider(images.half(), labels, model().to(device))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, provider(images.half().float(), labels, model().to(device)))


@PROVIDERS
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_models_that_are_not_ready_are_refused_and_stay_as_they_are(provider):
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ValueError, match="run one batch through it first"):
        provider(IMAGES, LABELS, lazy)
    assert nn.parameter.is_lazy(lazy[2].weight)
    with torch.inference_mode():
        net = model()
    with pytest.raises(ValueError, match=r"under torch.inference_mode\(\); make it outside"):
        provider(IMAGES, LABELS, net)


@PROVIDERS
def test_compiled_models_are_unwrapped(provider):
    net = model()
    compiled = torch.compile(net, backend="eager")
    assert unwrap(compiled) is net
    torch.testing.assert_close(provider(IMAGES, LABELS, compiled), provider(IMAGES, LABELS, net))


def test_data_parallel_models_are_unwrapped():
    net = model()
    assert unwrap(nn.DataParallel(torch.compile(net, backend="eager"))) is net


class Checkpointed(nn.Module):
    def __init__(self, net, use_reentrant):
        super().__init__()
        self.net, self.use_reentrant = net, use_reentrant

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.use_reentrant)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextmanager
def no_grad_in_autocast():
    """Fill the cache of cast weights by a pass without gradients, before the training pass."""
    with autocast(), torch.no_grad():
        yield


@PROVIDERS
@pytest.mark.parametrize(
    ("wrap", "around_step", "around_saliency"),
    [
        (nn.Identity, nullcontext, nullcontext),
        (nn.Identity, autocast, nullcontext),
        (nn.Identity, autocast, torch.no_grad),
        (nn.Identity, nullcontext, no_grad_in_autocast),
        (nn.Identity, nullcontext, torch.inference_mode),
        (nn.Identity, torch.autograd.detect_anomaly, nullcontext),
        (lambda net: Checkpointed(net[1:], use_reentrant=False), autocast, nullcontext),
        (lambda net: torch.compile(net, backend="aot_eager"), nullcontext, nullcontext),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:.*TF32", "ignore:.*isinstance")
def test_training_after_saliency_equals_training_without(
    provider, wrap, around_step, around_saliency
):
    def train(saliency):
        torch._dynamo.reset()
        inner = model().train()
        inner[5] = nn.Identity()
        net = inner if wrap is nn.Identity else wrap(inner)
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(inner.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        mixer = SaliencyPatchMix(num_classes=4, saliency=provider, p=1.0)
        mixer.generator = torch.Generator().manual_seed(0)
        for step in range(4):
            with around_step():
                if saliency:
                    with around_saliency():
                        mixer(IMAGES.clone(), LABELS.clone(), net)
                loss = F.cross_entropy(net(IMAGES.clone()).float(), LABELS)
            scaler.scale(loss).backward()
            if step % 2:  # gradients of two steps are accumulated
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        assert scaler.get_scale() == 1024.0
        return inner.state_dict()

    without, with_saliency = train(False), train(True)
    assert all(torch.equal(without[name], with_saliency[name]) for name in without)


@PROVIDERS
def test_reentrant_checkpointing_is_refused_and_the_model_left_as_found(provider):
    net = Checkpointed(model().train(), use_reentrant=True)
    before = snapshot(net)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        provider(IMAGES, LABELS, net)
    assert snapshot(net) == before


@pytest.mark.slow
def test_ranks_train_as_without_saliency_and_draw_different_streams():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = subprocess.run(
        [*command, str(ON_RANKS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    said = found.stdout.replace("clean", "clean ").split()  # both may end up on one line
    assert said == ["clean", "clean"], found.stdout + found.stderr[-2000:]


def test_buffers_that_a_pass_replaces_are_put_back():
    net = model()
    counter = net[5]
    found = counter.calls
    with preserved(net, torch.device("cpu")) as inside:
        inside[5].calls = torch.ones(3)
    assert counter.calls is found


def test_buffers_that_modules_share_are_shared_in_the_pass():
    class Reading(nn.Module):
        def forward(self, x):
            return x * self.calls

    net = nn.Sequential(Counting(), Reading(), nn.Flatten(), nn.Linear(768, 4))
    net[1].register_buffer("calls", net[0].calls)
    maps = InputGradient()(IMAGES, LABELS, net)
    assert float(maps.max()) > 0  # the count that the pass made, 1, and not the old 0
    assert float(net[0].calls) == 0
    assert net[1].calls is net[0].calls


@PROVIDERS
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_models_have_maps(provider):
    net = model().eval()
    net[5] = nn.Identity()
    scripted = torch.jit.script(net)
    torch.testing.assert_close(
        InputGradient()(IMAGES, LABELS, scripted), InputGradient()(IMAGES, LABELS, net)
    )
