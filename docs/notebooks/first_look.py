# %% [markdown]
# # A first look
#
# Synthetic lesions, a sampler, a mix, and what to look at before training.

# %%
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]) if "__file__" in globals() else "../..")

from examples.isic2018.phantom import TOTALS, draw_lesion
from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, head_tail_split
from spmix_aug.viz import describe, plot_plan, plot_sampler

# %% [markdown]
# ## The tail
#
# Classes have as many samples as in ISIC 2018. For a first look the labels are enough.

# %%
names, counts = list(TOTALS), torch.tensor(list(TOTALS.values()))
labels = torch.arange(len(counts)).repeat_interleave(counts)
print({group: [names[k] for k in of] for group, of in head_tail_split(counts)._asdict().items()})

# %% [markdown]
# Half of each batch is class-balanced. Look at the last two columns: a rare image is drawn often,
# and each time it may meet another partner.

# %%
sampler = TailHeadPairSampler(labels, batch_size=64)
print(describe(sampler, class_names=names))
plot_sampler(sampler, class_names=names)

# %% [markdown]
# ## A batch
#
# The first batch of the epoch, its images drawn on the spot.

# %%
indices = next(iter(sampler))
classes = labels[indices]
drawn = [
    draw_lesion(names[label], lesion=index, size=(112, 112))[0]
    for index, label in zip(indices, classes.tolist(), strict=True)
]
images = torch.stack([torch.from_numpy(image) for image in drawn]).permute(0, 3, 1, 2)
print(images.shape, images.dtype, torch.bincount(classes, minlength=len(names)).tolist())

# %% [markdown]
# ## A plan
#
# A plan says what is mixed with what. Nothing is random after it. Half of the samples stay unmixed.

# %%
mixer = SaliencyPatchMix(
    class_counts=sampler.class_counts,
    saliency="border_contrast",
    generator=torch.Generator().manual_seed(0),
)
plan = mixer.plan(images, classes)
mixed = plan.partner != torch.arange(64)
print(f"{int(mixed.sum())} of 64 are mixed, at a mean ratio of {plan.ratios[mixed].mean():.2f}")

# %%
rarest = counts[classes].argsort()
shown = [i for i in rarest.tolist() if mixed[i]][:4]
plot_plan(images, plan, classes, samples=shown, class_names=names)

# %% [markdown]
# Every partner is of a class at least as frequent, and every label is kept.

# %%
assert (counts[classes[plan.partner]] >= counts[classes]).all()
assert torch.equal(plan.targets, F.one_hot(classes, len(names)).float())

# %% [markdown]
# ## Better maps?
#
# Each map has a mean ratio over the lesion and over the skin around it. A map that sees the lesion
# keeps them apart.

# %%
masks = torch.stack(
    [
        torch.from_numpy(draw_lesion(names[label], lesion=index, size=(112, 112))[1])
        for index, label in zip(indices, classes.tolist(), strict=True)
    ]
)
for saliency in ("spectral_residual", "fine_grained", "border_contrast"):
    other = SaliencyPatchMix(class_counts=counts, saliency=saliency)
    ratios = other.plan(images, classes, partner=plan.partner).ratios
    pixels = ratios.repeat_interleave(8, 1).repeat_interleave(8, 2)[mixed]
    on, off = pixels[masks[mixed]].mean(), pixels[~masks[mixed]].mean()
    print(f"{saliency:18} lesion {on:.2f}, skin {off:.2f}")
