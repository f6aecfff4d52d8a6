"""All that decides a training run: options of the command line, and recipes as files."""

import argparse
import math
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from spmix_aug.patches import NORMALIZATIONS
from spmix_aug.saliency import PROVIDERS

from .model import SMALL_CNN

RECIPES = Path(__file__).parent / "recipes"

# What may differ between the runs that one checkpoint came from and goes on to.
FREE = ("out", "workers", "device", "saliency_cache")


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """Describe a field of `Settings` for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """All that decides a run; the fields are the options of the command line."""

    data: str = option(MISSING, "folder in the challenge's layout")
    out: str = option(MISSING, "folder of the run: settings, metrics, checkpoint, predictions")
    protocol: str = option(
        "lesion_disjoint",
        "split by lesion, or the authors' file lists, which share lesions between their parts",
        ("lesion_disjoint", "authors"),
    )
    split_file: str | None = option(
        None, "CSV with columns image, split, fold; else the one in the data, else made by lesion"
    )
    hold_out: str = option("0", "fold to report on, or 'test'; 'test' alone with authors' lists")
    model: str = option(SMALL_CNN, "small_cnn, tiny_hybrid_vit or any model of timm")
    pretrained: bool = option(False, "start from timm's pretrained weights")
    image_size: int = option(64, "side of the images the model sees, in pixels")
    batch_size: int = option(64, "images of an optimiser step, on each rank")
    accumulate: int = option(1, "parts in which a batch goes through the model, one by one")
    epochs: int = option(8, "epochs of ceil(training images / batch size) steps")
    learning_rate: float = option(2e-3, "highest learning rate of AdamW")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    warmup_epochs: int = option(1, "epochs of linear warm-up before the cosine")
    precision: str = option(
        "auto",
        "of the forward pass; auto is float32 on CPUs, bfloat16 or float16 elsewhere",
        ("auto", "float32", "bfloat16", "float16"),
    )
    sampler: str = option(
        "pair", "half of each batch class-balanced, or none", ("pair", "instance")
    )
    tail_fraction: float = option(0.5, "share of class-balanced places (pair sampler)")
    gamma: float = option(1.0, "strength of the balancing (pair sampler)")
    mix: str = option(
        "spmix",
        "mix pixels, mix tokens behind the patch embedding, or nothing",
        ("spmix", "spmix_tokens", "none"),
    )
    saliency: str = option("spectral_residual", "saliency provider", tuple(PROVIDERS))
    saliency_of: str = option(
        "view",
        "maps of what the model sees, at each step, or of whole images, once, cropped along",
        ("view", "image"),
    )
    saliency_cache: str | None = option(
        None, "folder that keeps the maps of whole images; else one in the folder of the run"
    )
    patch_size: int = option(4, "side of a patch, in pixels; the papers have 14 patches a side")
    alpha: float = option(0.8, "upper bound of the own image's ratio")
    floor: float = option(0.5, "lower bound of the own image's ratio")
    normalize: str = option(
        "min_max", "how patch scores are brought to [0, 1]", tuple(NORMALIZATIONS)
    )
    jitter: float = option(0.0, "noise on patch scores, in standard deviations")
    p: float = option(0.5, "probability of a sample to be mixed")
    pairing: str = option(
        "relative",
        "who may be a partner: of a class at least as frequent, any other, or the samples of a "
        "second, class-balanced batch, which are not trained on themselves",
        ("relative", "any", "second_batch"),
    )
    target: str = option("own", "labels of mixed images", ("own", "ratio"))
    loss: str = option(
        "cross_entropy",
        "of one view, or of the papers' two views with class centres and a queue of features",
        ("cross_entropy", "contrastive"),
    )
    queue_size: int = option(8192, "past features that are contrasted with (contrastive)")
    feature_width: int = option(256, "width of the contrasted features (contrastive)")
    hidden_width: int = option(4096, "width of projector and predictor (contrastive)")
    temperature: float = option(0.2, "of the similarities (contrastive)")
    sample_weight: float = option(0.05, "of a positive sample, the centre's being 1 (contrastive)")
    seed: int = option(0, "seed of everything random")
    workers: int = option(2, "processes that load images, on each rank")
    device: str = option("auto", "auto, cpu, cuda, mps, ...")

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ValueError: if they do.
        """
        part = self.batch_size / max(1, self.accumulate)
        if self.accumulate < 1 or not part.is_integer():
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal parts; "
                "choose an accumulate that divides it"
            )
        if self.accumulate > 1 and self.sampler == "pair":
            balanced = part * self.tail_fraction
            if not math.isclose(balanced, round(balanced), abs_tol=1e-6):
                raise ValueError(
                    f"a part of {part:.0f} images has no whole number of class-balanced places at "
                    f"tail_fraction {self.tail_fraction}; choose a smaller accumulate"
                )
        if self.saliency_cache is not None and self.saliency_of != "image":
            raise ValueError("saliency_cache keeps maps of whole images; choose saliency_of image")
        if self.saliency_of == "image" and PROVIDERS[self.saliency].needs_model:
            raise ValueError(
                f"saliency {self.saliency} needs the model in training; choose saliency_of view, "
                "or model-free saliency"
            )
        if self.pairing == "second_batch" and self.sampler != "instance":
            raise ValueError(
                "pairing second_batch draws a class-balanced batch beside one as the data; choose "
                "sampler instance"
            )
        if self.target == "ratio" and self.loss == "contrastive":
            raise ValueError("contrastive loss needs one class an image; choose target own")
        if self.protocol == "authors" and (self.hold_out != "test" or self.split_file is not None):
            raise ValueError(
                "the authors' lists have one test part and no folds; choose hold_out test and no "
                "split_file"
            )


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe, one of this folder's by its name or any TOML file of settings.

    Raises:
        ValueError: if there is no such recipe, or it has what is no setting.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise ValueError(f"no recipe {name}; choose one of {known}, or a .toml file") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error}); mend the line") from error
    known = {entry.name: entry for entry in fields(Settings)}
    for key, value in recipe.items():
        if key not in known or key in ("data", "out"):
            raise ValueError(f"{path}: {key} is no setting of a recipe; see --help")
        wanted = known[key].type
        if type(value) is int and wanted is float:
            recipe[key] = float(value)
        elif type(value) is not (wanted if isinstance(wanted, type) else str):
            raise ValueError(f"{path}: {key} = {value!r} is no {known[key].type}; mend it")
        choices = known[key].metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{path}: {key} = {value!r} is none of {', '.join(choices)}")
    return recipe


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the settings from the command line, over those of its recipe.

    Raises:
        ValueError: if the recipe cannot be used, or settings contradict each other.
    """
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.train",
        description="Train a classifier on the ISIC 2018 folder layout, with or without SPMix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--recipe",
        help="settings from a file of recipes/, by its name, or any .toml; options go over them",
    )
    for entry in fields(Settings):
        name = "--" + entry.name.replace("_", "-")
        if entry.type is bool:
            parser.add_argument(
                name,
                action=argparse.BooleanOptionalAction,
                default=entry.default,
                help=entry.metadata["help"],
            )
            continue
        required = entry.default is MISSING
        parser.add_argument(
            name,
            type=entry.type if entry.type in (int, float) else str,
            choices=entry.metadata["choices"],
            help=entry.metadata["help"],
            **({"required": True} if required else {"default": entry.default}),
        )
    recipe = parser.parse_known_args(arguments)[0].recipe
    if recipe is not None:
        parser.set_defaults(**read_recipe(recipe))
    options = vars(parser.parse_args(arguments))
    del options["recipe"]
    return Settings(**options)
