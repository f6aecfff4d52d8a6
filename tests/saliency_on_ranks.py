"""Train under DDP on two ranks of gloo, with and without a saliency pass before every step.

torchrun --nproc-per-node 2 tests/saliency_on_ranks.py

Prints what differs, or "clean" on each rank.
"""

import os
import warnings

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from spmix_aug import SaliencyPatchMix, SaliencyPatchMixCollate

BATCHES = 3


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.5),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def train(saliency, static_graph):
    """Train on plain images; a mixer may use the model on the side, as a user's loop would."""
    net = DistributedDataParallel(classifier(), static_graph=static_graph)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    draws = torch.Generator().manual_seed(dist.get_rank())
    mixer = saliency and SaliencyPatchMix(
        num_classes=4, saliency=saliency, generator=torch.Generator().manual_seed(7)
    )
    torch.manual_seed(dist.get_rank())
    for _ in range(BATCHES):
        images = torch.rand(8, 3, 16, 16, generator=draws)
        labels = torch.randint(4, (8,), generator=draws)
        if mixer:
            mixer(images, labels, net)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def vector_of(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def from_everybody(values):
    found = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(found, values)
    return found


class Indices(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((1, 8, 8), float(index)), index % 4


def partners_of_a_worker():
    """Mix in a worker under one seed on all ranks: each pixel's value tells the partner."""
    torch.manual_seed(3)
    mixer = SaliencyPatchMix(num_classes=4, p=1.0, pairing="any", patch_size=8)
    collate = SaliencyPatchMixCollate(mixer)
    loader = DataLoader(  # spawned: a fork of a process with gloo's threads may hang
        Indices(), 64, collate_fn=collate, num_workers=1, multiprocessing_context="spawn"
    )
    images, _ = next(iter(loader))
    return images[:, 0, 0, 0]


def differences():
    for static_graph in (False, True):
        expected = train(None, static_graph).state_dict()
        for saliency in ("input_gradient", "grad_cam"):
            net = train(saliency, static_graph)
            case = f"{saliency} with static_graph={static_graph}"
            if not torch.equal(vector_of(net.state_dict().values()), vector_of(expected.values())):
                yield f"{case} changes training"
            first, second = from_everybody(vector_of(net.parameters()))
            if not torch.equal(first, second):
                yield f"{case} lets the ranks drift apart"
    first, second = from_everybody(partners_of_a_worker())
    if torch.equal(first, second):
        yield "the workers of both ranks draw the same"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    print("\n".join(differences()) or "clean", flush=True)
    dist.barrier()  # a rank that leaves early may hang the other
    os._exit(0)  # without waiting for gloo's threads, which now and then never end
