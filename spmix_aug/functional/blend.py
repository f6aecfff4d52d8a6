"""Step 4: blend each sample with its partner (SPMix, equation 4).

    mixed = ratio * own + (1 - ratio) * partner,  and own itself where the ratio is 1

`blend` is that line. What follows computes the same for the images of a batch with fewer passes
over memory: on CPUs sample by sample, so that partners are read where they are.
"""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

# Values of an image from which on a CPU gains by blending samples one by one.
LARGE = 2**15
# Dtypes that are blended as they are; the others are blended in float32 and rounded back.
EXACT = (torch.float32, torch.float64)


def blend(own: Tensor, partner: Tensor, ratios: Tensor) -> Tensor:
    """Weigh `own` by `ratios` and `partner` by the rest; where a ratio is 1, select the own.

    Selected values are bit-identical, and untouched by what may be wrong with the partner.

    Args:
        own: in any floating dtype or uint8; low precision is blended in float32 and rounded back.
        partner: the same shape.
        ratios: weight of the own in [0, 1]; broadcast to that shape.
    """
    return torch.where(ratios == 1, own, _weigh(own, partner, ratios))


def _weigh(own: Tensor, partner: Tensor, ratios: Tensor) -> Tensor:
    """Blend in the dtype of both, without selecting."""
    if own.dtype in EXACT:
        return torch.lerp(partner, own, ratios.to(own.dtype))
    mixed = torch.lerp(partner.float(), own.float(), ratios.float())
    return (mixed if own.is_floating_point() else mixed.round()).to(own.dtype)


def blend_images(
    images: Tensor, partner: Tensor, ratios: Tensor, *, inplace: bool = False
) -> Tensor:
    """Blend each of the `images (B,C,H,W)` with its partner's.

    Args:
        images: in any floating dtype or uint8.
        partner: `(B,)` indices into the batch.
        ratios: `(B,rows,W)` in [0, 1], where `rows` divides H: each row of ratios is for as many
            rows of pixels.
        inplace: write the result into `images`.

    Returns:
        `(B,C,H,W)`, differentiable in images and ratios (in reverse mode) unless `inplace`.
    """
    if len(images) < 2:  # nobody to mix with, and views would lose the memory format
        return images if inplace else images.clone()
    if not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last):
        # As rows of W * C values, in which they lie side by side.
        pixels = images.permute(0, 2, 3, 1)  # (B,H,W,C)
        rows = pixels.flatten(2).unsqueeze(1)  # (B,1,H,W*C)
        ratios = ratios.repeat_interleave(images.shape[1], dim=2)
        mixed = blend_images(rows, partner, ratios, inplace=inplace)
        return images if inplace else mixed.view(pixels.shape).permute(0, 3, 1, 2)
    ratios = ratios.unsqueeze(2).unsqueeze(1)  # (B,1,rows,1,W)
    shape = (*images.shape[:2], ratios.shape[2], -1, images.shape[3])
    own = images.view(shape)  # (B,C,rows,H/rows,W)
    if _gains_one_by_one(images, ratios, inplace):
        mixed = images if inplace else torch.empty_like(images)
        with torch.no_grad():
            if inplace:
                _blend_in_place(own, partner, ratios)
            else:
                _blend_one_by_one(own, partner, ratios, mixed.view(shape))
        return mixed
    mixed = blend(own, own[partner], ratios).flatten(2, 3)  # (B,C,H,W)
    if inplace:
        with torch.no_grad():
            return images.copy_(mixed)
    return mixed


def _gains_one_by_one(images: Tensor, ratios: Tensor, inplace: bool) -> bool:
    """Whether these are large plain tensors on a CPU, outside autograd and compilation."""
    differentiable = images.requires_grad or ratios.requires_grad
    return (
        not torch.compiler.is_compiling()
        and type(images) is Tensor
        and images.device.type == "cpu"
        and images[:1].numel() >= LARGE
        and not (torch.is_grad_enabled() and differentiable and not inplace)
    )


def _blend_one_by_one(images: Tensor, partner: Tensor, ratios: Tensor, out: Tensor) -> None:
    """Blend on a CPU, where reading a value costs nothing, without collecting the partners."""
    selects, unmixed = _where_one(ratios)
    for i, j in enumerate(partner):
        if unmixed[i]:
            out[i].copy_(images[i])
        else:
            _blend_sample(images[i], images[j], ratios[i], out[i], selects[i])


def _blend_in_place(images: Tensor, partner: Tensor, ratios: Tensor) -> None:
    """Blend on a CPU into `images`: in an order that needs one copied image, not a copied batch."""
    selects, unmixed = _where_one(ratios)
    partners = partner.tolist()
    kept: dict[int, Tensor] = {}  # what the open circle of partners still needs
    for i, needed_later in _in_place_order(partners):
        if unmixed[i]:
            continue
        if needed_later:
            kept = {i: images[i].clone()}
        other = kept.get(partners[i], images[partners[i]])
        _blend_sample(images[i], other, ratios[i], images[i], selects[i])


def _where_one(ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples have ratios of 1, and which have no other: `(B,)` bool each."""
    ones = (ratios == 1).flatten(1)
    return ones.any(dim=1), ones.all(dim=1)


def _blend_sample(own: Tensor, other: Tensor, ratios: Tensor, out: Tensor, selects: Tensor) -> None:
    """Blend one sample into `out`, without a pass that selects where no ratio is 1."""
    if selects:
        out.copy_(blend(own, other, ratios))
    elif own.dtype in EXACT:
        torch.lerp(other, own, ratios.to(own.dtype), out=out)
    else:
        out.copy_(_weigh(own, other, ratios))


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
