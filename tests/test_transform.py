"""The batch transform keeps its promises for every form of input."""

import copy
import pickle
import warnings
from collections import UserDict, namedtuple
from types import MappingProxyType

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare
from torch import nn
from torch.nn import functional as F

from spmix_aug import SaliencyPatchMix
from spmix_aug.saliency import BorderContrast, FineGrained, SpectralResidual

few_patches = pytest.mark.filterwarnings("ignore:Expected `patch_size` to give 16 patches")


def brightness(images, labels, model):
    """A transparent saliency for tests."""
    return images.mean(dim=1)


def noise_images(batch, channels=3, size=(20, 28), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, *size, generator=generator).to(dtype)


class TestAgainstTheFormulas:
    @few_patches
    @given(
        batch=st.sampled_from([0, 1, 2, 3, 5]),
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        patch_size=st.integers(1, 12),
        bounds=st.sampled_from([(0.0, 0.3), (0.0, 1.0), (0.5, 0.8), (0.9, 1.0), (0.6, 0.6)]),
        normalize=st.sampled_from(["min_max", "soft_threshold"]),
        pairing=st.sampled_from(["relative", "any"]),
        seed=st.integers(0, 99),
    )
    def test_whole_way_agrees_with_slow_loops(
        self, batch, size, patch_size, bounds, normalize, pairing, seed
    ):
        (floor, alpha), images = bounds, noise_images(batch, 2, size, torch.float64, seed)
        labels = torch.randint(3, (batch,), generator=torch.Generator().manual_seed(seed))
        mixer = SaliencyPatchMix(
            num_classes=3,
            saliency=brightness,
            patch_size=patch_size,
            floor=floor,
            alpha=alpha,
            normalize=normalize,
            p=0.8,
            pairing=pairing,
            target="ratio",
            generator=torch.Generator().manual_seed(seed),
        )
        plan = mixer.plan(images, labels)
        scores = reference.patch_scores(images.mean(dim=1), patch_size)
        ratios = reference.ratios(scores, plan.partner, floor, alpha, normalize)
        targets = reference.ratio_targets(labels, plan.partner, ratios, patch_size, size, 3)
        torch.testing.assert_close(plan.ratios.double(), ratios, rtol=0, atol=1e-6)
        torch.testing.assert_close(plan.targets.double(), targets, rtol=0, atol=1e-6)

    @few_patches
    def test_where_the_partner_is_salient_the_own_image_dominates(self):
        maps = torch.zeros(2, 32, 32)
        maps[0, :16, :16] = 1  # own object
        maps[1, 16:, 16:] = 1  # partner's object
        mixer = SaliencyPatchMix(num_classes=2, patch_size=16)
        plan = mixer.plan(
            torch.rand(2, 3, 32, 32),
            torch.tensor([0, 1]),
            saliency=maps,
            partner=torch.tensor([1, 0]),
        )
        expected = torch.tensor([[0.8, 0.5], [0.5, 0.8]])
        torch.testing.assert_close(plan.ratios[0], expected)
        torch.testing.assert_close(plan.ratios[1], expected)


class TestDraws:
    def test_every_class_is_mixed_with_probability_p(self):
        labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
        images = torch.rand(12, 1, 2, 2)
        mixer = SaliencyPatchMix(num_classes=3, saliency=brightness, patch_size=1, p=0.3)
        runs = 1500
        mixed = torch.stack(
            [mixer.plan(images, labels).partner != torch.arange(12) for _ in range(runs)]
        )
        for name in range(3):
            chosen = mixed[:, labels == name]
            assert binomtest(int(chosen.sum()), chosen.numel(), 0.3).pvalue > 1e-4

    def test_partners_of_a_class_at_least_as_frequent_are_uniform(self):
        labels = torch.tensor([0, 0, 0, 1, 1, 2])
        mixer = SaliencyPatchMix(class_counts=[900, 50, 90], saliency=brightness, p=1.0)
        images = torch.rand(6, 1, 2, 2)
        partners = torch.stack([mixer.plan(images, labels).partner for _ in range(3000)])
        eligible = {0: [1, 2], 3: [0, 1, 2, 4, 5], 5: [0, 1, 2]}
        for sample, allowed in eligible.items():
            seen = torch.bincount(partners[:, sample], minlength=6)
            assert int(seen[allowed].sum()) == 3000
            assert chisquare(seen[allowed].numpy()).pvalue > 1e-4

    def test_without_counts_the_batch_says_what_is_frequent(self):
        labels = torch.tensor([2, 2, 2, 0])
        mixer = SaliencyPatchMix(num_classes=3, saliency=brightness, p=1.0)
        for _ in range(50):
            partner = mixer.plan(torch.rand(4, 1, 2, 2), labels).partner
            assert 3 not in partner[:3]
            assert int(partner[3]) < 3

    def test_a_sample_without_an_eligible_partner_passes_through(self):
        images = torch.rand(3, 3, 16, 16)
        mixer = SaliencyPatchMix(class_counts=[5, 9], p=1.0)
        mixed, _ = mixer(images, torch.tensor([0, 0, 1]))
        assert torch.equal(mixed[2], images[2])
        assert not torch.equal(mixed[0], images[0])
        alone, _ = mixer(images[:1], torch.tensor([0]))
        assert torch.equal(alone, images[:1])

    def test_jitter_changes_ratios_by_its_own_draws(self):
        images, labels = noise_images(4), torch.tensor([0, 0, 1, 1])
        partner = torch.tensor([1, 0, 3, 2])
        plain = SaliencyPatchMix(num_classes=2, patch_size=4)
        jittered = SaliencyPatchMix(num_classes=2, patch_size=4, jitter=0.5)
        first, second = (jittered.plan(images, labels, partner=partner).ratios for _ in range(2))
        assert not torch.equal(first, second)
        assert not torch.equal(first, plain.plan(images, labels, partner=partner).ratios)
        assert float(first.min()) >= 0.5
        assert float(first.max()) <= 0.8 + 1e-6

    def test_the_default_dtype_does_not_matter(self, batch):
        def run():
            mixer = SaliencyPatchMix(num_classes=3, generator=torch.Generator().manual_seed(0))
            return mixer.plan(*batch).partner

        expected = run()
        torch.set_default_dtype(torch.bfloat16)
        try:
            assert torch.equal(run(), expected)
        finally:
            torch.set_default_dtype(torch.float32)

    def test_without_a_generator_the_global_seed_decides(self, batch):
        mixer = SaliencyPatchMix(num_classes=3, patch_size=4)
        torch.manual_seed(3)
        first = mixer(*batch)[0]
        assert not torch.equal(first, mixer(*batch)[0])
        torch.manual_seed(3)
        assert torch.equal(first, mixer(*batch)[0])


class TestPartnerAndSaliencyGiven:
    def test_partner_overrides_pairing_and_p(self, batch):
        images, labels = batch
        partner = torch.tensor([8, 1, 0, 3, 4, 5, 6, 7, 8], dtype=torch.int32)
        mixer = SaliencyPatchMix(num_classes=3, p=0.0)
        plan = mixer.plan(images, labels, partner=partner)
        assert torch.equal(plan.partner, partner.long())
        mixed = plan.images(images)
        own = partner == torch.arange(9)
        assert torch.equal(mixed[own], images[own])
        assert bool((mixed[~own] != images[~own]).any(dim=(1, 2, 3)).all())
        assert bool((plan.ratios[own] == 1).all())

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
    def test_maps_given_replace_the_provider(self, batch, dtype):
        images, labels = batch
        maps = (torch.rand(9, 1, 20, 28) > 0.5).to(dtype)
        mixer = SaliencyPatchMix(num_classes=3, saliency="grad_cam", p=1.0)
        plan = mixer.plan(images, labels, saliency=maps)
        assert torch.equal(plan.saliency.double(), maps.squeeze(1).double())

    def test_maps_that_are_not_finite_stay_in_their_image(self, batch):
        images, labels = batch
        maps = torch.rand(9, 20, 28)
        partner = torch.tensor([1, 2, 3, 4, 0, 6, 7, 5, 0])
        mixer = SaliencyPatchMix(num_classes=3, patch_size=4)
        clean = mixer.plan(images, labels, saliency=maps, partner=partner).ratios
        maps[4, 3, 3], maps[4, 9, 9] = float("nan"), float("inf")
        with pytest.warns(UserWarning, match="the given maps hold NaN or infinity"):
            broken = mixer.plan(images, labels, saliency=maps, partner=partner).ratios
        assert bool(broken.isfinite().all())
        touched = [3, 4]  # sample 4 itself, and sample 3, whose partner it is
        others = [i for i in range(9) if i not in touched]
        assert torch.equal(clean[others], broken[others])

    def test_a_uniform_ratio_needs_no_map(self, batch):
        def refused(images, labels, model):
            raise AssertionError("a map was asked for")

        settings = {"num_classes": 3, "floor": 0.7, "alpha": 0.7, "p": 1.0, "patch_size": 4}
        plan = SaliencyPatchMix(saliency=refused, **settings).plan(*batch)
        assert plan.ratios.shape == (9, 5, 7)
        assert (plan.ratios == 0.7).all()
        assert (plan.saliency == 1).all()
        with pytest.raises(ValueError, match="`model`"):
            SaliencyPatchMix(saliency="grad_cam", **settings).plan(*batch)

    def test_huge_maps_do_not_overflow(self, batch):
        images, labels = batch
        maps = torch.full((9, 20, 28), 3e38)
        maps[:, 5:9, 5:9] = 0
        mixer = SaliencyPatchMix(num_classes=3, patch_size=4, jitter=0.1, p=1.0)
        assert bool(mixer.plan(images, labels, saliency=maps).ratios.isfinite().all())

    def test_a_plan_shares_no_memory_with_what_it_was_given(self, batch):
        images, labels = batch
        partner = torch.arange(8, -1, -1)
        counts = torch.tensor([5, 3, 1])
        mixer = SaliencyPatchMix(class_counts=counts)
        plan = mixer.plan(images, labels, partner=partner)
        partner.zero_()
        counts.zero_()
        assert plan.partner.tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert mixer.class_counts.tolist() == [5, 3, 1]

    def test_views_share_their_pairs(self):
        mixer = SaliencyPatchMix(num_classes=2, p=1.0, patch_size=4)
        query, key, labels = noise_images(6), noise_images(6, seed=1), torch.arange(6) % 2
        plan = mixer.plan(query, labels)
        other = mixer.plan(key, labels, partner=plan.partner)
        assert torch.equal(plan.partner, other.partner)
        assert not torch.equal(plan.ratios, other.ratios)

    def test_a_callable_pairing_gets_counts_and_generator(self, batch):
        images, labels = batch
        generator, seen = torch.Generator(), []

        def backwards(labels, class_counts, generator):
            seen.append((labels.clone(), class_counts.clone(), generator))
            return torch.arange(len(labels) - 1, -1, -1)

        mixer = SaliencyPatchMix(
            class_counts=[50, 30, 10], pairing=backwards, p=1.0, generator=generator
        )
        plan = mixer.plan(images, labels)
        assert plan.partner.tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert torch.equal(seen[0][0], labels)
        assert seen[0][1].tolist() == [50, 30, 10]
        assert seen[0][2] is generator

    def test_what_a_callable_pairing_returns_is_checked(self, batch):
        mixer = SaliencyPatchMix(num_classes=3, pairing=lambda y, n, g: y[:-1])
        with pytest.raises(ValueError, match=r"partner that pairing returned.*shape \(9,\)"):
            mixer(*batch)


def test_a_provider_that_changes_another_is_heard():
    class Inverted(SpectralResidual):
        def __call__(self, images, labels=None, model=None):
            return 1 - super().__call__(images, labels, model)

    images, labels = torch.rand(2, 3, 40, 56), torch.tensor([0, 1])
    plan = SaliencyPatchMix(num_classes=2, saliency=Inverted(), p=1.0).plan(images, labels)
    assert torch.equal(plan.saliency, 1 - SpectralResidual()(images))


@pytest.mark.parametrize("provider", [SpectralResidual(), BorderContrast(), FineGrained(size=16)])
def test_coarse_maps_give_the_plan_of_their_enlargement(provider):
    images, labels = torch.rand(6, 3, 90, 130), torch.arange(6) % 3
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    mixer = SaliencyPatchMix(num_classes=3, saliency=provider)
    plan = mixer.plan(images, labels, partner=partner)
    enlarged = mixer.plan(images, labels, partner=partner, saliency=provider(images))
    assert plan.saliency.shape[1:] != (90, 130)
    assert enlarged.saliency.shape[1:] == (90, 130)
    torch.testing.assert_close(plan.ratios, enlarged.ratios, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "provider", [SpectralResidual(), FineGrained(), BorderContrast()], ids=repr
)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_images_of_other_dtypes_are_planned_as_their_float32(provider, normalised, dtype):
    # Eighths are exact in every floating dtype, and so are normalised ones.
    eighths = torch.randint(1, 5, (6, 3, 32, 40), generator=torch.Generator().manual_seed(0))
    images, labels, partner = eighths / 8, torch.arange(6) % 3, torch.arange(6).roll(1)
    other = images.to(dtype) if dtype.is_floating_point else (255 * images).round().to(dtype)
    if not dtype.is_floating_point:
        images = other / 255
    settings = {"num_classes": 3, "saliency": provider, "patch_size": 8}
    plans = [SaliencyPatchMix(**settings).plan(images, labels, partner=partner)]
    if normalised:
        settings |= {"mean": 0.5, "std": 0.25}
        other = (other - 0.5) / 0.25 if dtype.is_floating_point else other
    plans.append(SaliencyPatchMix(**settings).plan(other, labels, partner=partner))
    assert plans[0].saliency.std() > 0
    torch.testing.assert_close(plans[1].saliency, plans[0].saliency, rtol=0, atol=1e-5)
    torch.testing.assert_close(plans[1].ratios, plans[0].ratios, rtol=0, atol=1e-5)


class TestSaliencyCallables:
    def test_what_needs_a_model_sees_images_as_they_came(self):
        seen = []

        def spy(images, labels, model):
            seen.append((images, labels, model))
            return images.mean(dim=1, keepdim=True)

        spy.needs_model = True
        images, labels = torch.randn(4, 3, 8, 8), torch.tensor([[0], [1], [1], [0]])
        model = nn.Identity()
        mixer = SaliencyPatchMix(num_classes=2, saliency=spy, mean=0.5, std=0.2, p=1.0)
        mixer(images, labels, model)
        assert torch.equal(seen[0][0], images)
        assert torch.equal(seen[0][1], labels.squeeze(1))
        assert seen[0][2] is model

    def test_a_provider_without_model_sees_the_unit_range(self):
        class Spy:
            needs_model = False

            def __call__(self, images, labels=None, model=None):
                self.seen = images
                return images.mean(dim=1)

        mean, std = [0.7, 0.5, 0.6], [0.1, 0.2, 0.3]
        raw = torch.rand(4, 3, 8, 8)
        spy = Spy()
        mixer = SaliencyPatchMix(num_classes=2, saliency=spy, mean=mean, std=std, p=1.0)
        shape = (1, 3, 1, 1)
        normal = (raw - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
        mixer(normal, torch.tensor([0, 1, 1, 0]))
        torch.testing.assert_close(spy.seen, raw)
        mixer((raw * 255).round().to(torch.uint8), torch.tensor([0, 1, 1, 0]))
        torch.testing.assert_close(spy.seen, (raw * 255).round() / 255)

    @pytest.mark.parametrize("saliency", ["spectral_residual", "fine_grained", "border_contrast"])
    @pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
    def test_raw_and_normalised_images_give_one_plan(self, saliency, scale):
        raw, labels = noise_images(6, size=(64, 64)), torch.arange(6) % 2
        raw = scale * (255 * raw).round() / 255  # 8-bit colours are where grey levels tie
        mean, std = torch.tensor([0.7, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
        normal = (raw - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        plans = []
        for images, kwargs in ((raw, {}), (normal, {"mean": mean, "std": std})):
            mixer = SaliencyPatchMix(
                num_classes=2,
                saliency=saliency,
                generator=torch.Generator().manual_seed(0),
                **kwargs,
            )
            plans.append(mixer.plan(images, labels))
        assert torch.equal(plans[0].partner, plans[1].partner)
        torch.testing.assert_close(plans[0].ratios, plans[1].ratios, rtol=0, atol=1e-4)

    def test_what_a_callable_returns_is_checked(self, batch):
        mixer = SaliencyPatchMix(num_classes=3, saliency=lambda x, y, m: x)
        with pytest.raises(ValueError, match=r"`saliency` to have shape \(9, 20, 28\).*9, 3, 20"):
            mixer(*batch)


LABEL_FORMS = {
    "int64": lambda y: y,
    "int32": lambda y: y.int(),
    "uint16": lambda y: y.to(torch.uint16),
    "uint8": lambda y: y.to(torch.uint8),
    "column": lambda y: y.view(-1, 1),
    "integer one-hot": lambda y: F.one_hot(y, 3),
    "bool one-hot": lambda y: F.one_hot(y, 3).bool(),
    "float one-hot": lambda y: F.one_hot(y, 3).float(),
    "bfloat16 one-hot": lambda y: F.one_hot(y, 3).bfloat16(),
    "float64 one-hot": lambda y: F.one_hot(y, 3).double(),
}


class TestForms:
    @pytest.mark.parametrize("form", LABEL_FORMS)
    @pytest.mark.parametrize("target", ["own", "ratio"])
    def test_label_forms_agree(self, batch, form, target):
        images, labels = batch
        results = []
        for form_of_labels in (labels, LABEL_FORMS[form](labels)):
            mixer = SaliencyPatchMix(
                num_classes=3,
                patch_size=4,
                target=target,
                generator=torch.Generator().manual_seed(1),
            )
            results.append(mixer(images, form_of_labels))
        assert torch.equal(results[0][0], results[1][0])
        assert results[1][1].dtype == (torch.float64 if "float64" in form else torch.float32)
        torch.testing.assert_close(results[0][1], results[1][1].float())
        torch.testing.assert_close(results[1][1].sum(dim=1).double(), torch.ones(9).double())

    def test_soft_labels_pair_by_their_largest_class(self):
        soft = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
        mixer = SaliencyPatchMix(class_counts=[10, 5], p=1.0, saliency=brightness)
        images = torch.rand(3, 1, 2, 2)
        for _ in range(20):
            plan = mixer.plan(images, soft)
            assert plan.partner[:2].tolist() == [1, 0]
            assert torch.equal(plan.targets, soft)

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_a_packed_batch_comes_back_in_its_form(self, batch, kind):
        images, labels = batch
        extra = object()
        packed = kind([images, labels, extra])
        result = SaliencyPatchMix(num_classes=3)(packed)
        assert type(result) is kind
        assert result[0].shape == images.shape
        assert result[1].shape == (9, 3)
        assert result[2] is extra
        assert packed[0] is images

    def test_a_named_tuple_comes_back_in_its_form(self, batch):
        Batch = namedtuple("Batch", ["images", "labels"])
        result = SaliencyPatchMix(num_classes=3)(Batch(*batch))
        assert isinstance(result, Batch)
        assert result.labels.shape == (9, 3)

    @pytest.mark.parametrize("kind", [dict, UserDict])
    @pytest.mark.parametrize(
        "keys", [("image", "label"), ("pixel_values", "labels"), ("img", "target")]
    )
    def test_a_dict_comes_back_in_its_form(self, batch, kind, keys):
        images, labels = batch
        packed = kind({keys[0]: images, keys[1]: labels, "path": ["a"]})
        result = SaliencyPatchMix(num_classes=3)(packed)
        assert type(result) is kind
        assert result[keys[1]].shape == (9, 3)
        assert result["path"] is packed["path"]
        assert packed[keys[1]] is labels

    def test_dict_keys_can_be_named(self, batch):
        mixer = SaliencyPatchMix(num_classes=3, image_key="scan", label_key="finding")
        result = mixer({"scan": batch[0], "finding": batch[1], "label": None})
        assert result["finding"].shape == (9, 3)
        assert result["label"] is None

    @pytest.mark.parametrize(
        ("packed", "message"),
        [
            (
                {"scan": 1, "label": 2},
                "`image_key` to name one key .*one of image, images.*keys scan, label",
            ),
            (
                {"image": 1, "img": 1, "label": 2},
                "`image_key` to name one key .*keys image, img, label; name the",
            ),
            ({"image": 1}, "`label_key` to name one key of the batch, one of label, .*keys image;"),
            ((torch.zeros(1),), r"a batch \(images, labels, ...\), but got 1 item"),
        ],
    )
    def test_batches_without_images_or_labels_are_refused(self, packed, message):
        with pytest.raises(ValueError, match=message):
            SaliencyPatchMix(num_classes=3)(packed)

    @pytest.mark.parametrize("key", ["{scan}", "{0}", "{"])
    def test_keys_may_have_any_letters(self, batch, key):
        mixer = SaliencyPatchMix(num_classes=3, image_key=key)
        assert mixer({key: batch[0], "label": batch[1]})[key].shape == batch[0].shape
        with pytest.raises(ValueError, match=r"`image_key` to name one key of the batch, '\{"):
            mixer({"image": batch[0], "label": batch[1]})

    @few_patches
    @pytest.mark.parametrize("patch_size", [28, 2**31, 2**63 - 1])
    def test_a_patch_larger_than_the_image_is_all_of_it(self, batch, patch_size):
        options = {"num_classes": 3, "saliency": brightness, "target": "ratio", "jitter": 0.1}
        mixer = SaliencyPatchMix(**options, patch_size=patch_size)
        plan = mixer.plan(*batch)
        assert plan.ratios.shape == (9, 1, 1)
        assert plan.images(batch[0]).shape == batch[0].shape


class TestModule:
    @pytest.mark.parametrize("how", ["eval", "p"])
    def test_off_is_the_identity_with_one_hot_targets(self, batch, how):
        images, labels = batch
        mixer = SaliencyPatchMix(num_classes=3, p=0.0 if how == "p" else 1.0, target="ratio")
        if how == "eval":
            mixer.eval()
        mixed, targets = mixer(images, labels)
        assert torch.equal(mixed, images)
        assert torch.equal(targets, F.one_hot(labels, 3).float())
        plan = mixer.plan(images, labels)
        assert plan.saliency is None
        assert plan.ratios.shape == (9, 10, 14)

    def test_random_choice_of_torchvision_takes_it(self, batch):
        v2 = pytest.importorskip("torchvision.transforms.v2")
        chooser = v2.RandomChoice([SaliencyPatchMix(num_classes=3), v2.MixUp(num_classes=3)])
        for _ in range(4):
            mixed, targets = chooser(*batch)
            assert mixed.shape == batch[0].shape
            assert targets.shape == (9, 3)


IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
FROZEN = MappingProxyType({"image": IMAGES, "label": LABELS})
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both kinds are announced as prototypes or as deprecated
    NESTED = torch.nested.nested_tensor(list(IMAGES))
    BYTES = torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.quint8)


META = torch.ones(3, device="meta")
# One setting each, refused as soon as it is set.
WRONG = [
    ("num_classes", 0, ValueError, "`num_classes` to be at least 1, but got 0"),
    ("num_classes", 2.0, TypeError, "`num_classes` to be an integer, but got float 2.0"),
    ("num_classes", True, TypeError, "`num_classes` to be an integer"),
    ("num_classes", 2**31, ValueError, "`num_classes` to be at most 16777216"),
    ("class_counts", "abc", TypeError, "`class_counts` to be numbers, but got str 'abc'"),
    ("class_counts", [[1]], ValueError, r"`class_counts` to have shape \(K,\)"),
    ("class_counts", [], ValueError, r"`class_counts` to have shape \(K,\)"),
    ("class_counts", [True], TypeError, "`class_counts` to be numbers"),
    ("class_counts", [1, -1], ValueError, r"at least 0, but got .*\[1, -1\]"),
    ("class_counts", [1.0, float("nan")], ValueError, "`class_counts` to be finite"),
    ("class_counts", [1e300], ValueError, r"finite .* got .*\[inf\]"),
    ("class_counts", META, TypeError, "`class_counts` to be numbers, but got a tensor"),
    ("saliency", "gradcam", ValueError, "'spectral_residual'.*but got 'gradcam'"),
    ("saliency", 3, TypeError, "`saliency` to be one of .* or a callable, but got int 3"),
    ("saliency", nn.Linear, TypeError, "`saliency` .* got the class Linear; make one by"),
    ("patch_size", 0, ValueError, "`patch_size` to be at least 1"),
    ("patch_size", 1.5, TypeError, "`patch_size` to be an integer"),
    ("patch_size", 10**400, ValueError, "`patch_size` to be at most 9223372036854775807"),
    ("alpha", 1.1, ValueError, r"`alpha` to be in \[0, 1\], but got 1.1"),
    ("alpha", 10**400, ValueError, r"`alpha` to be in \[0, 1\], but got inf"),
    ("floor", -0.1, ValueError, r"`floor` to be in \[0, 1\], but got -0.1"),
    ("floor", "x", TypeError, "`floor` to be a number, but got str 'x'"),
    ("normalize", "rank", ValueError, "one of 'min_max', 'soft_threshold', but got 'r"),
    ("jitter", -1, ValueError, r"`jitter` to be in \[0, 1e\+06\], but got -1"),
    ("jitter", float("inf"), ValueError, r"`jitter` to be in \[0, 1e\+06\]"),
    ("jitter", 1e308, ValueError, r"`jitter` to be in \[0, 1e\+06\]"),
    ("p", float("nan"), ValueError, r"`p` to be in \[0, 1\], but got nan"),
    ("pairing", "tail", ValueError, "'relative', 'any' or a callable, but got 'tail'"),
    ("target", "mix", ValueError, "`target` to be one of 'own', 'ratio', but got 'mix'"),
    pytest.param("target", 10**5000, TypeError, "but got .*cannot be shown", id="unprintable"),
    ("mean", "a", TypeError, "`mean` to be numbers, but got str"),
    ("mean", [], ValueError, "`mean` to be a finite number or one a chan"),
    ("std", 0, ValueError, "`std` to be positive"),
    ("std", [0.2, float("nan")], ValueError, "`std` to be a finite number or one a chan"),
    ("image_key", ["x"], TypeError, "`image_key` to be a key, .* or None, but got list"),
    ("label_key", True, TypeError, "`label_key` to be a key, .* or None, but got bool True"),
    ("inplace", "no", TypeError, "`inplace` to be True or False, but got str 'no'"),
    ("generator", 3, TypeError, "`generator` to be a torch.Generator or None.*; make one"),
]
# Settings that do not fit each other, refused by the constructor and at the next call.
PAIRS = [
    ({"num_classes": None}, "`num_classes` or `class_counts`, but got neither"),
    ({"class_counts": [1], "num_classes": 2}, "`class_counts` .*, but got 1; give one of the two"),
    ({"mean": 0.5}, "`std` beside `mean`, but got .*None; give `mean` and `std` together"),
    ({"std": 0.5}, "`mean` beside `std`, but got .*None; give `mean` and `std` together"),
    ({"mean": [1, 2, 3], "std": [1, 2]}, "`std` to be of the length of `mean`, 3, but got 2"),
    ({"alpha": 0.4}, "`alpha` to be at least `floor`, 0.5, but got 0.4"),
]


class Learned(nn.Linear):
    """A provider and a pairing that is a module with parameters."""

    def forward(self, first, second, third):
        if first.ndim == 4:
            return first.mean(dim=1)
        second.zero_()  # its own copy of the counts
        return (torch.arange(len(first)) + 1) % len(first)


class TestSettings:
    @pytest.mark.parametrize(("name", "value", "error", "message"), WRONG)
    def test_what_is_out_of_range_is_refused_whenever_it_is_set(self, name, value, error, message):
        mixer = SaliencyPatchMix(num_classes=3)
        before = getattr(mixer, name)
        with pytest.raises(error, match=message):
            SaliencyPatchMix(**{"num_classes": 3, name: value})
        with pytest.raises(error, match=message):
            setattr(mixer, name, value)
        assert getattr(mixer, name) is before

    @pytest.mark.parametrize(("settings", "message"), PAIRS)
    def test_what_depends_on_another_is_refused_at_the_next_call(self, batch, settings, message):
        with pytest.raises(ValueError, match=message):
            SaliencyPatchMix(**{"num_classes": 3, **settings})
        mixer = SaliencyPatchMix(num_classes=3)
        for name, value in settings.items():
            setattr(mixer, name, value)
        for use in (mixer, mixer.plan, mixer.bind()):
            with pytest.raises(ValueError, match=message):
                use(*batch)
        for name, value in vars(SaliencyPatchMix(num_classes=3)).items():
            if name in settings:
                setattr(mixer, name, value)
        mixer(*batch)

    @pytest.mark.parametrize("turn", [1, -1])
    @pytest.mark.parametrize(
        "settings",
        [
            {"mean": [0.5, 0.4, 0.3], "std": 0.2},
            {"class_counts": [9, 5, 3, 1], "num_classes": 4},
            {"alpha": 0.3, "floor": 0.2},
        ],
    )
    def test_pairs_are_set_in_any_order(self, batch, settings, turn):
        images, labels = batch
        images = (images - 0.5) / 0.2
        mixer = SaliencyPatchMix(num_classes=3, saliency=brightness)
        for name, value in [*settings.items()][::turn]:
            setattr(mixer, name, value)
        mixer.generator = torch.Generator().manual_seed(2)
        other = SaliencyPatchMix(
            **{"num_classes": 3, **settings},
            saliency=brightness,
            generator=torch.Generator().manual_seed(2),
        )
        mixer._looks = other._looks = 0
        assert repr(mixer) == repr(other).replace(repr(other.generator), repr(mixer.generator))
        assert all(map(torch.equal, mixer(images, labels), other(images, labels)))

    @pytest.mark.parametrize(
        ("name", "value", "kept"),
        [
            ("num_classes", torch.tensor([5]).numpy()[0], 5),
            ("patch_size", None, None),
            ("alpha", 1, 1.0),
            ("class_counts", [5, 3, 1], [5, 3, 1]),
            ("class_counts", torch.tensor([[5.0, 3, 1]])[0], [5, 3, 1]),
            ("mean", 0.5, [0.5]),
            ("std", [[0.5], [0.25]], [0.5, 0.25]),
            ("image_key", 1, 1),
            ("label_key", "finding", "finding"),
        ],
    )
    def test_values_are_converted_whenever_they_are_set(self, name, value, kept):
        mixer = SaliencyPatchMix(num_classes=3)
        setattr(mixer, name, value)
        made = SaliencyPatchMix(**{"num_classes": 3, "mean": 0.5, "std": 1, name: value})
        for each in (mixer, made):
            found = getattr(each, name)
            assert (found.tolist() if isinstance(found, torch.Tensor) else found) == kept
            assert type(found) is type(kept) or found.device.type == "cpu"
        if isinstance(value, torch.Tensor):
            value.zero_()
            assert mixer.class_counts.tolist() == made.class_counts.tolist() == kept

    def test_providers_and_pairings_are_set_by_name_and_as_they_are(self, batch):
        mixer = SaliencyPatchMix(num_classes=3, p=1.0)
        for name, kind in (("fine_grained", FineGrained), ("spectral_residual", SpectralResidual)):
            mixer.saliency = name
            assert type(mixer.saliency) is kind
        mixer.saliency, mixer.pairing = brightness, "any"
        assert mixer.saliency is brightness
        assert torch.equal(mixer.plan(*batch).saliency, batch[0].mean(dim=1))
        assert mixer.plan(*batch).partner[8] != 8

    def test_no_module_that_is_set_becomes_a_part(self, batch):
        module = Learned(2, 2)
        mixer = SaliencyPatchMix(class_counts=[5, 3, 1], p=1.0, saliency=module, pairing=module)
        other = SaliencyPatchMix(class_counts=[5, 3, 1], p=1.0)
        other.saliency = other.pairing = module
        for each in (mixer, other):
            assert each.plan(*batch).partner.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0]
            assert each.class_counts.tolist() == [5, 3, 1]
            each.half().eval().train()
            assert each.saliency is each.pairing is module
            assert list(each.modules()) == [each]
            assert [*each.parameters(), *each.buffers(), *each.state_dict()] == []
            each.load_state_dict({})
        assert module.weight.dtype == torch.float32
        for value in ("fine_grained", BorderContrast(), module):
            mixer.saliency = value
            mixer.plan(*batch)
            assert mixer.state_dict() == {}

    def test_half_does_not_round_them(self):
        mixer = SaliencyPatchMix(class_counts=[1000001, 2], mean=[0.765], std=[[0.14]]).half()
        assert mixer.class_counts.tolist() == [1000001, 2]
        assert mixer.mean.dtype == mixer.std.dtype == torch.float32

    def test_the_repr_shows_them(self):
        mixer = SaliencyPatchMix(num_classes=2, mean=0.5, std=0.25, alpha=0.7)
        mixer.saliency, mixer.pairing = "fine_grained", brightness
        for part in ("num_classes=2", "saliency=FineGrained", "alpha=0.7", "pairing=brightness"):
            assert f"{part}, " in repr(mixer)

    @pytest.mark.parametrize(
        "clone", [copy.copy, copy.deepcopy, lambda mixer: pickle.loads(pickle.dumps(mixer))]
    )
    def test_copies_have_what_was_set_and_go_their_own_way(self, batch, clone):
        mixer = SaliencyPatchMix(num_classes=3)
        changed = {
            "class_counts": [5, 3, 1],
            "saliency": FineGrained(size=8),
            "patch_size": 4,
            "alpha": 0.9,
            "p": 1.0,
            "pairing": "any",
            "mean": 0.5,
            "std": 0.2,
            "generator": torch.Generator().manual_seed(5),
        }
        for name, value in changed.items():
            setattr(mixer, name, value)
        twin = clone(mixer)
        assert twin.generator is not mixer.generator
        assert repr(twin).split(", generator")[0] == repr(mixer).split(", generator")[0]
        images, labels = (batch[0] - 0.5) / 0.2, batch[1]
        assert all(map(torch.equal, twin(images, labels), mixer(images, labels)))
        twin.alpha, twin.saliency = 0.6, "border_contrast"
        assert mixer.alpha == 0.9
        assert type(mixer.saliency) is FineGrained
        with pytest.raises(ValueError, match="`alpha` to be in"):
            twin.alpha = 7

    def test_schedules_set_them_each_step(self, batch):
        images, labels = noise_images(9), batch[1]
        mixer = SaliencyPatchMix(num_classes=3, generator=torch.Generator().manual_seed(0))
        for step in range(5):
            settings = {"p": step / 4, "alpha": 1 - step / 20, "floor": step / 10, "jitter": step}
            for name, value in settings.items():
                setattr(mixer, name, value)
            generator = torch.Generator()
            generator.set_state(mixer.generator.get_state())
            other = SaliencyPatchMix(num_classes=3, generator=generator, **settings)
            found, expected = mixer(images, labels), other(images, labels)
            assert all(map(torch.equal, found, expected))
            assert torch.equal(found[0], images) == (step == 0)


class TestErrors:
    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "message"),
        [
            ((IMAGES,), {}, TypeError, "`labels` to be a tensor, but got NoneType"),
            (([1, 2, 3], LABELS), {}, TypeError, "`images` to be a tensor of shape"),
            ((IMAGES.long(), LABELS), {}, TypeError, "but got torch.int64; convert them"),
            ((IMAGES[0], LABELS), {}, ValueError, r"\(B,C,H,W\).*got shape \(3, 8, 8\)"),
            ((IMAGES.to_sparse(), LABELS), {}, TypeError, "`images` to be a dense .*sparse_coo"),
            ((IMAGES, LABELS.to_sparse()), {}, TypeError, "`labels` to be a dense .*sparse_coo"),
            ((NESTED, LABELS), {}, TypeError, "`images` to be a dense .* tensor that is nested"),
            ((IMAGES, BYTES), {}, TypeError, "`labels` to be a dense .* tensor that is quantized"),
            ((FROZEN,), {}, TypeError, "a dict into which .* got mappingproxy; give dict"),
            ((IMAGES[..., :0], LABELS), {}, ValueError, "C, H, W >= 1"),
            ((IMAGES, nn.Linear(1, 1)), {}, TypeError, "pass the model as model="),
            (((IMAGES, LABELS), nn.Linear(1, 1)), {}, TypeError, "pass the model as model="),
            ((IMAGES, LABELS.float()), {}, ValueError, "labels.*dtype torch.float32"),
            ((IMAGES, LABELS.bool()), {}, ValueError, "labels.*dtype torch.bool"),
            ((IMAGES, LABELS[:3]), {}, ValueError, r"B = 4 images.*shape \(3,\)"),
            ((IMAGES, LABELS + 1), {}, ValueError, r"`labels` in 0 to 2\b.*, but got 3"),
            ((IMAGES, LABELS - 1), {}, ValueError, r"`labels` in 0 to 2\b.*, but got -1"),
            ((IMAGES, torch.eye(4)), {}, ValueError, r"K = 3, but got .*shape \(4, 4\)"),
            ((IMAGES, torch.full((4, 3), 0.5)), {}, ValueError, r"0.5\] in row 0; divide"),
            ((IMAGES, torch.full((4, 3), torch.nan)), {}, ValueError, r"nan, nan\] in row 0"),
            ((IMAGES, torch.tensor([[1.5, -0.5, 0]] * 4)), {}, ValueError, "a distribution"),
            ((IMAGES, LABELS.to("meta")), {}, ValueError, "images' device cpu, but got meta"),
            ((IMAGES, LABELS), {"partner": [1]}, TypeError, "`partner` to be a tensor"),
            ((IMAGES, LABELS), {"partner": LABELS.float()}, TypeError, "`partner` to hold int"),
            ((IMAGES, LABELS), {"partner": LABELS[1:]}, ValueError, r"`partner`.*shape \(4,\)"),
            ((IMAGES, LABELS), {"partner": LABELS + 3}, ValueError, "0 to 3, but got 5"),
            ((IMAGES, LABELS), {"partner": LABELS - 1}, ValueError, "0 to 3, but got -1"),
            (
                (IMAGES, LABELS),
                {"partner": LABELS.to("meta")},
                ValueError,
                "`partner` on the images' device cpu, but got meta",
            ),
            ((IMAGES, LABELS), {"saliency": "x"}, TypeError, "`saliency` to be a tensor"),
            (
                (IMAGES, LABELS),
                {"saliency": torch.rand(4, 4, 4)},
                ValueError,
                r"shape \(4, 8, 8\).*\(4, 4, 4\).*interpolate",
            ),
            (
                (IMAGES, LABELS),
                {"saliency": torch.zeros(4, 8, 8, dtype=torch.complex64)},
                TypeError,
                "`saliency` to be real",
            ),
            (
                (IMAGES, LABELS),
                {"saliency": torch.zeros(4, 8, 8, device="meta")},
                ValueError,
                "images' device cpu, but got meta",
            ),
        ],
    )
    def test_wrong_batches_are_refused_before_anything_is_drawn(self, args, kwargs, error, message):
        generator = torch.Generator().manual_seed(0)
        mixer = SaliencyPatchMix(num_classes=3, generator=generator)
        before = generator.get_state()
        with pytest.raises(error, match=message):
            mixer(*args, **kwargs)
        assert torch.equal(generator.get_state(), before)

    def test_what_a_provider_refuses_is_refused_before_anything_is_drawn(self):
        generator = torch.Generator().manual_seed(0)
        mixer = SaliencyPatchMix(num_classes=3, saliency="input_gradient", generator=generator)
        before = generator.get_state()
        with pytest.raises(TypeError, match="`images` to be floating for InputGradient"):
            mixer(IMAGES.byte(), LABELS, nn.Identity())
        assert torch.equal(generator.get_state(), before)

    @pytest.mark.parametrize(
        ("options", "images", "message"),
        [
            ({"inplace": True}, IMAGES[:1].expand(4, -1, -1, -1), "share memory"),
            (
                {"pairing": lambda *_: LABELS + 9},
                IMAGES,
                "partner that pairing returned` in 0 to 3",
            ),
        ],
    )
    def test_what_is_known_without_drawing_is_refused_before(self, options, images, message):
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match=message):
            SaliencyPatchMix(num_classes=3, **options)(images, LABELS)
        assert torch.equal(torch.get_rng_state(), before)

    def test_mean_must_fit_the_channels(self):
        mixer = SaliencyPatchMix(num_classes=3, mean=[0.5, 0.5], std=0.1)
        with pytest.raises(ValueError, match=r"`mean` to have one number .* 3 channels"):
            mixer(IMAGES, LABELS)

    @pytest.mark.parametrize("saliency", ["input_gradient", "grad_cam"])
    def test_saliency_that_needs_a_model_says_so(self, saliency):
        mixer = SaliencyPatchMix(num_classes=3, saliency=saliency)
        with pytest.raises(ValueError, match=r"`model` for .*call mixer\(images, labels, model\)"):
            mixer(IMAGES, LABELS)


class TestBind:
    def mixer(self, **settings):
        generator = torch.Generator().manual_seed(0)
        settings = {"saliency": "input_gradient", "p": 1.0, "generator": generator, **settings}
        return SaliencyPatchMix(num_classes=3, **settings)

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 28, 3))

    def test_it_mixes_as_the_mixer_with_the_model(self, batch):
        model = self.model()
        images, labels = noise_images(9), batch[1]
        mixed, targets = self.mixer().bind(model)(images, labels)
        expected, rows = self.mixer()(images, labels, model)
        assert torch.equal(mixed, expected)
        assert torch.equal(targets, rows)
        packed, _ = self.mixer().bind(model)((images, labels))
        assert torch.equal(packed, expected)

    def test_its_switch_gives_what_eval_gives_and_is_its_own(self, batch):
        images, labels = noise_images(9), batch[1]
        mixer = self.mixer()
        bound, other = mixer.bind(self.model()), mixer.bind(self.model())
        assert bound.mixup_enabled
        bound.mixup_enabled = False
        before = mixer.generator.get_state()
        mixed, targets = bound(images, labels)
        assert torch.equal(mixed, images)
        assert torch.equal(targets, F.one_hot(labels, 3).float())
        assert torch.equal(mixer.generator.get_state(), before)
        assert mixer.training
        assert not torch.equal(other(images, labels)[0], images)
        mixer.eval()
        assert torch.equal(other(images, labels)[0], images)

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda bound: pickle.loads(pickle.dumps(bound))]
    )
    def test_copies_go_on_alike_with_a_model_of_their_own(self, copied, batch):
        images, labels = noise_images(9), batch[1]
        bound = self.mixer().bind(self.model())
        bound.mixup_enabled = False
        other = copied(bound)
        assert other.mixup_enabled is False
        bound.mixup_enabled = other.mixup_enabled = True
        assert torch.equal(bound(images, labels)[0], other(images, labels)[0])
        assert other.model is not bound.model

    def test_it_follows_the_model_and_registers_nothing(self):
        model, holder = self.model(), nn.Module()
        mixer = self.mixer()
        holder.mixup_fn = mixer.bind(model)
        assert holder.mixup_fn.model is model
        assert list(holder.modules()) == [holder]
        assert list(mixer.modules()) == [mixer]
        assert "mixup_enabled=True" in repr(holder.mixup_fn)

    def test_a_model_that_is_needed_and_missing_is_refused_at_once(self):
        with pytest.raises(ValueError, match="Expected `model` for InputGradient"):
            self.mixer().bind()
        with pytest.raises(TypeError, match=r"Expected `model` to be a torch\.nn\.Module"):
            self.mixer(saliency="fine_grained").bind("resnet18")
        self.mixer(saliency="fine_grained").bind()
