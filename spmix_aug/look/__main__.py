"""Write a page about labelled images: what they are, what mixing does, whether it can matter."""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch

from spmix_aug.look import data, page
from spmix_aug.look.background import background_of, colour_and_texture, cross_validate
from spmix_aug.look.pairs import draw_pairs

SIDE = 64  # at most, of the images that statistics are taken of
SHOWN = 128  # of those that the page shows
TRAINED = 224  # of those in training
ROWS = 12


def look(found: data.Found, number: int, seed: int, out: Path) -> None:
    """Write the page about images that were found.

    Args:
        found: the images.
        number: how many of them to read.
        seed: of what is drawn.
        out: the file to make or replace.

    Raises:
        DataError: if fewer than two classes have images that can be read.
    """
    data.require_one_label(found)
    generator = torch.Generator().manual_seed(seed)
    reader = data.Reader(found)
    there = [i for i in range(len(found.names)) if i not in reader.unreadable]
    drawn = [there[i] for i in data.sample(found.labels[there], number, generator)]
    sizes = data.sizes_of([found.folder / found.names[i] for i in drawn[:: 1 + len(drawn) // 200]])

    read: list[int] = []
    background, objects, moments = [], [], []
    for indices, images, masks in reader.parts(drawn, sizes.fitted(SIDE)):
        read += indices
        around, inside = background_of(images, masks)
        background.append(colour_and_texture(images, around))
        objects.append(colour_and_texture(images, inside))
        pixels = images.flatten(2).float() / 255
        moments.append(torch.stack([pixels.mean(dim=2), pixels.square().mean(dim=2)]))
    labels = found.labels[read]
    if int(labels.bincount().count_nonzero()) < 2:
        first = min(reader.unreadable)
        raise data.DataError(
            f"Expected images of two classes or more that can be read, but got {len(read)} of "
            f"{len(drawn)}: {found.names[first]} {reader.unreadable[first]}."
        )
    trouble = page.trouble(found, reader.unreadable, reader.remarks)
    left = found.labels[[i for i in range(len(found.names)) if i not in reader.unreadable]]
    number_of = left.bincount(minlength=len(found.classes))
    # As in the whole, though of rare classes a larger part was read.
    weights = (number_of / labels.bincount(minlength=len(number_of)))[labels].double()
    moment = torch.einsum("mnc,n->mc", torch.cat(moments, dim=1).double(), weights / weights.sum())
    mean, std = moment[0], (moment[1] - moment[0].square()).clamp(min=1e-6).sqrt()

    if reader.unreadable:
        print(f"{page.count_of_files(len(reader.unreadable))} cannot be read; the page names them.")
    around = torch.cat(background)
    groups = None if found.groups is None else [found.groups[i] for i in read]
    told = cross_validate(around, labels, groups, generator)
    told_by_object = cross_validate(torch.cat(objects), labels, groups, generator)

    chosen = draw_pairs(labels, ROWS, generator)
    shown = [read[place] for places in zip(*chosen, strict=True) for place in places]
    [(shown, images, _)] = reader.parts(shown, sizes.fitted(SHOWN))
    partner = torch.arange(len(shown)).roll(len(chosen))
    names = [found.classes[k] for k in found.labels[shown].tolist()]
    side = min(sizes.shorter, TRAINED)
    page.write(
        out,
        page.code(
            found,
            [found.names[i] for i in sorted(reader.unreadable)],
            mean.tolist(),
            std.tolist(),
            side,
        ),
        page.pairs(images, partner, names),
        title=escape("/".join((found.csv or found.folder).resolve().parts[-2:])),
        summary=f"{len(found.names):,} images of {len(found.classes)} classes, of which "
        f"{len(read):,} were read{', all of rare classes' * (len(drawn) < len(there))}.",
        **page.classes(found, left),
        trouble=trouble,
        background=page.guidance(found, told, told_by_object, int(around.isnan().any(1).sum())),
        side=str(side),
        seed=str(seed),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page that the command line asks for; end with code 2 where it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m spmix_aug.look", description=__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", nargs="?", type=Path, help="holds a folder for each class")
    add("--csv", type=Path, help="a table of images instead, which lie in FOLDER or beside it")
    add("--groups", metavar="FILE", type=Path, help="another table, of images and their groups")
    for role, names in data.COLUMNS.items():
        add(
            f"--{role}",
            metavar="COLUMN",
            help=f"of the table; found when {', '.join(names.split())}",
        )
    add("--out", type=Path, default=Path("look.html"), help="the page (%(default)s)")
    add("--sample", type=int, default=3000, help="images to read (%(default)s)")
    add("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        parser.error(f"Expected `--out` to be a file, but {options.out} is a folder; name a page.")
    try:
        if options.csv is not None:
            found = data.find_in_csv(options.csv, options.folder, vars(options), options.groups)
        elif options.folder is not None:
            found = data.find_in_folders(options.folder)
        else:
            parser.error("Expected `FOLDER` or `--csv`, but got neither; name your images.")
        look(found, options.sample, options.seed, options.out)
    except (data.DataError, OSError) as error:
        parser.error(str(error))
    print(f"Wrote {options.out}; open it in a browser.")


if __name__ == "__main__":
    main()
