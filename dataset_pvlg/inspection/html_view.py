"""`rogle data view`: write rows as one HTML page for a browser.

The page shows each image with its bounding boxes, next to the caption. A sentence has the colour of its box, and a
sentence about several regions begins with a square in the colour of each; hover
over one to highlight the other. The page is a single file that contains the images and no script. Text of the rows is
escaped, and the page's content security policy forbids scripts and external resources.
"""

import argparse
import base64
import os
import secrets
from collections.abc import Iterable, Iterator
from html import escape
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image
from datasets import Image, load_dataset

from dataset_pvlg.builder import parquet_files
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.inspection.contact_sheet import colours_of_sentences, region_colours
from dataset_pvlg.loading import SYNTHETIC_NAMES
from modeling_rogle.display.drawing import GREY, INK, PALE, PAPER
from modeling_rogle.image_io import FORMATS as READABLE_FORMATS
from modeling_rogle.image_io import ImageError, decode_image, to_rgb

MAX_ROWS = 500  # more embedded images make a page slow
MAX_IMAGE_PIXELS = 40_000_000
BROWSER_FORMATS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}  # other formats are converted to PNG
HEIGHT = 420  # of an image, in CSS pixels
MAX_HOVER = 40  # sentences of a row that can be highlighted

HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{title}}</title>
<style>
body {{{{ font: 16px/1.5 system-ui, sans-serif; color: {INK}; background: {PALE}; margin: 2rem; }}}}
article {{{{ display: flex; flex-wrap: wrap; gap: 1.5rem; background: {PAPER}; border-radius: 8px; padding: 1.2rem;
  margin: 0 0 1.2rem; }}}}
.image {{{{ position: relative; align-self: flex-start; }}}}
.image img, .none {{{{ display: block; height: {HEIGHT}px; }}}}
.none {{{{ width: 160px; background: {PALE}; color: {GREY}; text-align: center; padding-top: 4rem; height: 356px; }}}}
.image svg {{{{ position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }}}}
rect {{{{ fill: none; stroke: var(--c); stroke-width: 2.5; vector-effect: non-scaling-stroke; }}}}
rect.unpaired-box {{{{ stroke-dasharray: 4 4; }}}}
.mark {{{{ position: absolute; background: var(--c); color: {PAPER}; font: bold 12px/16px sans-serif;
  padding: 0 4px; }}}}
.text {{{{ flex: 1; min-width: 20rem; max-width: 46rem; overflow-wrap: anywhere; }}}}
.sentence {{{{ color: var(--c); cursor: default; }}}}
.sentence sup {{{{ font-weight: bold; line-height: 0; }}}}
.sentence i {{{{ display: inline-block; width: .6em; height: .6em; margin-right: 3px; background: var(--c); }}}}
.unpaired {{{{ color: {GREY}; }}}}
dl, .short {{{{ color: {GREY}; font-size: 13px; margin: .6rem 0 0; }}}}
dt, dd {{{{ display: inline; margin: 0; }}}} dd {{{{ margin-right: 1rem; color: {INK}; }}}}
table {{{{ font-size: 13px; border-collapse: collapse; margin-top: .8rem; }}}}
th, td {{{{ padding: 1px 12px 1px 0; text-align: left; }}}} th {{{{ color: {GREY}; font-weight: normal; }}}}
td:first-child {{{{ color: var(--c); font-weight: bold; }}}}
{{hover}}
</style>
</head>
<body>
<h1>{{title}}</h1>
"""
# Hovering over a sentence or one of its boxes fades the other boxes.
HOVER = """article:has(.s{n}:hover) rect:not(.r{n}), article:has(.r{n}:hover) rect:not(.r{n}) {{ opacity: .15; }}
article:has(.s{n}:hover) .mark:not(.r{n}), article:has(.r{n}:hover) .mark:not(.r{n}) {{ opacity: .15; }}
article:has(.r{n}:hover) .s{n}, .s{n}:hover {{ background: #fff3b0; }}"""


def write_page(rows: Iterable[dict[str, Any]], path: str | Path, title: str) -> int:
    """Writes rows as one HTML file, row by row.

    Args:
        rows: rows with the columns of `dataset_pvlg.features.FEATURES`. Images are not decoded (bytes and path) or
            null.
        path: the page. Its folder is created; an existing page is replaced at the end.
        title: heading of the page.

    Returns:
        The number of rows.

    Raises:
        ValueError: there are no rows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    count = 0
    try:
        with open(part, "w", encoding="utf-8", errors="replace") as file:
            hover = "\n".join(HOVER.format(n=n) for n in range(MAX_HOVER))
            file.write(HEAD.format(title=escape(title), hover=hover))
            for row in rows:
                file.write(row_html(row))
                count += 1
            file.write("</body>\n</html>\n")
        if not count:
            raise ValueError("view: no rows to show")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


def row_html(row: dict[str, Any]) -> str:
    """Renders one row as an <article> element.

    Args:
        row: a row with the columns of `dataset_pvlg.features.FEATURES`, its image not decoded.

    Returns:
        HTML in which all text of the row is escaped.
    """
    colours = region_colours(row["regions"])
    colours_of = colours_of_sentences(row["regions"], colours)
    facts = {
        "person": row["person_id"],
        "source": row["source"],
        "camera": row["camera"],
        "caption by": row["caption_origin"],
        "size": f"{row['width']} x {row['height']}",
        "made from": row["parent"],
    }
    listed = "".join(f"<dt>{name}</dt> <dd>{_text(value)}</dd>" for name, value in facts.items() if value is not None)
    short = "".join(f"<p class=short dir=auto>short caption: {_text(caption)}</p>" for caption in row["captions"])
    return (
        f"<article>\n<div class=image>{_image(row)}{_boxes(row, colours)}</div>\n"
        f"<div class=text><b>{_text(row['image_id'])}</b>\n<p dir=auto>{_caption(row, colours_of)}</p>\n"
        f"{_table(row, colours)}{short}<dl>{listed}</dl></div>\n</article>\n"
    )


def _text(value: Any) -> str:
    return escape(str(value).replace("\0", "\N{REPLACEMENT CHARACTER}"))


def _image(row: dict[str, Any]) -> str:
    content = row["image"] and row["image"]["bytes"]
    if not content:
        return "<div class=none>no image</div>"
    try:
        with PIL.Image.open(BytesIO(content), formats=READABLE_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                return "<div class=none>image too large</div>"
            kind = BROWSER_FORMATS.get(image.format or "")
            if kind is None:
                stored = BytesIO()
                to_rgb(image).save(stored, "PNG")
                content, kind = stored.getvalue(), "png"
    except Exception:  # Pillow's plugins raise many types of exception on corrupt bytes or metadata
        try:
            stored = BytesIO()
            decode_image(content, "").image.save(stored, "PNG")
            content, kind = stored.getvalue(), "png"
        except ImageError:
            return "<div class=none>image cannot be decoded</div>"
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def _boxes(row: dict[str, Any], colours: dict[tuple[float, ...], str]) -> str:
    width, height = max(1, row["width"]), max(1, row["height"])
    shapes, marks = [], []
    sentences_of: dict[tuple[float, ...], list[int]] = {}
    for region in row["regions"]:
        sentences_of.setdefault(tuple(region["bbox"]), []).append(region["sentence"])
    for box, sentences in sentences_of.items():
        x, y, w, h = map(float, box)
        paired = [n for n in sentences if n >= 0]
        style = f'style="--c:{colours[box]}'
        names = " ".join(f"r{n}" for n in paired) or "unpaired-box"
        shapes.append(f'<rect class="{names}" {style}" x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}"/>')
        if paired:
            position = f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%"
            numbers = ", ".join(str(n + 1) for n in sorted(set(paired)))
            marks.append(f'<span class="mark {names}" {style};{position}">{numbers}</span>')
    drawing = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{"".join(shapes)}</svg>'
    return drawing + "".join(marks)


def _caption(row: dict[str, Any], colours_of: dict[int, list[str]]) -> str:
    """The caption with each sentence marked at its offsets."""
    caption, position, pieces = row["caption"], 0, []
    for n, sentence in sorted(enumerate(row["sentences"]), key=lambda item: item[1]["start"]):
        start, end = sentence["start"], sentence["end"]
        if not position <= start <= end <= len(caption):
            pieces.append(f" <em>[sentence {n + 1}: wrong offsets {start}-{end}: {_text(sentence['text'])}]</em> ")
            continue
        own = colours_of.get(n, [])
        style = f' style="--c:{own[0]}"' if own else ""
        kind = "sentence" if own else "sentence unpaired"
        squares = "".join(f'<i style="--c:{colour}"></i>' for colour in own if len(own) > 1)
        pieces.append(_text(caption[position:start]))
        pieces.append(f'<span class="{kind} s{n}"{style}><sup>{n + 1}</sup>{squares}{_text(caption[start:end])}</span>')
        position = end
    return "".join(pieces) + _text(caption[position:])


def _table(row: dict[str, Any], colours: dict[tuple[float, ...], str]) -> str:
    if not row["regions"]:
        return ""
    lines = ["<table><tr><th>sentence<th>region<th>x, y, w, h<th>score<th>reliability<th>origin</tr>"]
    for region in sorted(row["regions"], key=lambda region: (region["sentence"] < 0, region["sentence"])):
        number = region["sentence"] + 1 if region["sentence"] >= 0 else "none"
        box = ", ".join(f"{side:.0f}" for side in region["bbox"])
        lines.append(
            f'<tr style="--c:{colours[tuple(region["bbox"])]}"><td>{number}<td>{_text(region["label"])}<td>{box}'
            f"<td>{region['score']:.2f}<td>{region['reliability']:.2f}<td>{_text(region['origin'])}</tr>"
        )
    return "".join(lines) + "</table>"


def read_rows(data: str, split: str | None, start: int, count: int) -> tuple[str, Iterator[dict[str, Any]]]:
    """Streams some rows of one split, with images that are not decoded.

    Args:
        data: a folder of P-VLG Parquet, `synthetic` or `synthetic-tiny`.
        split: train, validation or test; None for the first split of the data.
        start: index of the first row.
        count: maximum number of rows.

    Returns:
        The name of the split, and its rows.

    Raises:
        ValueError: the folder holds no P-VLG Parquet, or the split does not exist.
    """
    folder = {} if data in SYNTHETIC_NAMES else {"data_dir": str(Path(data).resolve())}
    splits = [name for name in SPLITS if not folder or name in parquet_files(data)]
    split = split or splits[0]
    if split not in splits:
        raise ValueError(f"--split {split}: {data} has {', '.join(splits)}")
    rows = load_dataset("pvlg", None if folder else data, split=split, streaming=True, **folder)
    rows = rows.cast(FEATURES).cast_column("image", Image(decode=False))
    return split, islice(rows, start, start + count)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rogle data view`."""
    parser.add_argument("data", metavar="DIR", help=f"folder of P-VLG Parquet, or {', '.join(SYNTHETIC_NAMES)}")
    parser.add_argument("--split", choices=SPLITS, help="split to show (default: the first split of the data)")
    parser.add_argument(
        "--rows", type=int, default=20, metavar="N", help=f"number of rows to show, at most {MAX_ROWS} (default: 20)"
    )
    parser.add_argument("--start", type=int, default=0, metavar="N", help="index of the first row (default: 0)")
    parser.add_argument("--out", required=True, metavar="PAGE.html", help="page to write")


def run(args: argparse.Namespace) -> None:
    """Writes the page.

    Raises:
        ValueError, OSError: bad arguments or unreadable data.
    """
    if not 1 <= args.rows <= MAX_ROWS or args.start < 0:
        raise ValueError(f"--rows must be from 1 to {MAX_ROWS}, and --start at least 0")
    split, rows = read_rows(args.data, args.split, args.start, args.rows)
    count = write_page(rows, args.out, f"P-VLG, {Path(args.data).name}, {split}, from row {args.start}")
    print(f"{count} rows in {args.out}")


__all__ = ["add_arguments", "read_rows", "row_html", "run", "write_page"]
