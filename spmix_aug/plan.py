"""The plan of a mix, and what it does to images, tokens and feature maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from spmix_aug import _checks
from spmix_aug._checks import expect, expect_type
from spmix_aug._grids import Layout, Size, grids_of, in_proportion, stated_layout
from spmix_aug.functional import blend, blend_images, patch_grid, ratios_per_row, resize_ratios

LAYOUTS = ("NCHW", "NHWC")
_MOVE = "bring the plan there with plan.to(device)"
_COMPILED = (
    "compile parts of the model that do not hold it (for block in model.blocks: block.compile()), "
    "or call plan.tokens(...) between its parts"
)


@dataclass(frozen=True, eq=False)
class MixPlan:
    """What is mixed with what, and how strongly; nothing is random once a plan exists.

    Attributes:
        partner: `(B,)` int64, 0 to B-1, whose background each sample gets; itself where it stays
            unmixed.
        ratios: `(B,gh,gw)`, weight of the own image in each patch, in [0, 1]; 1 where a sample
            stays unmixed.
        targets: `(B,K)`, the class distribution of each mixed sample.
        patch_size: P, in pixels.
        image_size: `(H,W)`, in pixels.
        saliency: the maps that guided the ratios, for plots, at the resolution at which they were
            computed, `(B,H,W)` or coarser (calling the provider gives them in the images' size);
            ones `(B,1,1)` where the ratio is uniform, and None where nothing is mixed.
        mean: of the images' normalisation, `(1,)` or `(C,)`, for plots; None where there is none.
        std: the same.
    """

    partner: Tensor
    ratios: Tensor
    targets: Tensor
    patch_size: int
    image_size: tuple[int, int]
    saliency: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None

    @classmethod
    def _nothing(cls, targets: Tensor, patch_size: int, image_size: tuple[int, int]) -> "MixPlan":
        """Make the plan that leaves every sample unmixed, with its own target `(B,K)`."""
        itself = torch.arange(len(targets), device=targets.device)
        ratios = targets.new_ones(len(targets), *patch_grid(image_size, patch_size))
        return cls(itself, ratios, targets, patch_size, image_size)

    def __repr__(self) -> str:
        """Show what is planned, without the values."""
        samples, rows, columns = self.ratios.shape
        grid = f"patches={rows}x{columns} of {self.patch_size} pixels"
        return f"MixPlan(samples={samples}, {grid}, image_size={self.image_size})"

    def to(self, device: torch.device | str) -> "MixPlan":
        """Bring the plan to a device, as from a worker to where the model is.

        Args:
            device: where the images or tokens are that it is to mix.

        Returns:
            A plan whose tensors are there.

        Raises:
            TypeError: if `device` is none.
        """
        ok = isinstance(device, (str, int, torch.device))
        expect_type(ok, "device", "to be a device or its name", device)
        fields = vars(self).items()
        moved: Any = {name: field.to(device) for name, field in fields if torch.is_tensor(field)}
        return replace(self, **moved)

    def images(self, images: Tensor, *, inplace: bool = False) -> Tensor:
        """Blend each image with its partner's, patch by patch (SPMix, equation 4).

        Samples that stay unmixed, and patches of ratio 1, are selected rather than computed:
        bit-identical, and untouched by what may be wrong with the partner.

        Args:
            images: `(B,C,H,W)` of the plan's batch and size, in any floating dtype or uint8;
                low-precision images are blended in float32 and rounded back.
            inplace: write the result into `images`.

        Returns:
            `(B,C,H,W)` in the dtype and memory format of `images`, differentiable in them (in
            reverse mode) unless `inplace`.

        Raises:
            TypeError: if `images` is no tensor of an accepted dtype.
            ValueError: if its shape or device is not the plan's, or it cannot be written in place.
        """
        images = _checks.require_images(images)
        shape = (len(self.partner), images.shape[1], *self.image_size)
        wanted = "to have the plan's shape {shape}"
        hint = "make a plan for each batch and size; `partner=` keeps the pairs"
        expect(tuple(images.shape) == shape, "images", wanted, images.shape, hint, shape=shape)
        _checks.require_on("images", images, self.partner.device, "plan's", _MOVE)
        if _checks.as_flag("inplace", inplace):
            _checks.require_writable(images)
        return self._blend(images, inplace)

    def _blend(self, images: Tensor, inplace: bool) -> Tensor:
        """Blend images that were checked."""
        ratios = ratios_per_row(self.ratios, self.patch_size, self.image_size)  # (B,rows,W)
        return blend_images(images, self.partner, ratios, inplace=inplace)

    def tokens(
        self,
        tokens: Tensor,
        prefix_tokens: int = 0,
        grid: tuple[int, int] | None = None,
        *,
        layout: Literal["NCHW", "NHWC"] = "NCHW",
    ) -> Tensor:
        """Blend each sample's tokens, or features, with its partner's (SPMix, equation 4).

        This is where the papers mix: behind the patch embedding. A grid other than the plan's
        takes the plan's mean ratio over the area of each of its cells.

        Args:
            tokens: `(B,N,D)`, row by row; or feature maps `(B,D,h,w)`, in any floating dtype.
            prefix_tokens: how many tokens come before those of the patches (class and register
                tokens); they are left as they are.
            grid: rows and columns `(h,w)` of the patch tokens, whose cells cover the image evenly;
                when None, the plan's own or the one grid of that many cells in the image's
                proportion.
            layout: `"NHWC"` for feature maps `(B,h,w,D)`.

        Returns:
            The mix, in the shape, dtype and memory format of `tokens`, differentiable in them.

        Raises:
            TypeError: if `tokens` is no floating tensor, or another argument is of the wrong type.
            ValueError: if its batch or device is not the plan's, or the grid is not known.
        """
        tokens = _checks.as_tensor("tokens", tokens)
        prefix_tokens = _checks.as_integer("prefix_tokens", prefix_tokens, low=0)
        _checks.as_choice("layout", layout, LAYOUTS)
        grid = _as_grid(grid)
        self._require_tokens(tokens)
        if tokens.ndim == 3:
            grid = self._token_grid(tokens.shape[1] - prefix_tokens, grid)
            ratios = self._ratios_on(grid).flatten(1).unsqueeze(2)  # (B,N,1)
            own = tokens[:, prefix_tokens:]
            mixed = blend(own, own[self.partner], ratios)
            return torch.cat([tokens[:, :prefix_tokens], mixed], dim=1) if prefix_tokens else mixed
        hint = "only tokens (B,N,D) have prefix tokens"
        expect(prefix_tokens == 0, "prefix_tokens", "0 for feature maps", prefix_tokens, hint)
        height, width = tokens.shape[1:3] if layout == "NHWC" else tokens.shape[2:]
        self._require_sides((height, width), grid, layout)
        ratios = self._ratios_on((height, width))
        ratios = ratios.unsqueeze(3 if layout == "NHWC" else 1)
        return blend(tokens, tokens[self.partner], ratios)

    @contextmanager
    def hooked(
        self,
        module: nn.Module,
        prefix_tokens: int = 0,
        grid: tuple[int, int] | None = None,
        *,
        layout: Literal["NCHW", "NHWC"] | None = None,
    ) -> Iterator[None]:
        """Mix what a module of a model returns, inside the model's own forward.

        `with plan.hooked(model.patch_embed): logits = model(images)` mixes tokens in a ViT as the
        papers do, and `plan.hooked(model.layer1)` feature maps in a CNN. Every call of the module
        in the block is mixed; afterwards, also when something raised, the module is as it was.

        A module that activation checkpointing runs again in the backward pass has to be mixed
        again: call `backward()` inside the block. Outside, the gradients would be those of an
        unmixed pass; where that shows it raises, but where nothing of the module is trained it
        may not. A compiled model does not see hooks that come and go, which is an error (or, if
        its very first call is inside the block, runs uncompiled): compile parts of it that do not
        hold the module (`for block in model.blocks: block.compile()`), or call `tokens` between
        its parts.

        Args:
            module: whose output is tokens `(B,N,D)`, row by row, or feature maps, of the plan's
                whole batch.
            prefix_tokens: see `tokens`.
            grid: see `tokens`.
            layout: of feature maps; when None, the one that the module states (timm's
                `output_fmt`), else the one in which their sides are the grid, or in the image's
                proportion.

        Raises:
            TypeError: if `module` is no module, or returns no tensor.
            ValueError: if the module did not run in the block, or ran where a hook cannot mix it;
                or what it returns does not fit, see `tokens`.
        """
        _checks.as_instance("module", module, nn.Module)
        _checks.require_hookable("module", module)
        prefix_tokens = _checks.as_integer("prefix_tokens", prefix_tokens, low=0)
        grid = _as_grid(grid)
        if layout is not None:
            _checks.as_choice("layout", layout, LAYOUTS, " or None")
        with_gradients = torch.is_grad_enabled()
        calls: list[bool] = []  # of each call, whether it kept what gradients need

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def mix(inputs: Any, output: Any) -> Tensor:
            output = _as_output(module, output)
            wanted = any(
                isinstance(value, Tensor) and value.requires_grad
                for value in (*module.parameters(), *inputs)
            )
            calls.append(torch.is_grad_enabled() or not wanted)
            fmt = layout or self._layout_of(module, output, grid)
            return self.tokens(output, prefix_tokens, grid, layout=fmt)

        def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
            compiling = torch.compiler.is_compiling()  # to code that would keep this plan for good
            wanted = "to be hooked outside compiled code"
            expect(not compiling, "module", wanted, "compilation", _COMPILED)
            return mix(inputs, output)

        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
        _require_mixed(module, calls, with_gradients)

    def _require_tokens(self, tokens: Tensor) -> None:
        """Accept tokens `(B,N,D)` or feature maps of four sides, of the plan's batch and device."""
        hint, batch = "ids do not blend, give their one-hot rows as floats", len(self.partner)
        expect_type(tokens.is_floating_point(), "tokens", "to be floating", tokens.dtype, hint)
        ok = tokens.ndim in (3, 4) and len(tokens) == batch and 0 not in tokens.shape[1:]
        wanted = "to have shape (B,N,D), (B,D,h,w) or (B,h,w,D) with the plan's B = {batch}"
        hint = "make a plan for each part of a batch that runs through the module"
        expect(ok, "tokens", wanted, tokens.shape, hint, batch=batch)
        _checks.require_on("tokens", tokens, self.partner.device, "plan's", _MOVE)

    def _ratios_on(self, grid: Size) -> Tensor:
        """Bring the ratios to another grid, `(B,h,w)`."""
        return resize_ratios(self.ratios, self.patch_size, self.image_size, grid)

    def _token_grid(self, cells: int, grid: Size | None) -> Size:
        """Find the grid of so many tokens: the given one, the plan's, or the only one that fits."""
        own = (self.ratios.shape[1], self.ratios.shape[2])
        if grid is not None:
            found = [grid]
        else:
            found = [own] if own[0] * own[1] == cells else grids_of(cells, self.image_size)
        wanted = "to be of a number that determines their grid on images of {size}"
        got = f"{cells} without prefix tokens, which have {found or 'none'}"
        hint = "give `grid`, and `prefix_tokens` where class or register tokens come first"
        expect(len(found) == 1, "tokens", wanted, got, hint, size=self.image_size)
        rows, columns = found[0]
        wanted = "to have {cells} cells, the number of tokens without prefix tokens"
        expect(rows * columns == cells, "grid", wanted, f"{found[0]}", cells=cells)
        return rows, columns

    def _fits(self, sides: Size, grid: Size | None) -> bool:
        """Whether sides of feature maps are the grid, or in the image's proportion."""
        return in_proportion(sides, self.image_size) if grid is None else sides == grid

    def _require_sides(self, sides: Size, grid: Size | None, layout: str) -> None:
        """Accept sides of feature maps that fit."""
        as_image = f"in the proportion of images of {self.image_size}"
        wanted = f"to be feature maps {as_image if grid is None else f'of `grid` {grid}'}"
        hint = f"give another `layout`, or grid={sides} if that is meant"
        expect(self._fits(sides, grid), "tokens", wanted, f"{layout} maps of {sides}", hint)

    def _layout_of(self, module: nn.Module, output: Tensor, grid: Size | None) -> Layout:
        """Find the layout of what a module returned: as it states, or by the sides that fit."""
        stated = stated_layout(module)
        if output.ndim != 4 or stated is not None:
            return "NHWC" if stated == "NHWC" else "NCHW"
        _, one, two, three = output.shape
        first, last = self._fits((two, three), grid), self._fits((one, two), grid)
        fitting = "both layouts fit" if first else "no layout fits"
        got = f"shape {tuple(output.shape)} from {type(module).__name__}, which {fitting}"
        hint = "give `layout`" if first else "give `layout` and `grid`"
        expect(first != last, "module", "to return maps whose layout shows", got, hint)
        return "NHWC" if last else "NCHW"


def _as_grid(value: Any) -> Size | None:
    """Accept rows and columns, or None."""
    if value is None:
        return None
    ok = isinstance(value, (tuple, list)) and len(value) == 2
    expect_type(ok, "grid", "to be (rows, columns)", value)
    rows, columns = (_checks.as_integer("grid", side) for side in value)
    return rows, columns


def _as_output(module: nn.Module, value: Any) -> Tensor:
    """Accept what a module returned: a tensor, and no tokens `(B,D,N)`."""
    name = type(module).__name__
    wanted, hint = "to return a tensor", "hook a part of it that returns one"
    got = f"{type(value).__name__} from {name}"
    expect(isinstance(value, Tensor), "module", wanted, got, hint, TypeError)
    wanted, hint = "to return tokens (B,N,D)", "give it NLC, or hook the module that turns them"
    got = f"{name}'s output_fmt NCL, (B,D,N)"
    expect(value.ndim != 3 or stated_layout(module) != "NCL", "module", wanted, got, hint)
    return cast(Tensor, value)


def _require_mixed(module: nn.Module, calls: list[bool], with_gradients: bool) -> None:
    """Accept a module that ran under its hook, with gradients where they were asked for."""
    name = type(module).__name__
    got = (
        f"{name}, which never did: it is not a part of the model that ran, or that model runs its "
        "children without it (hook the last of them), or is compiled"
    )
    expect(calls, "module", "to run inside the block", got, _COMPILED)
    got = f"{name}, which ran without"
    hint = (
        "if activation checkpointing runs it again in the backward pass, call backward() inside "
        "the block; if no gradients are wanted, put the block inside torch.no_grad()"
    )
    expect(any(calls) or not with_gradients, "module", "to run with gradients", got, hint)
