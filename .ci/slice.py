"""Make a small folder of the challenge's layout from a large one: slice.py FROM TO IMAGES."""

import csv
import sys
from pathlib import Path

INPUT = "ISIC2018_Task3_Training_Input"
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
TABLES = (
    f"{TRUTH}/{TRUTH}.csv",
    "ISIC2018_Task3_Training_LesionGroupings.csv",
    "splits/lesion_disjoint.csv",
)


def main(source: Path, target: Path, number: int) -> None:
    """Take as many training images of each class, linked rather than copied; no test images."""
    with (source / TABLES[2]).open(newline="") as file:
        train = {row["image"] for row in csv.DictReader(file) if row["split"] == "train"}
    with (source / TABLES[0]).open(newline="") as file:
        of_class: dict[tuple[str, ...], list[str]] = {}
        for image, *one_hot in csv.reader(file):
            of_class.setdefault(tuple(one_hot), []).append(image)
    share = number // 7
    kept = {i for images in of_class.values() for i in [i for i in images if i in train][:share]}
    for table in TABLES:
        with (source / table).open(newline="") as file:
            header, *rows = csv.reader(file)
        (target / table).parent.mkdir(parents=True, exist_ok=True)
        with (target / table).open("w", newline="") as file:
            csv.writer(file).writerows([header, *(row for row in rows if row[0] in kept)])
    (target / INPUT).mkdir()
    for image in kept:
        (target / INPUT / f"{image}.jpg").symlink_to((source / INPUT / f"{image}.jpg").resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
