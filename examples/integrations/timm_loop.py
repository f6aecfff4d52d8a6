"""timm: as the `mixup_fn` of its training loop, with its prefetcher and loss.

python examples/integrations/timm_loop.py
"""

import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from timm.loss import SoftTargetCrossEntropy
from torch.utils.data import DataLoader, Dataset

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler

LABELS = [0] * 20 + [1] * 8 + [2] * 4


class Photos(Dataset):
    """Images of one colour, to which timm gives their transform."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        return self.transform(Image.new("RGB", (40, 40), (8 * index, 99, 66))), LABELS[index]


def pair_loader(dataset, sampler, device):
    """Prefetch the sampler's batches; timm's `create_loader` takes no batch sampler."""
    dataset.transform = create_transform(32, is_training=True, use_prefetcher=True)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=fast_collate)
    return PrefetchLoader(loader, device=device)


def train_one_epoch(model, loader, optimizer, loss_fn, mixup_fn):
    """Train as timm's script does; return the last loss."""
    for images, target in loader:
        images, target = mixup_fn(images, target)
        loss = loss_fn(model(images), target)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return loss.item()


def main(epochs=3, off_epoch=2):
    """Mix by Grad-CAM what the prefetcher hands over, and stop mixing before the end."""
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    sampler = TailHeadPairSampler(LABELS, batch_size=8)
    # Model-free saliency would need mean= and std=: the prefetcher normalises.
    mixup_fn = SaliencyPatchMix(class_counts=sampler.class_counts, saliency="grad_cam").bind(model)
    loader = pair_loader(Photos(), sampler, torch.device("cpu"))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        mixup_fn.mixup_enabled = epoch < off_epoch
        print(train_one_epoch(model, loader, optimizer, SoftTargetCrossEntropy(), mixup_fn))


if __name__ == "__main__":
    main()
