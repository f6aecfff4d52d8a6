"""How the throughput benchmark calls this package and its peers, all on the same batch.

What an entry builds before it is timed (one-hot labels, 8-bit images, models, plans) favours the
peers where it favours anyone. Peers are imported when they are built, so that a missing one is
left out rather than in the way.
"""

import contextlib
import importlib
import importlib.util
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from spmix_aug import MixPlan, SaliencyPatchMix, SaliencyPatchMixCollate
from spmix_aug.saliency import (
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SpectralResidual,
)

CLASS_COUNTS = (1113, 6705, 514, 327, 1099, 115, 142)  # ISIC 2018, task 3
TOKEN_WIDTH = 768

Call = Callable[[], object]


class Batch:
    """The images and labels that all entries get.

    Attributes:
        levels: `(B,3,H,W)` uint8 on the CPU, what the images were made of.
        images: the same in [0, 1], in the device, dtype and memory format asked for. Entries may
            write into them; `restore()` before each call.
        labels: `(B,)` classes, drawn with the shares of ISIC 2018.
    """

    def __init__(
        self,
        size: int,
        side: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.levels = torch.randint(
            256, (size, 3, side, side), dtype=torch.uint8, generator=generator
        )
        self.given = (self.levels.float() / 255).to(
            device, dtype, memory_format=memory_format, copy=True
        )
        self.images = self.given.clone()
        shares = torch.tensor(CLASS_COUNTS, dtype=torch.float32)
        drawn = torch.multinomial(shares, size, replacement=True, generator=generator)
        self.labels = drawn.to(device)

    def restore(self) -> None:
        """Bring the images back to what they were."""
        self.images.copy_(self.given)


@dataclass(frozen=True)
class Entry:
    """One thing to be timed.

    Attributes:
        name: library and call.
        part: `"mix"`, `"saliency"`, `"tokens"`, `"collate"` or `"models"`.
        make: builds, for a batch, the call to be timed.
        needs: module it cannot do without.
    """

    name: str
    part: str
    make: Callable[[Batch], Call]
    needs: str = "spmix_aug"

    @property
    def installed(self) -> bool:
        """Tell whether the library is there, without importing it."""
        return importlib.util.find_spec(self.needs) is not None


def load(module: str) -> Any:
    """Import a peer, without the banners that some print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(module)


def new_mixer(**settings: Any) -> SaliencyPatchMix:
    """Make our mixer, of every sample unless told otherwise."""
    return SaliencyPatchMix(class_counts=CLASS_COUNTS, **{"p": 1.0, **settings})


def new_plan(batch: Batch) -> MixPlan:
    """Plan the mix of a batch."""
    return new_mixer().plan(batch.images, batch.labels)


# This package


def mixer(**settings: Any) -> Callable[[Batch], Call]:
    """Mix images, saliency included."""

    def make(batch: Batch) -> Call:
        mix = new_mixer(**settings)
        return lambda: mix(batch.images, batch.labels)

    return make


def mixer_with_maps(**settings: Any) -> Callable[[Batch], Call]:
    """Mix images by maps that are there already."""

    def make(batch: Batch) -> Call:
        mix = new_mixer(**settings)
        maps = SpectralResidual()(batch.images)
        return lambda: mix(batch.images, batch.labels, saliency=maps)

    return make


def plan_of_images(batch: Batch) -> Call:
    """Apply a plan to images."""
    plan = new_plan(batch)
    return lambda: plan.images(batch.images)


def plan_of_tokens(batch: Batch) -> Call:
    """Apply a plan to tokens, one a patch."""
    plan = new_plan(batch)
    tokens = new_tokens(batch, plan)
    return lambda: plan.tokens(tokens)


def new_tokens(batch: Batch, plan: MixPlan) -> Tensor:
    """Draw tokens `(B,N,D)` for the patches of a plan."""
    size = len(batch.images), plan.ratios[0].numel(), TOKEN_WIDTH
    return torch.rand(size, device=batch.images.device)


def provider(of_images: Any) -> Callable[[Batch], Call]:
    """Compute maps that need no model."""
    return lambda batch: lambda: of_images(batch.images)


def model_provider(of_model: Callable[[nn.Module], Any]) -> Callable[[Batch], Call]:
    """Compute maps of a ResNet-18."""

    def make(batch: Batch) -> Call:
        model = resnet18(batch)
        maps = of_model(model)
        return lambda: maps(batch.images, batch.labels, model)

    return make


def collate(batch: Batch) -> Call:
    """Collate samples and mix them."""
    samples = as_samples(batch)
    mix = SaliencyPatchMixCollate(new_mixer())
    return lambda: mix(samples)


def as_samples(batch: Batch) -> list[tuple[Tensor, int]]:
    """Take a batch apart, as a data set gives it."""
    return list(zip(batch.given.cpu(), batch.labels.tolist(), strict=True))


# Floors: what any mix has to do with its memory


def copy(batch: Batch) -> Call:
    """Copy the images into memory that is there."""
    buffer = torch.empty_like(batch.images)
    return lambda: buffer.copy_(batch.images)


def lerp_into_buffer(batch: Batch) -> Call:
    """Blend with images that are gathered already, into memory that is there."""
    buffer, other = torch.empty_like(batch.images), batch.given.roll(1, 0)
    weights = sample_weights(batch)
    return lambda: torch.lerp(other, batch.images, weights, out=buffer)


def gather_and_lerp(batch: Batch) -> Call:
    """Gather partners and blend, into new memory."""
    partner = torch.arange(len(batch.images), device=batch.images.device).roll(1)
    weights = sample_weights(batch)
    return lambda: torch.lerp(batch.images[partner], batch.images, weights)


def sample_weights(batch: Batch) -> Tensor:
    """Draw a weight for each sample, `(B,1,1,1)`."""
    return torch.rand(len(batch.images), 1, 1, 1, device=batch.images.device)


# Peers: mixers


def torchvision_mixer(name: str) -> Callable[[Batch], Call]:
    """Call a mixer of torchvision's transforms v2."""

    def make(batch: Batch) -> Call:
        mix = getattr(load("torchvision.transforms.v2"), name)(num_classes=len(CLASS_COUNTS))
        return lambda: mix(batch.images, batch.labels)

    return make


def timm_mixer(**settings: Any) -> Callable[[Batch], Call]:
    """Call timm's Mixup, which writes into the images and needs an even batch."""

    def make(batch: Batch) -> Call:
        mix = load("timm.data").Mixup(num_classes=len(CLASS_COUNTS), **settings)
        return lambda: mix(batch.images, batch.labels)

    return make


def kornia_mixer(name: str, **settings: Any) -> Callable[[Batch], Call]:
    """Call one of kornia's mix augmentations."""

    def make(batch: Batch) -> Call:
        mix = getattr(load("kornia.augmentation"), name)(
            p=1.0, data_keys=["input", "class"], **settings
        )
        return lambda: mix(batch.images, batch.labels)

    return make


def mixup_mixer(name: str, **settings: Any) -> Callable[[Batch], Call]:
    """Call a mixer of the package `mixup`, which takes one-hot labels."""

    def make(batch: Batch) -> Call:
        mix = getattr(load("mixup"), name)(**settings)
        rows = F.one_hot(batch.labels, len(CLASS_COUNTS)).float()
        return lambda: mix(batch.images, rows)

    return make


def mlxops_mixer(name: str) -> Callable[[Batch], Call]:
    """Call a mixer of mlxops-aug; SaliencyMix writes into the images."""

    def make(batch: Batch) -> Call:
        mix = getattr(load("mlxops_aug"), name)(num_classes=len(CLASS_COUNTS), config={"prob": 1.0})
        mix.cls_num_list = list(CLASS_COUNTS)  # what ReMix would count in a data set
        return lambda: mix(batch.images, batch.labels)

    return make


def mlxops_guided(batch: Batch) -> Call:
    """Mix by the input gradients of a ResNet-18, which is left in eval mode."""
    mix = load("mlxops_aug").GuidedMixup(num_classes=len(CLASS_COUNTS), config={"prob": 1.0})
    mix.setup_based_on_model({"training_model": resnet18(batch)})
    return lambda: mix(batch.images, batch.labels)


def authors_tokens(batch: Batch) -> Call:
    """Mix tokens by the expressions of the SPMix authors."""
    plan = new_plan(batch)
    x, partner = new_tokens(batch, plan), plan.partner
    r = plan.ratios.flatten(1).unsqueeze(2).expand(-1, -1, TOKEN_WIDTH)  # (B,N,D)
    return lambda: x * r + x[partner] * (1 - r)


# Peers: saliency


def opencv(name: str) -> Callable[[Batch], Call]:
    """Loop one of OpenCV's algorithms over the images, 8-bit and BGR."""

    def make(batch: Batch) -> Call:
        cv2 = load("cv2")
        cv2.setNumThreads(torch.get_num_threads())
        maps = getattr(cv2.saliency, f"{name}_create")()
        pictures = [level.flip(0).permute(1, 2, 0).numpy().copy() for level in batch.levels]
        return lambda: [maps.computeSaliency(picture) for picture in pictures]

    return make


def mixup_heuristic(batch: Batch) -> Call:
    """Compute the saliency by which the package `mixup` mixes without a model."""
    maps = load("mixup.saliency").get_heuristic_saliency_map
    return lambda: maps(batch.images)


def captum_grad_cam(batch: Batch) -> Call:
    """Compute captum's Grad-CAM, which stays at the layer's resolution."""
    model = resnet18(batch)
    cam = load("captum.attr").LayerGradCam(model, model.layer4[-1])
    return lambda: cam.attribute(batch.images, target=batch.labels, relu_attributions=True)


def torchcam_grad_cam(batch: Batch) -> Call:
    """Compute torchcam's Grad-CAM, which stays at the layer's resolution."""
    model = resnet18(batch)
    extractor, classes = load("torchcam.methods").GradCAM, batch.labels.tolist()

    def work() -> object:
        with extractor(model, model.layer4[-1]) as cam:
            return cam(class_idx=classes, scores=model(batch.images))

    return work


def bare_input_gradient(batch: Batch) -> Call:
    """Take the gradient of the loss with respect to the images, and nothing else."""
    model = resnet18(batch)

    def work() -> object:
        leaf = batch.images.detach().clone().requires_grad_()
        loss = F.cross_entropy(model(leaf), batch.labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)

    return work


# What a step costs anyway


def resnet18(batch: Batch) -> Any:
    """Make the network of the model-based maps, in eval mode."""
    return load("timm").create_model("resnet18", num_classes=7).eval().to(batch.images.device)


def resnet50_step(batch: Batch) -> Call:
    """Train a ResNet-50 one step."""
    model = load("timm").create_model("resnet50", num_classes=7).to(batch.images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def collate_alone(batch: Batch) -> Call:
    """Collate samples, without mixing."""
    samples = as_samples(batch)
    return lambda: default_collate(samples)


ENTRIES = (
    Entry("spmix spectral residual", "mix", mixer(saliency="spectral_residual")),
    Entry("spmix spectral residual, p=0.5", "mix", mixer(saliency="spectral_residual", p=0.5)),
    Entry(
        "spmix spectral residual, in place",
        "mix",
        mixer(saliency="spectral_residual", inplace=True),
    ),
    Entry(
        "spmix spectral residual, in place, p=0.5",
        "mix",
        mixer(saliency="spectral_residual", p=0.5, inplace=True),
    ),
    Entry("spmix border contrast", "mix", mixer()),
    Entry("spmix uniform ratio", "mix", mixer(floor=0.8, alpha=0.8)),
    Entry("spmix fine-grained", "mix", mixer(saliency="fine_grained")),
    Entry("spmix fine-grained, size=112", "mix", mixer(saliency=FineGrained(size=112))),
    Entry("spmix maps given", "mix", mixer_with_maps()),
    Entry("spmix maps given, in place", "mix", mixer_with_maps(inplace=True)),
    Entry("spmix plan given", "mix", plan_of_images),
    Entry("torch copy_ into a buffer", "mix", copy, "torch"),
    Entry("torch lerp into a buffer", "mix", lerp_into_buffer, "torch"),
    Entry("torch gather and lerp", "mix", gather_and_lerp, "torch"),
    Entry("torchvision v2.MixUp", "mix", torchvision_mixer("MixUp"), "torchvision"),
    Entry("torchvision v2.CutMix", "mix", torchvision_mixer("CutMix"), "torchvision"),
    Entry("timm Mixup, in place", "mix", timm_mixer(), "timm"),
    Entry(
        "timm Mixup as CutMix, in place",
        "mix",
        timm_mixer(mixup_alpha=0.0, cutmix_alpha=1.0),
        "timm",
    ),
    Entry("kornia RandomMixUpV2", "mix", kornia_mixer("RandomMixUpV2"), "kornia"),
    Entry(
        "kornia RandomCutMixV2",
        "mix",
        kornia_mixer("RandomCutMixV2", use_correct_lambda=True),
        "kornia",
    ),
    Entry("mixup VanillaMixUp", "mix", mixup_mixer("VanillaMixUp"), "mixup"),
    Entry("mixup CutMix", "mix", mixup_mixer("CutMix"), "mixup"),
    Entry("mixup SaliencyMix", "mix", mixup_mixer("SaliencyMix"), "mixup"),
    Entry(
        "mixup PuzzleMix, block_size=16",
        "mix",
        mixup_mixer("PuzzleMix", block_size=16),
        "mixup",
    ),
    Entry("mlxops-aug CutMixUp", "mix", mlxops_mixer("CutMixUp"), "mlxops_aug"),
    Entry("mlxops-aug ReMix", "mix", mlxops_mixer("ReMix"), "mlxops_aug"),
    Entry(
        "mlxops-aug SaliencyMix, one map a batch, in place",
        "mix",
        mlxops_mixer("SaliencyMix"),
        "mlxops_aug",
    ),
    Entry("spmix maps: spectral residual", "saliency", provider(SpectralResidual())),
    Entry("spmix maps: border contrast", "saliency", provider(BorderContrast())),
    Entry("spmix maps: fine-grained", "saliency", provider(FineGrained())),
    Entry("spmix maps: fine-grained, size=112", "saliency", provider(FineGrained(size=112))),
    Entry(
        "OpenCV StaticSaliencySpectralResidual, looped",
        "saliency",
        opencv("StaticSaliencySpectralResidual"),
        "cv2",
    ),
    Entry(
        "OpenCV StaticSaliencyFineGrained, looped",
        "saliency",
        opencv("StaticSaliencyFineGrained"),
        "cv2",
    ),
    Entry("mixup get_heuristic_saliency_map", "saliency", mixup_heuristic, "mixup"),
    Entry("spmix tokens, plan given", "tokens", plan_of_tokens),
    Entry("SPMix authors' expressions", "tokens", authors_tokens, "torch"),
    Entry("spmix SaliencyPatchMixCollate", "collate", collate),
    Entry("torch default_collate", "collate", collate_alone, "torch"),
    Entry("spmix spectral residual", "models", mixer(saliency="spectral_residual")),
    Entry("ResNet-50 training step", "models", resnet50_step, "timm"),
    Entry(
        "spmix maps: Grad-CAM",
        "models",
        model_provider(lambda model: GradCAM(target_layer=model.layer4[-1])),
    ),
    Entry("captum LayerGradCam", "models", captum_grad_cam, "captum"),
    Entry("torchcam GradCAM", "models", torchcam_grad_cam, "torchcam"),
    Entry("spmix maps: input gradient", "models", model_provider(lambda _: InputGradient())),
    Entry(
        "spmix maps: input gradient, sigma=0",
        "models",
        model_provider(lambda _: InputGradient(sigma=0.0)),
    ),
    Entry("torch autograd.grad of the loss, bare", "models", bare_input_gradient, "torch"),
    Entry("mlxops-aug GuidedMixup", "models", mlxops_guided, "mlxops_aug"),
)


def check(batch: Batch, samples: int = 3) -> dict[str, float]:
    """Hold some mixed samples against the formula, written as slow loops over patches.

    Returns:
        The largest difference of a pixel, and of the sum of a target from 1.

    Raises:
        AssertionError: if a result is wrong.
    """
    plan, images = new_plan(batch), batch.images
    mixed, mixed_in_place = plan.images(images), plan.images(images.clone(), inplace=True)
    assert torch.equal(mixed, mixed_in_place)
    worst, side, patch_size = 0.0, images.shape[2], plan.patch_size
    for own in range(min(samples, len(images))):
        partner = int(plan.partner[own])
        for row in range(math.ceil(side / patch_size)):
            for column in range(math.ceil(side / patch_size)):
                patch = (
                    slice(None),
                    slice(row * patch_size, (row + 1) * patch_size),
                    slice(column * patch_size, (column + 1) * patch_size),
                )
                ratio = float(plan.ratios[own, row, column])
                expected = ratio * images[own][patch] + (1 - ratio) * images[partner][patch]
                worst = max(worst, float((mixed[own][patch] - expected).abs().max()))
    assert worst < 1e-6, f"pixels are off by {worst}"
    off = float((plan.targets.sum(dim=1) - 1).abs().max())
    assert off < 1e-6, f"targets do not sum to 1 but are off by {off}"
    return {"pixels_off_by": worst, "targets_off_by": off}
