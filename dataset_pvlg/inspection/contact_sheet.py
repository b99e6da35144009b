"""python -m dataset_pvlg.inspection.contact_sheet --out sheet.png [--dataset synthetic] [--split test] [--count 12] [--start 0]

Images of a split in a grid, for the eye: each one clean and with its regions framed, and its caption beside it, a
region and the sentences about it in the same colour. Does a person see what the caption says?
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from datasets import load_dataset
from PIL import Image, ImageDraw, ImageFont

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.loading import DATASET_NAMES, SYNTHETIC_NAMES, load_rows
from modeling_rogle.display.drawing import (
    COLOURS,
    GREY,
    INK,
    PALE,
    PAPER,
    check_image_suffix,
    save_image,
    wrap_text,
)

IMAGE_HEIGHT, TEXT_WIDTH, TEXT = 340, 390, 15
MAX_IMAGE_WIDTH = 260  # of each of the two; a wider image is drawn lower
LINE, GAP, MARGIN = TEXT + 5, 12, 20
SWATCH = 11
FONT, FINE = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
MAX_COUNT = 200  # a sheet of more would be too large to look at


def draw_sheet(rows: Iterable[dict], path: str | Path, columns: int = 2) -> Path:
    """Draws P-VLG rows as a grid and saves it.

    Args:
        rows: of `dataset_pvlg.features.FEATURES`, their images decoded; a row without one says so in its place.
        path: .png, .jpg or .webp; its folder is made. An older image stays whole until the new one is.
        columns: rows of the data side by side.

    Returns:
        `path`.

    Raises:
        ValueError: nothing to draw, or another suffix.
    """
    path = Path(path)
    check_image_suffix(path)
    cells = [_cell(row) for row in rows]
    if not cells:
        raise ValueError("contact sheet: no rows to draw")
    columns = max(1, min(columns, len(cells)))
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    widths = [max(line[n].width for line in lines if n < len(line)) for n in range(columns)]
    heights = [max(cell.height for cell in line) for line in lines]
    size = sum(widths) + (columns - 1) * 2 * GAP + 2 * MARGIN, sum(heights) + (len(lines) - 1) * GAP + 2 * MARGIN
    sheet = Image.new("RGB", size, PAPER)
    y = MARGIN
    for line, height in zip(lines, heights, strict=True):
        for n, cell in enumerate(line):
            sheet.paste(cell, (MARGIN + sum(widths[:n]) + n * 2 * GAP, y))
        y += height + GAP
    return save_image(sheet, path)


def region_colours(regions: Sequence[dict]) -> dict[tuple[float, ...], str]:
    """Box -> colour: a part of the body has the same one in every image where that can be."""
    chosen: dict[tuple[float, ...], int] = {}
    for region in regions:
        box, label = tuple(region["bbox"]), region["label"]
        if box in chosen:
            continue
        used = set(chosen.values())
        usual = REGION_LABELS.index(label) if label in REGION_LABELS else len(REGION_LABELS)
        free = [n for n in (usual, *range(len(COLOURS))) if n not in used]
        chosen[box] = free[0] if free else len(chosen) % len(COLOURS)
    return {box: COLOURS[n] for box, n in chosen.items()}


def _cell(row: dict) -> Image.Image:
    colours = region_colours(row["regions"])
    spoken = {r["sentence"]: colours[tuple(r["bbox"])] for r in reversed(row["regions"]) if r["sentence"] >= 0}
    blocks = [(s["text"], spoken.get(n, INK)) for n, s in enumerate(row["sentences"])] or [(row["caption"], INK)]
    blocks += [(f"short: {text}", GREY) for text in row["captions"]]
    written = [(wrap_text(text, FONT, TEXT_WIDTH, max_lines=12), colour) for text, colour in blocks]
    legend = _legend(row["regions"], colours)

    clean, framed = _images(row, colours)
    left, head = clean.width + framed.width + GAP, LINE + 6
    text_height = sum(len(lines) * LINE + 4 for lines, _ in written)
    height = head + max(clean.height + 8 + len(legend) * LINE, text_height)
    cell = Image.new("RGB", (left + 2 * GAP + TEXT_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(cell)
    title = f"{row['image_id']}  ·  person {row['person_id']}  ·  {row['width']} x {row['height']} px"
    draw.line((0, 0, cell.width, 0), fill=GREY)
    draw.text((0, 5), wrap_text(title, FONT, cell.width, max_lines=1)[0], fill=GREY, font=FINE)
    cell.paste(clean, (0, head))
    cell.paste(framed, (clean.width + GAP, head))
    y = head + clean.height + 8
    for label, colour in legend:
        draw.rectangle((0, y + 3, SWATCH, y + 3 + SWATCH), fill=colour)
        draw.text((SWATCH + 7, y), label, fill=colour, font=FONT)
        y += LINE
    y = head
    for lines, colour in written:
        for line in lines:
            draw.text((left + GAP, y), line, fill=colour, font=FONT)
            y += LINE
        y += 4
    return cell


def _legend(regions: Sequence[dict], colours: dict[tuple[float, ...], str]) -> list[tuple[str, str]]:
    said: dict[tuple[float, ...], list[int]] = {}
    labels: dict[tuple[float, ...], str] = {}
    for region in regions:
        box = tuple(region["bbox"])
        labels.setdefault(box, region["label"])
        said.setdefault(box, []).extend([region["sentence"] + 1] if region["sentence"] >= 0 else [])
    return [
        (f"{label}: {'sentence ' + ', '.join(map(str, said[box])) if said[box] else 'no sentence'}", colours[box])
        for box, label in labels.items()
    ]


def _images(row: dict, colours: dict[tuple[float, ...], str]) -> tuple[Image.Image, Image.Image]:
    """The image without anything on it, and with its regions, both enlarged by the same factor."""
    scale = min(IMAGE_HEIGHT / row["height"], MAX_IMAGE_WIDTH / row["width"])
    size = max(1, round(row["width"] * scale)), max(1, round(row["height"] * scale))
    if row["image"] is None:
        clean = Image.new("RGB", size, PALE)
        ImageDraw.Draw(clean).text((size[0] / 2, size[1] / 2), "no image", fill=GREY, font=FONT, anchor="mm")
    else:
        clean = row["image"].convert("RGB").resize(size, Image.Resampling.LANCZOS)
    framed = clean.copy()
    draw = ImageDraw.Draw(framed)
    for box, colour in colours.items():
        x, y, w, h = (value * scale for value in box)
        edge = (x, y, max(x + w - 1, x + 3), max(y + h - 1, y + 3))
        draw.rectangle((edge[0] - 1, edge[1] - 1, edge[2] + 1, edge[3] + 1), outline=PAPER)
        draw.rectangle(edge, outline=colour, width=2)
    return clean, framed


def read_rows(
    name: str,
    split: str,
    start: int,
    count: int,
    every: int = 1,
    data_root: Path | None = None,
    image_root: Path | None = None,
) -> list[dict]:
    """`count` rows of a split, from row `start`, each `every`-th. Synthetic rows are generated only as far as needed.

    Raises:
        ValueError: a set or split that is not there, a number out of range, or fewer than `start` + 1 rows; one line.
    """
    for what, value, least in (("start", start, 0), ("count", count, 1), ("every", every, 1)):
        if value < least:
            raise ValueError(f"--{what} must be at least {least}, got {value}")
    if count > MAX_COUNT:
        raise ValueError(f"--count is at most {MAX_COUNT}, got {count}")
    if name in SYNTHETIC_NAMES and data_root is None and image_root is None:
        splits = load_dataset("pvlg", name, streaming=True)
    else:
        splits, _ = load_rows(name, data_root, image_root)
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has {', '.join(splits)}")
    stop = start + (count - 1) * every + 1
    if name in SYNTHETIC_NAMES:
        rows = list(islice(splits[split], start, stop, every))
    else:
        rows = [splits[split][n] for n in range(start, min(stop, len(splits[split])), every)]
    if not rows:
        raise ValueError(f"--start {start}: {name} {split} has no row there")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the sheet: .png, .jpg or .webp")
    parser.add_argument("--dataset", default="synthetic", help=", ".join(DATASET_NAMES))
    parser.add_argument("--data-root", type=Path, help="folder of the data set; not for the synthetic ones")
    parser.add_argument("--image-root", type=Path, help="where a public layout's image paths start, if elsewhere")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=12, help="images on the sheet")
    parser.add_argument("--start", type=int, default=0, help="row of the first one")
    parser.add_argument("--every", type=int, default=1, help="step from row to row; 4 in synthetic: other people only")
    parser.add_argument("--columns", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        check_image_suffix(args.out)
        rows = read_rows(args.dataset, args.split, args.start, args.count, args.every, args.data_root, args.image_root)
        path = draw_sheet(rows, args.out, args.columns)
    except (ValueError, OSError) as error:
        print(f"dataset_pvlg.inspection.contact_sheet: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    print(f"{len(rows)} images on {path}")
    return 0


__all__ = ["draw_sheet", "main", "read_rows", "region_colours"]

if __name__ == "__main__":
    sys.exit(main())
