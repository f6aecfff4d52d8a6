"""Fuzz the readers of the ISIC example, guided by coverage; needs atheris, by hand only.

`python -m pip install atheris`, then `python .ci/fuzz_reader.py -runs=100000`; further arguments
are libFuzzer's, such as a folder for the inputs that it finds.
"""

import sys
import tempfile
from pathlib import Path

import atheris
import torch  # before instrumenting, which would take minutes for it

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in (".", "tests")]
with atheris.instrument_imports(include=["csv", "PIL", "examples.isic2018.data"]):
    import test_example_fuzz as tests
    from PIL import Image

FOLDER, SEEDS = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())


def read(content: bytes) -> None:
    """Take the first byte for the kind of file, and the rest for what is in it."""
    names = [*tests.FILES, "image"]
    name = names[content[0] % len(names)] if content else "image"
    if name == "image":
        tests.read_as_image_and_mask(FOLDER, content[1:])
        return
    for other, text in tests.FILES.items():
        (FOLDER / other).write_bytes(content[1:] if other == name else text.encode())
    tests.read_all(FOLDER)


def write_seeds() -> None:
    """Write valid files to begin with, each behind the byte of its kind."""
    contents = [bytes([kind]) + text.encode() for kind, text in enumerate(tests.FILES.values())]
    pictures = [tests.encoded(kind, mode) for kind in tests.KINDS for mode in tests.MODES]
    contents += [bytes([len(tests.FILES)]) + picture for picture in pictures]
    for number, content in enumerate(contents):
        (SEEDS / str(number)).write_bytes(content)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Image.init()
    tests.make_folder(FOLDER)
    write_seeds()
    atheris.Setup([*sys.argv, str(SEEDS)], read)
    atheris.Fuzz()
