"""Providers: right against outside oracles, alone in their image, and flat where nothing is."""

import copy
import pickle

import numpy as np
import pytest
import real_images
import reference
import scipy.ndimage
import torch
from torch import nn
from torch.nn import functional as F

from spmix_aug.saliency import (
    PROVIDERS,
    BorderContrast,
    FineGrained,
    GradCAM,
    InputGradient,
    SpectralResidual,
    find_provider,
)
from spmix_aug.saliency.base import (
    FAR_OUTSIDE,
    WHITE,
    finite,
    gaussian_weights,
    grey_levels,
    is_flat,
    round_levels_,
    scale_to_one,
)
from spmix_aug.saliency.finegrained import fine_grained
from spmix_aug.saliency.guard import logits_of
from spmix_aug.saliency.spectral import spectral_residual

MODEL_FREE = [
    SpectralResidual(),
    FineGrained(),
    FineGrained(size=16),
    BorderContrast(),
    BorderContrast(center_prior=0.3),
]
MODEL_BASED = [InputGradient(), InputGradient(sigma=0), GradCAM()]


def lesions(batch=3, size=(48, 60), seed=0, area=0.1, device="cpu"):
    """Light images with a dark disc each, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = (torch.linspace(-1, 1, side) for side in size)
    centre = torch.rand(batch, 2, 1, 1, generator=generator) - 0.5
    distance = (y.view(-1, 1) - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    disc = (distance < area).float().unsqueeze(1)
    noise = 0.02 * torch.rand(batch, 3, *size, generator=generator)
    return (0.8 - 0.5 * disc + noise).to(device), disc.squeeze(1).bool()


def small_cnn(inplace=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 4),
    )


def ask(provider, images, labels=None, model=None):
    if provider.needs_model:
        labels = torch.arange(len(images)) % 4 if labels is None else labels
        labels = labels.to(images.device)
        model = (small_cnn() if model is None else model).to(images.device)
    return provider(images, labels, model)


@pytest.mark.parametrize("provider", MODEL_FREE + MODEL_BASED, ids=repr)
class TestEveryProvider:
    def test_maps_are_finite_non_negative_float32_of_the_images_size(self, provider, device):
        for dtype in (torch.float32, torch.float64):
            images, _ = lesions(device=device)
            model = small_cnn().to(dtype) if provider.needs_model else None
            maps = ask(provider, images.to(dtype), model=model)
            assert maps.shape == (3, 48, 60)
            assert maps.dtype == torch.float32
            assert not maps.requires_grad
            assert bool(maps.isfinite().all())
            assert float(maps.min()) >= 0
            assert bool((maps.amax(dim=(1, 2)) > 0).all())

    def test_a_map_does_not_depend_on_batch_mates(self, provider, device):
        images, _ = lesions(4, device=device)
        labels = torch.tensor([0, 1, 2, 3])
        together = ask(provider, images, labels)
        for i in range(4):
            alone = ask(provider, images[i : i + 1], labels[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-6)

    def test_what_is_not_finite_stays_in_its_image(self, provider, device):
        images, _ = lesions(3, device=device)
        clean = ask(provider, images)
        images[1, 0, 5, 5], images[1, 2, 9, 9] = float("nan"), float("inf")
        broken = ask(provider, images)
        assert bool(broken.isfinite().all())
        torch.testing.assert_close(broken[[0, 2]], clean[[0, 2]], rtol=1e-4, atol=1e-6)
        assert not provider.needs_model or float(broken[1, 5, 5]) == 0

    def test_huge_values_give_maps_with_finite_sums(self, provider, device):
        maps = ask(provider, 1e38 * torch.rand(2, 3, 24, 24, device=device))
        assert bool(maps.sum(dim=(1, 2)).isfinite().all())

    def test_images_are_left_alone(self, provider, device):
        images, _ = lesions(device=device)
        before = images.clone()
        ask(provider, images)
        assert torch.equal(images, before)
        assert not images.requires_grad

    def test_an_empty_batch(self, provider, device):
        maps = ask(provider, torch.zeros(0, 3, 16, 16, dtype=torch.float64, device=device))
        assert maps.shape == (0, 16, 16)
        assert maps.dtype == torch.float32

    def test_autocast_is_switched_off_inside(self, provider, device):
        images, _ = lesions(device=device)
        expected = ask(provider, images)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            torch.testing.assert_close(ask(provider, images), expected)

    def test_it_can_be_pickled(self, provider, device):
        images, _ = lesions(device=device)
        twin = pickle.loads(pickle.dumps(provider))
        torch.testing.assert_close(ask(twin, images), ask(provider, images))


@pytest.mark.parametrize("provider", MODEL_FREE, ids=repr)
class TestModelFree:
    def test_no_model_is_needed(self, provider):
        assert not provider.needs_model

    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    def test_flat_images_give_flat_maps(self, provider, device, value):
        images = torch.full((2, 3, 40, 40), value, device=device)
        images += 1e-6 * max(value, 0.1) * torch.rand_like(images)  # rounding noise
        assert float(provider(images).max()) == 0

    def test_faint_images_are_not_flat(self, provider, device):
        images, _ = lesions(device=device)
        assert float(provider(0.5 + images / 100).amax(dim=(1, 2)).min()) > 0.5

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_other_channel_counts_work(self, provider, device, channels):
        images = torch.rand(2, channels, 24, 30, device=device)
        maps = provider(images)
        assert maps.shape == (2, 24, 30)
        assert bool((maps.amax(dim=(1, 2)) > maps.amin(dim=(1, 2))).all())
        if not isinstance(provider, BorderContrast):  # which sees colours
            expected = provider(images.mean(dim=1, keepdim=True))
            torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)

    def test_bytes_are_read_as_0_to_255(self, provider, device):
        images = (lesions(device=device)[0] * 255).round().to(torch.uint8)
        torch.testing.assert_close(provider(images), provider(images / 255))

    def test_another_default_device_does_not_matter(self, provider, device):
        images, _ = lesions(device=device)
        expected = provider(images)
        with torch.device("meta"):
            assert torch.equal(provider(images), expected)

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 2), (300, 8)])
    def test_odd_sizes(self, provider, device, size):
        maps = provider(torch.rand(2, 3, *size, device=device))
        assert maps.shape == (2, *size)
        assert bool(maps.isfinite().all())


def test_spectral_residual_sees_a_small_spot():
    images, spot = lesions(8, area=0.01)
    maps = SpectralResidual()(images)
    near = F.max_pool2d(spot.float().unsqueeze(1), 5, 1, 2).squeeze(1).bool()
    inside = (maps * near).sum(dim=(1, 2)) / near.sum(dim=(1, 2))
    outside = (maps * ~near).sum(dim=(1, 2)) / (~near).sum(dim=(1, 2))
    assert bool((inside > 3 * outside).all())


@pytest.mark.parametrize("size", [(9, 14), (30, 21), (2, 9)])
def test_fine_grained_agrees_with_a_slow_loop(size):
    levels = torch.randint(256, (2, 1, *size), dtype=torch.float64)
    half_widths = [1, 2, 5, 40]
    expected = torch.stack([reference.fine_grained(image[0], half_widths) for image in levels])
    torch.testing.assert_close(fine_grained(levels, half_widths).squeeze(1), expected)


def test_what_shows_between_the_pixels_it_samples_is_flat_to_spectral_residual():
    images = torch.full((1, 3, 256, 256), 0.25)
    images[:, :, ::4] = 1  # of four rows it reads the middle two
    assert float(SpectralResidual(size=64)(images).max()) == 0
    assert float(SpectralResidual(size=60)(images).max()) > 0.9


def test_spectral_residual_agrees_with_numpy():
    grey = 255 * torch.rand(2, 1, 16, 16, dtype=torch.float64)
    ours = spectral_residual(grey).squeeze(1)
    for image, residual in zip(grey, ours, strict=True):
        expected = reference.spectral_residual(image[0].numpy(), floor=2.5)
        np.testing.assert_allclose(residual.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_surrounds_are_those_of_opencv():
    images = torch.rand(1, 3, 130, 125)
    expected = fine_grained(grey_levels(images), [12, 24, 48, 28, 56, 112]).squeeze(1)
    torch.testing.assert_close(FineGrained()(images), expected)


@pytest.mark.parametrize(
    ("full", "size", "half_widths"),
    [((96, 120), (48, 60), [6, 12, 24, 14, 28, 56]), ((400, 400), (8, 8), [1, 1, 1, 1, 1, 2])],
)
def test_surrounds_scale_with_the_size(full, size, half_widths):
    images, _ = lesions(2, full)
    small = F.interpolate(grey_levels(images), size, mode="bilinear", antialias=True)
    maps = fine_grained(round_levels_(small), half_widths)
    expected = F.interpolate(maps, full, mode="bilinear").squeeze(1)
    torch.testing.assert_close(FineGrained(size=size[0])(images), expected, rtol=1e-3, atol=1e-4)


def test_images_smaller_than_the_size_are_not_enlarged():
    images, _ = lesions()
    assert torch.equal(FineGrained(size=64)(images), FineGrained()(images))


def test_fine_grained_is_exact_in_single_precision():
    levels = torch.randint(230, 256, (1, 1, 300, 300)).double()
    maps = fine_grained(levels.float(), [12, 56])
    torch.testing.assert_close(maps, fine_grained(levels, [12, 56]).float(), rtol=0, atol=1e-6)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


class TestAgainstOpenCV:
    """On 60 real images; OpenCV's maps are rounded to 8 bits."""

    @staticmethod
    def compare(provider, name):
        cv2 = pytest.importorskip("cv2")
        if not hasattr(cv2, "saliency"):
            pytest.skip("OpenCV without its contrib modules")
        images, _ = real_images.load(range(5), 60)
        theirs = []
        for image in images:
            bgr = image.permute(1, 2, 0).flip(2).contiguous().numpy()
            found, saliency = getattr(cv2.saliency, name)().computeSaliency(bgr)
            assert found
            theirs.append(torch.from_numpy(saliency))
        ours, theirs = provider(images), torch.stack(theirs)
        correlations = [correlation(a, b) for a, b in zip(ours, theirs, strict=True)]
        return torch.tensor(correlations), (ours - theirs).abs().mean(dim=(1, 2))

    def test_fine_grained(self):
        correlations, differences = self.compare(FineGrained(), "StaticSaliencyFineGrained_create")
        assert float(correlations.min()) >= 0.9995
        assert float(differences.max()) <= 0.005

    def test_spectral_residual(self):
        # Their rounding makes amplitudes of zero, whose logarithm blows up; ours stays smooth.
        correlations, _ = self.compare(SpectralResidual(), "StaticSaliencySpectralResidual_create")
        assert float(correlations.quantile(0.05)) >= 0.995
        assert float(correlations.median()) >= 0.9995


class TestAgainstCaptum:
    @pytest.mark.parametrize("inplace", [True, False])
    @pytest.mark.parametrize("layer", ["1", "4", "6"])
    def test_grad_cam(self, inplace, layer):
        attr = pytest.importorskip("captum.attr")
        images, labels = lesions(4)[0], torch.arange(4)
        # captum sees what an operation in place makes of a layer's output, so it gets a model
        # without them; ours must give the same for both.
        target = small_cnn(inplace=False).eval()
        theirs = attr.LayerGradCam(target, target.get_submodule(layer)).attribute(
            images, target=labels, relu_attributions=True
        )
        theirs = F.interpolate(theirs.detach(), images.shape[2:], mode="bilinear").squeeze(1)
        ours = GradCAM(layer)(images, labels, small_cnn(inplace))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


class ToMap(nn.Module):
    """Lays patch tokens out as a map, for oracles that know maps only; `FromMap` undoes it."""

    def __init__(self, prefix, grid):
        super().__init__()
        self.prefix, self.grid = prefix, grid

    def forward(self, tokens):
        self.kept = tokens[:, : self.prefix]
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


class FromMap(nn.Module):
    def __init__(self, to_map):
        super().__init__()
        self.before = [to_map]  # not a submodule

    def forward(self, maps):
        return torch.cat([self.before[0].kept, maps.flatten(2).transpose(1, 2)], dim=1)


def oracle_cnn():
    return small_cnn(inplace=True).eval(), small_cnn(inplace=False).eval(), "6", "6"


def oracle_resnet():
    timm = pytest.importorskip("timm")
    ours = timm.create_model("resnet18", num_classes=4).eval()
    return ours, without_inplace(ours), None, "layer4"


def oracle_vit():
    timm = pytest.importorskip("timm")
    ours = timm.create_model(
        "vit_tiny_patch16_224", img_size=(48, 64), num_classes=4, reg_tokens=2, depth=3
    ).eval()
    theirs = copy.deepcopy(ours)
    to_map = ToMap(3, (3, 4))
    theirs.blocks[2].norm1 = nn.Sequential(theirs.blocks[2].norm1, to_map, FromMap(to_map))
    return ours, theirs, None, "blocks.2.norm1.1"


def without_inplace(model):
    """Copy a model, for oracles that would see what an operation in place made of a layer."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


@pytest.mark.parametrize("models", [oracle_cnn, oracle_resnet, oracle_vit])
class TestAgainstCaptumAndTorchcam:
    def test_input_gradient(self, models):
        attr = pytest.importorskip("captum.attr")
        (ours, theirs, *_), images = models(), lesions(4, (48, 64))[0]
        labels = torch.arange(4)

        def loss(x):
            return F.cross_entropy(theirs(x), labels, reduction="none")

        expected = attr.Saliency(loss).attribute(images.clone().requires_grad_()).amax(dim=1)
        found = InputGradient(sigma=0)(images, labels, ours)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))

    def test_grad_cam_and_captum(self, models):
        attr = pytest.importorskip("captum.attr")
        (ours, theirs, layer, their_layer), images = models(), lesions(4, (48, 64))[0]
        labels = torch.arange(4)
        cam = attr.LayerGradCam(theirs, theirs.get_submodule(their_layer))
        self.compare(
            cam.attribute(images, target=labels, relu_attributions=True),
            GradCAM(layer)(images, labels, ours),
        )

    def test_grad_cam_and_torchcam(self, models):
        methods = pytest.importorskip("torchcam.methods")
        (ours, theirs, layer, their_layer), images = models(), lesions(4, (48, 64))[0]
        labels = torch.arange(4)
        with methods.GradCAM(theirs, their_layer) as cam:
            scores = theirs(images.clone().requires_grad_())
            (expected,) = cam(labels.tolist(), scores, normalized=False)
        self.compare(expected.unsqueeze(1), GradCAM(layer)(images, labels, ours))

    @staticmethod
    def compare(expected, found):
        expected = F.interpolate(expected.detach(), (48, 64), mode="bilinear").squeeze(1)
        assert float(expected.max()) > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


class TestInputGradient:
    @pytest.mark.parametrize(("value", "elsewhere"), [(0.0, True), (float("nan"), False)])
    def test_gradients_that_are_not_finite_count_as_0(self, value, elsewhere):
        class Roots(nn.Module):
            def forward(self, images):
                return images.sqrt().mean(dim=(1, 3))

        images = torch.ones(1, 3, 4, 4)
        images[0, 0, 0, 0] = value  # where the slope of the root is infinite, or not a number
        maps = InputGradient(sigma=0)(images, torch.tensor([2]), Roots())[0]
        assert float(maps[0, 0]) == 0
        assert bool(maps[1:].any()) == elsewhere

    @pytest.mark.parametrize(
        ("provider", "sigma", "radius"),
        [(InputGradient(), 2.0, 4), (InputGradient(sigma=0.7), 0.7, 2)],
    )
    def test_maps_are_smoothed_by_a_gaussian(self, provider, sigma, radius):
        model, (images, _), labels = small_cnn(), lesions(2), torch.tensor([1, 2])
        sharp = InputGradient(sigma=0)(images, labels, model).numpy()
        expected = scipy.ndimage.gaussian_filter(
            sharp, sigma, mode="nearest", radius=radius, axes=(1, 2)
        )
        found = provider(images, labels, model)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-7)

    def test_soft_labels_weight_the_losses(self):
        model, (images, _) = small_cnn(), lesions(2)
        hard = InputGradient()(images, torch.tensor([1, 2]), model)
        one_hot = InputGradient()(images, F.one_hot(torch.tensor([1, 2]), 4), model)
        torch.testing.assert_close(hard, one_hot)
        soft = InputGradient()(images, torch.tensor([[0.2, 0.8, 0, 0]] * 2), model)
        assert not torch.allclose(hard, soft)

    def test_integer_images_are_refused(self):
        with pytest.raises(
            TypeError, match=r"`images` to be floating for InputGradient, but got torch.uint8"
        ):
            InputGradient()(torch.zeros(1, 3, 8, 8).byte(), torch.tensor([0]), small_cnn())


class TestGradCAM:
    def test_soft_labels_weight_the_logits(self):
        model, (images, _) = small_cnn(), lesions(2)
        hard = GradCAM()(images, torch.tensor([1, 2]), model)
        torch.testing.assert_close(
            hard, GradCAM()(images, F.one_hot(torch.tensor([1, 2]), 4), model)
        )
        soft = GradCAM()(images, torch.tensor([[0.2, 0.8, 0, 0]] * 2), model)
        assert not torch.allclose(hard, soft)

    def test_soft_labels_of_inference_mode_are_taken(self):
        model, (images, _) = small_cnn(), lesions(2)
        soft = torch.tensor([[0.2, 0.8, 0, 0]] * 2)
        with torch.inference_mode():
            inference = soft.clone()
        assert torch.equal(GradCAM()(images, inference, model), GradCAM()(images, soft, model))

    @pytest.mark.parametrize("size", [(2, 4), (4, 2), (2, 16), (16, 2)])
    def test_the_last_map_may_be_a_single_row_or_column(self, size):
        model, images, labels = small_cnn(), torch.rand(2, 3, *size), torch.tensor([0, 1])
        expected = GradCAM("6")(images, labels, model)
        torch.testing.assert_close(GradCAM()(images, labels, model), expected)

    def test_pooled_features_may_look_like_one_token(self):
        model, images, labels = small_cnn(), lesions(2)[0], torch.tensor([0, 1])
        expected = GradCAM("6")(images, labels, model)
        model.insert(9, nn.Unflatten(1, (1, 16))).insert(10, nn.Flatten())
        torch.testing.assert_close(GradCAM()(images, labels, model), expected)

    def test_an_embedding_before_two_tokens_is_no_last_stage(self):
        model = nn.Sequential(
            nn.Conv2d(3, 2, (4, 2), (4, 2)), nn.Flatten(2), nn.Flatten(), nn.Linear(16, 4)
        )
        with pytest.raises(
            ValueError, match=r"`model` to give feature maps .* got none in Sequential"
        ):
            GradCAM()(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), model)

    def test_maps_that_overflow_count_as_0(self):
        class Times(nn.Module):
            def forward(self, images):
                return 1e20 * images

        pool = nn.AdaptiveAvgPool2d(1)
        model = nn.Sequential(nn.AvgPool2d(2), Times(), Times(), pool, nn.Flatten())
        maps = GradCAM("1")(torch.ones(1, 3, 4, 4), torch.tensor([0]), model)
        assert float(maps.max()) == 0

    def test_frozen_models_of_bytes_are_refused(self):
        class FromBytes(nn.Sequential):
            def forward(self, images):
                return super().forward(images / 255)

        model = FromBytes(*small_cnn()).requires_grad_(False)
        with pytest.raises(ValueError, match="is frozen and the images are integers"):
            GradCAM()(lesions(2)[0].to(torch.uint8), torch.tensor([0, 1]), model)

    def test_a_layer_that_gives_no_tensor_is_refused(self):
        class Twice(nn.Module):
            def forward(self, images):
                return images, images

        class First(nn.Module):
            def forward(self, pair):
                return pair[0]

        model = nn.Sequential(Twice(), First(), small_cnn())
        images, labels = lesions(2)[0], torch.tensor([0, 1])
        with pytest.raises(ValueError, match="got tuple from Twice; choose a layer in it"):
            GradCAM("0")(images, labels, model)
        torch.testing.assert_close(
            GradCAM()(images, labels, model), GradCAM()(images, labels, model[2])
        )

    def test_layers_by_name_and_by_module_agree(self):
        model, (images, _), labels = small_cnn(), lesions(2), torch.tensor([0, 1])
        named = GradCAM("6")(images, labels, model)
        torch.testing.assert_close(named, GradCAM(model[6])(images, labels, model))
        nested = Wrapped(lambda logits: logits)
        torch.testing.assert_close(named, GradCAM(nested.net[6])(images, labels, nested))
        # the last map before the pooling is what is found without a name
        torch.testing.assert_close(named, GradCAM()(images, labels, model))

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("resnet18", "layer4"),
            ("efficientnet_b0", "bn2"),
            ("mobilenetv3_small_050", "blocks"),
            ("convnext_atto", "norm_pre"),
            ("vit_tiny_patch16_224", "blocks.11.norm1"),
            ("swin_tiny_patch4_window7_224", "norm"),
            ("deit_tiny_distilled_patch16_224", "blocks.11.norm1"),
            ("regnety_002", "final_conv"),
            ("densenet121", "features"),
            ("vgg11", "features"),
            ("maxvit_rmlp_pico_rw_256", "norm"),
        ],
    )
    def test_the_layer_is_found_in_timm_models(self, name, found):
        timm = pytest.importorskip("timm")
        model = timm.create_model(name, num_classes=4)
        side = model.default_cfg["input_size"][1]
        # Of a random network, a class may have no positive map at all.
        images, labels = torch.rand(1, 3, side, side).expand(4, -1, -1, -1), torch.arange(4)
        maps = GradCAM()(images, labels, model)
        assert float(maps.max()) > 0
        torch.testing.assert_close(maps, GradCAM(found)(images, labels, model))

    @pytest.mark.parametrize("name", ["mixer_s32_224", "levit_128s"])
    def test_timm_models_whose_layer_is_unknown_ask_for_it(self, name):
        timm = pytest.importorskip("timm")
        model = timm.create_model(name, num_classes=4)
        with pytest.raises(ValueError, match=r"give GradCAM\(target_layer=.*reshape_transform="):
            GradCAM()(torch.rand(1, 3, 224, 224), torch.tensor([1]), model)

    @pytest.mark.parametrize(
        ("name", "layer"),
        [("swin_tiny_patch4_window7_224", "norm"), ("mambaout_femto", "stages")],
    )
    def test_channels_that_come_last_are_moved(self, name, layer):
        timm = pytest.importorskip("timm")
        model = timm.create_model(name, num_classes=4)
        images, labels = torch.rand(2, 3, 224, 224), torch.tensor([1, 2])
        first = GradCAM(layer, lambda features: features.permute(0, 3, 1, 2))
        torch.testing.assert_close(GradCAM()(images, labels, model), first(images, labels, model))

    @pytest.mark.parametrize("options", [{"img_size": (48, 80)}, {"dynamic_img_size": True}])
    def test_a_vit_with_prefix_tokens_and_an_oblong_grid(self, options):
        timm = pytest.importorskip("timm")
        model = timm.create_model("vit_tiny_patch16_224", num_classes=4, reg_tokens=2, **options)
        images, labels = torch.rand(2, 3, 48, 80), torch.tensor([0, 3])
        ours = GradCAM()(images, labels, model)

        def lay_out(tokens):
            return tokens[:, 3:].transpose(1, 2).reshape(len(tokens), -1, 3, 5)

        theirs = GradCAM("blocks.11.norm1", lay_out)(images, labels, model)
        torch.testing.assert_close(ours, theirs)
        assert float(ours.amax()) > 0

    def test_bytes_go_to_a_model_that_takes_them(self):
        class FromBytes(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = small_cnn()

            def forward(self, images):
                return self.net(images / 255)

        images = (lesions(2)[0] * 255).to(torch.uint8)
        assert float(GradCAM()(images, torch.tensor([0, 1]), FromBytes()).amax()) > 0

    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            ("features", r"be a module of Sequential, but got 'features'; its parts are 0, 1"),
            (nn.Conv2d(1, 1, 1), "a Conv2d that is not in it; give its dotted name"),
            ("10", r"\(B,D,h,w\), but got .*\(2, 4\) .* from Linear; give GradCAM\(resh"),
        ],
    )
    def test_layers_that_do_not_fit_are_refused(self, layer, message):
        with pytest.raises(ValueError, match=message):
            GradCAM(layer)(lesions(2)[0], torch.tensor([0, 1]), small_cnn())

    def test_models_without_feature_maps_are_refused(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
        with pytest.raises(
            ValueError, match=r"got none in Sequential; give GradCAM\(target_layer="
        ):
            GradCAM()(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), model)

    def test_tokens_of_an_unknown_grid_are_refused(self):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.LayerNorm(4), nn.Flatten(), nn.Linear(32, 4)
        )
        images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
        with pytest.raises(
            ValueError, match=r"`model` to give feature maps .* got none in Sequential"
        ):
            GradCAM()(images, labels, model)
        with pytest.raises(ValueError, match=r"grid is known, .* \(2, 8, 4\) .* from LayerNorm"):
            GradCAM("2")(images, labels, model)
        model.num_prefix_tokens = 0
        with pytest.raises(ValueError, match="grid is known"):
            GradCAM("2")(images, labels, model)
        maps = GradCAM("2", lambda tokens: tokens.unflatten(2, (2, 2)))(images, labels, model)
        assert maps.shape == (2, 8, 8)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"target_layer": 3}, "`target_layer` to be a module, its dotted name or None"),
            ({"reshape_transform": 3}, "`reshape_transform` to be callable or None, but got int"),
        ],
    )
    def test_wrong_arguments_are_refused(self, kwargs, message):
        with pytest.raises(TypeError, match=message):
            GradCAM(**kwargs)


class Checkpointed(nn.Sequential):
    def forward(self, images):
        return torch.utils.checkpoint.checkpoint(super().forward, images, use_reentrant=True)


class Detached(nn.Sequential):
    def forward(self, images):
        *features, head = self
        for layer in features:
            images = layer(images)
        return head(images.detach())


class WithoutGradients(nn.Sequential):
    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


@pytest.mark.parametrize("provider", [InputGradient(), GradCAM("6")], ids=repr)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Checkpointed, "use_reentrant=False"),
        (Detached, "differentiably on what saliency looks at, but got no gradient there"),
        (WithoutGradients, "`model` to let gradients (through|flow through ReLU), but got"),
    ],
)
def test_models_that_let_no_gradient_through_are_refused(provider, kind, message):
    with pytest.raises(ValueError, match=message):
        provider(lesions(2)[0], torch.tensor([0, 1]), kind(*small_cnn()))


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits):
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("broken backward")


@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
def test_other_errors_of_the_backward_pass_are_those_of_the_model(provider):
    with pytest.raises(RuntimeError, match="broken backward"):
        provider(lesions(2)[0], torch.tensor([0, 1]), Wrapped(Broken.apply))


class Wrapped(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.net, self.how = small_cnn(), how

    def forward(self, images):
        return self.how(self.net(images))


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "how",
    [
        lambda y: (y, y.sum()),
        lambda y: ["name", y],
        lambda y: {"loss": y.sum(), "logits": y},
        lambda y: {"out": y},
        Output,
    ],
)
@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
def test_logits_are_found_in_what_the_model_returns(provider, how):
    images, labels = lesions(2)[0], torch.tensor([0, 1])
    torch.testing.assert_close(
        provider(images, labels, Wrapped(how)), provider(images, labels, small_cnn())
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_count_in_single_precision(dtype):
    assert logits_of(torch.zeros(2, 4, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("how", [lambda y: None, lambda y: {}, lambda y: y.sum(), lambda y: "y"])
@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
def test_a_model_without_logits_is_refused(provider, how):
    with pytest.raises(TypeError, match=r"`model` to return logits of shape \(B,K\)"):
        provider(lesions(2)[0], torch.tensor([0, 1]), Wrapped(how))


@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
@pytest.mark.parametrize(
    ("labels", "model", "error", "message"),
    [
        (torch.tensor([0, 1]), None, ValueError, "`model` for .*, but got None"),
        (torch.tensor([0, 1]), len, TypeError, "to be a torch.nn.Module, but got builtin"),
        (None, nn.Identity(), ValueError, r"`labels` for .* but got NoneType"),
        (torch.tensor([0]), nn.Identity(), ValueError, r"B = 2, but got a tensor of shape \(1,\)"),
        ([0, 1], nn.Identity(), TypeError, "`labels` to be a tensor, but got list"),
        (torch.zeros(2, dtype=torch.complex64), nn.Identity(), TypeError, "`labels` to be real"),
        (torch.zeros(2, device="meta"), nn.Identity(), ValueError, "device cpu, but got meta"),
    ],
)
def test_model_based_providers_need_labels_and_model(provider, labels, model, error, message):
    with pytest.raises(error, match=message):
        provider(torch.rand(2, 3, 8, 8), labels, model)


@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 4]), "`labels` in 0 to 3, but got 4; the model has no more logits"),
        (torch.tensor([0, -1]), "`labels` in 0 to 3, but got -1"),
        (torch.eye(2), r"logits \(B,K\) of K = 2 classes, but got .* shape \(2, 4\)"),
    ],
)
def test_labels_must_fit_the_models_logits(provider, labels, message):
    with pytest.raises(ValueError, match=message):
        provider(torch.rand(2, 3, 8, 8), labels, small_cnn())


@pytest.mark.parametrize("provider", [InputGradient(), GradCAM()], ids=repr)
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            lambda logits: logits.to(torch.complex64),
            TypeError,
            r"logits of shape \(B,K\).* of shape .*complex64",
        ),
        (lambda logits: logits.to_sparse(), TypeError, r"logits of shape \(B,K\).*sparse_coo"),
        (lambda logits: logits.to("meta"), ValueError, "device cpu, but got meta"),
    ],
)
def test_logits_must_be_real_and_beside_the_labels(provider, answer, error, message):
    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_cnn()

        def forward(self, images):
            return answer(self.inner(images))

    with pytest.raises(error, match=message):
        provider(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), Answering())


@pytest.mark.parametrize(
    "features",
    [
        torch.rand(2, 4, 0, 0),
        torch.rand(1, 4, 2, 2),
        torch.rand(2, 4, 2, 2).to_sparse(),
        torch.rand(2, 4, 2, 2, dtype=torch.complex64),
    ],
)
def test_what_reshape_transform_gives_must_be_feature_maps(features):
    provider = GradCAM(reshape_transform=lambda _: features)
    with pytest.raises(ValueError, match=r"feature maps of shape \(B,D,h,w\), .* from ReLU"):
        provider(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), small_cnn())


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([1], TypeError, "`images` to be a tensor of shape .* but got list"),
        (torch.rand(3, 8, 8), ValueError, r"`images` to have shape \(B,C,H,W\)"),
        (torch.rand(2, 3, 8, 0), ValueError, "with C, H, W >= 1"),
        (torch.rand(2, 3, 8, 8).to_sparse(), TypeError, "`images` to be a dense tensor"),
        (torch.rand(2, 3, 8, 8, dtype=torch.complex64), TypeError, "but got torch.complex64"),
    ],
)
def test_providers_refuse_what_is_no_batch_of_images(name, images, error, message):
    with pytest.raises(error, match=message):
        find_provider(name)(images, torch.tensor([0, 1]), small_cnn())


def test_settings_that_would_fill_the_memory_are_refused():
    with pytest.raises(ValueError, match="`size` to be at most 1024"):
        SpectralResidual(size=2**31)
    with pytest.raises(ValueError, match=r"`sigma` to be in \[0, 1000\]"):
        InputGradient(sigma=1e308)


@pytest.mark.parametrize("size", [0, 7, 8.5, True])
def test_sizes_are_checked(size):
    for provider in (SpectralResidual, FineGrained):
        with pytest.raises((TypeError, ValueError), match="`size` to be"):
            provider(size=size)
        assert provider(size=8).size == 8


def test_names():
    assert isinstance(find_provider("spectral_residual"), SpectralResidual)
    assert isinstance(find_provider("fine_grained"), FineGrained)
    assert isinstance(find_provider("border_contrast"), BorderContrast)
    assert isinstance(find_provider("input_gradient"), InputGradient)
    assert isinstance(find_provider("grad_cam"), GradCAM)
    provider = FineGrained()
    assert find_provider(provider) is provider


def test_values_that_are_not_finite_count_as_0_and_the_others_are_bounded():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e9, -1e9, 0.5])
    assert finite(values, 1e4).tolist() == [0, 0, 0, 1e4, -1e4, 0.5]
    assert finite(1e10 * values.double()).tolist() == [0, 0, 0, 1e15, -1e15, 5e9]


@pytest.mark.parametrize("scale", [0.05, 1.0, 100.0, -100.0])
def test_flatness_is_relative_to_the_magnitude(scale):
    step = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert is_flat(scale * (1 + 2e-5 * step)).item()
    assert not is_flat(scale * (1 + 1e-3 * step)).item()


def test_the_small_tools_of_model_free_saliency():
    images = torch.rand(2, 3, 4, 5)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    levels = grey_levels(images)
    torch.testing.assert_close(levels, 255 * luma, rtol=0, atol=0.501)
    assert torch.equal(levels, levels.round())
    four = torch.rand(2, 4, 5, 6)
    expected = 255 * four.mean(1, keepdim=True)
    torch.testing.assert_close(grey_levels(four), expected, rtol=0, atol=0.501)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30]).view(1, 1, 1, 5)
    bounded = finite(grey_levels(odd), FAR_OUTSIDE * WHITE)
    assert bounded.flatten().tolist() == [0, 0, 0, 255e4, -255e4]
    expected = [0.15574, 0.68851, 0.15574]  # in the ratio of 1 to exp(-0.5 / 0.58 ** 2)
    assert gaussian_weights(3, 0.58) == pytest.approx(expected, abs=1e-5)
    for scale in (1, 0.5, 0.25):  # of 8-bit colours, whose grey levels tie
        colours = scale * torch.randint(256, (1, 3, 64, 64)).double() / 255
        low, high = (grey_levels(colours * (1 + noise)) for noise in (-1e-7, 1e-7))
        assert torch.equal(low, high)
    images[0] = 0.25
    images[1, 0] = 0.5
    assert is_flat(images).flatten().tolist() == [True, False]
    maps = torch.stack([torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])])
    expected = torch.tensor([[[0.25, 0.5], [0.0, 1.0]]])
    assert torch.equal(scale_to_one(maps), torch.stack([torch.zeros(1, 2, 2), expected]))
