"""Settings, recipes and what contradicts itself."""

import re

import pytest
import tomllib

pytest.importorskip("timm")
pytest.importorskip("tyro")
from examples.isic2018 import settings
from examples.isic2018.settings import RECIPES, Settings, parse, read_recipe

GIVEN = ["--data", "d", "--out", "o"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_makes_settings(path):
    chosen = parse([*GIVEN, "--recipe", path.stem])
    for name, value in tomllib.loads(path.read_text()).items():
        assert getattr(chosen, name) == value


def test_the_papers_numbers():
    chosen = parse([*GIVEN, "--recipe", "spmix2024"])
    assert (chosen.learning_rate, chosen.weight_decay, chosen.batch_size) == (5e-6, 0.1, 16)
    assert (chosen.epochs, chosen.warmup_epochs, chosen.precision) == (500, 10, "float16")
    assert (chosen.queue_size, chosen.feature_width, chosen.hidden_width) == (8192, 256, 4096)
    assert (chosen.temperature, chosen.sample_weight) == (0.2, 0.05)
    assert (chosen.image_size / chosen.patch_size, chosen.alpha, chosen.floor) == (14, 0.8, 0.5)
    assert (chosen.mix, chosen.saliency, chosen.target) == ("spmix_tokens", "fine_grained", "own")
    code = parse([*GIVEN, "--recipe", "spmix2024_code"])
    differing = {
        name
        for name in Settings.__dataclass_fields__
        if getattr(code, name) != getattr(chosen, name)
    }
    assert differing == {"sampler", "pairing"}


def test_options_go_over_a_recipe():
    chosen = parse([*GIVEN, "--recipe", "spmix2024", "--no-pretrained", "--epochs", "2"])
    assert (chosen.pretrained, chosen.epochs, chosen.batch_size) == (False, 2, 16)
    assert parse(["--epochs", "2", *GIVEN, "--no-pretrained", "--recipe", "spmix2024"]) == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", r"not TOML .*; mend"),
        ("epoch = 3", "epoch is no setting of a recipe"),
        ("out = 'x'", "out is no setting of a recipe"),
        ("data = 'x'", "data is no setting of a recipe"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse([*GIVEN, "--recipe", str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = true", "(Missing value for argument .--epochs|Unrecognized options)"),
        ("epochs = 'three'", "Error parsing --epochs: .*'three'"),
        ("epochs = 2.5", "Error parsing --epochs: .*'2.5'"),
        ("mix = 'all'", "invalid choice 'all' for argument '--mix'"),
        ("pretrained = 'yes'", "Unrecognized options"),
    ],
)
def test_values_that_do_not_fit_are_refused_as_on_the_command_line(tmp_path, capsys, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse([*GIVEN, "--recipe", str(path)])
    assert re.search(message, capsys.readouterr().err)


def test_the_help_names_recipes_and_every_setting(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    told = capsys.readouterr().out
    assert "--recipe NAME" in told
    for name in Settings.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in told
    assert "upper bound of the own image's ratio" in told


def test_an_unknown_recipe_names_the_known():
    with pytest.raises(ValueError, match=r"no recipe paper; choose one of spmix2024, .*tiny"):
        read_recipe("paper")


def test_whole_numbers_stand_for_floats_and_switches_go_both_ways(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("alpha = 1\npretrained = false\n")
    chosen = parse([*GIVEN, "--recipe", str(path)])
    assert (chosen.alpha, type(chosen.alpha), chosen.pretrained) == (1.0, float, False)
    path.write_text("pretrained = true\n")
    assert parse([*GIVEN, "--recipe", str(path)]).pretrained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "accumulate": 3}, "batch_size 10 cannot be cut into 3"),
        ({"accumulate": 0}, "cannot be cut into 0"),
        ({"batch_size": 16, "accumulate": 16}, "a part of 1 images has no whole number"),
        ({"saliency_cache": "maps"}, "choose saliency_of image"),
        ({"saliency": "grad_cam", "saliency_of": "image"}, "grad_cam needs the model"),
        ({"pairing": "second_batch"}, "choose sampler instance"),
        ({"target": "ratio", "loss": "contrastive"}, "choose target own"),
        ({"protocol": "authors"}, "choose hold_out test"),
        ({"protocol": "authors", "hold_out": "test", "split_file": "f"}, "no split_file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        settings.Settings(data="d", out="o", **options)
