"""Results of runs: a small file each while they are made, two files once they are gathered.

A run is named by its stage, arm, fold and seed. At work, each finished one is a file
`STAGE/ARM/FOLD/SEED.json` in a folder outside git, beside `images.npz`. What is kept in git is two
files of a folder:

- `results.jsonl`, a run a line: its name, settings, commit, device, seconds, figures, and of how
  many images there are predictions;
- `predictions.npz`: `labels`, `groups` and `folds` of all images of the data set, and under the
  name of each run the probabilities of the images of its fold, float16 `(N,K)`.

`read` takes folders of either kind, `gather` brings the files of the one into those of the other.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.isic2018.files import write_json, write_text, write_whole

TABLE, PREDICTIONS, IMAGES = "results.jsonl", "predictions.npz", "images.npz"
TEST = -1  # the fold of test images
KINDS = {"labels": np.int16, "groups": np.int32, "folds": np.int8}  # as they are kept


@dataclass(frozen=True)
class Cases:
    """The images of a data set, without their pixels: `(N,)` int64 each.

    Args:
        labels: class indices.
        groups: images of one group, such as a lesion, are right or wrong together.
        folds: from 0, or `TEST`.
    """

    labels: Tensor
    groups: Tensor
    folds: Tensor

    def part(self, fold: str, *, held: bool) -> Tensor:
        """Index the images that are held out with `fold`, or those that are trained on.

        Args:
            fold: its number as text, or `"test"`.
            held: which of both.
        """
        place = TEST if fold == "test" else int(fold)
        chosen = self.folds == place if held else (self.folds != place) & (self.folds != TEST)
        return chosen.nonzero().flatten()


@dataclass(frozen=True)
class Record:
    """What is kept of a run.

    Args:
        stage: the stage that it was made for.
        arm: the method that was tried.
        fold: what it was measured on.
        seed: of its random numbers.
        settings: all that decides it besides, as JSON has it.
        commit: of the code; with a + where files differed from it.
        device: that it ran on.
        seconds: that it took.
        figures: what was measured.
        predictions: probabilities of the images of its fold, float16 `(N,K)`; N may be 0.
            `cifar10_lt` keeps the most likely classes instead.
    """

    stage: str
    arm: str
    fold: str
    seed: int
    settings: dict[str, Any]
    commit: str
    device: str
    seconds: float
    figures: dict[str, Any]
    predictions: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float16))

    @property
    def key(self) -> str:
        """Its name, `stage/arm/fold/seed`."""
        return f"{self.stage}/{self.arm}/{self.fold}/{self.seed}"

    @property
    def probabilities(self) -> Tensor:
        """The predictions as a tensor, float32 `(N,K)`."""
        return torch.from_numpy(self.predictions.astype(np.float32))

    def row(self) -> dict[str, Any]:
        """Return all but the predictions, for JSON, and their number as `images`."""
        row = {name: value for name, value in vars(self).items() if name != "predictions"}
        return row | {"figures": _rounded(self.figures), "images": len(self.predictions)}


@dataclass(frozen=True)
class Results:
    """Runs by their names, and the images that they predict; None where nothing is known yet."""

    runs: dict[str, Record]
    cases: Cases | None


def write_cases(folder: Path, cases: Cases) -> None:
    """Write the images that the runs in `folder` are about.

    Raises:
        ValueError: if there are runs about others in it.
    """
    path = folder / IMAGES
    if path.exists():
        _check_same(_load_cases(np.load(path)), cases, folder)
    else:
        _write_arrays(path, _arrays_of(cases))


def write_run(folder: Path, record: Record) -> None:
    """Write a finished run, complete or not at all."""
    predictions = np.ascontiguousarray(record.predictions, "<f2")
    text = base64.b64encode(predictions.tobytes()).decode("ascii")
    write_json(folder / f"{record.key}.json", record.row() | {"predictions": text})


def read(*folders: Path) -> Results:
    """Read the runs of some folders, of finished runs or with the gathered files.

    Args:
        folders: those that do not exist are empty; where two have a run, the later one's counts.

    Raises:
        ValueError: if folders are about different images, or the two gathered files of one do not
            belong together.
    """
    runs: dict[str, Record] = {}
    cases = None
    for folder in folders:
        for found, there in (_read_gathered(folder), _read_runs(folder)):
            if there is not None and cases is not None:
                _check_same(cases, there, folder)
            cases = cases or there
            runs |= found
    return Results(runs, cases)


def gather(source: Path, kept: Path) -> int:
    """Bring the finished runs of `source` into the two files in `kept`, beside those there.

    Returns:
        How many runs came from `source`.

    Raises:
        ValueError: as `read` does; or if there is nothing to gather.
    """
    new, results = read(source).runs, read(kept, source)
    if results.cases is None or not new:
        raise ValueError(f"Expected finished runs in {source}, but there are none.")
    rows = [results.runs[key] for key in sorted(results.runs)]
    predictions = {one.key: one.predictions for one in rows if len(one.predictions)}
    _write_arrays(kept / PREDICTIONS, _arrays_of(results.cases) | predictions)
    write_text(kept / TABLE, "".join(json.dumps(one.row()) + "\n" for one in rows))
    return len(new)


def _read_runs(folder: Path) -> tuple[dict[str, Record], Cases | None]:
    """Read the files of finished runs."""
    found = {}
    for path in sorted(folder.glob("*/*/*/[0-9]*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        flat = np.frombuffer(base64.b64decode(row.pop("predictions")), "<f2")
        record = _record(row, flat.reshape(row["images"], -1) if len(flat) else None)
        found[record.key] = record
    path = folder / IMAGES
    return found, _load_cases(np.load(path)) if path.exists() else None


def _read_gathered(folder: Path) -> tuple[dict[str, Record], Cases | None]:
    """Read the two files of gathered runs."""
    if not (folder / TABLE).exists():
        return {}, None
    found = {}
    with np.load(folder / PREDICTIONS) as arrays:
        for line in (folder / TABLE).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = "{stage}/{arm}/{fold}/{seed}".format(**row)
            predictions = arrays.get(key)
            if row["images"] != (0 if predictions is None else len(predictions)):
                raise ValueError(
                    f"Expected predictions of {row['images']} images for {key}, as {TABLE} in "
                    f"{folder} says, but {PREDICTIONS} has others; take both from one commit."
                )
            found[key] = _record(row, predictions)
        return found, _load_cases(arrays)


def _record(row: dict[str, Any], predictions: np.ndarray | None) -> Record:
    row = {name: value for name, value in row.items() if name != "images"}
    return Record(**row) if predictions is None else Record(**row, predictions=predictions)


def _arrays_of(cases: Cases) -> dict[str, np.ndarray]:
    return {name: getattr(cases, name).numpy().astype(kind) for name, kind in KINDS.items()}


def _load_cases(arrays: Mapping[str, np.ndarray]) -> Cases:
    return Cases(*(torch.from_numpy(arrays[name].astype(np.int64)) for name in KINDS))


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    write_whole(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def _check_same(cases: Cases, others: Cases, folder: Path) -> None:
    if not all(torch.equal(getattr(cases, name), getattr(others, name)) for name in KINDS):
        raise ValueError(
            f"Expected the runs in {folder} to be about the same images, in the same order and "
            "folds, but their labels, groups or folds differ; take another folder for other data."
        )


def _rounded(value: Any) -> Any:
    """Round the floats of a JSON value to six decimals."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value
