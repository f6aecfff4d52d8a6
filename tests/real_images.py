"""The real images of ISIC 2018 with lesion masks, which lie beside the checkout and not in it."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "isic2018_128"


def load(folds, count=None, seed=0):
    """Load training images `(N,3,H,W)` uint8 and masks `(N,H,W)` bool, or skip the test."""
    if not ROOT.is_dir():
        pytest.skip("needs the ISIC 2018 images at 128 pixels beside the checkout")
    data = pytest.importorskip("examples.isic2018.data")
    records = data.read_records(ROOT)
    places = data.folds_of(ROOT, records, split_file=None, seed=0)
    chosen = [r for r, fold in zip(records, places, strict=True) if fold in folds]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:count]
    chosen = [chosen[i] for i in order.tolist()]
    images = torch.stack([data.LesionImages(chosen)[i][0] for i in range(len(chosen))])
    masks = [data.read_lesion_mask(ROOT, record.image) for record in chosen]
    return images, torch.stack(masks)
