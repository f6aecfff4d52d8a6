"""Mixing in DataLoader workers: streams of their own, and one result for one seed."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from spmix_aug import SaliencyPatchMix, SaliencyPatchMixCollate
from spmix_aug._random import draw_uniform


class Blocks(Dataset):
    """Images of constant colour, so that a mixed one tells its partner."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.full((1, 4, 4), index / 32), index % 2


def epochs(loader_seed, workers, number=2, context="fork", generator=None, persistent=False):
    mixer = SaliencyPatchMix(num_classes=2, pairing="any", patch_size=1, generator=generator)
    loader = DataLoader(
        Blocks(),
        batch_size=8,
        num_workers=workers,
        collate_fn=SaliencyPatchMixCollate(mixer),
        generator=torch.Generator().manual_seed(loader_seed),
        multiprocessing_context=context if workers else None,
        persistent_workers=persistent,
    )
    return [torch.stack([images for images, _ in loader]) for _ in range(number)]


def test_it_collates_then_mixes():
    mixer = SaliencyPatchMix(num_classes=7, p=1.0, patch_size=1)
    samples = [(torch.rand(3, 16, 16), label, f"name {label}") for label in [0, 0, 3, 6]]
    images, targets, names = SaliencyPatchMixCollate(mixer)(samples)
    assert targets.argmax(1).tolist() == [0, 0, 3, 6]
    assert list(names) == ["name 0", "name 0", "name 3", "name 6"]
    assert not torch.equal(images[0], samples[0][0])


def test_a_batch_that_comes_mixed_is_warned_of_once_in_the_loop():
    mixer, other = (SaliencyPatchMix(num_classes=2, patch_size=1) for _ in range(2))
    loader = DataLoader(Blocks(), 8, collate_fn=SaliencyPatchMixCollate(mixer))
    images, targets = next(iter(loader))
    other(images, targets)
    with pytest.warns(UserWarning, match=r"not mixed yet, but got rows.*leave the call .* out"):
        mixer(images, targets)
    mixer(images, targets)
    next(iter(loader))


def test_the_mix_is_written_into_the_batch_that_was_made_here_alone(monkeypatch):
    made = []

    def collate(samples):
        made.append(default_collate(samples))
        return made[-1]

    mixer = SaliencyPatchMix(num_classes=2, p=1.0, patch_size=1)
    samples = [Blocks()[i] for i in range(4)]
    images, _ = SaliencyPatchMixCollate(mixer, collate)(samples)
    assert torch.equal(made[0][0], default_collate(samples)[0])
    monkeypatch.setattr("spmix_aug.collate.default_collate", collate)
    images, _ = SaliencyPatchMixCollate(mixer, collate)(samples)
    assert images is made[1][0]
    assert not mixer.inplace


def test_dict_samples():
    mixer = SaliencyPatchMix(num_classes=2, label_key="finding")
    samples = [{"image": torch.rand(3, 8, 8), "finding": i % 2} for i in range(4)]
    assert SaliencyPatchMixCollate(mixer)(samples)["finding"].shape == (4, 2)


def test_in_the_main_process_the_mixers_generator_draws():
    samples = [Blocks()[i] for i in range(8)]
    results = []
    for _ in range(2):
        mixer = SaliencyPatchMix(num_classes=2, generator=torch.Generator().manual_seed(3))
        collate = SaliencyPatchMixCollate(mixer)
        results.append(torch.stack([collate(samples)[0] for _ in range(3)]))
    assert torch.equal(*results)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_one_loader_seed_one_result(workers, persistent):
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.stack(epochs(seed, workers, generator=generator, persistent=persistent))

    first = run(5)
    assert torch.equal(first, run(5))
    assert not torch.equal(first, run(6))


def test_workers_do_not_repeat_the_random_numbers_of_the_augmentations():
    seen = {}

    class Spy(SaliencyPatchMix):
        def plan(self, images, labels, *args, **kwargs):
            seen["mixer"] = draw_uniform(self, 4)
            seen["global"] = torch.rand(4)
            return super().plan(images, labels, *args, **kwargs)

    collate = SaliencyPatchMixCollate(Spy(num_classes=2))

    def check(samples):
        collate(samples)
        return seen["mixer"], seen["global"]

    for mixer, everybody in DataLoader(Blocks(), 8, num_workers=1, collate_fn=check):
        assert not torch.equal(mixer, everybody)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_spawned_workers_give_what_forked_ones_do(context, persistent):
    generator = torch.Generator().manual_seed(1)
    spawned = epochs(0, 2, 2, context, generator, persistent)
    forked = epochs(0, 2, 2, "fork", generator, persistent)
    assert torch.equal(torch.stack(spawned), torch.stack(forked))


def test_it_can_be_pickled():
    mixer = SaliencyPatchMix(num_classes=2, generator=torch.Generator().manual_seed(2))
    collate = SaliencyPatchMixCollate(mixer)
    twin = pickle.loads(pickle.dumps(collate))
    samples = [Blocks()[i] for i in range(8)]
    assert torch.equal(twin(samples)[0], collate(samples)[0])


@pytest.mark.parametrize("saliency", ["grad_cam", "input_gradient"])
def test_saliency_that_needs_a_model_is_refused(saliency):
    mixer = SaliencyPatchMix(num_classes=2, saliency=saliency)
    with pytest.raises(ValueError, match=r"saliency that needs no model, but got .*training loop"):
        SaliencyPatchMixCollate(mixer)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.nn.Identity(),), "`mixer` to be a SaliencyPatchMix, but got Identity"),
        ((SaliencyPatchMix(num_classes=2), 3), "`collate_fn` to be callable, but got int"),
    ],
)
def test_wrong_arguments_are_refused(args, message):
    with pytest.raises(TypeError, match=message):
        SaliencyPatchMixCollate(*args)
