"""List the files of the wheel and the sdist in a folder; fail where one is missing or stray.

The wheel has the package's tracked files and its metadata, the sdist tracked files alone: nothing
that merely lay in the checkout gets out.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

NEEDED = {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "PKG-INFO"}


def main(dist: Path) -> str:
    """Compare with what git tracks; returns what is wrong, or nothing."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
    tracked = set(listed.stdout.splitlines())
    package = {file for file in tracked if file.startswith("spmix_aug/")}
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    metadata = {f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    print(f"{wheel.name}:", *sorted(in_wheel), sep="\n  ")
    print(f"{sdist.name}:", *sorted(in_sdist), sep="\n  ")
    wrong = {
        "missing in the wheel": (package | metadata | {"spmix_aug/py.typed"}) - in_wheel,
        "stray in the wheel": in_wheel - package - metadata,
        "missing in the sdist": (package | NEEDED) - in_sdist,
        "stray in the sdist": in_sdist - tracked - {"PKG-INFO"},
    }
    return "\n".join(f"{what}: {file}" for what, files in wrong.items() for file in sorted(files))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) or 0)
