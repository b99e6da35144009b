"""`rogle demo`: search a gallery in the browser, on this machine and without a network. Needs Gradio.

Images reach the browser only as thumbnails that are decoded here. No path that the browser sends is opened, and no
file outside the indexed folder and the index is served.
"""

import html
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from modeling_rogle.display.drawing import CELL, CELL_HEIGHT, sentence_colour
from modeling_rogle.display.result_sheet import draw_result
from modeling_rogle.display.text_output import to_json_data, verdict
from modeling_rogle.display.thumbnails import is_inside, thumbnail
from modeling_rogle.image_io import printable_path
from modeling_rogle.index.manifest import COPY_COLUMN
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.results import Match, Matches

MAX_RESULTS = 50
MAX_UPLOAD = "20mb"
MISSING = "the demo needs Gradio: pip install 'rogle[demo]'"
_CSS = """
#results .thumbnail-item, #results .grid-container button { background: #f1f1ef; }
#results img { object-fit: contain; }
#message p { margin: 2px 0; } #message .error { color: #c1272d; }
#why td { padding: 2px 10px 2px 0; vertical-align: top; } #why .mark { color: #fff; padding: 0 6px; }
#regions img { max-width: 236px; }
"""
_INTERNAL = {"id", "sha256", COPY_COLUMN, "box"}  # columns that are not useful in a filter
_MISSING = Image.new("RGB", (CELL, CELL_HEIGHT), "#d0d0d0")  # for a file that is gone, damaged or outside the gallery
_CLEARED: tuple[Any, ...] = (None, [], None, "", "")


def build(gallery: Gallery) -> Any:
    """Builds the page as `gradio.Blocks`.

    Raises:
        ValueError: Gradio is not installed.
    """
    gr = _gradio()
    columns = ", ".join(html.escape(name) for name in gallery.schema.names if name not in _INTERNAL)

    def search(query: str, image: str | None, where: str, top_k: float) -> tuple:
        matches, message = run_search(gallery, query, image, where, int(top_k))
        if matches is None:
            return message, *_CLEARED
        thumbnails = [(thumbnail(gallery, match) or _MISSING, caption(match)) for match in matches]
        return message, list(matches), thumbnails, None, "", search_as_json(query, where, matches)

    def explain(matches: list[Match] | None, event: gr.SelectData) -> tuple:  # type: ignore[name-defined]
        if not matches or not 0 <= event.index < len(matches):
            return None, ""
        match = matches[event.index]
        return (draw_result(match) if is_inside(gallery, match) else None), explanation(match)

    with gr.Blocks(title="Rogle", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.HTML(f"<h2>{html.escape(printable_path(gallery.folder.name))}</h2><p>{len(gallery)} images</p>")
        state = gr.State(None)
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
                image.preprocess = _checked_upload(image.preprocess, gr.Error)
                where = gr.Textbox(
                    label="Filter", placeholder="width > 60 and path like 'c3%'", info=f"columns: {columns}",
                    elem_id="where",
                )  # fmt: skip
                top_k = gr.Slider(1, MAX_RESULTS, value=10, step=1, label="Results")
                button = gr.Button("Search", variant="primary", elem_id="search")
            with gr.Column(scale=3, min_width=480):
                message = gr.HTML("<p>The best result is first. Click a result to see its regions.</p>",
                                  elem_id="message")  # fmt: skip
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
        outputs = [message, state, results, regions, reasons, text]
        # One search at a time: there is one model, and warnings are recorded for the whole process.
        for event in (button.click, query.submit, where.submit):
            event(search, [query, image, where, top_k], outputs, concurrency_limit=1, concurrency_id="search")
        results.select(explain, [state], [regions, reasons])
    return page


def launch(gallery: Gallery, host: str = "127.0.0.1", port: int = 7860, block: bool = True) -> Any:
    """Serves the page of [`build`].

    Args:
        gallery: the gallery to search.
        host: the address to listen on. Default: this machine only.
        port: the port to listen on. Default: 7860.
        block: serve until interrupted. If False, return at once; the caller closes the page. Default: True.

    Returns:
        The page.

    Raises:
        ValueError: Gradio is not installed.
        OSError: the port is already in use.
    """
    gr = _gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
    cache = tempfile.TemporaryDirectory(prefix="rogle-demo-")
    os.environ["GRADIO_TEMP_DIR"] = cache.name  # thumbnails and uploads are deleted with the page
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
            max_file_size=MAX_UPLOAD,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            css=_CSS,
            theme=gr.themes.Base(**fonts),
        )
    except OSError as error:
        raise OSError(f"{host}:{port}: cannot listen on this port; choose another --port") from error
    if block:
        print(f"{len(gallery)} images at {url} (Ctrl-C stops the demo)", flush=True)
        page.block_thread()
    return page


def run_search(
    gallery: Gallery, query: str | None, image: str | None, where: str | None, top_k: int
) -> tuple[Matches | None, str]:
    """Searches with the values of the form.

    Returns:
        The matches, or None if the search failed, and a message as HTML: the error, or the verdict and warnings.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gallery.refresh()
            matches = gallery.search(query or "", top_k, image=image or None, where=(where or "").strip() or None)
        except (ValueError, OSError) as error:
            return None, _paragraphs([str(error).splitlines()[0]], "error")
    notes = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
    return matches, _paragraphs(filter(None, [verdict(matches)]), "verdict") + _paragraphs(notes, "note")


def caption(match: Match) -> str:
    """The text on a thumbnail: rank, score and probability. It is short, so that it does not cover the image."""
    probability = "" if match.probability is None else f" · {match.probability:.1%}"
    return f"#{match.rank} · {match.score:.3f}{probability}"


def explanation(match: Match) -> str:
    """HTML with each sentence in its region's colour, its best region, cosine and change of rank, and the metadata."""
    rows = []
    for number, item in enumerate(match.sentences):
        mark = f'<span class="mark" style="background:{sentence_colour(number)}">{number + 1}</span>'
        moved = f"{item.moved:+d} ranks" if item.moved else ""
        cells = (mark, html.escape(item.sentence), html.escape(item.label), f"{item.score:.2f}", moved)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    metadata = [(name, value) for name, value in match.metadata.items() if value is not None]
    rows += [f'<tr><td></td><td>{html.escape(name)}</td><td colspan="3">{html.escape(str(value))}</td></tr>'
             for name, value in metadata]  # fmt: skip
    return f"<p>#{match.rank} {html.escape(printable_path(match.path))}</p><table>{''.join(rows)}</table>"


def search_as_json(query: str, where: str, matches: Matches) -> str:
    """JSON of a search without any folder of this machine."""
    data = to_json_data(matches)
    for item in data["results"]:
        item.pop("file")
    return json.dumps({"query": query, "where": where or None, **data}, ensure_ascii=False, indent=1)


def _checked_upload(preprocess: Callable[[Any], Any], kind: Callable[..., Exception]) -> Callable[[Any], Any]:
    """Gradio opens an upload before the search does: any failure there becomes a one-line error too."""

    def checked(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except Exception as error:  # damaged or hostile bytes raise almost anything
            raise kind("the upload is not an image that can be read", print_exception=False) from error

    return checked


def _paragraphs(lines: Iterable[str], kind: str) -> str:
    return "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in lines)


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import
    try:
        import gradio
    except ImportError as error:
        raise ValueError(MISSING) from error
    return gradio


__all__ = ["build", "launch", "run_search"]
