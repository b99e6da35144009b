"""The demo Space: drawn pedestrians, searched by a description. Runs from its own folder with its requirements.txt.

`model.json` names the model and the commit of it whose code and weights are run; `gallery/` holds the images.
"""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import AutoModel, AutoProcessor

HERE = Path(__file__).resolve().parent
MAX_RESULTS, MAX_CHARACTERS, MAX_SENTENCES = 20, 2_000, 12
COLOURS = ("#c1272d", "#0a6ebd", "#1a8f3c", "#b8860b", "#7a3fa0", "#d2691e")
# Regions of an upright person: name and x0, y0, x1, y1 as shares of the image.
REGIONS = {
    "head": (0.25, 0.0, 0.75, 0.2),
    "upper body": (0.05, 0.15, 0.95, 0.6),
    "lower body": (0.15, 0.5, 0.85, 0.95),
    "feet": (0.15, 0.82, 0.85, 1.0),
    "left side": (0.0, 0.2, 0.5, 0.8),
    "right side": (0.5, 0.2, 1.0, 0.8),
    "whole image": (0.0, 0.0, 1.0, 1.0),
}
NOTICE = (
    "These pedestrians are drawn by a program; no real person is in the gallery, and nothing that you type is kept. "
    "A ranked list shows look-alikes, never an identity."
)


@dataclass(frozen=True)
class Found:
    """A ranked image: its score, and for each sentence the best region's name and cosine."""

    file: str
    caption: str
    score: float
    regions: list[tuple[str, str, float]]


class Search:
    """Model, images and their embeddings.

    Args:
        folder: holds `model.json`, `gallery/` and its `metadata.jsonl`.

    Raises:
        ValueError: an image that `metadata.jsonl` names outside the gallery.
        OSError: something is not there.
    """

    def __init__(self, folder: Path = HERE) -> None:
        chosen = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        # The code that runs is the repository's at this commit, not whatever it will hold tomorrow.
        options = {"revision": chosen["revision"], "trust_remote_code": True}
        self.name = chosen["model"]
        self.model = AutoModel.from_pretrained(self.name, dtype=torch.float32, **options).eval()
        self.processor = AutoProcessor.from_pretrained(self.name, **options)
        lines = (folder / "gallery" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines]
        for name in (row["file_name"] for row in self.rows):
            # By the name alone: in the Hub's cache every file is a link that leads elsewhere.
            if re.split(r"[/\\]", name) != [name] or name in ("", ".", ".."):
                raise ValueError(f"metadata.jsonl: file_name {name!r} lies outside the gallery")
        self.files = [folder / "gallery" / row["file_name"] for row in self.rows]
        boxes = torch.tensor(list(REGIONS.values()))
        images, regions = [], []
        for start in range(0, len(self.files), 32):
            batch = [Image.open(file).convert("RGB") for file in self.files[start : start + 32]]
            pixels = self.processor(images=batch, return_tensors="pt")["pixel_values"]
            owner = torch.arange(len(batch)).repeat_interleave(len(boxes))
            whole, parts = self.model.encode_images(pixels, boxes.repeat(len(batch), 1), owner)
            images.append(whole)
            regions.append(parts.unflatten(0, (len(batch), len(boxes))))
        self.images, self.regions = torch.cat(images), torch.cat(regions)

    def __call__(self, query: str, top_k: int = 8) -> list[Found]:
        """The best images: `(1 - w) * global + w * mean over sentences of the best region`.

        Raises:
            ValueError: an empty description, or one that is too long.
        """
        query = " ".join((query or "").split())
        if not query or len(query) > MAX_CHARACTERS:
            raise ValueError(f"give a description of 1 to {MAX_CHARACTERS} characters")
        sentences = [part for part in re.split(r"(?<=[.!?])\s+", query) if part][:MAX_SENTENCES]
        tokens = self.processor(text=[query, *sentences], return_tensors="pt")["input_ids"]
        embeds = self.model.encode_texts(tokens)
        best = torch.einsum("sd,ird->isr", embeds[1:], self.regions).max(dim=2)
        weight = float(self.model.config.local_weight)
        scores = (1.0 - weight) * (self.images @ embeds[0]) + weight * best.values.mean(dim=1)
        names = list(REGIONS)
        return [
            Found(
                self.rows[i]["file_name"],
                self.rows[i]["caption"],
                float(scores[i]),
                [
                    (sentence, names[best.indices[i, s]], float(best.values[i, s]))
                    for s, sentence in enumerate(sentences)
                ],
            )
            for i in scores.argsort(descending=True, stable=True)[: max(1, min(int(top_k), MAX_RESULTS))].tolist()
        ]

    def drawn(self, found: Found) -> Image.Image:
        """The image with the best region of each sentence, in the sentences' colours."""
        image = Image.open(next(file for file in self.files if file.name == found.file)).convert("RGB")
        scale = max(1, round(384 / image.height))
        image = image.resize((image.width * scale, image.height * scale))
        draw = ImageDraw.Draw(image)
        for number, (_, region, _) in enumerate(found.regions):
            box = [share * (image.width, image.height)[side % 2] for side, share in enumerate(REGIONS[region])]
            inset = 2 * number  # boxes of two sentences on one region stay apart
            box = [box[0] + inset, box[1] + inset, box[2] - 1 - inset, box[3] - 1 - inset]
            draw.rectangle(box, outline=COLOURS[number % len(COLOURS)], width=2)
        return image


def explained(found: Found, rank: int) -> str:
    """HTML: sentences, regions, cosines, and the image's own caption; every text from outside is escaped."""
    rows = "".join(
        f'<tr><td style="color:{COLOURS[n % len(COLOURS)]}">{html.escape(sentence)}</td><td>{html.escape(region)}</td>'
        f"<td>{cosine:.3f}</td></tr>"
        for n, (sentence, region, cosine) in enumerate(found.regions)
    )
    return (
        f"<p><b>#{rank}</b> {html.escape(found.file)}, score {found.score:.3f}</p><table>{rows}</table>"
        f"<p><i>Its caption:</i> {html.escape(found.caption)}</p>"
    )


def build(search: Search) -> Any:
    """The page as `gradio.Blocks`."""
    import gradio as gr

    def ask(query: str, top_k: float) -> tuple:
        try:
            results = search(query, int(top_k))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        thumbs = [(search.drawn(found), f"#{n} {found.score:.3f}") for n, found in enumerate(results, 1)]
        return thumbs, results, "<p>Click an image to see what matched where.</p>"

    def explain(results: list[Found] | None, event: gr.SelectData) -> str:
        if not results or not 0 <= event.index < len(results):
            return ""
        return explained(results[event.index], event.index + 1)

    examples = [[row["query"], 8] for row in search.rows if row.get("query")][:4]
    with gr.Blocks(title="Rogle", analytics_enabled=False) as page:
        gr.HTML(
            f"<h2>Find the pedestrian that a sentence describes</h2><p>{html.escape(NOTICE)}</p>"
            f"<p>{len(search.files)} drawn images; model {html.escape(search.name)}</p>"
        )
        query = gr.Textbox(label="Description", lines=2, max_length=MAX_CHARACTERS)
        top_k = gr.Slider(1, MAX_RESULTS, value=8, step=1, label="Results")
        button = gr.Button("Search", variant="primary")
        kept = gr.State(None)
        results = gr.Gallery(show_label=False, columns=8, object_fit="contain", allow_preview=False, interactive=False)
        reasons = gr.HTML()
        for event in (button.click, query.submit):
            event(ask, [query, top_k], [results, kept, reasons], concurrency_limit=1)
        results.select(explain, [kept], [reasons])
        if examples:
            gr.Examples(examples, [query, top_k], cache_examples=False)
    return page


if __name__ == "__main__":
    build(Search()).launch(ssr_mode=False)
