"""Whatever bytes lie in the ISIC folder, they are read, or refused by a DataError with a name."""

import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from examples.isic2018.data import (
    CLASSES,
    DataError,
    LesionImages,
    Record,
    authors_split,
    folds_of,
    read_lesion_mask,
    read_records,
)

INPUT = "ISIC2018_Task3_Training_Input"
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
HEADER = "image," + ",".join(CLASSES)
IMAGES = [f"img_{index}" for index in range(7)]
FILES = {
    f"{TRUTH}/{TRUTH}.csv": "\r\n".join(
        [HEADER]
        + [
            f"{image}," + ",".join("1.0" if label == index else "0.0" for label in range(7))
            for index, image in enumerate(IMAGES)
        ]
    ),
    "ISIC2018_Task3_Training_LesionGroupings.csv": "\n".join(
        ["image,lesion_id", *(f"{image},lesion_{image}" for image in IMAGES)]
    ),
    "splits/lesion_disjoint.csv": "\n".join(
        ["image,split,fold", *(f"{image},train,0" for image in IMAGES)]
    ),
} | {
    f"splits/authors/{part}.txt": "\n".join(f"x/{name}.jpg {i}" for i, name in enumerate(IMAGES))
    for part in ("train", "test")
}
PIECES = [
    *(b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    *(b"nan", b"inf", b"1e999", b"1_0", b"-0", b"0x1", b"1.0", b"0.0", b" 1.0", b"true", b""),
    *("٣".encode(), "²".encode(), "é".encode(), "\u2028".encode(), b"img_1"),
    *(b"../img_1", b".", b"image", b"img_0", b"img_99", b"train", b"test", b"99999", b"MEL"),
    b"0" * 140_000,  # longer than a field of Python's csv may be
]
KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000"]
MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F", "I", "YCbCr"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isic")
    make_folder(folder)
    return folder


def make_folder(folder: Path) -> None:
    """Make what the lists of the folder name; the files listed are empty."""
    for name in (*FILES, f"{INPUT}/x", "lesion_masks/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        (folder / INPUT / f"{image}.jpg").touch()


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Change a few places of a file: bits flipped, pieces put in, parts cut out or repeated."""
    place = st.integers(0, max(0, len(content) - 1))
    edits = st.lists(
        st.tuples(place, st.sampled_from("fircp"), st.integers(0, 40), st.sampled_from(PIECES)),
        min_size=1,
        max_size=4,
    )

    def apply(changes: list[tuple[int, str, int, bytes]]) -> bytes:
        data = bytearray(content)
        for start, how, number, piece in changes:
            if how == "f" and start < len(data):
                data[start] ^= 1 << number % 8
            elif how == "i":
                data[start:start] = piece
            elif how == "r":
                data[start : start + number] = piece
            elif how == "c":
                del data[start + number :]
            else:
                data[start:start] = data[start : start + number]
        return bytes(data)

    return st.one_of(edits.map(apply), edits.map(apply), edits.map(apply), st.binary(max_size=80))


def allowed(root: Path, read: Callable[[], object]) -> object:
    """Read; a refusal has to name something in the folder."""
    try:
        return read()
    except DataError as error:
        refusal = str(error)
    assert refusal.startswith(str(root))
    return None


def read_all(root: Path) -> None:
    """Read every list in the folder."""

    def split() -> None:
        records = read_records(root)
        assert all(0 <= record.label < len(CLASSES) for record in records)
        folds = folds_of(root, records, split_file=None, seed=0)
        assert len(folds) == len(records)

    allowed(root, split)
    allowed(root, lambda: authors_split(root))


def encoded(kind: str, mode: str) -> bytes:
    """Write a small image in some format; a PNG where the format has no such mode."""
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    image = Image.fromarray(pixels)
    image = image.convert("L").convert("I") if mode == "I;16" else image
    image = image.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, kind)
    except (OSError, ValueError, KeyError):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """Write a PNG whose header promises more pixels than there are."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))


SIDES = st.sampled_from([0, 1, 2, 16, 9_000, 70_000, 2**31 - 1, 2**32 - 1])
HUGE = st.builds(png_of_size, SIDES, SIDES)
PICTURES = st.builds(encoded, st.sampled_from(KINDS), st.sampled_from(MODES))
IMAGE_BYTES = st.one_of(PICTURES, PICTURES.flatmap(damaged), PICTURES.flatmap(damaged), HUGE)


def read_as_image_and_mask(root: Path, content: bytes) -> None:
    photo, mask = root / INPUT / "img_0.jpg", root / "lesion_masks" / "img_0.png"
    photo.write_bytes(content)
    mask.write_bytes(content)
    item = allowed(root, lambda: LesionImages([Record("img_0", photo, 3, "lesion")])[0])
    if item is not None:
        image, label = item
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert min(image.shape) > 0
        assert label == 3
    lesion = allowed(root, lambda: read_lesion_mask(root, "img_0"))
    assert lesion is None or (lesion.dtype == torch.bool and lesion.ndim == 2)


def fuzz(tries: int, run: Callable[[Callable[..., object]], None]) -> int:
    """Let hypothesis call something so many times, and count."""
    count = Counter[str]()

    @settings(
        max_examples=tries,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        count["tries"] += 1
        run(data.draw)

    each()
    return count["tries"]


@pytest.fixture
def lists(root: Path) -> Iterator[Callable[..., None]]:
    written: dict[str, bytes] = {}

    def run(draw: Callable[..., object]) -> None:
        spoilt = draw(st.sets(st.sampled_from(sorted(FILES)), min_size=1, max_size=2))
        for name, text in FILES.items():
            content = draw(damaged(text.encode())) if name in spoilt else text.encode()
            if written.get(name) != content:  # most of the time would go into writing
                written[name] = content
                (root / name).write_bytes(content)
        read_all(root)

    return run


def test_some_damaged_lists_are_read_or_refused_by_name(root, lists):
    assert fuzz(200, lists) >= 200


def test_some_damaged_images_are_read_or_refused_by_name(root):
    run = lambda draw: read_as_image_and_mask(root, draw(IMAGE_BYTES))  # noqa: E731
    assert fuzz(200, run) >= 200


@pytest.mark.slow
def test_many_damaged_lists_and_images_are_read_or_refused_by_name(root, lists):
    run = lambda draw: read_as_image_and_mask(root, draw(IMAGE_BYTES))  # noqa: E731
    assert fuzz(5000, lists) >= 5000
    assert fuzz(5000, run) >= 5000
