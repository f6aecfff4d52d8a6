"""Mixers in workers draw apart, repeat, and follow the settings of the main process."""

import copy
import multiprocessing
import pickle
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from spmix_aug import SaliencyPatchMix, SaliencyPatchMixCollate

# The same in spawned processes, which make them again.
IMAGES = torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(32, dtype=torch.long)
SAMPLES = TensorDataset(IMAGES, LABELS)


def mixer_of(seed=None, **settings):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    settings = {"num_classes": 2, "pairing": "any", "p": 0.5, "patch_size": 4, **settings}
    return SaliencyPatchMix(generator=generator, **settings)


class Same(Dataset):
    """Samples that are all alike but for their place in the batch."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return IMAGES[index % 8], 0


class Plain:
    """A collate function of a user's own, which calls the mixer itself."""

    def __init__(self, mixer):
        self.mixer = mixer

    def __call__(self, samples):
        images, labels = default_collate(samples)
        return self.mixer(images, labels)


def epoch_of(loader):
    return [images for images, _ in loader]


def loader_of(collate, workers=2, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        Same(), 8, collate_fn=collate, num_workers=workers, generator=generator, **options
    )


def distinct(batches):
    return len({tuple(batch.flatten().tolist()) for batch in batches})


@pytest.mark.parametrize("collate", [Plain, SaliencyPatchMixCollate])
@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_and_epochs_draw_apart_and_repeat(collate, seed, persistent):
    def run():
        torch.manual_seed(3)
        mixer = mixer_of(seed)
        state = None if seed is None else mixer.generator.get_state()
        loader = loader_of(collate(mixer), persistent_workers=persistent)
        batches = epoch_of(loader) + epoch_of(loader)
        if seed is not None:  # the user's generator is left alone
            assert torch.equal(mixer.generator.get_state(), state)
        return batches

    first = run()
    assert distinct(first) == 8  # of 2 workers, 2 epochs
    assert all(map(torch.equal, first, run()))


def test_mixers_of_one_worker_draw_apart():
    class Views:
        def __init__(self, *mixers):
            self.mixers = mixers

        def __call__(self, samples):
            images, labels = default_collate(samples)
            return [mixer(images, labels)[0] for mixer in self.mixers], labels

    for seeds in ((None, None), (1, 2), (None, 1)):
        loader = loader_of(Views(*map(mixer_of, seeds)), workers=1)
        one, two = next(iter(loader))[0]
        assert not torch.equal(one, two)


@pytest.mark.slow
def test_spawned_workers_draw_apart_and_repeat():
    def run():
        loader = loader_of(SaliencyPatchMixCollate(mixer_of(5)), multiprocessing_context="spawn")
        return epoch_of(loader)

    first = run()
    assert distinct(first) == 4
    assert all(map(torch.equal, first, run()))


def child(mixer, results):
    torch.set_num_threads(1)  # as loaders do: OpenMP may wait forever in a fork of its threads
    images, labels = IMAGES[:8], LABELS[:8]
    results.put([mixer(images, labels)[0].numpy() for _ in range(2)])


def of_children(mixer, number=3, context="fork"):
    context = multiprocessing.get_context(context)
    batches = []
    for _ in range(number):
        results = context.SimpleQueue()
        process = context.Process(target=child, args=(mixer, results))
        process.start()
        batches += map(torch.from_numpy, results.get())
        process.join()
    return batches


@pytest.mark.parametrize("seed", [None, 7])
def test_processes_that_are_no_loaders_draw_apart(seed):
    mixer = mixer_of(seed)
    assert distinct(of_children(mixer)) == 6


def unpickles(pickled, results):
    torch.set_num_threads(1)
    batches = [pickle.loads(pickled)(IMAGES[:8], LABELS[:8])[0].numpy() for _ in range(4)]
    results.put(batches)


def test_tasks_of_one_process_that_bring_the_mixer_along_draw_apart():
    context, pickled = multiprocessing.get_context("fork"), pickle.dumps(mixer_of(7))
    results = context.SimpleQueue()
    process = context.Process(target=unpickles, args=(pickled, results))
    process.start()
    batches = [torch.from_numpy(batch) for batch in results.get()]
    process.join()
    assert distinct(batches) == 4


class MadeThere:
    """A mixer that each worker makes again, as spawned ones do with what a script makes."""

    mixer = None

    def __call__(self, samples):
        self.mixer = self.mixer or mixer_of(7)
        return self.mixer(*default_collate(samples))


def test_mixers_that_workers_make_themselves_draw_apart():
    first, again = (epoch_of(loader_of(MadeThere())) for _ in range(2))
    assert distinct(first) == 4
    assert all(map(torch.equal, first, again))


def made_there(seed, results):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    child(mixer_of(seed), results)


def test_a_mixer_made_in_its_own_process_is_not_seeded_again():
    context = multiprocessing.get_context("fork")
    got = []
    for _ in range(2):
        results = context.SimpleQueue()
        process = context.Process(target=made_there, args=(4, results))
        process.start()
        got.append([torch.from_numpy(batch) for batch in results.get()])
        process.join()
    torch.manual_seed(4)
    mixer = mixer_of(4)
    here = [mixer(IMAGES[:8], LABELS[:8])[0] for _ in range(2)]
    for batches in got:
        assert all(map(torch.equal, batches, here))


def test_a_copy_or_a_pickle_at_home_draws_by_its_own_generator():
    mixer = mixer_of(4)
    for twin in (copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))):
        assert torch.equal(twin.generator.get_state(), mixer.generator.get_state())
        one, two = twin(IMAGES[:8], LABELS[:8])[0], copy.deepcopy(mixer)(IMAGES[:8], LABELS[:8])[0]
        assert torch.equal(one, two)


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy])
def test_a_copy_shares_no_memory_with_what_it_is_a_copy_of(twin_of):
    mixer = mixer_of(p=1.0)
    loader = loader_of(SaliencyPatchMixCollate(mixer), persistent_workers=True)
    epoch_of(loader)
    twin = twin_of(mixer)
    twin.eval()
    twin.pairing = "relative"
    assert all(mixed_in(batch).any() for batch in epoch_of(loader))


def test_threads_draw_apart():
    mixer, batches = mixer_of(1), []

    def work():
        batches.extend(mixer(IMAGES[:8], LABELS[:8])[0] for _ in range(4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert distinct(batches) == 12


def mixed_in(batch):
    """Which samples of a batch are not as they were."""
    return (batch != IMAGES[:8]).flatten(1).any(dim=1)


@pytest.mark.parametrize(
    ("name", "value"), [("p", 0.0), ("training", False), ("alpha", 0.5), ("jitter", 0.4)]
)
@pytest.mark.parametrize("collate", [Plain, SaliencyPatchMixCollate])
def test_numbers_reach_workers_that_persist_at_the_next_epoch(name, value, collate):
    def run(persistent):
        torch.manual_seed(0)
        mixer = mixer_of(1, p=1.0, saliency=lambda x, y, m: x[:, 0])
        loader = loader_of(collate(mixer), persistent_workers=persistent)
        epochs = []
        for epoch in range(3):
            batches = []
            for images, _ in loader:
                batches.append(images)
                if epoch == 1:
                    setattr(mixer, name, value)  # inside an epoch: from the next one on
            epochs.append(batches)
        return epochs

    first, second, third = run(True)
    assert all(mixed_in(batch).all() for batch in first + second)
    off = name in ("p", "training")
    assert all(mixed_in(batch).any() != off for batch in third)
    again = [batch for epoch in run(True) for batch in epoch]
    assert all(map(torch.equal, [*first, *second, *third], again))


def test_eval_and_train_come_and_go():
    mixer = mixer_of(p=1.0)
    loader = loader_of(SaliencyPatchMixCollate(mixer), persistent_workers=True)
    for mode in (True, False, True, False, False, True):
        mixer.train(mode)
        assert {bool(mixed_in(batch).any()) for batch in epoch_of(loader)} == {mode}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("saliency", "border_contrast"),
        ("pairing", "relative"),
        ("class_counts", [3, 1]),
        ("target", "ratio"),
    ],
)
def test_what_cannot_travel_is_refused_once_workers_that_persist_have_mixed(name, value):
    mixer = mixer_of()
    setattr(mixer, name, value)  # before
    loader = loader_of(SaliencyPatchMixCollate(mixer), persistent_workers=True)
    setattr(mixer, name, value)  # before they mixed
    epoch_of(loader)
    with pytest.raises(ValueError, match=f"`{name}` to stay as it is .* copy.deepcopy"):
        setattr(mixer, name, value)
    setattr(copy.deepcopy(mixer), name, value)


def test_workers_that_do_not_persist_take_over_everything():
    mixer = mixer_of(p=1.0)
    loader = loader_of(SaliencyPatchMixCollate(mixer))
    epoch_of(loader)
    mixer.pairing = lambda labels, counts, generator: torch.arange(len(labels))
    assert not any(mixed_in(batch).any() for batch in epoch_of(loader))


@pytest.mark.slow
def test_spawned_workers_that_persist_follow():
    mixer = mixer_of(p=1.0)
    loader = loader_of(
        SaliencyPatchMixCollate(mixer), multiprocessing_context="spawn", persistent_workers=True
    )
    assert mixed_in(epoch_of(loader)[0]).any()
    mixer.p = 0
    assert not any(mixed_in(batch).any() for batch in epoch_of(loader))


class TestMemory:
    """The collate writes into memory that it made itself, and into no other."""

    class Windows(Dataset):
        """Overlapping windows of one long strip, as views or as numpy arrays."""

        def __init__(self, numpy):
            self.strip, self.numpy = torch.rand(3, 16, 64), numpy

        def __len__(self):
            return 12

        def __getitem__(self, index):
            view = self.strip[:, :, index : index + 16]
            return (view.numpy() if self.numpy else view), index % 2

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    @staticmethod
    def keeps_views(samples):
        return samples[0][0].unsqueeze(0).expand(4, -1, -1, -1), torch.tensor([0, 0, 1, 1])

    @staticmethod
    def wraps_default(samples):
        images, labels = default_collate(samples)
        return {"image": images, "label": labels}

    @pytest.mark.parametrize("numpy", [False, True])
    @pytest.mark.parametrize("collate", ["default", "keeps_views", "wraps_default"])
    @pytest.mark.parametrize("inplace", [False, True])
    def test_the_data_set_stays_as_it_is(self, numpy, collate, inplace):
        if numpy and collate == "keeps_views":
            pytest.skip("numpy arrays have no unsqueeze")
        data = self.Windows(numpy)
        before = data.strip.clone()
        collate_fn = default_collate if collate == "default" else getattr(self, collate)
        mixing = SaliencyPatchMixCollate(mixer_of(p=1.0, inplace=inplace), collate_fn)
        list(DataLoader(data, 4, collate_fn=mixing))
        assert torch.equal(data.strip, before)


def test_batches_of_a_data_set_need_another_collate_function():
    mixing = SaliencyPatchMixCollate(mixer_of())
    for batch in ([IMAGES, LABELS], {"image": IMAGES, "label": LABELS[:3]}, IMAGES):
        with pytest.raises(ValueError, match=r"`collate_fn` to make a batch.*default_convert"):
            mixing(batch)


@pytest.mark.filterwarnings("error::UserWarning")  # which ends an epoch
@pytest.mark.parametrize("persist", [False, True])
def test_workers_warn_once_and_not_once_an_epoch(persist):
    collate = SaliencyPatchMixCollate(mixer_of())
    loader = DataLoader(
        TensorDataset(300 * IMAGES, LABELS),
        8,
        collate_fn=collate,
        num_workers=1,
        persistent_workers=persist,
    )
    with pytest.raises(UserWarning, match="divide them by 255"):
        epoch_of(loader)
    assert len(epoch_of(loader)) == 4
    assert len(epoch_of(loader)) == 4
