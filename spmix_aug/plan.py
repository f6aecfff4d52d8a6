"""Room 4: the plan of a mix, and what it does to images, tokens and feature maps."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from spmix_aug import _checks
from spmix_aug.patches import expand_to_strips, grids_of, in_proportion, resize_ratios

# Values of an image from which on a CPU gains by blending samples one by one.
LARGE = 2**15
# Dtypes that are blended as they are; the others are blended in float32 and rounded back.
EXACT = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class MixPlan:
    """What is mixed with what, and how strongly; nothing is random once a plan exists.

    Attributes:
        partner: `(B,)` int64, 0 to B-1, whose background each sample gets; itself where it passes
            through.
        ratios: `(B,gh,gw)`, weight of the own image in each patch, in [0, 1]; 1 where a sample
            passes through.
        targets: `(B,K)`, the class distribution of each mixed sample.
        patch_size: P, in pixels.
        image_size: `(H,W)`, in pixels.
        saliency: the maps that guided the ratios, for plots, at the resolution at which they were
            computed, `(B,H,W)` or coarser (calling the provider gives them in the images' size);
            None where none were needed, because nothing is mixed.
    """

    partner: Tensor
    ratios: Tensor
    targets: Tensor
    patch_size: int
    image_size: tuple[int, int]
    saliency: Tensor | None = None

    def images(self, images: Tensor, *, inplace: bool = False) -> Tensor:
        """Blend each image with its partner's, patch by patch (SPMix, equation 4).

        Samples that pass through, and patches of ratio 1, are selected rather than computed:
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
        _checks.images_fit_plan(images, self.partner, self.image_size)
        if _checks.flag("inplace", inplace):
            _checks.writable(images)
        if len(images) < 2:  # nobody to mix with, and views would lose the memory format
            return images if inplace else images.clone()
        differentiable = images.requires_grad or self.ratios.requires_grad
        with_gradients = torch.is_grad_enabled() and differentiable and not inplace
        plain = type(images) is Tensor and images.device.type == "cpu" and not is_compiling()
        ratios = expand_to_strips(self.ratios, self.patch_size, self.image_size)  # (B,strips,W)
        ratios = ratios.unsqueeze(2).unsqueeze(1)  # (B,1,strips,1,W)
        shape = (*images.shape[:2], ratios.shape[2], -1, images.shape[3])
        own = images.view(shape)  # (B,C,strips,H/strips,W)
        if plain and not with_gradients and images[:1].numel() >= LARGE:
            mixed = images if inplace else torch.empty_like(images)
            self._blend_one_by_one(own, ratios, own if inplace else mixed.view(shape))
            return mixed
        mixed = _blend(own, own[self.partner], ratios).flatten(2, 3)  # (B,C,H,W)
        if inplace:
            with torch.no_grad():
                return images.copy_(mixed)
        return mixed

    @torch.no_grad()
    def _blend_one_by_one(self, images: Tensor, ratios: Tensor, mixed: Tensor) -> None:
        """Blend into `mixed` on a CPU, where reading values is free: no pass is made for nothing.

        Partners are read where they are instead of being collected, also where `mixed` is the
        images themselves, and only samples that have patches of ratio 1 select anything.
        """
        exact = (self.ratios == 1).flatten(1)
        passes, selects = exact.all(dim=1).tolist(), exact.any(dim=1).tolist()
        partners = self.partner.tolist()
        samples = [*zip(images, ratios, mixed, strict=True)]
        inplace = mixed is images
        order = _in_place_order(partners) if inplace else zip(range(len(partners)), repeat(False))
        kept: dict[int, Tensor] = {}  # what the open circle of partners still needs
        for sample, needed_later in order:
            own, ratio, out = samples[sample]
            if passes[sample]:
                if not inplace:
                    out.copy_(own)
                continue
            if needed_later:
                kept = {sample: own.clone()}
            other = kept.get(partners[sample], samples[partners[sample]][0])
            if selects[sample]:
                out.copy_(_blend(own, other, ratio))
            elif own.dtype in EXACT:
                torch.lerp(other, own, ratio.to(own.dtype), out=out)
            else:
                out.copy_(_weigh(own, other, ratio))

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
        _checks.tokens_fit_plan(tokens, self.partner)
        prefix_tokens = _checks.integer("prefix_tokens", prefix_tokens, low=0)
        _checks.choice("layout", layout, ("NCHW", "NHWC"))
        grid = None if grid is None else _checks.grid(grid)
        if tokens.ndim == 3:
            cells = tokens.shape[1] - prefix_tokens
            grid = _checks.token_grid(self._grids_of(cells, grid), cells, self.image_size)
            ratios = self._ratios_on(grid).flatten(1).unsqueeze(2)  # (B,N,1)
            own = tokens[:, prefix_tokens:]
            mixed = _blend(own, own[self.partner], ratios)
            return torch.cat([tokens[:, :prefix_tokens], mixed], dim=1) if prefix_tokens else mixed
        _checks.no_prefix_in_maps(prefix_tokens)
        height, width = tokens.shape[1:3] if layout == "NHWC" else tokens.shape[2:]
        fits = self._fits((height, width), grid)
        _checks.map_grid((height, width), fits, grid, layout, tokens, self.image_size)
        ratios = self._ratios_on((height, width))
        ratios = ratios.unsqueeze(3 if layout == "NHWC" else 1)
        return _blend(tokens, tokens[self.partner], ratios)

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
        _checks.module(module)
        prefix_tokens = _checks.integer("prefix_tokens", prefix_tokens, low=0)
        grid = None if grid is None else _checks.grid(grid)
        if layout is not None:
            _checks.choice("layout", layout, ("NCHW", "NHWC"), " or None")
        with_gradients = torch.is_grad_enabled()
        calls: list[bool] = []  # of each call, whether it kept what gradients need

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def mix(inputs: Any, output: Any) -> Tensor:
            _checks.module_output(module, output)
            wanted = any(
                isinstance(value, Tensor) and value.requires_grad
                for value in (*module.parameters(), *inputs)
            )
            calls.append(torch.is_grad_enabled() or not wanted)
            fmt = layout or self._layout_of(module, output, grid)
            return self.tokens(output, prefix_tokens, grid, layout=fmt)

        def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
            _checks.not_compiling()
            return mix(inputs, output)

        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
        _checks.was_mixed(module, calls, with_gradients)

    def _ratios_on(self, grid: tuple[int, int]) -> Tensor:
        """Bring the ratios to another grid, `(B,h,w)`."""
        return resize_ratios(self.ratios, self.patch_size, self.image_size, grid)

    def _grids_of(self, cells: int, grid: tuple[int, int] | None) -> list[tuple[int, int]]:
        """List the grids that so many tokens may have: the given one, the plan's, or others."""
        rows, columns = self.ratios.shape[1:]
        if grid is None and rows * columns == cells:
            grid = rows, columns
        return grids_of(cells, self.image_size) if grid is None else [grid]

    def _fits(self, sides: tuple[int, int], grid: tuple[int, int] | None) -> bool:
        """Tell whether sides of feature maps are the grid, or in the image's proportion."""
        return in_proportion(sides, self.image_size) if grid is None else sides == tuple(grid)

    def _layout_of(
        self, module: nn.Module, output: Tensor, grid: tuple[int, int] | None
    ) -> Literal["NCHW", "NHWC"]:
        """Find the layout of what a module returned; tokens have none."""
        if output.ndim != 4:
            return "NCHW"
        stated = _checks.stated_layout(module)
        if stated is not None:
            return "NHWC" if stated == "NHWC" else "NCHW"
        _, one, two, three = output.shape
        first, last = self._fits((two, three), grid), self._fits((one, two), grid)
        _checks.layout_shows(module, output, first, last)
        return "NHWC" if last else "NCHW"


def _in_place_order(partners: list[int]) -> Iterator[tuple[int, bool]]:
    """Order samples so that each comes after those whose partner it is, except in circles.

    Yields:
        A sample, and whether one that comes later still needs it.
    """
    needed = Counter(partner for sample, partner in enumerate(partners) if partner != sample)
    left = dict.fromkeys(range(len(partners)))
    free = [sample for sample in left if not needed[sample]]
    while left:
        sample = free.pop() if free else next(iter(left))
        del left[sample]
        yield sample, needed[sample] > 0
        partner = partners[sample]
        needed[partner] -= 1
        if partner in left and not needed[partner]:
            free.append(partner)


def _blend(own: Tensor, partner: Tensor, ratios: Tensor) -> Tensor:
    """Blend what is a sample's own with its partner's; where the ratio is 1, select the own."""
    return torch.where(ratios == 1, own, _weigh(own, partner, ratios))


def _weigh(own: Tensor, partner: Tensor, ratios: Tensor) -> Tensor:
    """Weigh what is a sample's own and its partner's, in the dtype of both."""
    if own.dtype in EXACT:
        return torch.lerp(partner, own, ratios.to(own.dtype))
    blend = torch.lerp(partner.float(), own.float(), ratios.float())
    return (blend if own.is_floating_point() else blend.round()).to(own.dtype)
