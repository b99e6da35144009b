"""Search results as one HTML page: a section for each query, with the results, their regions and the filter.

The page is a single file that contains the images and no script. Every text is escaped, and the page's content security
policy forbids scripts and external resources. A result links to its image file on this machine.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from modeling_rogle.display.drawing import CELL, CELL_HEIGHT, GREY, INK, PALE, PAPER, WRONG, sentence_colour
from modeling_rogle.display.scenes import draw_scene
from modeling_rogle.display.text_output import NO_REGIONS, to_json_data, verdict
from modeling_rogle.display.thumbnails import data_uri, thumbnail
from modeling_rogle.image_io import printable_path
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.requests import Answer, Request
from modeling_rogle.search.results import Match, SentenceMatch

_HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>
body {{{{ font: 16px/1.45 system-ui, sans-serif; color: {INK}; background: {PALE}; margin: 0 auto; padding: 1rem;
  max-width: 1500px; overflow-wrap: anywhere; }}}}
section {{{{ background: {PAPER}; border-radius: 8px; padding: 1rem; margin: 0 0 1rem; }}}}
h1 {{{{ font-size: 1.4rem; margin: .2rem 0; }}}}
h2 {{{{ font-size: 1rem; color: {GREY}; margin: 0; font-weight: 600; }}}}
.query {{{{ font-size: 1.1rem; margin: .3rem 0; }}}}
.facts, dl, .others {{{{ color: {GREY}; font-size: 13px; margin: .3rem 0 0; }}}}
.verdict {{{{ font-weight: 600; }}}} .error {{{{ color: {WRONG}; }}}}
.results {{{{ list-style: none; margin: 1rem 0 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); }}}}
.image {{{{ position: relative; display: block; width: fit-content; max-width: 100%; margin: 0 0 .4rem;
  color: inherit; }}}}
.image img {{{{ display: block; max-width: 100%; max-height: 360px; min-height: 96px; }}}}
.scene img {{{{ display: block; max-width: 100%; margin: 0 0 .4rem; }}}}
.none {{{{ display: grid; place-items: center; width: 150px; height: 240px; background: {PALE}; color: {GREY}; }}}}
.image svg {{{{ position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }}}}
rect {{{{ fill: none; stroke-width: 2.5; vector-effect: non-scaling-stroke; }}}}
.mark {{{{ background: var(--c); color: {PAPER}; font: bold 12px/16px sans-serif; padding: 0 4px; }}}}
.image .mark {{{{ position: absolute; }}}}
table {{{{ font-size: 13px; border-collapse: collapse; }}}}
th, td {{{{ padding: 1px 10px 1px 0; text-align: left; vertical-align: top; }}}}
th {{{{ color: {GREY}; font-weight: normal; }}}}
dt, dd {{{{ display: inline; margin: 0; }}}} dd {{{{ margin-right: .8rem; color: {INK}; }}}}
</style>
</head>
<body>
<h1>{{title}}</h1>
<p class=facts>{{facts}}</p>
"""


class HtmlReport:
    """Writes answers to an open text file as one page.

    Args:
        file: the file, in UTF-8.
        gallery: the gallery that is searched.
        requests: all requests, in order, for the list at the top of the page.
    """

    def __init__(self, file: TextIO, gallery: Gallery, requests: Sequence[Request]):
        self.file, self.gallery, self.queries = file, gallery, 0
        folder = printable_path(gallery.folder)
        model = printable_path(gallery.header["model"].get("path") or "a model that was never saved")
        facts = f"{len(gallery)} images of {folder}, searched with {model}. A result shows people who look alike, " \
            "never an identity."  # fmt: skip
        file.write(_HEAD.format(title=f"{len(requests)} search{'es' * (len(requests) > 1)}", facts=_text(facts)))
        if len(requests) > 1:
            items = (f'<li><a href="#q{n}">{_title(request)}</a>' for n, request in enumerate(requests, start=1))
            file.write(f"<ol>{''.join(items)}</ol>\n")

    def add(self, answer: Answer) -> None:
        """Writes the section of one answer."""
        self.queries += 1
        request, matches = answer.request, answer.matches
        lines = [f"<section id=q{self.queries}>", f"<h2>Query {self.queries}</h2>"]
        lines.append(f"<p class=query dir=auto>{_query(request, matches[0].sentences if matches else ())}</p>")
        if request.image:
            lines.append(f"<p class=facts>image: {_text(printable_path(request.image))}</p>")
        if request.where:
            lines.append(f"<p class=facts>filter: <code>{_text(request.where)}</code></p>")
        if answer.like is not None:
            lines.append(f"<p class=facts>images like {_text(printable_path(answer.like))}</p>")
        lines += [f"<p class=facts>note: {_text(note)}</p>" for note in answer.notes]
        if answer.error is not None:
            lines.append(f"<p class=error>{_text(answer.error)}</p>")
        if matches is not None:
            message = verdict(matches)
            lines += [f"<p class=verdict>{_text(message)}</p>"] if message else []
            if matches and not any(item.label for match in matches for item in match.sentences):
                lines += [f"<p class=facts>{_text(NO_REGIONS)}</p>"] if matches[0].sentences else []
            data = to_json_data(matches)["results"]
            cards = (self._card(match, row) for match, row in zip(matches, data, strict=True))
            lines.append(f"<ol class=results>\n{''.join(cards)}</ol>")
        self.file.write("\n".join([*lines, "</section>\n"]))

    def finish(self) -> None:
        """Writes the end of the page."""
        self.file.write("</body>\n</html>\n")

    def _card(self, match: Match, data: dict[str, Any]) -> str:
        image = thumbnail(self.gallery, match)
        shown = "<span class=none>image not available</span>"
        if image is not None:
            shown = f'<img alt="" loading=lazy src="{data_uri(image)}">{_regions(match)}'
        scene = self._scene(match)
        score = f"#{match.rank} · score {match.score:.3f}"
        if match.probability is not None:
            score += f" · probability {match.probability:.1%}"
        if match.others:
            score += f" · {1 + len(match.others)} images"
        facts = {"person in scene": match.scene, **data["metadata"]}
        listed = "".join(f"<dt>{_text(name)}</dt> <dd>{_text(value)}</dd>" for name, value in facts.items()
                         if value is not None)  # fmt: skip
        names = "".join(f"<div>{_text(printable_path(name))}</div>" for name in match.others)
        others = f"<details class=others><summary>the other images</summary>{names}</details>" if names else ""
        return (
            f'<li id=q{self.queries}r{match.rank}><a class=image href="{_address(data["file"])}">{shown}</a>{scene}\n'
            f"<b>{score}</b><div class=facts>{_text(printable_path(match.path))}</div>\n"
            f"{_table(match.sentences)}{f'<dl>{listed}</dl>' if listed else ''}{others}</li>\n"
        )

    def _scene(self, match: Match) -> str:
        """The scene with the box of the person, as a link to its file; empty if there is none in the gallery."""
        file = match.scene_file
        if file is None or not file.resolve().is_relative_to(self.gallery.folder.resolve()):
            return ""
        image = draw_scene(match, CELL, CELL_HEIGHT)
        if image is None:
            return ""
        return f'<a class=scene href="{_address(str(file))}"><img alt="" loading=lazy src="{data_uri(image)}"></a>'


def _text(value: Any) -> str:
    return html.escape(str(value).replace("\0", "\N{REPLACEMENT CHARACTER}"))


def _title(request: Request) -> str:
    return _text(request.query or f"image {printable_path(request.image or '')}")


def _address(file: str) -> str:
    return html.escape(Path(file).as_uri())


def _query(request: Request, sentences: Sequence[SentenceMatch]) -> str:
    """The description; each sentence in its colour, with its number."""
    pieces, position = [], 0
    for number, item in enumerate(sentences):
        colour = sentence_colour(number)
        pieces.append(_text(request.query[position : item.start]))
        pieces.append(f'<span style="color:{colour}"><sup>{number + 1}</sup>')
        pieces.append(f"{_text(request.query[item.start : item.end])}</span>")
        position = item.end
    return "".join(pieces) + _text(request.query[position:])


def _regions(match: Match) -> str:
    """Frames over the image in its pixel coordinates, and the numbers of the sentences."""
    frames, marks = [], []
    taken: dict[tuple[float, ...], int] = {}
    for number, item in enumerate(match.sentences):
        if item.box is None:
            continue
        x, y, w, h = item.box
        colour, count = sentence_colour(number), taken.get(item.box, 0)
        taken[item.box] = count + 1
        dashes = f' stroke-dasharray="10 {10 * count}" stroke-dashoffset="{10 * count}"' if count else ""
        frames.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" stroke="{colour}"{dashes}/>')
        left, top = 100 * x / max(match.width, 1), 100 * y / max(match.height, 1)
        style = f"--c:{colour};left:calc({left:.2f}% + {18 * count}px);top:{top:.2f}%"
        marks.append(f'<span class=mark style="{style}">{number + 1}</span>')
    view = f'viewBox="0 0 {match.width} {match.height}" preserveAspectRatio="none"'
    return f"<svg {view}>{''.join(frames)}</svg>{''.join(marks)}" if frames else ""


def _table(sentences: Sequence[SentenceMatch]) -> str:
    if not any(item.label for item in sentences):  # a model without trained regions
        return ""
    rows = ["<table><tr><th><th>region<th>cosine<th>ranks moved</tr>"]
    for number, item in enumerate(sentences):
        mark = f'<span class=mark style="--c:{sentence_colour(number)}">{number + 1}</span>'
        moved = f"{item.moved:+d}" if item.moved else ""
        rows.append(f"<tr><td>{mark}<td>{_text(item.label)}<td>{item.score:.2f}<td>{moved}</tr>")
    return "".join(rows) + "</table>\n"


__all__ = ["HtmlReport"]
