"""The report as one page of HTML, which asks for nothing from outside."""

import base64
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .files import write_text
from .metrics import headline, percent, span, split_by_shots
from .origin import commit
from .runs import Run

# Names of runs and their settings are anybody's text, so all of it is escaped.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Row(NamedTuple):
    """A row of a table: its head, its other cells, and whether they differ from each other."""

    head: str
    cells: list[str]
    differs: bool = False


def write_page(
    path: Path,
    runs: Sequence[Run],
    measured: Mapping[str, Mapping[str, Any]],
    figures: Mapping[Path, str],
    note: str | None = None,
) -> None:
    """Write the report on some runs as HTML.

    Args:
        path: The file to make or replace.
        runs: In the order of the columns.
        measured: What `measure` returns, and `recall_interval`, by run.
        figures: PNG files, and in words what each shows.
        note: Why there is no figure of mixes, if there should be one.
    """
    page = TEMPLATES.get_template("page.html").render(
        classes=runs[0].classes,
        runs=runs,
        images=len(runs[0].images),
        warnings=[(run.name, run.warning) for run in runs if run.warning],
        headline=[
            Row(name, [percent(value) for value in headline(values).values()])
            for name, values in measured.items()
        ],
        headline_columns=list(headline(measured[runs[0].name])),
        shots=_shots(runs[0]),
        recall=_recall(runs, measured),
        adjusted=[_adjusted(name, values["adjusted"]) for name, values in measured.items()],
        confusions={
            name: [
                Row(label, [str(n) for n in row])
                for label, row in zip(runs[0].classes, values["confusion"], strict=True)
            ]
            for name, values in measured.items()
        },
        # The folder is what names the run.
        settings=side_by_side(
            [{k: v for k, v in run.settings.items() if k != "out"} for run in runs]
        ),
        origins=side_by_side([_origin(run) for run in runs]),
        figures={path.stem: (data_uri(path), words) for path, words in figures.items()},
        note=note,
        commit=commit(),
    )
    write_text(path, page)


def side_by_side(columns: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Lay the values of some mappings side by side, those that differ first."""
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [_shown(column[name]) if name in column else "-" for column in columns]
        rows.append(Row(name, cells, differs=len(set(cells)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _origin(run: Run) -> dict[str, str]:
    """Name what a run was made by; where it went on by something else, one after the other.

    The folder it was started in stays out: a page may be published.
    """
    found: dict[str, list[str]] = {"commit": []}
    for entry in run.origin or [{"commit": "unknown"}]:
        for name, value in entry.items():
            if name == "folder":
                continue
            found.setdefault(name, []).append(_shown(value))
    return {
        name: ", then ".join(value for value, _ in groupby(values))
        for name, values in found.items()
    }


def _shots(run: Run) -> str:
    """Name the classes of each shot group, with their training images."""
    told = []
    for name, group in split_by_shots(run.counts).items():
        classes = ", ".join(f"{run.classes[index]} {int(run.counts[index])}" for index in group)
        told.append(f"{name}-shot: {classes or 'none'}")
    return "; ".join(told) + " training images"


def _recall(runs: Sequence[Run], measured: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Write recall with its interval: a row a class, a column a run behind those of images."""
    rows = []
    for index, label in enumerate(runs[0].classes):
        held = sum(measured[runs[0].name]["confusion"][index])
        trained = [str(int(run.counts[index])) for run in runs]
        trained = trained if len(set(trained)) > 1 else trained[:1]
        cells = [
            f"{percent(values['recall'][label])} ({span(*values['recall_interval'][label])})"
            for values in measured.values()
        ]
        rows.append(Row(label, [str(held), " / ".join(trained), *cells]))
    return rows


def _adjusted(name: str, found: Mapping[str, Any]) -> Row:
    """Write what the chosen exponents do, behind what there was without."""
    at = found["exponents"].index(0.0)
    cells = [
        f"{percent(found[part][at])} to {percent(found[f'chosen_{part}'])}"
        for part in ("balanced_accuracy", "head", "rare")
    ]
    exponents = " and ".join(f"{exponent:.1f}" for exponent in found["chosen"])
    return Row(name, [exponents, *cells])


def data_uri(path: Path) -> str:
    """Write a PNG file as a source within a page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
