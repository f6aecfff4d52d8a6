"""Mixing views with one pairing, in pixels and in tokens."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("timm")
from examples.isic2018.mixing import ViewMixer, join, patch_embedding, second_batch
from examples.isic2018.model import build_model
from spmix_aug import SaliencyPatchMix

# Six patches are enough to tell them apart.
pytestmark = pytest.mark.filterwarnings("ignore:Expected `patch_size` to give 16 patches")

LABELS = torch.tensor([0, 1, 2, 0, 1, 0])


def make_mixer(**options):
    return SaliencyPatchMix(
        class_counts=[100, 20, 5],
        patch_size=8,
        saliency="border_contrast",
        p=1.0,
        generator=torch.Generator().manual_seed(0),
        **options,
    )


@pytest.fixture
def views():
    torch.manual_seed(0)
    return [torch.rand(6, 3, 16, 24) for _ in range(2)]


class Linear(nn.Module):
    """A linear patch embedding, so that mixing tokens is mixing pixels."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images):
        return self.patch_embed(images)


@pytest.mark.parametrize("half", [False, True])
def test_tokens_and_pixels_agree_behind_a_linear_embedding(views, half):
    model = Linear()
    outputs = []
    for in_tokens in (False, True):
        mixer = make_mixer(pairing=second_batch if half else "relative")
        embedding = patch_embedding(model) if in_tokens else None
        mixed = ViewMixer(mixer, embedding, half=half)(views, [], LABELS, model)
        with mixed.inside:
            outputs.append(model(mixed.images))
        own = 3 if half else 6
        assert outputs[-1].shape == (2 * own, 4, 2, 3)
        assert torch.equal(mixed.classes, LABELS[:own].repeat(2))
        assert torch.equal(mixed.targets, F.one_hot(mixed.classes, 3).float())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    assert not model.patch_embed._forward_hooks
    plain = torch.cat([model(view[:own]) for view in views])
    assert not torch.allclose(outputs[0], plain)


def test_views_share_their_pairing_and_have_their_own_ratios(views):
    mixer = make_mixer()
    seen = []
    real = mixer.plan
    mixer.plan = lambda *args, **kwargs: seen.append(real(*args, **kwargs)) or seen[-1]
    ViewMixer(mixer, half=False)(views, [], LABELS, Linear())
    first, second = seen
    assert torch.equal(first.partner, second.partner)
    assert not torch.equal(first.ratios, second.ratios)
    both = join(seen)
    joined = both.images(torch.cat(views))
    apart = torch.cat([plan.images(view) for plan, view in zip(seen, views, strict=True)])
    assert torch.equal(joined, apart)


def test_given_maps_decide(views):
    maps = [torch.zeros(6, 1, 16, 24, dtype=torch.uint8) for _ in views]
    maps[0][:, :, :8, :8] = 255
    maps[1][:, :, 8:, 8:] = 255
    mixer = make_mixer()
    mixed = ViewMixer(mixer, half=False)(views, maps, LABELS, Linear())
    plan = make_mixer().plan(views[0], LABELS, saliency=maps[0].float())
    other = make_mixer().plan(views[1], LABELS, saliency=maps[1].float(), partner=plan.partner)
    assert torch.equal(mixed.images[:6], plan.images(views[0]))
    assert torch.equal(mixed.images[6:], other.images(views[1]))
    moved = plan.partner != torch.arange(6)
    assert bool((plan.ratios[moved, 0, 0] > plan.ratios[moved, 1, 1]).all())


@pytest.mark.parametrize("half", [False, True])
def test_without_a_mixer_the_own_images_pass(views, half):
    mixed = ViewMixer(None, half=half)(views, [], LABELS, Linear())
    own = 3 if half else 6
    assert torch.equal(mixed.images, torch.cat([view[:own] for view in views]))
    assert torch.equal(mixed.targets, LABELS[:own].repeat(2))


def test_a_second_batch_is_paired_one_to_one():
    assert second_batch(LABELS, torch.ones(3), None).tolist() == [3, 4, 5, 3, 4, 5]


def test_tokens_need_a_patch_embedding():
    with pytest.raises(ValueError, match="no patch embedding to mix behind in Sequential"):
        patch_embedding(build_model("small_cnn", 3))


def test_the_tiny_hybrid_has_the_papers_form():
    model = build_model("tiny_hybrid_vit", 7, image_size=64)
    images = torch.rand(4, 3, 64, 64)
    assert model.patch_embed(images).shape == (4, 256, 96)
    assert model(images).shape == (4, 7)
    plan = SaliencyPatchMix(
        num_classes=7, patch_size=4, p=1.0, pairing="any", saliency="border_contrast"
    ).plan(images, torch.arange(4))
    model.eval()
    with plan.hooked(model.patch_embed):
        mixed = model(images)
    assert not torch.allclose(mixed, model(images))
