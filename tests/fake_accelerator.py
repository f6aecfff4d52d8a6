"""Mix a batch on a make-believe accelerator; prints what went wrong, or "clean".

A process of its own: the fake device must be set up before the first backward pass. Tensors there
have no values, so that every read of one raises, and no operation accepts a CPU tensor beside one
of the device.
"""

import sys
import warnings

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spmix_aug import SaliencyPatchMix

DEVICE = "fakegpu"


class NoMixedDevices(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.ndim > 0
        }
        moves = str(function) in ("aten._to_copy.default", "aten.copy_.default")
        if len(devices) > 1 and not moves:
            raise RuntimeError(f"mixed devices {sorted(devices)} in {function}")
        if moves:
            to = args[0].device if str(function) == "aten.copy_.default" else kwargs.get("device")
            if args[-1].device.type == DEVICE and str(to) == "cpu":
                raise RuntimeError(f"a copy to the host in {function}")
        return function(*args, **kwargs)


def classifier() -> nn.Module:
    """Make a classifier on the device; only its form counts."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    for module in net.modules():
        for tensors, kind in ((module._parameters, nn.Parameter), (module._buffers, torch.Tensor)):
            for name, tensor in tensors.items():
                there = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
                tensors[name] = kind(there) if kind is nn.Parameter else there
    return net


def main(saliency: str, target: str, pairing: str) -> None:
    counts = None if pairing == "any" else [5, 3, 1]
    mixer = SaliencyPatchMix(
        class_counts=counts,
        num_classes=3,
        saliency=saliency,
        target=target,
        pairing=pairing,
        jitter=0.1,
        p=0.7,
        mean=[0.5, 0.4, 0.3],
        std=0.2,
        generator=torch.Generator().manual_seed(0),
    )
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name in ("class_counts", "mean", "std"):
            values = getattr(mixer, name)
            mixer.__dict__[name] = None if values is None else mode.from_tensor(values)
        model = classifier()
        images = torch.rand(6, 3, 50, 70, device=DEVICE)
        for labels in (
            torch.zeros(6, dtype=torch.long, device=DEVICE),
            torch.zeros(6, 3, device=DEVICE),
        ):
            tokens = torch.rand(6, 21, 4, device=DEVICE)  # a class token and the plan's grid
            maps = torch.rand(6, 4, 25, 35, device=DEVICE)
            with NoMixedDevices():
                mixed, targets = mixer(images, labels, model)
                plan = mixer.plan(images, labels, model)
                assert plan.tokens(tokens, prefix_tokens=1).device.type == DEVICE
                assert plan.tokens(maps).device.type == DEVICE
                stage = nn.Conv2d(3, 4, 2, 2, device=DEVICE)
                with plan.hooked(stage):
                    assert stage(images).device.type == DEVICE
            assert mixed.device.type == targets.device.type == DEVICE
            assert mixed.shape == images.shape
        leaks = {
            "read": lambda: bool(images.sum() > 0),
            "to the host": lambda: images.cpu(),
            "into the host": lambda: torch.empty(6, 3, 50, 70).copy_(images),
            "indices": lambda: images.nonzero(),
            "mixed devices": lambda: images[torch.zeros(2, dtype=torch.long)],
        }
        for name, leak in leaks.items():
            try:
                with NoMixedDevices():
                    leak()
            except Exception:
                continue
            raise RuntimeError(f"the detector misses: {name}")
    print("clean")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)
    main(*sys.argv[1:])
