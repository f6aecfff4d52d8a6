"""All that decides a training run: options of the command line, and recipes as files."""

import argparse
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import tyro

from spmix_aug.functional import NORMALIZATIONS
from spmix_aug.saliency import PROVIDERS

from .model import SMALL_CNN

RECIPES = Path(__file__).parent / "recipes"

# What may differ between the runs that one checkpoint came from and goes on to.
MAY_DIFFER_ON_RESUME = ("out", "workers", "device", "saliency_cache")


@dataclass(frozen=True)
class Settings:
    """Train a classifier on labelled images, with or without SPMix.

    The fields are the options of the command line, and their comments its help.
    `--recipe NAME` takes settings from a file of recipes/, or any .toml; options go over them.
    """

    data: str  # folder of the images
    out: str  # folder of the run: settings, metrics, checkpoint, predictions
    # the challenge's folder, or a folder for each class
    layout: Literal["isic2018", "folders"] = "isic2018"
    # table of images and labels, or of one-hot columns, in place of a layout
    csv: str | None = None
    groups: str | None = None  # another table, of images and groups (patients, lesions)
    image: str | None = None  # column of the images' names or ids in the tables; else a usual name
    label: str | None = None  # column of the labels; else a usual name, or one-hot columns
    group: str | None = None  # column of the groups, which no split divides; else a usual name
    # split by lesion, or the authors' file lists, which share lesions between their parts
    protocol: Literal["lesion_disjoint", "authors"] = "lesion_disjoint"
    # CSV with columns image, split, fold; else the one in the data, else made by lesion
    split_file: str | None = None
    hold_out: str = "0"  # fold to report on, or 'test'; 'test' alone with authors' lists
    model: str = SMALL_CNN  # small_cnn, tiny_hybrid_vit or any model of timm
    pretrained: bool = False  # start from timm's pretrained weights
    image_size: int = 64  # side of the images the model sees, in pixels
    batch_size: int = 64  # images of an optimiser step, on each rank
    accumulate: int = 1  # parts in which a batch goes through the model, one by one
    epochs: int = 8  # epochs of ceil(training images / batch size) steps
    learning_rate: float = 2e-3  # highest learning rate of AdamW
    weight_decay: float = 0.05  # weight decay of AdamW
    warmup_epochs: int = 1  # epochs of linear warm-up before the cosine
    # of the forward pass; auto is float32 on CPUs, bfloat16 or float16 elsewhere
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    sampler: Literal["pair", "instance"] = "pair"  # half of each batch class-balanced, or none
    tail_fraction: float = 0.5  # share of class-balanced places (pair sampler)
    gamma: float = 1.0  # strength of the balancing (pair sampler)
    # mix pixels, mix tokens behind the patch embedding, plain mixup to compare with, or nothing
    mix: Literal["spmix", "spmix_tokens", "mixup", "none"] = "spmix"
    saliency: Literal[tuple(PROVIDERS)] = "border_contrast"  # saliency provider
    # maps of what the model sees, at each step, or of whole images, once, cropped along
    saliency_of: Literal["view", "image"] = "view"
    # folder that keeps the maps of whole images; else one in the folder of the run
    saliency_cache: str | None = None
    # side of a patch, in pixels; else a fourteenth of the image's, as the papers have
    patch_size: int | None = None
    alpha: float = 0.8  # upper bound of the own image's ratio
    floor: float = 0.5  # lower bound of the own image's ratio
    normalize: Literal[tuple(NORMALIZATIONS)] = "min_max"  # how patch scores are brought to [0, 1]
    jitter: float = 0.0  # noise on patch scores, in standard deviations
    p: float = 0.5  # probability of a sample to be mixed
    # who may be a partner: of a class at least as frequent, any other, or the samples of a second,
    # class-balanced batch, which are not trained on themselves
    pairing: Literal["relative", "any", "second_batch"] = "relative"
    target: Literal["own", "ratio"] = "own"  # labels of mixed images
    # of one view, or of the papers' two views with class centres and a queue of features
    loss: Literal["cross_entropy", "contrastive"] = "cross_entropy"
    queue_size: int = 8192  # past features that are contrasted with (contrastive)
    feature_width: int = 256  # width of the contrasted features (contrastive)
    hidden_width: int = 4096  # width of projector and predictor (contrastive)
    temperature: float = 0.2  # of the similarities (contrastive)
    sample_weight: float = 0.05  # of a positive sample, the centre's being 1 (contrastive)
    seed: int = 0  # seed of everything random
    workers: int = 2  # processes that load images, on each rank
    device: str = "auto"  # auto, cpu, cuda, mps, ...

    @property
    def balanced_share(self) -> float:
        """Share of class-balanced places among the images that a batch trains on."""
        return self.tail_fraction if self.sampler == "pair" else 0.0

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
        if self.protocol == "authors" and (self.layout != "isic2018" or self.csv is not None):
            raise ValueError("the authors' lists name images of the challenge; choose its layout")
        if self.csv is None and any((self.groups, self.image, self.label, self.group)):
            raise ValueError("groups, image, label and group are about a table; name it by csv")
        if self.protocol == "authors" and (self.hold_out != "test" or self.split_file is not None):
            raise ValueError(
                "the authors' lists have one test part and no folds; choose hold_out test and no "
                "split_file"
            )


def read_recipe(name: str) -> list[str]:
    """Read a recipe, one of this folder's by its name or any TOML file of settings, as options.

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
    settable = {entry.name for entry in fields(Settings)} - {"data", "out"}
    unknown = recipe.keys() - settable
    if unknown:
        raise ValueError(f"{path}: {min(unknown)} is no setting of a recipe; see --help")
    options = {key.replace("_", "-"): value for key, value in recipe.items()}
    switches = {True: "--{}", False: "--no-{}"}
    return [
        switches[value].format(key) if isinstance(value, bool) else f"--{key}={value}"
        for key, value in options.items()
    ]


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the settings from the command line, over those of its recipe.

    Raises:
        ValueError: if the recipe cannot be used, or settings contradict each other.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    chosen, options = parser.parse_known_args(arguments)
    recipe = [] if chosen.recipe is None else read_recipe(chosen.recipe)
    return tyro.cli(Settings, prog="python -m examples.isic2018.train", args=[*recipe, *options])
