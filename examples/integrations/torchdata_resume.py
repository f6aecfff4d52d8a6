"""torchdata: stop in the middle of an epoch and go on with the same remaining batches.

python examples/integrations/torchdata_resume.py
"""

import torch
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
DATASET = TensorDataset(torch.rand(64, 3, 32, 32), LABELS)


def make_loader(num_workers: int = 0, dataset: TensorDataset = DATASET) -> StatefulDataLoader:
    """Load what the sampler draws; its place is in the loader's `state_dict`."""
    sampler = TailHeadPairSampler(LABELS, batch_size=8)
    return StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)


def main() -> None:
    """Stop after three batches, with the mixer's generator saved too, and compare the rest."""
    mixer = SaliencyPatchMix(num_classes=3, generator=torch.Generator().manual_seed(0))
    loader = make_loader()
    loader.batch_sampler.set_epoch(1)
    rest = []
    for number, batch in enumerate(loader):
        mixed, _ = mixer(*batch)
        if number == 2:
            checkpoint = {"loader": loader.state_dict(), "mixer": mixer.generator.get_state()}
        elif number > 2:
            rest.append(mixed)

    # The epoch is in the loader's state: set_epoch comes before the next one.
    loader = make_loader()
    loader.load_state_dict(checkpoint["loader"])
    mixer.generator.set_state(checkpoint["mixer"])
    resumed = [mixer(*batch)[0] for batch in loader]
    same = all(map(torch.equal, rest, resumed))
    print(f"{len(rest)} batches were left, {len(resumed)} came, the same: {same}")


if __name__ == "__main__":
    main()
