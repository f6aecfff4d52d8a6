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
    """Take every n-th training image, linked rather than copied; never a test image."""
    with (source / TABLES[2]).open(newline="") as file:
        train = [row["image"] for row in csv.DictReader(file) if row["split"] == "train"]
    kept = set(train[:: max(1, len(train) // number)])
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
