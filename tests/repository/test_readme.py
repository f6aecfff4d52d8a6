"""The README's code runs, in the order in which it stands there."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


class TinyViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 16, 16)
        self.head = nn.Linear(8, 7)

    def forward(self, images):
        return self.head(self.patch_embed(images).mean(dim=(2, 3)))


def test_the_code_runs(text, monkeypatch):
    labels = torch.arange(150) % 7
    images = torch.randn(150, 3, 32, 32)  # normalised
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    )
    dataset = TensorDataset(images, labels)
    dataset.targets = labels
    monkeypatch.setattr("torchvision.datasets.ImageFolder", lambda folder, transform: dataset)
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "epochs": 1,
        "query_view": images[:8],
        "key_view": images[8:16],
        "classes": labels[:8],
        "torch": torch,
        "vit": TinyViT(),
    }
    before = model[3].weight.clone()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert not torch.equal(model[3].weight, before)
    assert names["targets"].shape == (64, 7)
    assert names["mixed_query"].shape == (8, 3, 32, 32)
    assert names["mixer"](images, labels)[0].shape == images.shape


def test_its_links_lead_somewhere(text):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target


def test_a_first_read_is_short(text):
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert len(" ".join(lines).split()) < 900
