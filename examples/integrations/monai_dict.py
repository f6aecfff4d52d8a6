"""MONAI: dictionary batches, with MetaTensors in and out.

python examples/integrations/monai_dict.py
"""

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureTyped, RandFlipd

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler

LABELS = [0] * 20 + [1] * 8 + [2] * 4


def make_loader(sampler: TailHeadPairSampler) -> DataLoader:
    """Load dictionaries whose image is a MetaTensor, augmented one by one."""
    data = [
        {"image": MetaTensor(torch.rand(3, 32, 32), meta={"case": case}), "label": label}
        for case, label in enumerate(LABELS)
    ]
    augment = Compose([RandFlipd("image", prob=0.5, spatial_axis=1), EnsureTyped("image")])
    return DataLoader(Dataset(data, augment), batch_sampler=sampler)


def main() -> None:
    """Mix batches as the last of the transforms, after collating."""
    sampler = TailHeadPairSampler(LABELS, batch_size=8)
    mixer = SaliencyPatchMix(class_counts=sampler.class_counts)  # image_key=, label_key= if unusual
    after_collating = Compose([mixer])
    for batch in make_loader(sampler):
        mixed = after_collating(
            batch
        )  # the meta data are those of the own image, which gives the label
    print(type(mixed["image"]).__name__, mixed["image"].meta["case"], tuple(mixed["label"].shape))


if __name__ == "__main__":
    main()
