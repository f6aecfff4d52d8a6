"""A plan blends what it says, and nothing else."""

import copy
import re

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from spmix_aug import MixPlan
from spmix_aug.functional import blend, expand_to_pixels, patch_grid


def make_plan(
    batch, size, patch_size, seed=0, ratios=None, partner=None, dtype=torch.float64, device="cpu"
):
    generator = torch.Generator().manual_seed(seed)
    if partner is None:
        partner = torch.randint(max(batch, 1), (batch,), generator=generator)
    if ratios is None:
        grid = patch_grid(size, patch_size)
        ratios = torch.rand(batch, *grid, generator=generator, dtype=dtype)
        ratios[partner == torch.arange(batch)] = 1
    return MixPlan(partner, ratios, torch.ones(batch, 1), patch_size, size).to(device)


def test_its_repr_has_sizes_and_no_values():
    plan = make_plan(4, (28, 30), 2)
    told = "MixPlan(samples=4, patches=14x15 of 2 pixels, image_size=(28, 30))"
    assert repr(plan) == told


@pytest.mark.parametrize("size", [(12, 20), (120, 130)])  # gathered, and one by one
def test_images_are_blended_patch_by_patch(size, device):
    plan, images = make_plan(4, size, 16, device=device), torch.rand(4, 3, *size, device=device)
    ratios = expand_to_pixels(plan.ratios, 16, size).unsqueeze(1)
    expected = blend(images, images[plan.partner], ratios)
    assert torch.equal(plan.images(images), expected)
    assert plan.images(images.clone().requires_grad_()).requires_grad
    assert plan.images(images, inplace=True) is images
    assert torch.equal(images, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 1, 12, 20).expand(-1, 3, -1, -1), r"share memory .* images.clone\(\)"),
        (torch.rand(4, 12, 24).unfold(2, 20, 2).movedim(2, 1), r"share memory \(expand or unf"),
        (torch.inference_mode()(torch.rand)(4, 3, 12, 20), r"torch.inference_mode\(\); give"),
    ],
)
def test_images_that_cannot_be_written_are_refused_in_place(images, message):
    plan = make_plan(4, (12, 20), 4)
    with pytest.raises(ValueError, match=message):
        plan.images(images, inplace=True)
    assert plan.images(images).shape == images.shape


@pytest.mark.parametrize("inplace", [1, np.zeros(2), torch.zeros(2)])
def test_inplace_is_true_or_false(inplace):
    with pytest.raises(TypeError, match="`inplace` to be True or False, but got"):
        make_plan(4, (12, 20), 4).images(torch.rand(4, 3, 12, 20), inplace=inplace)


def test_a_plan_cannot_be_changed():
    plan = make_plan(2, (4, 4), 2)
    with pytest.raises(AttributeError, match="cannot assign"):
        plan.patch_size = 3


def test_plans_are_told_apart_by_identity():
    plan = make_plan(2, (4, 4), 2)
    assert len({plan, plan, copy.copy(plan)}) == 2
    assert plan != copy.copy(plan)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([1], TypeError, r"`images` to be a tensor of shape \(B,C,H,W\), but got list"),
        (torch.zeros(4, 3, 12, 20, dtype=torch.int64), TypeError, "but got torch.int64"),
        (torch.zeros(4, 12, 20), ValueError, r"\(B,C,H,W\).*got shape \(4, 12, 20\)"),
        (torch.zeros(3, 3, 12, 20), ValueError, r"plan's shape \(4, 3, 12, 20\).*\(3, 3, 12, 20\)"),
        (torch.zeros(4, 3, 20, 12), ValueError, r"plan's shape .*\(4, 3, 20, 12\)"),
        (torch.zeros(4, 3, 12, 20, device="meta"), ValueError, "device cpu, but got meta"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        make_plan(4, (12, 20), 4).images(images)


class TestTokens:
    @given(st.integers(0, 3), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99))
    def test_they_agree_with_a_slow_loop(self, device, batch, width, prefix, seed):
        plan = make_plan(batch, (6, 9), 3, seed)
        tokens = torch.rand(batch, prefix + 6, width, dtype=torch.float64)
        expected = reference.blend_tokens(tokens, plan.partner, plan.ratios, prefix)
        found = plan.to(device).tokens(tokens.to(device), prefix).cpu()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert torch.equal(found[:, :prefix], tokens[:, :prefix])

    @given(
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(0, 99),
    )
    def test_mixing_behind_a_linear_patch_embedding_is_mixing_pixels(
        self, device, rows, columns, patch_size, channels, seed
    ):
        torch.manual_seed(seed)
        size = (rows * patch_size, columns * patch_size)
        images = torch.rand(4, channels, *size, device=device)
        embed = nn.Conv2d(channels, 5, patch_size, patch_size, device=device)
        plan = make_plan(4, size, patch_size, seed, device=device)
        with torch.no_grad():
            expected = embed(plan.images(images))
            features = embed(images)
            maps = plan.tokens(features)
            flat = plan.tokens(features.flatten(2).transpose(1, 2))
            last = plan.tokens(features.permute(0, 2, 3, 1), layout="NHWC")
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(flat.transpose(1, 2).reshape(expected.shape), maps)
        torch.testing.assert_close(last.permute(0, 3, 1, 2), maps)

    def test_a_finer_grid_takes_the_ratio_of_its_patch(self):
        plan, images = make_plan(4, (8, 12), 4), torch.rand(4, 3, 8, 12, dtype=torch.float64)
        torch.testing.assert_close(plan.tokens(images), plan.images(images))

    def test_a_coarser_grid_takes_the_mean(self):
        ratios = torch.tensor([[[1.0, 0.6], [0.5, 0.7]], [[1.0, 1.0], [1.0, 1.0]]])
        plan = make_plan(2, (8, 8), 4, ratios=ratios, partner=torch.tensor([1, 1]))
        mixed = plan.tokens(torch.tensor([[[1.0]], [[0.0]]]))
        assert mixed.flatten().tolist() == pytest.approx([0.7, 0.0])

    def test_memory_format_and_input_are_kept(self, device):
        plan = make_plan(4, (12, 20), 4, device=device)
        maps = torch.rand(4, 3, 6, 10, device=device)
        before = maps.clone()
        assert plan.tokens(maps.to(memory_format=torch.channels_last)).is_contiguous(
            memory_format=torch.channels_last
        )
        assert torch.equal(maps, before)

    def test_what_stays_unmixed_is_bit_identical_on_any_grid(self, device):
        plan = make_plan(3, (7, 9), 3, partner=torch.tensor([0, 0, 2]), device=device)
        tokens = torch.rand(3, 5, 4, 6, device=device) * 1e3
        tokens[0, 0, 0, 0] = float("nan")
        mixed = plan.tokens(tokens)
        assert torch.equal(mixed[0].nan_to_num(7), tokens[0].nan_to_num(7))
        assert torch.equal(mixed[2], tokens[2])
        assert not torch.equal(mixed[1], tokens[1])

    def test_gradients_flow_to_own_and_partner(self, device):
        plan = make_plan(3, (4, 6), 2, device=device)
        tokens = torch.rand(3, 8, 2, dtype=torch.float64, device=device, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t: plan.tokens(t, prefix_tokens=2), tokens)

    def test_no_value_is_read(self):
        ratios, partner = torch.ones(4, 3, 5, device="meta"), torch.arange(4, device="meta")
        plan = MixPlan(partner, ratios, torch.ones(4, 1, device="meta"), 4, (12, 20))
        assert plan.tokens(torch.rand(4, 16, 6, device="meta"), 1).shape == (4, 16, 6)
        assert plan.tokens(torch.rand(4, 6, 6, 10, device="meta")).shape == (4, 6, 6, 10)

    @pytest.mark.parametrize(
        ("tokens", "options", "error", "message"),
        [
            ([1], {}, TypeError, "`tokens` to be a tensor, but got list"),
            (torch.ones(4, 3, 5, dtype=torch.int64), {}, TypeError, "ids do not blend"),
            (torch.ones(3, 15, 6), {}, ValueError, r"plan's B = 4, but got shape \(3, 15, 6\)"),
            (torch.ones(4, 15), {}, ValueError, r"shape \(B,N,D\).*got shape \(4, 15\)"),
            (torch.ones(4, 15, 6, device="meta"), {}, ValueError, "device cpu, but got meta"),
            (torch.ones(4, 17, 6), {}, ValueError, r"17 .* have none; give `grid`"),
            (torch.ones(4, 16, 6), {"prefix_tokens": -1}, ValueError, "`prefix_tokens` to be at"),
            (torch.ones(4, 16, 6), {"prefix_tokens": np.uint8(99)}, ValueError, "got -83 with"),
            (torch.ones(4, 16, 6).to_sparse(), {}, TypeError, "`tokens` to be a dense tensor"),
            (torch.ones(4, 5, 0, 0), {}, ValueError, r"`tokens` to have shape .* \(4, 5, 0, 0\)"),
            (torch.ones(4, 1, 6), {"prefix_tokens": 1}, ValueError, "0 .* have none; give `grid`"),
            (torch.ones(4, 15, 6), {"grid": (3, 4)}, ValueError, r"15 cells.*got \(3, 4\)"),
            (torch.ones(4, 15, 6), {"grid": 3}, TypeError, r"\(rows, columns\), but got int 3"),
            (torch.ones(4, 2, 3, 5), {"prefix_tokens": 1}, ValueError, "0 for feature maps"),
            (torch.ones(4, 2, 3, 5), {"grid": (3, 4)}, ValueError, r"of `grid` \(3, 4\), but got"),
            (torch.ones(4, 3, 5, 64), {}, ValueError, r"maps of \(5, 64\); .*grid=\(5, 64\) if"),
            (torch.ones(4, 3, 5, 2), {"layout": "HWC"}, ValueError, "`layout` to be one of"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tokens, options, error, message):
        with pytest.raises(error, match=message):
            make_plan(4, (12, 20), 4).tokens(tokens, **options)

    def test_a_grid_out_of_proportion_is_asked_for(self):
        plan, tokens = make_plan(4, (28, 28), 4), torch.rand(4, 56, 2)
        with pytest.raises(ValueError, match=r"got 56 without .* which have none; give `grid`"):
            plan.tokens(tokens)
        assert plan.tokens(tokens, grid=(7, 8)).shape == tokens.shape


class Tiny(nn.Module):
    """A patch embedding and a head, with the embedding checkpointed where asked."""

    def __init__(self, use_reentrant=None):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 5)
        self.use_reentrant = use_reentrant

    def features(self, images):
        return self.embed(images).tanh()

    def forward(self, images):
        if self.use_reentrant is None:
            features = self.features(images)
        else:
            features = checkpoint(self.features, images, use_reentrant=self.use_reentrant)
        return self.head(features.mean(dim=(2, 3)))

    def mixed(self, images, plan):
        """What a plan should make of it, without hooks."""
        return self.head(plan.tokens(self.embed(images)).tanh().mean(dim=(2, 3)))


@pytest.fixture
def tiny(device):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 12, 20, device=device)
    return Tiny().to(device), images, make_plan(4, (12, 20), 4, device=device)


class TestHooked:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"layout": np.zeros(2)}, TypeError, "`layout` to be one of 'NCHW', 'NHWC' or None"),
            ({"layout": ""}, ValueError, "`layout` to be one of 'NCHW', 'NHWC' or None"),
            ({"grid": 3}, TypeError, r"`grid` to be \(rows, columns\)"),
            ({"prefix_tokens": None}, TypeError, "`prefix_tokens` to be an integer"),
        ],
    )
    def test_options_are_checked_before_the_model_runs(self, options, error, message):
        plan = make_plan(4, (12, 20), 4)
        with pytest.raises(error, match=message), plan.hooked(nn.Identity(), **options):
            pytest.fail("the block was entered")

    def test_a_model_mixes_inside_its_forward(self, tiny):
        model, images, plan = tiny
        with plan.hooked(model.embed):
            found = model(images)
        assert torch.equal(found, model.mixed(images, plan))
        assert not torch.equal(found, model(images))

    def test_gradients_are_those_of_mixing_by_hand(self, tiny):
        model, images, plan = tiny
        other = copy.deepcopy(model)
        with plan.hooked(model.embed):
            model(images).square().sum().backward()
        other.mixed(images, plan).square().sum().backward()
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)

    def test_the_module_is_as_it_was_also_after_an_error(self, tiny):
        model, images, plan = tiny
        model.embed.register_forward_hook(lambda module, inputs, output: 2 * output)
        hooks = dict(model.embed._forward_hooks)
        with plan.hooked(model.embed):
            model(images)
        assert dict(model.embed._forward_hooks) == hooks
        with pytest.raises(RuntimeError, match="mine"), plan.hooked(model.embed):
            raise RuntimeError("mine")
        assert dict(model.embed._forward_hooks) == hooks
        with pytest.raises(ValueError, match="plan's B = 4"), plan.hooked(model.embed):
            model(images[:2])
        assert dict(model.embed._forward_hooks) == hooks

    def test_it_nests_and_repeats(self, tiny):
        model, images, plan = tiny
        other = copy.deepcopy(model)
        second = make_plan(4, (12, 20), 4, seed=1, device=images.device)
        with plan.hooked(model.embed), second.hooked(other.embed):
            found = model(images), other(images), model(images)
        assert torch.equal(found[0], model.mixed(images, plan))
        assert torch.equal(found[1], model.mixed(images, second))
        assert torch.equal(found[2], found[0])
        with plan.hooked(model.embed), second.hooked(model.embed):
            twice = model.embed(images)
        assert torch.equal(twice, second.tokens(plan.tokens(model.embed(images))))

    def test_autocast_keeps_its_dtype(self, tiny):
        model, images, _ = tiny
        at = images.device
        plan = make_plan(4, (12, 20), 8, dtype=torch.float32, device=at)  # not the tokens' grid
        with torch.autocast(at.type, torch.bfloat16), plan.hooked(model.embed):
            found = model.embed(images)
            features = model.embed._conv_forward(images, *model.embed.parameters())
        expected = plan.tokens(features)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)

    def test_no_grad_and_inference_around_the_block_are_fine(self, tiny):
        model, images, plan = tiny
        expected = model.mixed(images, plan).detach()
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode, plan.hooked(model.embed):
                assert torch.equal(model(images), expected)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_a_checkpointed_module_is_mixed_again_inside_the_block(self, tiny, use_reentrant):
        model, images, plan = tiny
        other = Tiny(use_reentrant).to(images.device)
        other.load_state_dict(model.state_dict())
        with plan.hooked(other.embed):
            other(images.requires_grad_()).square().sum().backward()
        model.mixed(images, plan).square().sum().backward()
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)

    def test_a_frozen_part_without_gradients_is_fine(self, tiny):
        model, images, plan = tiny
        model.embed.requires_grad_(False)
        with plan.hooked(model.embed), torch.no_grad():
            found = model.embed(images)
        assert torch.equal(found, plan.tokens(model.embed(images)))

    def test_a_checkpointed_module_whose_backward_is_outside_raises(self, tiny):
        _, images, plan = tiny
        model = Tiny(use_reentrant=True).to(images.device)
        with pytest.raises(ValueError, match=r"call backward\(\) inside"), plan.hooked(model.embed):
            model(images.requires_grad_())
        model = Tiny(use_reentrant=False).to(images.device)
        with plan.hooked(model.embed):
            logits = model(images)
        with pytest.raises(RuntimeError, match="different number of tensors"):
            logits.sum().backward()

    def test_a_compiled_model_is_never_silently_unmixed(self, tiny):
        model, images, plan = tiny
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager")
        plain = compiled(images)
        try:
            with plan.hooked(model.embed):
                found = compiled(images)
        except ValueError as error:
            assert re.search(r"never did.*compiled", str(error))  # noqa: PT017
        else:  # torch before 2.5 notices the hook and runs uncompiled
            torch.testing.assert_close(found, model.mixed(images, plan))
        assert torch.equal(compiled(images), plain)

    def test_a_model_that_is_compiled_in_the_block_keeps_no_old_plan(self, tiny):
        model, images, plan = tiny
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager")
        for current in (plan, make_plan(4, (12, 20), 4, seed=1, device=images.device)):
            with current.hooked(model.embed):
                found = compiled(images)
            torch.testing.assert_close(found, model.mixed(images, current))
            torch.testing.assert_close(compiled(images), model(images))

    def test_parts_of_a_model_may_be_compiled(self, tiny):
        model, images, plan = tiny
        torch.compiler.reset()
        expected = model.mixed(images, plan)
        model.head.compile(backend="eager")
        model.embed.compile(backend="eager")
        with plan.hooked(model.embed):
            torch.testing.assert_close(model(images), expected)

    def test_layouts_are_told_apart(self):
        plan = make_plan(4, (12, 20), 4)
        maps = torch.rand(4, 7, 6, 10)
        with plan.hooked(identity := nn.Identity()):
            first = identity(maps)
            last = identity(maps.permute(0, 2, 3, 1))
        assert torch.equal(first, plan.tokens(maps))
        assert torch.equal(last.permute(0, 3, 1, 2), first)
        square = make_plan(4, (12, 12), 4)
        unclear = torch.rand(4, 6, 6, 6)
        with (
            pytest.raises(ValueError, match=r"both layouts fit; give `layout`"),
            square.hooked(identity),
        ):
            identity(unclear)
        with square.hooked(identity, layout="NHWC"):
            assert torch.equal(identity(unclear), square.tokens(unclear, layout="NHWC"))
        with (
            pytest.raises(ValueError, match="no layout fits; give `layout` and `grid`"),
            plan.hooked(identity),
        ):
            identity(unclear)
        with plan.hooked(identity, grid=(6, 7)):
            for given in (torch.rand(4, 5, 6, 7), torch.rand(4, 42, 2)):
                assert torch.equal(identity(given), plan.tokens(given, grid=(6, 7)))
        for layout in ("NCHW", "NHWC"):
            identity.output_fmt = layout
            with square.hooked(identity):
                assert torch.equal(identity(unclear), square.tokens(unclear, layout=layout))

    @pytest.mark.parametrize("layout", ["NLC", "NCL", "NHWC", "NCHW"])
    def test_what_timm_says_of_its_output_counts(self, layout):
        layers = pytest.importorskip("timm.layers")
        torch.manual_seed(0)
        # 16 patches and 16 channels: shapes tell nothing.
        embed = layers.PatchEmbed(16, 4, 3, 16, output_fmt=layout)
        images, plan = torch.rand(4, 3, 16, 16), make_plan(4, (16, 16), 4, dtype=torch.float32)
        features = embed(images)
        if layout == "NCL":
            with pytest.raises(ValueError, match="output_fmt NCL"), plan.hooked(embed):
                embed(images)
            return
        with plan.hooked(embed):
            found = embed(images)
        if layout == "NLC":
            assert torch.equal(found, plan.tokens(features))
        else:
            assert torch.equal(found, plan.tokens(features, layout=layout))

    def test_wrong_use_is_refused(self, tiny):
        model, images, plan = tiny
        with pytest.raises(TypeError, match=r"torch.nn.Module, but got str"), plan.hooked("embed"):
            pass
        other = nn.Linear(1, 1)
        with pytest.raises(ValueError, match="got Linear, which never did"), plan.hooked(other):
            model(images)
        pair = nn.Module()
        pair.forward = lambda images: (images, (3, 5))
        with pytest.raises(TypeError, match="got tuple from Module; hook"), plan.hooked(pair):
            pair(images)

    @pytest.mark.parametrize(
        ("name", "options", "prefix"),
        [
            ("vit_tiny_patch16_224", {}, 1),
            ("vit_tiny_patch16_224", {"dynamic_img_size": True}, 1),
            ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "patch_size": 8}, 5),
            ("swin_tiny_patch4_window7_224", {"window_size": 4}, None),
            ("convnext_atto", {}, None),
        ],
    )
    def test_models_of_timm(self, name, options, prefix):
        timm = pytest.importorskip("timm")
        size = (64, 64) if "reg4" not in name else (56, 56)
        if name.startswith(("vit_tiny", "swin")):
            options = {"img_size": 64, **options}
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **options).eval()
        images, plan = torch.rand(4, 3, *size), make_plan(4, size, 8)
        embed = model.stem if name == "convnext_atto" else model.patch_embed
        with torch.no_grad():
            plain, features = model(images), embed(images)
            with plan.hooked(embed):
                mixed, found = model(images), embed(images)
            layout = "NHWC" if features.ndim == 4 and name != "convnext_atto" else "NCHW"
            assert torch.equal(found, plan.tokens(features, layout=layout))
            if name.startswith("vit"):
                with plan.hooked(model.blocks[0], prefix_tokens=prefix):
                    later = model(images)
                assert not torch.allclose(later, plain)
        passes = plan.partner == torch.arange(4)
        torch.testing.assert_close(mixed[passes], plain[passes])
        assert not torch.allclose(mixed[~passes], plain[~passes])
