"""The classifiers of the example: a small CNN that a CPU trains, or any model of timm."""

import timm
from torch import nn

SMALL_CNN = "small_cnn"


def build_model(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """Make the small default CNN, or the timm model of that name, with random weights.

    Args:
        name: `"small_cnn"` or a model of timm.
        num_classes: K, width of the logits.
        pretrained: load timm's pretrained weights, which are downloaded.

    Raises:
        ValueError: if there is no such model, or no pretrained weights for the small CNN.
    """
    if name == SMALL_CNN:
        if pretrained:
            raise ValueError(f"`{SMALL_CNN}` has no pretrained weights; choose a model of timm")
        return small_cnn(num_classes)
    if not timm.is_model(name):
        near = (
            ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        )
        raise ValueError(f"no model `{name}`; choose {SMALL_CNN} or one of timm's ({near}, ...)")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes)


def small_cnn(num_classes: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> nn.Sequential:
    """Make a CNN of two 3 x 3 convolutions a stage, each stage at half the size of the last."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, width in enumerate(widths):
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        for _ in range(2):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
    head = [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(channels, num_classes),
    ]
    return nn.Sequential(*layers, *head)
