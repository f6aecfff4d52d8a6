"""Which grid and which layout the output of a network's layer has, for plans and for Grad-CAM."""

import math
from typing import Any, Literal

from torch import Tensor, nn

Size = tuple[int, int]
Layout = Literal["NCHW", "NHWC"]


def in_proportion(grid: Size, image_size: Size) -> bool:
    """Whether square cells, with both sides rounded up or both down, give this grid."""
    (rows, columns), (height, width) = grid, image_size
    up = (rows - 1) * width < columns * height and (columns - 1) * height < rows * width
    down = rows * width < (columns + 1) * height and columns * height < (rows + 1) * width
    return up or down


def grids_of(cells: int, image_size: Size) -> list[Size]:
    """List the grids of so many cells that have the proportion of an image."""
    grids = [(rows, cells // rows) for rows in range(1, cells + 1) if cells % rows == 0]
    return [grid for grid in grids if in_proportion(grid, image_size)]


def stated_token_grid(network: nn.Module, image_size: Size) -> tuple[Size | None, int]:
    """Grid of the patch tokens of a ViT of timm's form, and how many tokens come before them."""
    prefix = getattr(network, "num_prefix_tokens", None)
    embed: Any = getattr(network, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if getattr(network, "dynamic_img_size", False) and hasattr(embed, "dynamic_feat_size"):
        grid = embed.dynamic_feat_size(image_size)
    return (None, 0) if prefix is None or grid is None else (tuple(grid), prefix)


def stated_layout(module: nn.Module) -> str | None:
    """Return the layout that a module says its output has, as timm's do."""
    stated = getattr(module, "output_fmt", None)
    return None if stated is None else str(getattr(stated, "value", stated))


def nearest_layout(maps: Tensor, image_size: Size) -> Layout:
    """Layout of feature maps of four sides, by which sides are nearer to the image's proportion."""

    def misfit(rows: int, columns: int) -> float:
        return abs(math.log(rows * image_size[1] / (columns * image_size[0])))

    last = misfit(*maps.shape[1:3]) < misfit(*maps.shape[2:4])
    return "NHWC" if last else "NCHW"
