"""`rogle data sheet`: draw images of a split in a grid, to check them by eye.

Each row of the data is drawn twice, without and with its regions framed, next to its caption. A region and its
sentences have the same colour. A sentence about several regions has a bar in the colours of all of them.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from datasets import load_dataset
from PIL import Image, ImageDraw

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.loading import DATASET_NAMES, SYNTHETIC_NAMES, load_rows
from modeling_rogle.display.drawing import (
    COLOURS,
    GREY,
    INK,
    PALE,
    PAPER,
    check_image_suffix,
    load_font,
    save_image,
    wrap_text,
)
from modeling_rogle.image_io import decode_stored
from modeling_rogle.inference.row_images import undecoded

IMAGE_HEIGHT, TEXT_WIDTH, TEXT = 340, 390, 15
MAX_IMAGE_WIDTH = 260  # pixels; a wider image is scaled down further than IMAGE_HEIGHT
LINE, GAP, MARGIN = TEXT + 5, 12, 20
SWATCH, BAR = 11, 4
FONT, SMALL_FONT = load_font(TEXT), load_font(TEXT - 2)
MAX_COUNT = 200  # rows on one sheet

Box = tuple[float, ...]


def draw_sheet(rows: Iterable[dict], path: str | Path, columns: int = 2) -> Path:
    """Draws P-VLG rows as a grid and saves the sheet.

    Args:
        rows: rows with the columns of `dataset_pvlg.features.FEATURES` and decoded images. A row whose image is null
            is drawn with the text "no image".
        path: a file that ends in .png, .jpg or .webp. Its folder is created; an existing file is replaced at the end.
        columns: rows of the data in one line of the grid. Default: 2.

    Returns:
        `path` as a `Path`.

    Raises:
        ValueError: there are no rows, or the suffix is not supported.
    """
    path = Path(path)
    check_image_suffix(path)
    cells = [_draw_row(row) for row in rows]
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


def region_colours(regions: Sequence[dict]) -> dict[Box, str]:
    """Chooses one colour for each bounding box of an image.

    A body part has the same colour in every image, unless two boxes of one image would share it.

    Args:
        regions: entries of the column `regions`.

    Returns:
        A hexadecimal colour for each distinct `bbox`.
    """
    chosen: dict[Box, int] = {}
    for region in regions:
        box, label = tuple(region["bbox"]), region["label"]
        if box in chosen:
            continue
        used = set(chosen.values())
        preferred = REGION_LABELS.index(label) if label in REGION_LABELS else len(REGION_LABELS)
        unused = [n for n in (preferred, *range(len(COLOURS))) if n not in used]
        chosen[box] = unused[0] if unused else len(chosen) % len(COLOURS)
    return {box: COLOURS[n] for box, n in chosen.items()}


def colours_of_sentences(regions: Sequence[dict], colours: dict[Box, str]) -> dict[int, list[str]]:
    """The colours of the regions that each sentence describes.

    Args:
        regions: entries of the column `regions`.
        colours: the result of [`region_colours`].

    Returns:
        Index of a sentence -> its colours in the order of its regions; a sentence without a region is missing.
    """
    found: dict[int, list[str]] = {}
    for region in regions:
        if region["sentence"] >= 0 and colours[tuple(region["bbox"])] not in found.setdefault(region["sentence"], []):
            found[region["sentence"]].append(colours[tuple(region["bbox"])])
    return found


def _draw_row(row: dict) -> Image.Image:
    colours = region_colours(row["regions"])
    of_sentence = colours_of_sentences(row["regions"], colours)
    blocks = [(s["text"], of_sentence.get(n, [INK])) for n, s in enumerate(row["sentences"])]
    blocks = blocks or [(row["caption"], [INK])]
    blocks += [(f"short: {text}", [GREY]) for text in row["captions"]]
    wrapped = [(wrap_text(text, FONT, TEXT_WIDTH, max_lines=12), own) for text, own in blocks]
    legend = _legend(row["regions"], colours)

    plain, framed = _draw_images(row, colours)
    left, head = plain.width + framed.width + GAP, LINE + 6
    text_height = sum(len(lines) * LINE + 4 for lines, _ in wrapped)
    height = head + max(plain.height + 8 + len(legend) * LINE, text_height)
    cell = Image.new("RGB", (left + 2 * GAP + TEXT_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(cell)
    title = f"{row['image_id']}  ·  person {row['person_id']}  ·  {row['width']} x {row['height']} px"
    draw.line((0, 0, cell.width, 0), fill=GREY)
    draw.text((0, 5), wrap_text(title, FONT, cell.width, max_lines=1)[0], fill=GREY, font=SMALL_FONT)
    cell.paste(plain, (0, head))
    cell.paste(framed, (plain.width + GAP, head))
    y = head + plain.height + 8
    for label, colour in legend:
        draw.rectangle((0, y + 3, SWATCH, y + 3 + SWATCH), fill=colour)
        draw.text((SWATCH + 7, y), label, fill=colour, font=FONT)
        y += LINE
    y = head
    for lines, own in wrapped:
        step = len(lines) * LINE / len(own)
        for n, colour in enumerate(own if len(own) > 1 else ()):
            draw.rectangle(
                (left + GAP - 2 * BAR, y + n * step, left + GAP - BAR - 1, y + (n + 1) * step - 1), fill=colour
            )
        for line in lines:
            draw.text((left + GAP, y), line, fill=own[0], font=FONT)
            y += LINE
        y += 4
    return cell


def _legend(regions: Sequence[dict], colours: dict[Box, str]) -> list[tuple[str, str]]:
    """(text, colour) for each box: its label and the numbers of its sentences, counted from 1."""
    numbers: dict[Box, list[int]] = {}
    labels: dict[Box, str] = {}
    for region in regions:
        box = tuple(region["bbox"])
        labels.setdefault(box, region["label"])
        numbers.setdefault(box, []).extend([region["sentence"] + 1] if region["sentence"] >= 0 else [])
    legend = []
    for box, label in labels.items():
        sentences = "sentence " + ", ".join(map(str, numbers[box])) if numbers[box] else "no sentence"
        legend.append((f"{label}: {sentences}", colours[box]))
    return legend


def _draw_images(row: dict, colours: dict[Box, str]) -> tuple[Image.Image, Image.Image]:
    """The image without and with its framed regions, both resized by the same factor."""
    scale = min(IMAGE_HEIGHT / row["height"], MAX_IMAGE_WIDTH / row["width"])
    size = max(1, round(row["width"] * scale)), max(1, round(row["height"] * scale))
    if row["image"] is None:
        plain = Image.new("RGB", size, PALE)
        ImageDraw.Draw(plain).text((size[0] / 2, size[1] / 2), "no image", fill=GREY, font=FONT, anchor="mm")
    else:
        plain = decode_stored(row["image"], row["image_id"]).image.resize(size, Image.Resampling.LANCZOS)
    framed = plain.copy()
    draw = ImageDraw.Draw(framed)
    for box, colour in colours.items():
        x, y, w, h = (value * scale for value in box)
        edge = (x, y, max(x + w - 1, x + 3), max(y + h - 1, y + 3))
        draw.rectangle((edge[0] - 1, edge[1] - 1, edge[2] + 1, edge[3] + 1), outline=PAPER)
        draw.rectangle(edge, outline=colour, width=2)
    return plain, framed


def read_rows(
    name: str,
    split: str,
    start: int,
    count: int,
    every: int = 1,
    data_root: Path | None = None,
    image_root: Path | None = None,
) -> list[dict]:
    """Reads some rows of a split. Synthetic rows are generated only up to the last one that is needed.

    Args:
        name: one of `dataset_pvlg.loading.DATASET_NAMES`.
        split: train, validation or test.
        start: index of the first row.
        count: number of rows, at most `MAX_COUNT`.
        every: step between two rows. Default: 1.
        data_root: folder of the data set; None for a synthetic one.
        image_root: folder that the image paths of a public layout are relative to; None for the default folder.

    Returns:
        At most `count` rows.

    Raises:
        ValueError: the data set, the split or row `start` does not exist, or a number is out of range.
    """
    for option, value, minimum in (("start", start, 0), ("count", count, 1), ("every", every, 1)):
        if value < minimum:
            raise ValueError(f"--{option} must be at least {minimum}, got {value}")
    if count > MAX_COUNT:
        raise ValueError(f"--count is at most {MAX_COUNT}, got {count}")
    if name in SYNTHETIC_NAMES and data_root is None and image_root is None:
        splits = load_dataset("pvlg", name, streaming=True)
    else:
        splits, _ = load_rows(name, data_root, image_root)
        splits = {name: undecoded(rows) for name, rows in splits.items()}
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has {', '.join(splits)}")
    stop = start + (count - 1) * every + 1
    if name in SYNTHETIC_NAMES:
        rows = list(islice(splits[split], start, stop, every))
    else:
        rows = [splits[split][n] for n in range(start, min(stop, len(splits[split])), every)]
    if not rows:
        raise ValueError(f"--start {start}: {name} has no such row in {split}")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rogle data sheet`."""
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="sheet to write: .png, .jpg or .webp")
    parser.add_argument(
        "--dataset", default="synthetic", metavar="NAME",
        help=f"data set to read: {', '.join(DATASET_NAMES)} (default: synthetic)",
    )  # fmt: skip
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of the data set (default: none, for a synthetic data set)"
    )
    parser.add_argument(
        "--image-root", type=Path, metavar="DIR",
        help="folder that the image paths are relative to (default: the folder of the public layout)",
    )  # fmt: skip
    parser.add_argument("--split", default="test", help="split to draw (default: test)")
    parser.add_argument("--count", type=int, default=12, metavar="N", help="number of rows to draw (default: 12)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="index of the first row (default: 0)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N",
        help="step between rows (default: 1); 4 draws each person of the synthetic set once",
    )  # fmt: skip
    parser.add_argument("--columns", type=int, default=2, metavar="N", help="columns of the grid (default: 2)")


def run(args: argparse.Namespace) -> None:
    """Writes the sheet.

    Raises:
        ValueError, OSError: bad arguments or unreadable data.
    """
    check_image_suffix(args.out)
    rows = read_rows(args.dataset, args.split, args.start, args.count, args.every, args.data_root, args.image_root)
    path = draw_sheet(rows, args.out, args.columns)
    print(f"{len(rows)} images on {path}")


__all__ = ["add_arguments", "colours_of_sentences", "draw_sheet", "read_rows", "region_colours", "run"]
