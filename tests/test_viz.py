"""Pictures show the pixels that they say they show, and the audit's numbers are counted ones."""

import re
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler
from spmix_aug.functional.patches import expand_to_pixels

pytest.importorskip("matplotlib")

from spmix_aug.viz import COLUMNS, describe, plot_plan, plot_sampler

NAMES = ["head", "middle", "tail"]
LABELS = torch.tensor([0] * 60 + [1] * 20 + [2] * 5)


@pytest.fixture
def images():
    return torch.rand(6, 3, 20, 28)


@pytest.fixture
def labels():
    return torch.tensor([0, 0, 0, 1, 1, 2])


def mixer(**settings):
    return SaliencyPatchMix(num_classes=3, patch_size=6, **{"p": 1.0} | settings)


def shown(axes):
    (image,) = axes.get_images()
    return torch.as_tensor(image.get_array().copy()).float()


def notes(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_panels_show_what_their_titles_say(images, labels):
    plan = mixer().plan(images, labels, partner=torch.tensor([5, 4, 3, 2, 1, 0]))
    figure = plot_plan(images, plan, labels, rows=3, class_names=NAMES)
    assert len(figure.axes) == 3 * 6
    assert [axes.get_title() for axes in figure.axes[:6]] == list(COLUMNS)
    mixed = plan.images(images)
    ratios = expand_to_pixels(plan.ratios, 6, (20, 28))
    for sample in range(3):
        row, partner = figure.axes[6 * sample : 6 * sample + 6], 5 - sample
        colours = [images[sample], images[partner], mixed[sample]]
        for axes, expected in zip((row[0], row[1], row[5]), colours, strict=True):
            torch.testing.assert_close(shown(axes), expected.permute(1, 2, 0))
        torch.testing.assert_close(shown(row[4]), ratios[sample])
        assert row[4].get_images()[0].get_clim() == (0, 1)
        assert notes(row[0]) == NAMES[labels[sample]]
        assert notes(row[1]) == NAMES[labels[partner]]
        assert notes(row[5]) == f"label {NAMES[labels[sample]]}"
        assert f"sample {sample} with {partner}," in figure.get_label()


@pytest.mark.filterwarnings("ignore:Expected `saliency` with contrast")
def test_saliency_is_shown_at_the_size_of_the_image(images, labels):
    coarse = torch.arange(6.0).view(6, 1, 1).expand(6, 5, 7)

    def of_sample(images, labels, model):
        return torch.arange(6.0).view(6, 1, 1).expand(6, 20, 28) / 5

    plan = mixer(saliency=of_sample).plan(images, labels)
    object.__setattr__(plan, "saliency", coarse)
    figure = plot_plan(images, plan, labels, samples=[4])
    own, partner = (shown(axes) for axes in figure.axes[2:4])
    assert own.shape == (20, 28)
    assert bool((own == 4).all())
    assert bool((partner == float(plan.partner[4])).all())


def test_normalised_and_byte_images_look_as_they_are(images, labels):
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    raw = mixer(mean=mean, std=std)
    given = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    normalised = plot_plan(given, raw.plan(given, labels), mean=mean, std=std)
    torch.testing.assert_close(shown(normalised.axes[0]), images[0].permute(1, 2, 0))
    whole = (images * 255).round().to(torch.uint8)
    figure = plot_plan(whole, mixer().plan(whole, labels))
    torch.testing.assert_close(shown(figure.axes[0]), whole[0].permute(1, 2, 0) / 255)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_drawn_in_grey(channels, labels):
    images = torch.rand(6, channels, 20, 28)
    figure = plot_plan(images, mixer().plan(images, labels))
    torch.testing.assert_close(shown(figure.axes[0]), images[0].mean(dim=0))
    assert figure.axes[0].get_images()[0].get_cmap().name == "gray"


def test_mixed_labels_and_what_stays_unmixed_are_told(images, labels):
    plan = mixer(target="ratio").plan(images, labels, partner=torch.tensor([5, 1, 0, 0, 0, 0]))
    figure = plot_plan(images, plan, labels, rows=2, class_names=NAMES)
    own, other = float(plan.targets[0, 0]), float(plan.targets[0, 2])
    assert notes(figure.axes[5]) == f"label head {own:.2f}, tail {other:.2f}"
    assert notes(figure.axes[4]) == f"mean {own:.2f}"
    assert notes(figure.axes[10]) == "not mixed"
    assert notes(figure.axes[11]) == "label head"


def test_rows_are_at_most_the_batch_and_drawing_changes_nothing(images, labels):
    plan = mixer().plan(images, labels)
    before = images.clone()
    assert len(plot_plan(images, plan, rows=50).axes) == 6 * 6
    assert torch.equal(images, before)
    images = images.to(torch.bfloat16).requires_grad_()
    assert len(plot_plan(images, mixer().plan(images, labels), samples=[5, 0]).axes) == 2 * 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rows": 0}, ValueError, "Expected `rows` to be at least 1"),
        ({"samples": [6]}, ValueError, "Expected `samples` to be at least one index in 0 to 5"),
        ({"samples": 3}, TypeError, "Expected `samples` to be a sequence of indices"),
        ({"plan": None}, TypeError, "Expected `plan` to be a MixPlan, but got NoneType"),
        ({"samples": []}, ValueError, "Expected `samples` to be at least one index"),
        ({"class_names": ["a"]}, ValueError, "Expected `class_names` to have 3 names"),
        ({"class_names": "abc"}, TypeError, "Expected `class_names` to be a sequence"),
        ({"labels": torch.zeros(5)}, ValueError, "Expected `labels` to be integers"),
        ({"images": torch.rand(6, 3, 9, 9)}, ValueError, "`images` to have the plan's shape"),
    ],
)
def test_what_does_not_fit_is_named(images, labels, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_plan(**{"images": images, "plan": mixer().plan(images, labels)} | arguments)


def test_a_plan_that_mixes_nothing_is_refused(images, labels):
    with pytest.raises(ValueError, match="its mixer was in evaluation mode"):
        plot_plan(images, mixer().eval().plan(images, labels))


def rows_of(text):
    """Read the table: class, group, samples, two shares, and mean, least, most of two counts."""
    row = re.compile(
        r"(\w+) +(\w+) +(\d+) +([\d.]+)% +([\d.]+)% +"
        r"([\d.]+) \((\d+) to (\d+)\) +([\d.]+) \((\d+) to (\d+)\)$"
    )
    return [match.groups() for line in text.splitlines() if (match := row.match(line))]


def test_described_numbers_are_counted_ones():
    sampler = TailHeadPairSampler(LABELS, batch_size=8, seed=3)
    text = describe(sampler, class_names=NAMES, many=50, few=10, epoch=2, p=1.0)
    sampler.set_epoch(2)
    batches = list(sampler)
    drawn = torch.tensor(batches).flatten()
    rows = rows_of(text)
    assert [row[0] for row in rows] == NAMES
    assert [row[1] for row in rows] == ["many", "medium", "few"]
    assert f"An epoch has {len(batches)} batches of 8 samples, 4 of them" in text
    for k, row in enumerate(rows):
        members = (k == LABELS).nonzero().flatten()
        of_class = torch.tensor([int((drawn == i).sum()) for i in members])
        assert int(row[2]) == len(members)
        assert float(row[3]) == pytest.approx(100 * len(members) / 85, abs=0.051)
        assert float(row[4]) == pytest.approx(100 * int(of_class.sum()) / len(drawn), abs=0.051)
        assert float(row[5]) == pytest.approx(float(of_class.float().mean()), abs=0.051)
        assert (int(row[6]), int(row[7])) == (int(of_class.min()), int(of_class.max()))


def test_partners_are_those_that_a_mixer_draws():
    sampler = TailHeadPairSampler(LABELS, batch_size=8, seed=1)
    means = torch.zeros(3)
    rounds = 30
    for epoch in range(rounds):
        sampler.set_epoch(epoch)
        mix = SaliencyPatchMix(class_counts=sampler.class_counts, p=1.0)
        met = [set() for _ in LABELS]
        data = TensorDataset(torch.rand(85, 1, 8, 8), LABELS, torch.arange(85))
        for images, labels, index in DataLoader(data, batch_sampler=sampler):
            partner = index[mix.plan(images, labels).partner]
            for own, other in zip(index.tolist(), partner.tolist(), strict=True):
                if own != other:
                    met[own].add(other)
        numbers = torch.tensor([len(others) for others in met]).float()
        means += torch.stack([numbers[k == LABELS].mean() for k in range(3)]) / rounds
    told = torch.tensor(
        [
            [float(row[8]) for row in rows_of(describe(sampler, p=1.0, epoch=epoch))]
            for epoch in range(rounds)
        ]
    ).mean(dim=0)
    torch.testing.assert_close(told, means, rtol=0.06, atol=0.06)


def test_pairing_is_relative():
    """Of two pairs, one is of both classes, and there the frequent one has no eligible partner."""
    rows = rows_of(describe(TailHeadPairSampler([0, 0, 0, 1], 2, tail_fraction=0), p=1.0))
    assert [row[8:] for row in rows] == [("0.7", "0", "1"), ("1.0", "1", "1")]


def test_no_sample_is_mixed_where_p_is_0():
    rows = rows_of(describe(TailHeadPairSampler(LABELS, batch_size=8), p=0))
    assert [row[8:] for row in rows] == [("0.0", "0", "0")] * 3


def test_an_audit_leaves_sampler_and_random_state_alone():
    sampler = TailHeadPairSampler(LABELS, batch_size=8)
    next(iter(sampler))
    before, state = sampler.state_dict(), torch.get_rng_state()
    assert describe(sampler) == describe(sampler)
    plot_sampler(sampler)
    assert sampler.state_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_classes_and_ranks_are_told():
    sampler = TailHeadPairSampler([0, 0, 0, 0, 2], batch_size=2, num_replicas=2, rank=1)
    text = describe(sampler)
    assert re.search(r"^1 +few +0 +0\.0% +0\.0% +- +-$", text, re.MULTILINE)
    assert "on rank 1 of 2" in text
    assert len(plot_sampler(sampler).axes) == 3


def test_the_figure_of_a_sampler_shows_what_is_described():
    sampler = TailHeadPairSampler(LABELS, batch_size=8)
    settings = {"class_names": NAMES, "many": 50, "few": 10}
    figure = plot_sampler(sampler, **settings)
    text = describe(sampler, **settings)
    sizes, draws, partners = figure.axes
    assert figure.get_label() == text
    assert [round(bar.get_height()) for bar in sizes.patches] == [60, 20, 5]
    assert [label.get_text() for label in sizes.get_legend().get_texts()] == [
        "many-shot",
        "medium-shot",
        "few-shot",
    ]
    for axes, column in ((draws, 5), (partners, 8)):
        assert axes.get_title()
        means = [bars.lines[0].get_ydata()[0] for bars in axes.containers]
        assert [f"{mean:.1f}" for mean in means] == [row[column] for row in rows_of(text)]
        dots = axes.lines[-1].get_ydata()
        assert len(dots) == 5
        tail = rows_of(text)[2]
        assert (min(dots), max(dots)) == (int(tail[column + 1]), int(tail[column + 2]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sampler": [0, 1]}, TypeError, "Expected `sampler` to be a TailHeadPairSampler"),
        ({"p": 1.5}, ValueError, r"Expected `p` to be in \[0, 1\]"),
        ({"epoch": -1}, ValueError, "Expected `epoch` to be at least 0"),
        ({"class_names": ["a"]}, ValueError, "Expected `class_names` to have 3 names"),
        ({"few": 2000}, ValueError, "Expected `few` to be at most `many`"),
    ],
)
def test_wrong_arguments_of_an_audit_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        describe(**{"sampler": TailHeadPairSampler(LABELS, batch_size=8)} | arguments)


def test_only_viz_needs_matplotlib():
    program = (
        "import sys; sys.modules['matplotlib.axes'] = None\n"
        "import spmix_aug\n"
        "assert 'matplotlib' not in sys.modules\n"
        "try:\n    import spmix_aug.viz\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "install it with pip install 'spmix-aug[viz]'" in done.stdout, done.stderr


# A batch in hand


def test_plot_mixes_every_row_and_leaves_the_mixer_alone(batch):
    images, labels = batch
    images = images + 0.1 * torch.rand_like(images)
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state(), torch.random.get_rng_state()
    mixer = SaliencyPatchMix(class_counts=[50, 30, 10], p=0.1, generator=generator).eval()
    figure = mixer.plot(images, labels, rows=5)
    told = figure.get_label()
    assert "not mixed" not in told
    assert re.findall(r"sample (\d)", told)[:4] == ["8", "5", "6", "7"]
    assert len(figure.axes) == 5 * 6
    assert mixer.plot(images, labels, rows=5).get_label() == told
    named = mixer.plot(images, labels, class_names=["most", "some", "few"]).get_label()
    assert named.endswith("label some.")
    assert torch.equal(generator.get_state(), state[0])
    mixer.generator = None
    mixer.plot(images, labels)
    assert torch.equal(torch.random.get_rng_state(), state[1])
    assert not mixer.training
    assert mixer.p == 0.1
    mixer.class_counts = None
    rows = torch.nn.functional.one_hot(labels, 3).float()
    assert "Rows: sample 8" in mixer.plot(images, rows).get_label()


def test_plot_shows_an_image_that_was_drawn_twice_once():
    images = torch.rand(6, 3, 8, 8)
    images[1] = images[2] = images[0]  # the rare one, whose partner may be itself again
    labels = torch.tensor([1, 1, 1, 0, 0, 0])

    def with_partner_3(labels, counts, generator):
        return torch.tensor([1, 3, 3, 4, 5, 3])

    mixer = SaliencyPatchMix(class_counts=[30, 3], pairing=with_partner_3)
    told = mixer.plot(images, labels, rows=4).get_label()
    assert re.findall(r"sample (\d)", told) == ["1", "3", "4", "5"]
    told = mixer.plot(images, labels, rows=6).get_label()
    assert re.findall(r"sample (\d)", told) == ["1", "3", "4", "5", "0", "2"]


def test_plot_needs_a_pair(batch):
    images, labels = batch
    mixer = SaliencyPatchMix(num_classes=3)
    with pytest.raises(ValueError, match="a sample with a partner, but got 1 that have none"):
        mixer.plot(images[:1], labels[:1])
    with pytest.raises(ValueError, match="`rows` to be at least 1"):
        mixer.plot(images, labels, rows=0)
