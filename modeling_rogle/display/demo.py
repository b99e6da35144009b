"""`rogle demo`: a gallery in the browser, on this machine and without a network. Gradio is imported where it is needed.

Images leave the gallery as thumbnails, decoded here and named by nobody: no path that a browser sends is ever opened,
and what lies outside the indexed folder and the index is refused.
"""

import html
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from modeling_rogle.display.result_sheet import CELL, THUMB_HEIGHT, colour_of, draw_result
from modeling_rogle.display.text_output import as_plain, verdict
from modeling_rogle.inference.image_io import ImageError, printable_path, read_image
from modeling_rogle.search.gallery import Gallery, Match, Matches

MAX_RESULTS = 50
UPLOAD = "20mb"
MISSING = "the demo needs Gradio: pip install 'rogle[demo]'"
_CSS = """
#results .thumbnail-item, #results .grid-container button { background: #f1f1ef; }
#results img { object-fit: contain; }
#said p { margin: 2px 0; } #said .wrong { color: #c1272d; }
#why td { padding: 2px 10px 2px 0; vertical-align: top; } #why .mark { color: #fff; padding: 0 6px; }
#regions img { max-width: 236px; }
"""
_INTERNAL = {"id", "sha256", "picture", "box"}  # columns that nobody filters by
_CLEARED = (None, [], None, "", "")


def build(gallery: Gallery) -> Any:
    """The page as `gradio.Blocks`.

    Raises:
        ValueError: Gradio is not installed.
    """
    gr = _gradio()
    columns = ", ".join(html.escape(name) for name in gallery.schema.names if name not in _INTERNAL)

    def search(query: str, image: str | None, where: str, top_k: float) -> tuple:
        matches, said = answer(gallery, query, image, where, int(top_k))
        if matches is None:
            return said, *_CLEARED
        thumbs = [(thumbnail(gallery, match), caption(match)) for match in matches]
        return said, list(matches), thumbs, None, "", shareable(query, where, matches)

    def explain(matches: list[Match] | None, event: gr.SelectData) -> tuple:
        if not matches or not 0 <= event.index < len(matches):
            return None, ""
        match = matches[event.index]
        return (draw_result(match) if inside(gallery, match) else None), why(match)

    with gr.Blocks(title="Rogle", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.HTML(f"<h2>{html.escape(printable_path(gallery.folder.name))}</h2><p>{len(gallery)} images</p>")
        kept = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                query = gr.Textbox(
                    label="Description", lines=3, max_length=20_000, placeholder="A woman in a red coat. She ...",
                    elem_id="query",
                )  # fmt: skip
                image = gr.Image(
                    label="or an image of the person", type="filepath", image_mode=None,
                    sources=["upload", "clipboard"], height=180, elem_id="image",
                )  # fmt: skip
                image.preprocess = _told(image.preprocess, gr.Error)
                where = gr.Textbox(
                    label="Filter", placeholder="width > 60 and path like 'c3%'", info=f"columns: {columns}",
                    elem_id="where",
                )  # fmt: skip
                top_k = gr.Slider(1, MAX_RESULTS, value=10, step=1, label="Results")
                button = gr.Button("Search", variant="primary", elem_id="search")
            with gr.Column(scale=3, min_width=480):
                said = gr.HTML("<p>Results come best first; click one to see its regions.</p>", elem_id="said")
                results = gr.Gallery(
                    show_label=False, columns=5, object_fit="contain",
                    height="auto", allow_preview=False,
                    interactive=False, buttons=[], elem_id="results",
                )  # fmt: skip
                with gr.Row():
                    regions = gr.Image(
                        label="Regions", interactive=False, buttons=[], elem_id="regions", show_label=False
                    )
                    reasons = gr.HTML(elem_id="why")
                with gr.Accordion("JSON", open=False):
                    text = gr.Code(language="json", interactive=False, max_lines=24, elem_id="json", show_label=False)
        outputs = [said, kept, results, regions, reasons, text]
        # One search at a time: the model is one, and warnings are caught for the whole process.
        for event in (button.click, query.submit, where.submit):
            event(search, [query, image, where, top_k], outputs, concurrency_limit=1, concurrency_id="search")
        results.select(explain, [kept], [regions, reasons])
    return page


def launch(gallery: Gallery, host: str = "127.0.0.1", port: int = 7860, block: bool = True) -> Any:
    """Serves [`build`]'s page until it is interrupted; without `block` returns the running page, to be closed.

    Raises:
        ValueError: Gradio is not installed.
        OSError: the port is taken.
    """
    gr = _gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
    cache = tempfile.TemporaryDirectory(prefix="rogle-demo-")
    os.environ["GRADIO_TEMP_DIR"] = cache.name  # thumbnails and uploads go when the page goes
    page = build(gallery)
    page.cache = cache
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            blocked_paths=[str(gallery.folder), str(gallery.path)],
            max_file_size=UPLOAD,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            css=_CSS,
            theme=gr.themes.Base(**fonts),
        )
    except OSError as error:
        raise OSError(f"{host}:{port}: cannot listen there; choose another --port") from error
    if block:
        print(f"{len(gallery)} images at {url} (ctrl-c stops)", flush=True)
        page.block_thread()
    return page


def answer(
    gallery: Gallery, query: str | None, image: str | None, where: str | None, top_k: int
) -> tuple[Matches | None, str]:
    """Searches for what was typed; the matches, None if that failed, and what is to be said, as HTML."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gallery.refresh()
            matches = gallery.search(query or "", top_k, image=image or None, where=(where or "").strip() or None)
        except (ValueError, OSError) as error:
            return None, _lines([str(error).splitlines()[0]], "wrong")
    notes = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
    return matches, _lines(filter(None, [verdict(matches)])) + _lines(notes, "note")


def thumbnail(gallery: Gallery, match: Match) -> Image.Image:
    """The whole image, small; a grey one where it is gone, damaged, or lies outside the gallery."""
    size = (CELL, THUMB_HEIGHT)
    try:
        if not inside(gallery, match):
            raise ImageError("outside the gallery")
        image = read_image(match.file, match.path, size[::-1]).image
    except ImageError:
        return Image.new("RGB", size, "#d0d0d0")
    if image.width * match.height != image.height * match.width:  # each side was shrunk by a factor of its own
        image = image.resize((max(1, round(image.height * match.width / match.height)), image.height))
    image.thumbnail((2 * CELL, 2 * THUMB_HEIGHT))
    return image


def inside(gallery: Gallery, match: Match) -> bool:
    """Whether a result's file, links followed, still lies in the indexed folder or in the index."""
    file = match.file.resolve()
    return any(file.is_relative_to(place.resolve()) for place in (gallery.folder, gallery.path))


def caption(match: Match) -> str:
    """What stands on a thumbnail: short, or it would hide the feet."""
    chance = "" if match.probability is None else f" · {match.probability:.1%}"
    return f"#{match.rank} · {match.score:.3f}{chance}"


def why(match: Match) -> str:
    """HTML: the sentences, each in its region's colour, with its cosine and the ranks that it moved the image."""
    rows = []
    for number, found in enumerate(match.sentences):
        mark = f'<span class="mark" style="background:{colour_of(number)}">{number + 1}</span>'
        moved = f"{found.moved:+d} ranks" if found.moved else ""
        cells = (mark, html.escape(found.sentence), html.escape(found.label), f"{found.score:.2f}", moved)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    facts = [(name, value) for name, value in match.metadata.items() if value is not None]
    rows += [f'<tr><td></td><td>{html.escape(name)}</td><td colspan="3">{html.escape(str(value))}</td></tr>'
             for name, value in facts]  # fmt: skip
    return f"<p>#{match.rank} {html.escape(printable_path(match.path))}</p><table>{''.join(rows)}</table>"


def shareable(query: str, where: str, matches: Matches) -> str:
    """JSON of a search that names no folder of this machine."""
    plain = as_plain(matches)
    for item in plain["results"]:
        item.pop("file")
    return json.dumps({"query": query, "where": where or None, **plain}, ensure_ascii=False, indent=1)


def _told(opened: Callable[[Any], Any], kind: type[Exception]) -> Callable[[Any], Any]:
    """Gradio opens an upload before the search does, and whatever is wrong with it is to be one line there too."""

    def checked(payload: Any) -> Any:
        try:
            return opened(payload)
        except Exception as error:  # hostile bytes raise almost anything
            raise kind("the upload is not an image that can be read", print_exception=False) from error

    return checked


def _lines(lines: Sequence[str] | Any, kind: str = "verdict") -> str:
    return "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in lines)


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError as error:
        raise ValueError(MISSING) from error
    return gradio


__all__ = ["answer", "build", "launch", "thumbnail"]
