"""The classifiers of the example: small ones that a CPU trains, or any model of timm."""

from collections.abc import Callable
from functools import partial

import timm
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed
from torch import nn

SMALL_CNN = "small_cnn"
TINY_HYBRID = "tiny_hybrid_vit"
PAPERS_HYBRID = "vit_small_resnet50d_s16_224"


def build_model(
    name: str, num_classes: int, *, pretrained: bool = False, image_size: int = 64
) -> nn.Module:
    """Make one of the small models, or the timm model of that name, with random weights.

    Args:
        name: `"small_cnn"`, `"tiny_hybrid_vit"` or a model of timm; the papers' is
            `"vit_small_resnet50d_s16_224"`.
        num_classes: K, width of the logits.
        pretrained: load timm's pretrained weights, which are downloaded; of the papers' hybrid
            there are some for the convolutional part alone.
        image_size: side of the images in pixels, for the two hybrid ViTs.

    Raises:
        ValueError: if there is no such model, or its pretrained weights cannot be had.
    """
    if name in (SMALL_CNN, TINY_HYBRID):
        if pretrained:
            raise ValueError(
                f"`{name}` has no pretrained weights; choose a model of timm, or --no-pretrained"
            )
        return small_cnn(num_classes) if name == SMALL_CNN else tiny_hybrid(num_classes, image_size)
    if not timm.is_model(name):
        near = (
            ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        )
        raise ValueError(
            f"no model `{name}`; choose {SMALL_CNN}, {TINY_HYBRID} or one of timm's ({near}, ...)"
        )
    if name != PAPERS_HYBRID:
        load = partial(timm.create_model, name, num_classes=num_classes)
        return _pretrained(name, load) if pretrained else load()
    model = timm.create_model(name, num_classes=num_classes, img_size=image_size)
    if pretrained:
        stages = partial(timm.create_model, "resnet50d", features_only=True, out_indices=[3])
        model.patch_embed.backbone.load_state_dict(_pretrained(name, stages).state_dict())
    return model


def _pretrained(name: str, load: Callable[..., nn.Module]) -> nn.Module:
    try:
        return load(pretrained=True)
    except Exception as error:  # the kinds that a failed download raises are many, and change
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"no pretrained weights for `{name}` ({reason}); download them where there is a "
            "network, or begin with random ones: --no-pretrained"
        ) from error


def tiny_hybrid(num_classes: int, image_size: int) -> VisionTransformer:
    """Make a hybrid ViT in the papers' form, with a token for each 4 x 4 pixels.

    The first stages of a small ResNet-D give tokens, which a few transformer blocks with MLP
    ratio 3 work on.
    """
    stages = timm.create_model(
        "resnet10t", features_only=True, out_indices=[1], channels=(32, 64, 128, 256), stem_width=16
    )
    return VisionTransformer(
        img_size=image_size,
        patch_size=1,
        num_classes=num_classes,
        embed_dim=96,
        depth=4,
        num_heads=4,
        mlp_ratio=3,
        embed_layer=partial(HybridEmbed, backbone=stages),
    )


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
