"""The recipes of examples/integrations, run against the libraries they are for."""

import copy
import importlib
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import SaliencyPatchMix, SaliencyPatchMixCollate, TailHeadPairSampler

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "examples/integrations").glob("*.py"))
# Recipe and what it needs; those without the marker run in `make test`.
NEEDS = {
    "torchvision_v2": ["torchvision"],
    "timm_loop": ["timm"],
    "kornia_maps": ["kornia"],
    "multi_label": [],
    "dense_targets": [],
    "lightning_module": ["lightning"],
    "hf_trainer": ["transformers", "accelerate"],
    "accelerate_loop": ["accelerate"],
    "monai_dict": ["monai"],
    "torchdata_resume": ["torchdata"],
    "medmnist_labels": ["medmnist", "torchvision"],
}
IN_MAKE_TEST = {"torchvision_v2", "timm_loop", "kornia_maps", "multi_label", "dense_targets"}

integrations = pytest.mark.integrations
# What these libraries do inside is not ours to mend.
ignoring = pytest.mark.filterwarnings
WARNS = {
    "lightning_module": [
        ignoring("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
        ignoring("ignore:.*does not have many workers"),
    ],
    "torchdata_resume": [ignoring("ignore:'set_vital' is deprecated:UserWarning")],
}


@pytest.fixture(autouse=True)
def _environment_stays():
    """Take back what trainers leave in the environment: ranks, ports, settings."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def recipe(name):
    """Import a recipe, or skip where its library is not installed."""
    for library in NEEDS[name]:
        pytest.importorskip(library)
    return importlib.import_module(f"examples.integrations.{name}")


def on_two_processes(name, folder):
    """Run a recipe on two processes; return the indices that each asked of the data set."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [
            *launcher,
            "--nproc-per-node",
            "2",
            "tests/examples/integration_ranks.py",
            name,
            str(folder),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def batches_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return [index for batch in sampler for index in batch]


def uneven_batch(size=32, channels=3):
    """Twelve images, each with a bright square somewhere, in three classes of 7, 3 and 2."""
    images = torch.rand(12, channels, size, size) / 2
    for number, image in enumerate(images):
        image[:, number : number + 9, 2 * number : 2 * number + 9] += 0.5
    return images, torch.tensor([0] * 7 + [1] * 3 + [2] * 2)


class TestRecipes:
    def test_all_are_tested_here_and_short(self):
        assert {file.stem for file in RECIPES} == set(NEEDS)
        lengths = {file.stem: len(file.read_text().splitlines()) for file in RECIPES}
        assert max(lengths.values()) <= 60, lengths

    def test_none_hides_the_library_it_imports(self):
        libraries = {library for needed in NEEDS.values() for library in needed}
        assert not libraries & {file.stem for file in RECIPES}

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name, marks=() if name in IN_MAKE_TEST else [integrations, *WARNS.get(name, [])]
            )
            for name in NEEDS
        ],
    )
    def test_runs_by_itself(self, name, monkeypatch, capsys):
        for library in NEEDS[name]:
            pytest.importorskip(library)
        file = ROOT / f"examples/integrations/{name}.py"
        monkeypatch.setattr(sys, "argv", [str(file)])
        runpy.run_path(str(file), run_name="__main__")
        assert capsys.readouterr().out.strip()


class TestTorchvision:
    def test_collate_mixes_what_the_samples_make(self):
        module = recipe("torchvision_v2")
        images, labels = uneven_batch()
        mixer = SaliencyPatchMix(num_classes=3, patch_size=8)
        collate = pickle.loads(pickle.dumps(module.Collate(mixer)))
        torch.manual_seed(3)
        mixed, targets = collate(list(zip(images, labels.tolist(), strict=True)))
        torch.manual_seed(3)
        expected, rows = mixer(images, labels)
        assert torch.equal(mixed, expected)
        assert torch.equal(targets, rows)
        assert not torch.equal(mixed, images)

    def test_takes_turns_with_mixup_in_a_random_choice(self):
        recipe("torchvision_v2")
        from torchvision.transforms import v2

        images, labels = uneven_batch()
        either = v2.RandomChoice([SaliencyPatchMix(num_classes=3), v2.MixUp(num_classes=3)])
        kept_labels = 0
        for _ in range(40):
            mixed, targets = either(images, labels)
            assert mixed.shape == images.shape
            assert mixed.dtype == images.dtype
            assert torch.allclose(targets.sum(dim=1), torch.ones(12))
            kept_labels += int(torch.equal(targets, F.one_hot(labels, 3).float()))
        assert 5 < kept_labels < 35

    @pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
    def test_takes_tv_tensors_like_plain_ones(self, dtype):
        recipe("torchvision_v2")
        from torchvision import tv_tensors

        images, labels = uneven_batch()
        images = images if dtype == torch.float32 else (images * 255).to(dtype)
        given = tv_tensors.Image(images.clone())
        mixer = SaliencyPatchMix(num_classes=3)
        torch.manual_seed(1)
        mixed, targets = mixer(given, labels)
        torch.manual_seed(1)
        expected, rows = mixer(images, labels)
        assert type(mixed) is torch.Tensor
        assert torch.equal(mixed, expected)
        assert torch.equal(targets, rows)
        assert torch.equal(given, images)


class TestTimm:
    def test_the_loop_mixes_until_it_switches_mixing_off(self):
        module = recipe("timm_loop")
        seen = []
        images, labels = uneven_batch()
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 3))
        mixer = SaliencyPatchMix(num_classes=3, saliency="input_gradient", p=1.0)
        mixup_fn = mixer.bind(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)

        def loss_fn(logits, target):
            seen.append(target)
            return F.cross_entropy(logits, target)

        loader = [(images, labels)]
        first = module.train_one_epoch(model, loader, optimizer, loss_fn, mixup_fn)
        mixup_fn.mixup_enabled = False
        second = module.train_one_epoch(model, loader, optimizer, loss_fn, mixup_fn)
        assert second == pytest.approx(F.cross_entropy(model(images), labels).item())
        assert first != pytest.approx(second)
        assert all(torch.equal(target, F.one_hot(labels, 3).float()) for target in seen)

    def test_soft_target_loss_is_cross_entropy_of_the_targets(self):
        recipe("timm_loop")
        from timm.loss import SoftTargetCrossEntropy

        images, labels = uneven_batch()
        _, targets = SaliencyPatchMix(num_classes=3, target="ratio", p=1.0)(images, labels)
        assert (targets.amax(dim=1) < 1).any()
        logits = torch.randn(12, 3)
        torch.testing.assert_close(
            SoftTargetCrossEntropy()(logits, targets), F.cross_entropy(logits, targets)
        )

    def test_mean_and_std_undo_what_its_prefetcher_did(self):
        module = recipe("timm_loop")
        from timm.data import create_loader
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        photos = module.Photos()
        loader = create_loader(
            *(photos, 32, 8), is_training=True, num_workers=0, device=torch.device("cpu")
        )
        images, labels = next(iter(loader))
        assert images.min() < 0
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        seen = []

        def noted(images, labels, model):
            seen.append(images)
            return images.mean(dim=1)

        noted.needs_model = False
        SaliencyPatchMix(num_classes=3, saliency=noted, mean=mean, std=std)(images, labels)
        assert seen[0].min() >= -1e-6
        levels = seen[0] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-3)

    def test_collate_mixes_bytes_in_its_workers_before_the_prefetcher(self):
        module = recipe("timm_loop")
        from timm.data import create_loader
        from timm.data.loader import fast_collate

        mixer = SaliencyPatchMix(num_classes=3, patch_size=8, p=1.0, target="ratio")
        loader = create_loader(
            *(module.Photos(), 32, 16),
            is_training=True,
            num_workers=1,
            collate_fn=SaliencyPatchMixCollate(mixer, fast_collate),
            device=torch.device("cpu"),
            persistent_workers=False,
        )
        images, targets = next(iter(loader))
        assert images.dtype == torch.float32
        assert targets.shape == (16, 3)
        assert (targets.amax(dim=1) < 1).any()
        assert loader.mixup_enabled is False  # only timm's own collate is switched by the loader

    def test_pair_loader_prefetches_the_batches_of_the_sampler(self):
        module = recipe("timm_loop")
        sampler = TailHeadPairSampler(module.LABELS, batch_size=8)
        loader = module.pair_loader(module.Photos(), sampler, torch.device("cpu"))
        labels = [label for _, target in loader for label in target.tolist()]
        assert labels == [module.LABELS[index] for index in batches_of(sampler, 0)]


class TestKornia:
    def test_maps_move_with_their_images(self):
        module = recipe("kornia_maps")
        from kornia import augmentation

        flip = augmentation.AugmentationSequential(
            augmentation.RandomHorizontalFlip(p=0.5),
            augmentation.RandomVerticalFlip(p=0.5),
            data_keys=["input", "mask"],
        )
        images, labels = uneven_batch()
        maps = images.mean(dim=1)
        seen = []

        class Noted(SaliencyPatchMix):
            def forward(self, images, labels, *, saliency):
                seen.extend([images, saliency])
                return super().forward(images, labels, saliency=saliency)

        mixer = Noted(num_classes=3, p=1.0)
        mixed, targets = module.augment_and_mix(images, labels, maps, mixer, flip)
        augmented, carried = seen
        assert not torch.equal(augmented, images)
        assert torch.allclose(carried.squeeze(1), augmented.mean(dim=1))
        assert not torch.equal(mixed, augmented)
        assert torch.equal(targets, F.one_hot(labels, 3).float())


class TestSeveralLabels:
    def test_rows_with_several_positives_are_refused_with_the_way_out(self):
        images, _ = uneven_batch()
        rows = torch.zeros(12, 4)
        rows[:, 0] = 1
        mixer = SaliencyPatchMix(num_classes=4)
        mixer(images, rows)
        rows[5, 2] = 1
        with pytest.raises(ValueError, match=r"row 5; divide rows .* sum, or .*plan\.images"):
            mixer(images, rows)
        _, targets = mixer(images, rows / rows.sum(dim=1, keepdim=True))
        assert targets[5].tolist() == [0.5, 0, 0.5, 0]

    def test_plan_follows_the_rarest_label_and_images_without_one(self):
        module = recipe("multi_label")
        rows = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
        counts = torch.tensor([30, 9, 4])
        assert module.rarest_label(rows, counts).tolist() == [2, 1, 0, 3]

    def test_rows_are_kept_or_weighted_by_pixels(self):
        module = recipe("multi_label")
        rows = torch.randint(2, (12, 4))
        counts = rows.sum(dim=0)
        # The own image is 1 and its partner 0 or 1: a pixel shows the weight of who has the label.
        images = rows[:, :1, None, None].expand(12, 3, 32, 32).float().contiguous()
        mixer = SaliencyPatchMix(
            num_classes=5, p=1.0, pairing="any", saliency=lambda images, *_: torch.rand(12, 32, 32)
        )
        mixed, kept = module.mix_multi_label(images, rows, counts, mixer)
        assert torch.equal(kept, rows.float())
        mixed, weighted = module.mix_multi_label(images, rows, counts, mixer, both=True)
        assert ((weighted[:, 0] > 0) & (weighted[:, 0] < 1)).any()
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), weighted[:, 0])


class TestDenseTargets:
    def test_masks_and_depth_are_mixed_as_the_images(self):
        module = recipe("dense_targets")
        images, labels = uneven_batch()
        class_maps = torch.randint(5, (12, 32, 32))
        class_maps[3] = 255 % 5
        depth = images.mean(dim=1, keepdim=True)
        mixer = SaliencyPatchMix(num_classes=3, p=1.0)
        mixed, targets, masks, deep = module.mix_dense(
            images, labels, class_maps, depth, mixer, map_classes=5
        )
        assert not torch.equal(mixed, images)
        torch.testing.assert_close(mixed.mean(dim=1, keepdim=True), deep)
        torch.testing.assert_close(masks.sum(dim=1), torch.ones(12, 32, 32))
        own = masks.gather(1, class_maps.unsqueeze(1))
        assert own.min() >= 0.5 - 1e-6  # the floor of the ratio: a pixel's own class stays on top
        assert (own < 1).any()
        assert torch.equal(targets, F.one_hot(labels, 3).float())

    def test_class_ids_are_refused(self):
        images, labels = uneven_batch()
        plan = SaliencyPatchMix(num_classes=3).plan(images, labels)
        with pytest.raises(TypeError, match=r"got torch\.int64; .*one_hot"):
            plan.images(torch.zeros(12, 1, 32, 32, dtype=torch.int64))


@integrations
class TestLightning:
    pytestmark = WARNS["lightning_module"]

    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_training_batches_are_mixed_and_others_are_not(self, precision):
        module = recipe("lightning_module")
        seen = {"train": [], "validate": []}

        class Noted(module.Classifier):
            def training_step(self, batch, batch_idx):
                loss = super().training_step(batch, batch_idx)
                seen["train"].append((*batch, loss.detach(), torch.is_autocast_enabled("cpu")))
                return loss

            def val_dataloader(self):
                return DataLoader(module.DATASET, batch_size=16)

            def validation_step(self, batch, batch_idx):
                seen["validate"].append(batch)

        from lightning import Trainer

        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        model = Noted()
        before = copy.deepcopy(model.net.state_dict())
        Trainer(
            accelerator="cpu",
            precision=precision,
            max_epochs=1,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **quiet,
        ).fit(model)
        assert len(seen["train"]) == 16
        given = {tuple(image.flatten()[:9].tolist()) for image in module.DATASET.tensors[0]}
        mixed = 0
        for images, targets, loss, autocast in seen["train"]:
            assert images.dtype == torch.float32
            assert targets.shape == (8, 3)
            assert loss.isfinite()
            assert autocast == (precision == "bf16-mixed")
            mixed += sum(tuple(image.flatten()[:9].tolist()) not in given for image in images)
        assert 30 < mixed < 100  # p = 0.5 of 128
        assert all(labels.dtype == torch.int64 for _, labels in seen["validate"])
        assert any(
            not torch.equal(before[key], value) for key, value in model.net.state_dict().items()
        )

    def test_ranks_share_the_batches_and_epochs_differ(self, tmp_path):
        module = recipe("lightning_module")
        asked = on_two_processes("lightning", tmp_path)
        for rank in range(2):
            sampler = TailHeadPairSampler(module.LABELS, 8, num_replicas=2, rank=rank)
            assert asked[rank] == batches_of(sampler, 0) + batches_of(sampler, 1)
            assert batches_of(sampler, 0) != batches_of(sampler, 1)

    def fit_rebuilding(self, module, model, loader=None):
        from lightning import Trainer

        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            strategy="ddp",
            max_epochs=1,
            enable_model_summary=False,
            **quiet,
        )
        trainer.fit(model, loader)

    def test_a_rebuilt_sampler_is_refused_with_the_way_out(self):
        module = recipe("lightning_module")
        sampler = TailHeadPairSampler(module.LABELS, 8)
        loader = DataLoader(module.DATASET, batch_sampler=sampler)
        try:
            with pytest.raises(TypeError, match=r"use_distributed_sampler=False.*`num_replicas`"):
                self.fit_rebuilding(module, module.Classifier(), loader)
        finally:
            torch.distributed.destroy_process_group()

    def test_one_made_in_the_hook_is_refused_by_lightning_itself(self):
        module = recipe("lightning_module")
        try:
            with pytest.raises(TypeError, match="TailHeadPairSampler"):
                self.fit_rebuilding(module, module.Classifier())
        finally:
            torch.distributed.destroy_process_group()


@integrations
class TestHuggingFaceTrainer:
    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_gradient_of_a_step_is_that_of_the_full_batch(self, accumulate, monkeypatch):
        module = recipe("hf_trainer")
        taken, models = [], []

        class Noted(SaliencyPatchMixCollate):
            def __call__(self, samples):
                taken.append(super().__call__(samples))
                return taken[-1]

        class Kept(module.MixingTrainer):
            def __init__(self, model, *args, **settings):
                models.extend([copy.deepcopy(model), model])
                super().__init__(model, *args, **settings)

        monkeypatch.setattr(module, "SaliencyPatchMixCollate", Noted)
        monkeypatch.setattr(module, "MixingTrainer", Kept)
        module.main(
            max_steps=1,
            gradient_accumulation_steps=accumulate,
            per_device_train_batch_size=4,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            weight_decay=0.0,
        )
        taken = taken[:accumulate]
        images = torch.cat([batch["pixel_values"] for batch in taken])
        targets = torch.cat([batch["labels"] for batch in taken])
        assert targets.shape == (4 * accumulate, 3)
        before, after = models
        F.cross_entropy(before(images).logits, targets).backward()
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(old - new, old.grad, rtol=1e-3, atol=1e-5)

    def test_loss_counts_samples_whatever_the_labels_are(self):
        module = recipe("hf_trainer")
        from transformers.modeling_outputs import ImageClassifierOutput

        logits, labels = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2])
        expected = F.cross_entropy(logits, labels)
        outputs = ImageClassifierOutput(logits=logits)
        rows = F.one_hot(labels, 3).float()
        assert torch.allclose(module.soft_label_loss(outputs, labels, 6), expected)
        assert torch.allclose(module.soft_label_loss(outputs, rows, 18), expected)
        assert torch.allclose(module.soft_label_loss(outputs, rows), expected)

    def test_evaluation_is_not_mixed_and_epochs_differ(self, monkeypatch):
        module = recipe("hf_trainer")
        epochs, evaluated = [], []

        class Noted(TailHeadPairSampler):
            def __iter__(self):
                epochs.append(self.sampler.epoch)
                return super().__iter__()

        class Kept(module.MixingTrainer):
            def prediction_step(self, model, inputs, *args, **settings):
                evaluated.append(inputs["labels"])
                return super().prediction_step(model, inputs, *args, **settings)

        monkeypatch.setattr(module, "TailHeadPairSampler", Noted)
        monkeypatch.setattr(module, "MixingTrainer", Kept)
        module.main()
        assert epochs == [0, 1]
        assert torch.cat(evaluated).tolist() == module.LABELS


@integrations
class TestAccelerate:
    def test_processes_share_the_batches_once_and_set_epoch_reaches_the_sampler(self, tmp_path):
        module = recipe("accelerate_loop")
        asked = on_two_processes("accelerate", tmp_path)
        sampler = TailHeadPairSampler(module.LABELS, 8)
        for number, epoch in enumerate([3, 5]):
            drawn = torch.tensor(batches_of(sampler, epoch)).view(-1, 8)
            for rank in range(2):
                share = drawn[rank::2].flatten().tolist()
                assert asked[rank][number * len(share) :][: len(share)] == share
            assert sorted(drawn[:, :4].flatten().tolist()) == list(range(64))
        assert [len(indices) for indices in asked] == [2 * len(share)] * 2


@integrations
class TestMonai:
    def test_meta_tensors_come_out_with_the_own_image_s_data(self):
        module = recipe("monai_dict")
        from monai.data import MetaTensor
        from monai.transforms import Compose

        sampler = TailHeadPairSampler(module.LABELS, batch_size=8)
        batch = next(iter(module.make_loader(sampler)))
        cases = list(batch["image"].meta["case"])
        sampler.set_epoch(0)  # again
        assert cases == next(iter(sampler))
        before = batch["image"].clone()
        for mixer in (
            SaliencyPatchMix(num_classes=3, p=1.0, pairing="any"),
            SaliencyPatchMix(num_classes=3).eval(),
        ):
            torch.manual_seed(2)
            mixed = Compose([mixer])(batch)
            torch.manual_seed(2)
            expected, rows = mixer(before.as_tensor(), batch["label"])
            assert isinstance(mixed["image"], MetaTensor)
            assert mixed["image"].is_batch
            assert list(mixed["image"].meta["case"]) == cases
            assert torch.equal(mixed["image"].as_tensor(), expected)
            assert torch.equal(mixed["label"], rows)
        assert torch.equal(batch["image"], before)
        assert batch["label"].shape == (8,)


@integrations
class TestTorchdata:
    pytestmark = WARNS["torchdata_resume"]

    def test_the_recipe_finds_the_same_rest(self, capsys):
        recipe("torchdata_resume").main()
        assert "13 batches were left, 13 came, the same: True" in capsys.readouterr().out

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("taken", [1, 5, 16])
    def test_goes_on_with_the_remaining_batches(self, num_workers, taken):
        module = recipe("torchdata_resume")
        dataset = TensorDataset(torch.arange(64))
        loader = module.make_loader(num_workers, dataset)
        loader.batch_sampler.set_epoch(3)
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        rest = [indices.tolist() for (indices,) in batches]

        resumed = module.make_loader(num_workers, dataset)
        resumed.load_state_dict(state)
        assert [indices.tolist() for (indices,) in resumed] == rest
        assert len(rest) == 16 - taken
        resumed.batch_sampler.set_epoch(4)
        following = [index for (indices,) in resumed for index in indices.tolist()]
        assert following == batches_of(TailHeadPairSampler(module.LABELS, 8), 4)


@integrations
class TestMedmnist:
    def test_columns_of_labels_go_in_as_they_are(self, tmp_path):
        module = recipe("medmnist_labels")
        module.write_random(tmp_path)
        loader = module.make_loader(tmp_path)
        assert loader.batch_sampler.class_counts.tolist() == [40, 6, 6, 5, 3, 2, 2]
        images, labels = next(iter(loader))
        assert labels.shape == (16, 1)
        mixer = SaliencyPatchMix(class_counts=loader.batch_sampler.class_counts, patch_size=2)
        mixed, targets = mixer(images, labels)
        assert torch.equal(targets, F.one_hot(labels.squeeze(1).long(), 7).float())
        assert not torch.equal(mixed, images)
