"""The parts of the page, each as HTML, and the page of them all."""

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, cast

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import spmix_aug
from spmix_aug import TailHeadPairSampler
from spmix_aug.look.background import Told
from spmix_aug.look.data import ENDINGS, Found
from spmix_aug.look.pairs import SALIENCIES, scores_and_maps
from spmix_aug.viz import describe

BATCH = 64
MAP = 64  # at most, of the shorter side of a map
NAMED = 20  # at most, of files that cannot be read
SHORTCUT = (
    "If something beside the objects (a vignette, a ruler, hair) goes with a class here and will "
    "not in the images to come, a network that learned it fails there, and the exchange works "
    "against that. If they come from the same sources, the background is valid evidence, and "
    "guidance may add nothing."
)
NO_SHORTCUT = "There is no such shortcut that guided mixing could take away."
MUCH = 0.05  # above guessing
UNCLEAR = "That is too wide to say; more images would (--sample, or more of the rare classes)."
NO_MASKS = (
    "But no masks were given: what border contrast misses of the objects counts as background "
    "here, so that the figure can be too high. Look at its maps above, or name masks in a table "
    "(--csv, --mask)."
)
NO_GROUPS = (
    "drawn by image, as no groups were given: near-duplicates, as of one patient, place or video, "
    "then inflate the figures. Name groups in a table (--csv, --group)."
)
SETTING = re.compile(r"@(\w+):([\w.]+)@")  # in the code: name and value


def classes(found: Found, labels: Tensor) -> dict[str, str]:
    """Tell what classes there are, and what the sampler makes of them.

    Args:
        found: the images.
        labels: `(N,)`, of those that can be read.
    """
    sampler = TailHeadPairSampler(labels, BATCH)
    counts = sampler.class_counts
    # Named by numbers here, in which no two blanks could be taken for the end of a column.
    low, high = int(counts[counts > 0].min()), int(counts.max())
    few, many = (round(low * (high / low) ** (part / 3), 6) for part in (1, 2))
    table = describe(sampler, many=many, few=few).split("\n\n")[1].splitlines()[1:]
    described = [re.split(r" {2,}", line.strip())[1:] for line in table]
    order = counts.argsort(descending=True, stable=True).tolist()
    rows = []
    for k in order:
        width = 100 * int(counts[k]) / int(counts.max())
        bar = f'<td class="bar"><span style="width: {width:.1f}%"></span></td>'
        group, _, *others = described[k]
        rows.append((found.classes[k], [bar, f"{int(counts[k]):,}", f"{group}-shot", *others]))
    rarest = next(k for k in reversed(order) if counts[k] > 0)
    draws, partners = (cell.split()[0] for cell in described[rarest][4:])
    heads = "class", "", "images", "frequency", "of the data", "of the draws", "draws", "partners"
    return {
        "batches": f"{len(sampler):,} batches of {BATCH}",
        "rarest": escape(found.classes[rarest]),
        "draws": draws,
        "partners": partners,
        "few": f"{few:,.0f}",
        "many": f"{many:,.0f}",
        "classes": _table("Images of each class", heads, rows),
    }


def count_of_files(number: int) -> str:
    """Write a number of files."""
    return f"{number:,} file{'s' * (number != 1)}"


def trouble(found: Found, unreadable: Mapping[int, str], remarks: Mapping[str, int]) -> str:
    """Name the files that cannot be read, and count what is unusual about others."""
    notes = [f"{number:,} of the images that were read {what}." for what, number in remarks.items()]
    if found.empty:
        notes.append(f"No image in {', '.join(found.empty)}: left out.")
    named = [f"{found.names[i]} {why}" for i, why in sorted(unreadable.items())]
    if not named:
        return _paragraphs([*notes, "All images that were opened can be read."])
    more = [f"and {len(named) - NAMED:,} more"] * (len(named) > NAMED)
    items = "".join(f"<li>{escape(item)}</li>" for item in named[:NAMED] + more)
    return _paragraphs(notes) + (
        f'<div class="beware"><p>{count_of_files(len(named))} cannot be read. They are left out of '
        f"all that follows, and a training that meets them stops.</p><ul>{items}</ul></div>"
    )


def pairs(images: Tensor, partner: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Collect what the page's script shows pairs of, and mixes.

    Args:
        images: `(2n,3,H,W)` uint8, n own images and then their partners.
        partner: `(2n,)`.
        names: of the images' classes.
    """
    number, (height, width) = len(images) // 2, images.shape[2:]
    patch_size = max(2, round(min(height, width) / 14))  # as a mixer's default
    scale = min(1, MAP / min(height, width))
    size = round(height * scale), round(width * scale)
    rows: list[dict[str, Any]] = [
        {
            "names": (names[i], names[i + number]),
            "images": (_png(images[i]), _png(images[i + number])),
            "scores": {},
            "maps": {},
        }
        for i in range(number)
    ]
    for name in SALIENCIES:
        scores, maps = scores_and_maps(images.float() / 255, partner, name, patch_size)
        maps = F.interpolate(maps.unsqueeze(1), size, mode="bilinear", antialias=True).squeeze(1)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
        for i, row in enumerate(rows):
            row["scores"][name] = {form: _bytes(grid[i]) for form, grid in scores.items()}
            row["maps"][name] = _bytes(maps[i]), _bytes(maps[i + number])
    columns = -(-width // patch_size)
    shape = {"width": width, "height": height, "patch_size": patch_size, "columns": columns}
    return {"rows": rows, "map": size[::-1], **shape}


def guidance(found: Found, background: Told | None, objects: Told | None, without: int) -> str:
    """Write how much of the class the background tells, and what follows from it.

    Args:
        found: the images.
        background: how well it tells the class.
        objects: how well they do.
        without: images that have no background.
    """
    if background is None:
        return _paragraphs(
            ["Too few images: two classes with five each, or five groups, are needed to tell."]
        )
    chance = 1 / len(background.classes)
    guess = f"{_measured(background)} of 100 are right, all classes counted alike, "
    guess += f"where guessing gives {100 * chance:.1f}"
    if background.low > chance:
        much = "much" if background.low >= chance + MUCH else "a little"
        answer = f"tells {much} of the class: {guess}. {SHORTCUT}"
        answer += "" if found.masks else f" {NO_MASKS}"
    elif background.high >= chance + MUCH:
        answer = f"may tell something of the class or nothing: {guess}. {UNCLEAR}"
    else:
        answer = f"does not tell the class: {guess}. {NO_SHORTCUT}"
    heads, columns = ["told from", "background alone"], [background]
    if objects is not None and objects.classes == background.classes:
        heads, columns = [*heads, "object alone"], [background, objects]
    rows = [
        ("guessing", [f"{100 * chance:.1f}"] * len(columns)),
        ("all classes", [_measured(told) for told in columns]),
    ]
    for place, k in enumerate(background.classes):
        rows.append((found.classes[k], [f"{100 * told.recall[place]:.1f}" for told in columns]))
    notes = [
        f"{background.images:,} images in five folds, "
        + (f"of {background.groups:,} groups held together." if found.groups else NO_GROUPS),
        f"The object is {'what the masks say' if found.masks else 'what border contrast finds'}, "
        "and the background what is farther from it than 1/16 of the shorter side.",
    ]
    few = [name for k, name in enumerate(found.classes) if k not in background.classes]
    if few:
        notes.append(f"Too few images for five folds, left out: {', '.join(few)}.")
    if without:
        notes.append(f"{without:,} images have next to no background and are left out.")
    table = _table("Balanced accuracy, and the recall of each class, in percent", heads, rows)
    return f'<p class="answer">The background alone {answer}</p>{table}{_paragraphs(notes)}'


def code(
    found: Found, skipped: Sequence[str], mean: Sequence[float], std: Sequence[float], side: int
) -> str:
    """Write a training that runs as it is; the mixer's settings are `@name:value@`.

    Args:
        found: the images.
        skipped: names of those to leave out.
        mean: of each channel.
        std: of each channel.
        side: of the images in training, in pixels.
    """
    lines = [f"folder = Path({str(found.folder.resolve())!r})"]
    if found.csv is None or found.by_id:
        lines.append(f"endings = {ENDINGS}")
    if found.csv is None:
        lines += [
            'paths = sorted(folder.glob("[!.]*/**/[!.]*"))',
            "paths = [path for path in paths if path.suffix.lower() in endings]",
            "names = [path.relative_to(folder).parts[0] for path in paths]",
        ]
    else:
        lines += _listing_of_table(found)
    if skipped:
        lines += [
            f"skipped = {{folder / name for name in {[*skipped]!r}}}  # cannot be read",
            "pairs = [pair for pair in zip(paths, names) if pair[0] not in skipped]",
            "paths, names = zip(*pairs)",
        ]
    return _template("training.txt").substitute(
        imports="import csv\n" * bool(found.csv) + "from pathlib import Path\n",
        listing="\n".join(lines),
        mean=[round(value, 3) for value in mean],
        std=[round(value, 3) for value in std],
        side=side,
        batch=BATCH,
    )


def _listing_of_table(found: Found) -> list[str]:
    """Write the lines that read a table as `find_in_csv` does."""
    image = f"row[{found.columns['image']!r}].strip()"
    lines = [
        f'with open({str(cast(Path, found.csv).resolve())!r}, newline="", encoding="utf-8-sig") '
        "as file:",
        f"    rows = list(csv.DictReader(file, delimiter={found.delimiter!r}))",
    ]
    if found.by_id:
        lines += [
            'files = {path.stem.lower(): path for path in folder.glob("**/[!.]*")',
            "         if path.suffix.lower() in endings}",
            f"ids = [{image} for row in rows]",
            "paths = [folder / name if (folder / name).is_file()",
            "         else files.get(Path(name).stem.lower(), folder / name) for name in ids]",
        ]
    else:
        lines.append(f"paths = [folder / {image} for row in rows]")
    if found.one_hot:
        lines += [
            f"columns = {[*found.one_hot]!r}",
            'ones = ("1", "1.0", "true")',
            "names = [next(name for name in columns if row[name].strip().lower() in ones)",
            "         for row in rows]",
        ]
    else:
        lines.append(f"names = [row[{found.columns['label']!r}].strip() for row in rows]")
    return lines


def write(path: Path, code: str, data: Mapping[str, Any], **parts: str) -> None:
    """Write the page, replacing what is there.

    Args:
        path: of the file.
        code: with the mixer's settings as `@name:value@`.
        data: of the pairs.
        parts: HTML of the other places in the template.
    """
    data = {**data, "saliencies": SALIENCIES}
    code = SETTING.sub(r'<b data-setting="\1">\2</b>', escape(code, quote=False))
    parts |= {"code": code, "version": spmix_aug.__version__}
    parts["data"] = json.dumps(data).replace("<", "\\u003c")  # which could end the script
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_template("page.html").substitute(parts), encoding="utf-8")


def _template(name: str) -> Template:
    return Template(files("spmix_aug.look").joinpath(name).read_text(encoding="utf-8"))


def _table(caption: str, heads: Sequence[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    """Write a table, of rows that are a name and the other cells, in words or as HTML."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
        + "</tr>\n"
        for name, cells in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table>\n'
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def _measured(told: Told) -> str:
    return f"{100 * told.accuracy:.1f} ({100 * told.low:.1f} to {100 * told.high:.1f})"


def _png(image: Tensor) -> str:
    """Write an image `(3,H,W)` uint8 as a source within the page."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _bytes(values: Tensor) -> str:
    """Write values of 0 to 1 as bytes."""
    return base64.b64encode((255 * values).round().byte().numpy().tobytes()).decode()
