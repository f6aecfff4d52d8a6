"""The long-tail methods of the study: each against its formula in a slow loop, and its promises."""

import math

import pytest
import torch
from scipy import stats

from benchmarks.isic2018 import baselines

COUNTS = [900, 300, 299, 100, 10]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(batch=12, height=4, width=6, seed=0):
    """Images whose every value is their index, and labels of all classes."""
    images = torch.arange(float(batch)).view(batch, 1, 1, 1).expand(batch, 3, height, width).clone()
    return images, torch.randint(len(COUNTS), (batch,), generator=generator(seed))


def one_hot(labels):
    rows = torch.zeros(len(labels), len(COUNTS))
    for b, label in enumerate(labels.tolist()):
        rows[b, label] = 1
    return rows


def log_softmax(logits):
    total = math.log(sum(math.exp(z) for z in logits))
    return [z - total for z in logits]


@pytest.fixture
def fixed_beta(monkeypatch):
    """Make every draw of lambda the given one."""

    def fix(lam):
        monkeypatch.setattr(baselines, "draw_beta", lambda alpha, generator: lam)

    return fix


# draws


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0])
def test_draws_follow_the_symmetric_beta_distribution(alpha):
    source = generator()
    draws = [baselines.draw_beta(alpha, source) for _ in range(1500)]
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > 0.05


def test_draws_of_a_tiny_alpha_are_zeros_and_ones():
    source = generator()
    draws = [baselines.draw_beta(1e-6, source) for _ in range(200)]
    assert {round(draw, 3) for draw in draws} == {0.0, 1.0}
    assert 70 < sum(draws) < 130


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5, math.nan])
def test_other_alphas_are_refused(alpha):
    with pytest.raises(ValueError, match=r"Expected `alpha` in \(0, 1\], but got"):
        baselines.draw_beta(alpha, generator())


# Balanced-MixUp


def balanced_pair(batch=5):
    source = generator(1)
    images, other = torch.rand(2, batch, 3, 4, 6, generator=source)
    targets, other_targets = torch.rand(2, batch, 3, generator=source).softmax(dim=2)
    return images, targets, other, other_targets


def test_balanced_mixup_agrees_with_a_loop():
    images, targets, other, other_targets = balanced_pair()
    # On black and white images, each pixel shows the weight of the class-balanced part.
    black, white = torch.zeros_like(images), torch.ones_like(images)
    shown, _ = baselines.balanced_mixup(
        black, targets, white, other_targets, alpha=0.3, generator=generator()
    )
    lam = float(shown[0, 0, 0, 0])
    assert 0 < lam < 1
    mixed, mixed_targets = baselines.balanced_mixup(
        images, targets, other, other_targets, alpha=0.3, generator=generator()
    )
    for b in range(len(images)):
        for k in range(3):
            expected = (1 - lam) * float(targets[b, k]) + lam * float(other_targets[b, k])
            assert float(mixed_targets[b, k]) == pytest.approx(expected, abs=1e-6)
        for c, y, x in torch.cartesian_prod(*map(torch.arange, images.shape[1:])).tolist():
            expected = (1 - lam) * float(images[b, c, y, x]) + lam * float(other[b, c, y, x])
            assert float(mixed[b, c, y, x]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 2.0])
def test_balanced_mixup_draws_one_weight_a_batch_of_beta_alpha_one(alpha):
    source, drawn = generator(), []
    black = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    white, targets = torch.ones_like(black), torch.eye(3, dtype=torch.float64)
    for _ in range(1500):
        mixed, mixed_targets = baselines.balanced_mixup(
            black, targets, white, targets.roll(1, 0), alpha=alpha, generator=source
        )
        assert bool((mixed == mixed[0, 0]).all())
        assert float(mixed_targets[0, 2]) == float(mixed[0, 0])
        drawn.append(float(mixed[0, 0]))
    assert stats.kstest(drawn, stats.beta(alpha, 1).cdf).pvalue > 0.05


def test_balanced_mixup_refuses_an_alpha_of_zero():
    with pytest.raises(ValueError, match="Expected `alpha` to be positive, but got 0"):
        baselines.balanced_mixup(*balanced_pair(), alpha=0, generator=generator())


# Remix


def remix_label_share(n_i, n_j, lam, kappa, tau):
    if n_i / n_j >= kappa and lam < tau:
        return 0.0
    if n_i / n_j <= 1 / kappa and 1 - lam < tau:
        return 1.0
    return lam


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_remix_agrees_with_a_loop(fixed_beta, lam, tau, kappa):
    fixed_beta(lam)
    images, labels = labelled(batch=50, height=1, width=1)
    mixed, targets = baselines.remix(
        images,
        labels,
        torch.tensor(COUNTS),
        alpha=1.0,
        kappa=kappa,
        tau=tau,
        generator=generator(),
    )
    partner = torch.randperm(len(images), generator=generator()).tolist()
    for i, j in enumerate(partner):
        value = lam * i + (1 - lam) * j
        torch.testing.assert_close(mixed[i], torch.full_like(mixed[i], value))
        first, second = int(labels[i]), int(labels[j])
        share = remix_label_share(COUNTS[first], COUNTS[second], lam, kappa, tau)
        expected = [0.0] * len(COUNTS)
        expected[first] += share
        expected[second] += 1 - share
        assert targets[i].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frequent", "mixed_labels"),
    [
        (1, {(0, 0.6, 0, 0.4, 0)}),  # 300 to 100: rare enough, where the rare one's pixels prevail
        (2, {(0, 0, 0.6, 0.4, 0), (0, 0, 0.4, 0.6, 0)}),  # 299 to 100: not
    ],
)
def test_remix_gives_the_whole_label_to_a_class_of_a_third(fixed_beta, frequent, mixed_labels):
    fixed_beta(0.4)
    _, targets = baselines.remix(
        torch.zeros(40, 3, 1, 1),
        torch.tensor([frequent, 3] * 20),
        torch.tensor(COUNTS),
        alpha=1.0,
        generator=generator(),
    )
    rows = {tuple(round(value, 5) for value in row) for row in targets.tolist()}
    assert {row for row in rows if 1 not in row} == mixed_labels


def test_remix_of_tau_zero_is_mixup():
    images, labels = labelled()
    mixed, targets = baselines.remix(
        images, labels, torch.tensor(COUNTS), alpha=0.5, tau=0.0, generator=generator()
    )
    source = generator()
    lam = baselines.draw_beta(0.5, source)
    partner = torch.randperm(len(images), generator=source)
    rows = one_hot(labels)
    torch.testing.assert_close(mixed, lam * images + (1 - lam) * images[partner])
    torch.testing.assert_close(targets, lam * rows + (1 - lam) * rows[partner])


# CMO


def paste(seed, height=5, width=7, p=1.0):
    """Paste white onto black, so that the pixels show the box."""
    black, labels = torch.zeros(3, 3, height, width), torch.tensor([0, 0, 1])
    return baselines.cmo(
        black,
        labels,
        torch.ones_like(black),
        torch.tensor([3, 4, 1]),
        len(COUNTS),
        p=p,
        generator=generator(seed),
    )


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.75, 1.0])
def test_cmo_pastes_every_box_of_cutmix_and_no_other(fixed_beta, lam):
    fixed_beta(lam)
    height, width = 5, 7
    rows, columns = int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))
    possible = set()
    for cy in range(height):
        for cx in range(width):
            top, left = cy - rows // 2, cx - columns // 2
            inside = [
                float(top <= y < top + rows and left <= x < left + columns)
                for y in range(height)
                for x in range(width)
            ]
            possible.add(tuple(inside))
    seen = {tuple(paste(seed)[0][0, 0].flatten().tolist()) for seed in range(400)}
    assert seen == possible


@pytest.mark.parametrize("seed", range(8))
def test_cmo_agrees_with_a_loop(seed):
    images, labels = labelled(seed=1)
    other, other_labels = labelled(seed=2)
    other = other + 100
    mixed, targets = baselines.cmo(
        images, labels, other, other_labels, len(COUNTS), p=1.0, generator=generator(seed)
    )
    batch, channels, height, width = images.shape
    box = mixed[0, 0] == other[0, 0]  # one for all samples and channels
    for b in range(batch):
        expected = [0.0] * len(COUNTS)
        for y in range(height):
            for x in range(width):
                source, label = (other, other_labels) if box[y, x] else (images, labels)
                expected[int(label[b])] += 1 / (height * width)
                for c in range(channels):
                    assert float(mixed[b, c, y, x]) == float(source[b, c, y, x])
        assert targets[b].tolist() == pytest.approx(expected)


def test_cmo_pastes_onto_whole_batches_with_its_probability():
    pasted = 0
    for seed in range(500):
        mixed, targets = paste(seed, height=40, width=40, p=0.3)
        shares = mixed.mean(dim=(1, 2, 3))
        assert shares.tolist() == pytest.approx([float(shares[0])] * 3)
        assert targets[:2, 0].tolist() == pytest.approx((1 - shares[:2]).tolist())
        assert targets[2].tolist() == pytest.approx([0, 1, 0, 0, 0])
        pasted += bool(shares[0] > 0)
    assert stats.binomtest(pasted, 500, 0.3).pvalue > 0.05


def test_cmo_pastes_onto_half_of_the_batches_by_default():
    (images, labels), (other, other_labels) = labelled(seed=1), labelled(seed=2)
    for seed in range(60):
        given = images, labels, other + 1, other_labels, len(COUNTS)
        mixed, _ = baselines.cmo(*given, generator=generator(seed))
        half, _ = baselines.cmo(*given, p=0.5, alpha=1.0, generator=generator(seed))
        assert torch.equal(mixed, half)


def test_cmo_of_probability_zero_gives_copies():
    images, labels = labelled()
    mixed, targets = baselines.cmo(
        images, labels, images + 1, labels, len(COUNTS), p=0.0, generator=generator()
    )
    assert torch.equal(mixed, images)
    assert mixed.data_ptr() != images.data_ptr()
    assert torch.equal(targets, one_hot(labels))


# LDAM-DRW


def test_cosine_logits_agree_with_a_loop_and_ignore_lengths():
    head = baselines.CosineClassifier(6, 4)
    features = torch.randn(5, 6)
    logits = head(features)
    for b in range(5):
        for k in range(4):
            feature, weight = features[b].tolist(), head.weight[k].tolist()
            dot = sum(f * w for f, w in zip(feature, weight, strict=True))
            expected = dot / math.hypot(*feature) / math.hypot(*weight)
            assert logits[b, k].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(head(features * 7), logits)
    with torch.no_grad():
        head.weight[2] *= 9
    torch.testing.assert_close(head(features), logits)


def test_a_cosine_classifier_starts_with_directions_and_without_a_bias():
    head = baselines.CosineClassifier(6, 4)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))
    assert [name for name, _ in head.named_parameters()] == ["weight"]


@pytest.mark.parametrize("weighted", [False, True])
def test_ldam_agrees_with_a_loop(weighted):
    cosines = torch.rand(6, 5, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    weight = torch.rand(5, dtype=torch.float64) + 0.1
    margin = [0.4 * (n / min(COUNTS)) ** -0.25 for n in COUNTS]
    total = divisor = 0.0
    for b, label in enumerate(labels.tolist()):
        scaled = [
            20 * (float(cosines[b, k]) - (margin[k] if k == label else 0.0)) for k in range(5)
        ]
        share = float(weight[label]) if weighted else 1.0
        total -= share * log_softmax(scaled)[label]
        divisor += share
    loss = baselines.LDAMLoss(torch.tensor(COUNTS), max_margin=0.4, scale=20.0)
    found = loss(cosines, labels, weight if weighted else None)
    assert found.shape == ()
    assert float(found) == pytest.approx(total / divisor, rel=1e-6)


def test_ldam_margins_are_largest_for_the_rarest_class():
    loss = baselines.LDAMLoss(torch.tensor([160_000, 10_000, 16, 1]))
    assert loss.margins.tolist() == pytest.approx([0.025, 0.05, 0.25, 0.5])
    assert loss.scale == 30.0
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_ldam_without_margin_is_cross_entropy_of_scaled_cosines():
    cosines, labels = torch.rand(6, 5) * 2 - 1, torch.arange(6) % 5
    found = baselines.LDAMLoss(torch.tensor(COUNTS), max_margin=0.0)(cosines, labels)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(30 * cosines, labels))


def test_drw_weights_agree_with_a_loop():
    weights = baselines.drw_weights(torch.tensor(COUNTS), beta=0.99)
    # The effective number is also the sum of the first n powers of beta.
    inverse = [1 / sum(0.99**power for power in range(n)) for n in COUNTS]
    expected = [w * len(COUNTS) / sum(inverse) for w in inverse]
    assert weights.tolist() == pytest.approx(expected)
    assert weights.dtype == torch.float32


def test_drw_weights_run_from_equal_to_inverse_counts():
    counts = torch.tensor(COUNTS)
    assert baselines.drw_weights(counts, beta=0.0).tolist() == [1.0] * len(COUNTS)
    inverse = 1 / counts.double()
    nearly = baselines.drw_weights(counts, beta=1 - 1e-9)
    torch.testing.assert_close(nearly, (inverse / inverse.mean()).float(), rtol=1e-4, atol=0)
    default = baselines.drw_weights(counts)
    assert torch.equal(default, baselines.drw_weights(counts, beta=0.9999))
    assert default.tolist() == sorted(default.tolist())
    assert float(default.mean()) == pytest.approx(1)


@pytest.mark.parametrize("make", [baselines.LDAMLoss, baselines.drw_weights])
def test_a_class_without_samples_is_refused(make):
    with pytest.raises(
        ValueError, match=r"Expected `class_counts` of at least 1, but got \[3.0, 0"
    ):
        make(torch.tensor([3, 0]))


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_drw_weights_refuse_other_betas(beta):
    with pytest.raises(ValueError, match=r"Expected `beta` in \[0, 1\), but got"):
        baselines.drw_weights(torch.tensor(COUNTS), beta=beta)


# logit adjustment


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_logit_adjustment_agrees_with_a_loop(tau):
    logits = torch.randn(6, 5, dtype=torch.float64)
    targets = torch.randn(6, 5, dtype=torch.float64).softmax(dim=1)
    prior = [n / sum(COUNTS) for n in COUNTS]
    total = 0.0
    for b in range(6):
        adjusted = [float(logits[b, k]) + tau * math.log(prior[k]) for k in range(5)]
        losses = [-value for value in log_softmax(adjusted)]
        total += sum(float(targets[b, k]) * losses[k] for k in range(5)) / 6
    found = baselines.logit_adjusted_cross_entropy(
        logits, targets, torch.tensor(prior, dtype=torch.float64), tau
    )
    assert found.shape == ()
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_logit_adjustment_takes_labels_as_it_takes_one_hot_rows():
    logits, (_, labels), prior = torch.randn(12, 5), labelled(), torch.tensor(COUNTS)
    found = baselines.logit_adjusted_cross_entropy(logits, labels, prior / prior.sum())
    soft = baselines.logit_adjusted_cross_entropy(logits, one_hot(labels), prior / prior.sum())
    torch.testing.assert_close(found, soft)
    counted = baselines.logit_adjusted_cross_entropy(logits, labels, prior)
    torch.testing.assert_close(counted, found)


def test_logit_adjustment_of_tau_zero_or_of_a_flat_prior_is_cross_entropy():
    logits, (_, labels) = torch.randn(12, 5), labelled()
    plain = torch.nn.functional.cross_entropy(logits, labels)
    for prior, tau in ((torch.tensor(COUNTS), 0.0), (torch.full((5,), 0.2), 1.0)):
        found = baselines.logit_adjusted_cross_entropy(logits, labels, prior, tau)
        torch.testing.assert_close(found, plain)


def test_logit_adjustment_is_precise_in_half_precision():
    logits, labels = torch.zeros(1, 5, dtype=torch.bfloat16), torch.tensor([4])
    found = baselines.logit_adjusted_cross_entropy(logits, labels, torch.tensor(COUNTS))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(-math.log(COUNTS[4] / sum(COUNTS)), rel=1e-5)


def test_logit_adjustment_refuses_a_class_of_prior_zero():
    with pytest.raises(ValueError, match=r"Expected `prior` to be positive, but got \[1.0, 0.0\]"):
        baselines.logit_adjusted_cross_entropy(
            torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1.0, 0.0])
        )


# all of them


def mixes(images, labels, other, other_labels):
    """Each mixing method as a function of a generator."""
    counts = torch.tensor(COUNTS, device=images.device)
    rows, other_rows = (torch.eye(5, device=images.device)[each] for each in (labels, other_labels))
    return {
        "balanced_mixup": lambda source: baselines.balanced_mixup(
            images, rows, other, other_rows, alpha=0.2, generator=source
        ),
        "remix": lambda source: baselines.remix(
            images, labels, counts, alpha=0.5, generator=source
        ),
        "cmo": lambda source: baselines.cmo(
            images, labels, other, other_labels, 5, p=1.0, generator=source
        ),
    }


@pytest.mark.parametrize("name", ["balanced_mixup", "remix", "cmo"])
def test_mixing_follows_its_generator_alone_and_changes_no_input(name):
    (images, labels), (other, other_labels) = labelled(seed=1), labelled(seed=2)
    given = [images, labels, other + 50, other_labels]
    before = [each.clone() for each in given]
    mix = mixes(*given)[name]
    state = torch.get_rng_state()
    mixed, targets = mix(generator(3))
    again, other_again = mix(generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mixed, again)
    assert torch.equal(targets, other_again)
    assert not torch.equal(mixed, mix(generator(4))[0])
    assert all(map(torch.equal, given, before))
    assert mixed.dtype == targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(images)))


@pytest.mark.parametrize("name", ["balanced_mixup", "remix", "cmo"])
def test_mixing_stays_on_the_device_and_reads_no_value_there(name):
    (images, labels), (other, other_labels) = labelled(), labelled()
    batch = [each.to("meta") for each in (images, labels, other, other_labels)]
    mixed, targets = mixes(*batch)[name](generator())
    assert mixed.device.type == targets.device.type == "meta"
    assert (mixed.shape, targets.shape) == (images.shape, (len(images), 5))


def test_losses_stay_on_the_device_and_read_no_value_there():
    labels = torch.zeros(4, dtype=torch.long, device="meta")
    logits = baselines.CosineClassifier(6, 5).to("meta")(torch.zeros(4, 6, device="meta"))
    ldam = baselines.LDAMLoss(torch.tensor(COUNTS)).to("meta")
    weight = baselines.drw_weights(torch.tensor(COUNTS)).to("meta")
    prior = torch.ones(5, device="meta")
    assert ldam(logits, labels, weight).device.type == "meta"
    assert baselines.logit_adjusted_cross_entropy(logits, labels, prior).device.type == "meta"


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("name", ["remix", "cmo"])
def test_mixing_refuses_alphas_that_cannot_be_drawn(name, alpha):
    images, labels = labelled()
    given = {
        "remix": (images, labels, torch.tensor(COUNTS)),
        "cmo": (images, labels, images, labels, len(COUNTS)),
    }
    chance = {"p": 1.0} if name == "cmo" else {}
    with pytest.raises(ValueError, match=r"Expected `alpha` in \(0, 1\], but got"):
        getattr(baselines, name)(*given[name], alpha=alpha, generator=generator(), **chance)


@pytest.mark.parametrize("name", ["balanced_mixup", "cmo"])
def test_a_shorter_batch_beside_is_refused(name):
    images, labels = labelled()
    mix = mixes(images, labels, images[:1], labels[:1])[name]
    with pytest.raises(ValueError, match=r"`balanced_images` of shape \(12, 3, 4, 6\), that of"):
        mix(generator())
