"""The demo Space: search a gallery of drawn pedestrians by description.

The app needs only its own folder and requirements.txt. `model.json` names the model and the commit that is loaded.
`gallery/` contains the images. The pipeline in the repository of the model computes the scores.
"""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import pipeline

TASK = "text-based-person-search"
FOLDER = Path(__file__).resolve().parent
MAX_RESULTS, MAX_CHARACTERS = 20, 2_000
COLOURS = ("#c1272d", "#0a6ebd", "#1a8f3c", "#b8860b", "#7a3fa0", "#d2691e")
NOTICE = (
    "A program drew these pedestrians; the gallery shows no real person, and your queries are not stored. "
    "A ranked list shows look-alikes and never identifies a person."
)


@dataclass(frozen=True)
class Result:
    """A ranked image.

    Args:
        file: name of the image in the gallery.
        caption: caption of the image.
        score: similarity to the description.
        sentences: for each sentence of the query its text, its best box (x, y, w, h in pixels) and the cosine.
    """

    file: str
    caption: str
    score: float
    sentences: list[tuple[str, tuple[float, ...], float]]


class Search:
    """The pipeline and the encoded images of the gallery.

    Args:
        folder: contains `model.json`, `gallery/` and `gallery/metadata.jsonl`.

    Raises:
        ValueError: `metadata.jsonl` names an image outside the gallery.
        OSError: a file is missing.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.name = model["model"]
        lines = (folder / "gallery" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines]
        for name in (row["file_name"] for row in self.rows):
            # Only the name is checked: in the Hub's cache every file is a link to another folder.
            if re.split(r"[/\\]", name) != [name] or name in ("", ".", ".."):
                raise ValueError(f"metadata.jsonl: file_name {name!r} is outside the gallery")
        self.files = [folder / "gallery" / row["file_name"] for row in self.rows]
        # The pinned commit, so that later changes of the repository are not executed.
        self.pipeline = pipeline(
            TASK,
            model=self.name,
            revision=model["revision"],
            trust_remote_code=True,
            dtype=torch.float32,
            device="cpu",
        )
        self.candidates = self.pipeline.encode_candidates([str(file) for file in self.files])

    def __call__(self, query: str, top_k: int = 8) -> list[Result]:
        """Ranks the gallery.

        Args:
            query: a description of at most 2,000 characters.
            top_k: number of results, from 1 to 20. Default: 8.

        Returns:
            The results, best first.

        Raises:
            ValueError: the description is empty or too long.
        """
        query = " ".join((query or "").split())
        if not query or len(query) > MAX_CHARACTERS:
            raise ValueError(f"enter a description of 1 to {MAX_CHARACTERS} characters")
        top_k = max(1, min(int(top_k), MAX_RESULTS))
        results = []
        for item in self.pipeline(query, candidates=self.candidates, top_k=top_k):
            row = self.rows[item["index"]]
            sentences = [(match["sentence"], tuple(match["box"]), match["score"]) for match in item["sentences"]]
            results.append(Result(row["file_name"], row["caption"], item["score"], sentences))
        return results

    def draw(self, result: Result) -> Image.Image:
        """Draws the best box of each sentence on the image, in the colour of the sentence."""
        file = next(file for file in self.files if file.name == result.file)
        image = self.pipeline.processor.read_image(file.read_bytes())
        scale = max(1, round(384 / image.height))
        image = image.resize((image.width * scale, image.height * scale))
        draw = ImageDraw.Draw(image)
        for number, (_, (x, y, width, height), _) in enumerate(result.sentences):
            inset = 2 * min(number, len(COLOURS))  # separates the boxes of sentences with the same region
            left, top = x * scale + inset, y * scale + inset
            right, bottom = (x + width) * scale - 1 - inset, (y + height) * scale - 1 - inset
            box = (left, top, max(left, right), max(top, bottom))
            draw.rectangle(box, outline=COLOURS[number % len(COLOURS)], width=2)
        return image


def explanation(result: Result, rank: int) -> str:
    """HTML with the sentences, their boxes and cosines, and the caption of the image. All texts are escaped."""
    rows = "".join(
        f'<tr><td style="color:{COLOURS[n % len(COLOURS)]}">{html.escape(sentence)}</td>'
        f"<td>{' '.join(f'{value:.0f}' for value in box)}</td><td>{cosine:.3f}</td></tr>"
        for n, (sentence, box, cosine) in enumerate(result.sentences)
    )
    header = "<tr><th>sentence</th><th>region (x, y, width, height)</th><th>cosine</th></tr>"
    return (
        f"<p><b>#{rank}</b> {html.escape(result.file)}, score {result.score:.3f}</p><table>{header}{rows}</table>"
        f"<p><i>Caption of the image:</i> {html.escape(result.caption)}</p>"
    )


def build(search: Search) -> Any:
    """Builds the page as `gradio.Blocks`."""
    import gradio as gr

    def ask(query: str, top_k: float) -> tuple:
        try:
            results = search(query, int(top_k))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        thumbnails = [(search.draw(result), f"#{n} {result.score:.3f}") for n, result in enumerate(results, 1)]
        return thumbnails, results, "<p>Click an image to see which region matches each sentence.</p>"

    def explain(results: list[Result] | None, event: gr.SelectData) -> str:
        if not results or not 0 <= event.index < len(results):
            return ""
        return explanation(results[event.index], event.index + 1)

    examples = [[row["query"], 8] for row in search.rows if row.get("query")][:4]
    with gr.Blocks(title="Rogle", analytics_enabled=False) as page:
        gr.HTML(
            f"<h2>Find the pedestrian that a sentence describes</h2><p>{html.escape(NOTICE)}</p>"
            f"<p>{len(search.files)} drawn images; model {html.escape(search.name)}</p>"
        )
        query = gr.Textbox(label="Description", lines=2, max_length=MAX_CHARACTERS)
        top_k = gr.Slider(1, MAX_RESULTS, value=8, step=1, label="Results")
        button = gr.Button("Search", variant="primary")
        state = gr.State(None)
        results = gr.Gallery(show_label=False, columns=8, object_fit="contain", allow_preview=False, interactive=False)
        reasons = gr.HTML()
        for event in (button.click, query.submit):
            event(ask, [query, top_k], [results, state, reasons], concurrency_limit=1)
        results.select(explain, [state], [reasons])
        if examples:
            gr.Examples(examples, [query, top_k], cache_examples=False)
    return page


if __name__ == "__main__":
    build(Search()).launch(ssr_mode=False)
