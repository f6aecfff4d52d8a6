"""The README's code runs, in the order in which it stands there."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import SaliencyPatchMix

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


def test_the_code_runs(text):
    labels = torch.arange(150) % 7
    images = torch.rand(150, 3, 32, 32)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    )
    names = {
        "labels": labels,
        "dataset": TensorDataset(images, labels),
        "DataLoader": DataLoader,
        "F": F,
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
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert not torch.equal(model[3].weight, before)
    assert names["targets"].shape == (64, 7)
    assert names["mixed_query"].shape == (8, 3, 32, 32)
    assert names["mixer"](images, labels)[0].shape == images.shape


def test_the_settings_in_its_table_are_the_defaults(text):
    defaults = inspect.signature(SaliencyPatchMix).parameters
    rows = [row for row in text.splitlines() if re.match(r"\| `\w+=", row)]
    assert len(rows) >= 8
    for name, value in re.findall(r"`(\w+)=([^`]+)`", " ".join(row.split("|")[1] for row in rows)):
        assert repr(defaults[name].default) == value.replace('"', "'")


def test_its_links_lead_somewhere(text):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target


def test_every_promise_has_its_tests(text):
    rows = [row for row in text.splitlines() if re.search(r"\| `(\w+/)?test_\w+\.py", row)]
    assert len(rows) >= 13
    for file, names in re.findall(r"`((?:\w+/)?test_\w+\.py)((?:::\w+)*)`", " ".join(rows)):
        source = (README.parent / "tests" / file).read_text(encoding="utf-8")
        for name in names.removeprefix("::").split("::"):
            assert re.search(rf"(def|class) {name or 'test_'}", source), f"{file}::{name}"
