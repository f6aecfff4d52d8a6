"""Hugging Face Trainer: mixed batches in training alone, and a loss that is right for soft labels.

python examples/integrations/hf_trainer.py
"""

import tempfile

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers import default_data_collator as collate

from spmix_aug import SaliencyPatchMix, SaliencyPatchMixCollate, TailHeadPairSampler

LABELS = [0] * 20 + [1] * 8 + [2] * 4
DATASET = [{"pixel_values": torch.rand(3, 32, 32), "labels": label} for label in LABELS]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def soft_label_loss(outputs, labels, num_items_in_batch=None):
    """Sum over a micro-batch, divided by the samples of all micro-batches of the step."""
    if num_items_in_batch is None:
        return F.cross_entropy(outputs.logits, labels)
    # The Trainer counts the numbers in `labels`, and a soft row has K of them.
    samples = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / samples


class MixingTrainer(Trainer):
    """Draws and mixes training batches; evaluation keeps the Trainer's own loader."""

    def get_train_dataloader(self):
        """Return batches of the pair sampler; Accelerate gives each process its share."""
        sampler = TailHeadPairSampler(LABELS, self.args.per_device_train_batch_size)
        mixer = SaliencyPatchMix(class_counts=sampler.class_counts, patch_size=8)
        mixing = SaliencyPatchMixCollate(mixer, self.data_collator)
        loader = DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=mixing)
        return self.accelerator.prepare(loader)


def main(**settings):
    """Train a tiny ViT for two epochs with gradients of two batches a step, then evaluate."""
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3))
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    steps = {"num_train_epochs": 2, "gradient_accumulation_steps": 2}
    with tempfile.TemporaryDirectory() as out:
        args = TrainingArguments(out, **{**steps, **quiet, **settings})
        data = {"data_collator": collate, "train_dataset": DATASET, "eval_dataset": DATASET}
        trainer = MixingTrainer(model, args, compute_loss_func=soft_label_loss, **data)
        trainer.train()
        print(trainer.evaluate())


if __name__ == "__main__":
    main()
