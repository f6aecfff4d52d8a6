"""What the tests of training on several ranks let torchrun start.

torchrun ... tests/examples/ranks.py train SETTINGS.json [STEPS]   rank 1 is killed after STEPS
torchrun ... tests/examples/ranks.py collect FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from examples.isic2018 import train
from examples.isic2018.contrastive import FeatureQueue
from examples.isic2018.distributed import start_ranks
from examples.isic2018.views import LesionViews


def train_on(settings, steps=None):
    """Train; leave this rank's parameters, queue and drawn samples behind."""
    run = train.Trainer(train.Settings(**json.loads(Path(settings).read_text())))
    if steps is not None and run.ranks.rank == 1:
        real, taken = run._step, []

        def step(parts):
            taken.append(real(parts))
            if len(taken) == int(steps):
                os.kill(os.getpid(), signal.SIGKILL)
            return taken[-1]

        run._step = step
    drawn, draw = [], LesionViews.__getitem__

    def noted(dataset, index):
        drawn.append(index)
        return draw(dataset, index)

    LesionViews.__getitem__ = noted
    run.run()
    state = {
        "parameters": [p.detach() for p in run.trained.parameters()],
        "queue": run.queue.state_dict(),
        "drawn": drawn,
        "history": run.history,
        "images": len(run.batches.train.dataset),
    }
    torch.save(state, run.out / f"rank{run.ranks.rank}.pt")


def collect_in(folder):
    """Let the ranks put together what each has."""
    ranks, _ = start_ranks(torch.device("cpu"))
    rows = torch.arange(7.0).unsqueeze(1)
    collected = ranks.collect(torch.stack(ranks.share(list(rows))), 7)
    model = torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(ranks.rank)
    ranks.agree(model)
    torch.manual_seed(0)
    queue = FeatureQueue(4, 1, 9)
    queue.push(torch.full((1, 1), float(ranks.rank)), torch.tensor([ranks.rank]))
    mean = ranks.mean(torch.tensor(float(ranks.rank)))
    found = (collected, model.running_mean, queue.labels, mean)
    torch.save(found, Path(folder) / f"{ranks.rank}.pt")


if __name__ == "__main__":
    {"train": train_on, "collect": collect_in}[sys.argv[1]](*sys.argv[2:])
    dist.destroy_process_group()
