"""What comes along at run time: no copyleft, and nothing that SECURITY.md does not list."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

COPYLEFT = re.compile(r"GPL|MPL|EUPL|CDDL|EPL|OSL|CC-BY-SA|GNU|Mozilla|copyleft", re.IGNORECASE)


def needed_at_run_time(name, found=None):
    """Collect the metadata of a distribution and of all that it needs here, without extras."""
    found = {} if found is None else found
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return found
    found[key] = importlib.metadata.metadata(name)
    for line in importlib.metadata.requires(name) or []:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            needed_at_run_time(needed.name, found)
    return found


def licence_of(metadata):
    first = (metadata.get("License") or "").split("\n")[0]
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License")]
    return " ".join([metadata.get("License-Expression") or "", first, *classifiers])


def test_nothing_is_copyleft_and_all_is_listed():
    listed = Path(__file__).parents[1].joinpath("SECURITY.md").read_text().split("## Licences")[1]
    found = needed_at_run_time("spmix-aug")
    assert {"torch", "kornia", "numpy"} <= found.keys()
    for name, metadata in found.items():
        licence = licence_of(metadata)
        assert licence.strip() or name == "cuda-toolkit", name
        assert not COPYLEFT.search(licence), f"{name}: {licence}"
        family = "nvidia-*" if name.startswith("nvidia-") else name
        assert family == "spmix-aug" or family in listed, f"{name} is not in SECURITY.md"
