"""The transformers pipeline "text-based-person-search": a description and candidate images -> a ranked list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, Pipeline
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY

TASK = "text-based-person-search"


@dataclass(frozen=True)
class EncodedCandidates:
    """Candidates that were encoded once, to be searched with many queries.

    Args:
        images: `[n, d]` unit vectors of the candidates.
        regions: for each candidate its boxes `[r, 4]`, x, y, w, h in pixels, and their embeddings `[r, d]`.
    """

    images: torch.Tensor
    regions: Sequence[tuple[np.ndarray, torch.Tensor]]

    def __len__(self) -> int:
        return len(self.images)


class TextBasedPersonSearchPipeline(Pipeline):
    """Ranks candidate images of persons by how well a description fits them.

    ```python
    >>> import modeling_rogle  # makes the task known
    >>> from transformers import pipeline
    >>> search = pipeline("text-based-person-search", model=folder)
    >>> search("a woman in a red coat", candidates=["a.jpg", "b.jpg"], top_k=1)
    [{'index': 1, 'score': 0.41, 'global_score': 0.41, 'sentences': []}]
    ```

    With `boxes` the query's sentences meet the regions too: `score = (1 - w) * global + w * mean over sentences of the
    best region's cosine`, w being `local_weight` of the model's configuration; a candidate without regions keeps its
    global score.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(
        self,
        queries: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        candidates: Sequence[Any] | EncodedCandidates,
        boxes: Sequence[Any] | None = None,
        top_k: int | None = None,
        local_weight: float | None = None,
        batch_size: int = 32,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Ranks the candidates for one query, or for each of several.

        Args:
            queries: a description; or `{"text": description, "sentences": [str, ...]}`, the sentences being what is
                looked up in the regions (by default the whole description); or a list of these.
            candidates: images, each a path, a URL, a PIL image or a uint8 array `[h, w, 3]`; or the result of
                [`encode_candidates`], without boxes.
            boxes: for each candidate its regions `[r, 4]`, x, y, w, h in pixels of that image; r may be 0.
            top_k: how many results a query; all by default.
            local_weight: w in [0, 1].
            batch_size: candidates a forward pass.

        Returns:
            For each query a list of dicts, best first: `index` (of the candidate), `score`, `global_score` (cosine of
            description and image) and `sentences`, empty without boxes: `{sentence, box, score}`, box being the best
            region's `[x, y, w, h]`.

        Raises:
            ValueError: no candidates, an empty description, or boxes that do not fit the candidates; a box that is not
                finite or lies outside its image is named.
        """
        several = not isinstance(queries, str | Mapping)
        asked = list(queries) if several else [queries]
        if isinstance(candidates, str) or not len(candidates):
            raise ValueError("candidates: pass a list with at least one image")
        if boxes is not None and len(boxes) != len(candidates):
            raise ValueError(f"boxes: {len(boxes)} entries for {len(candidates)} candidates")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: must be at least 1, not {top_k}")
        if local_weight is not None and not 0.0 <= local_weight <= 1.0:
            raise ValueError(f"local_weight: must lie in [0, 1], not {local_weight}")
        for i, query in enumerate(asked):
            _description(query, i)
        encoded = isinstance(candidates, EncodedCandidates)
        gallery = candidates if encoded else self.encode_candidates(candidates, boxes, batch_size)
        results = super().__call__(asked, gallery=gallery, top_k=top_k, local_weight=local_weight)
        return results if several else results[0]

    def _sanitize_parameters(self, gallery=None, top_k=None, local_weight=None):
        return {}, {}, {"gallery": gallery, "top_k": top_k, "local_weight": local_weight}

    def preprocess(self, query):
        text, sentences = _description(query, 0)
        encoded = self.processor(text=[text, *sentences], return_tensors="pt")
        return {"sentences": sentences, "input_ids": encoded["input_ids"]}

    def _forward(self, model_inputs):
        return {
            "sentences": model_inputs["sentences"],
            "embeds": self.model.encode_texts(model_inputs["input_ids"]),
        }

    def postprocess(self, model_outputs, gallery, top_k=None, local_weight=None):
        images, regions = gallery.images, gallery.regions
        embeds, sentences = model_outputs["embeds"].float(), model_outputs["sentences"]
        config = self.model.config
        if local_weight is None:  # of a head that compares it is the head's
            local_weight = 0.0 if config.head in ("acsa", "parts") else config.local_weight
        weight = local_weight
        global_scores = (images @ embeds[0]).tolist()
        ranked = []
        for index, score in enumerate(global_scores):
            found = []
            region_boxes, region_embeds = regions[index]
            if len(region_boxes):
                best = (embeds[1:] @ region_embeds.T).max(dim=1)
                for sentence, cosine, row in zip(sentences, best.values.tolist(), best.indices.tolist(), strict=True):
                    found.append({"sentence": sentence, "box": region_boxes[row].tolist(), "score": cosine})
            local = np.mean([item["score"] for item in found]) if found else score
            joined = float((1.0 - weight) * score + weight * local)
            ranked.append({"index": index, "score": joined, "global_score": score, "sentences": found})
        ranked.sort(key=lambda item: -item["score"])  # stable: equal scores keep the candidates' order
        return ranked[:top_k]

    @torch.no_grad()
    def encode_candidates(
        self, candidates: Sequence[Any], boxes: Sequence[Any] | None = None, batch_size: int = 32
    ) -> EncodedCandidates:
        """Encodes candidates once, to search them with many queries; the arguments are those of a call."""
        images, regions = [], []
        for start in range(0, len(candidates), batch_size):
            batch = [_image(item) for item in candidates[start : start + batch_size]]
            pixels = self.processor(images=batch, return_tensors="pt")["pixel_values"]
            rows = [_boxes(boxes, start + i) for i in range(len(batch))]
            corners = [self._corners(row, batch[i], start + i) for i, row in enumerate(rows)]
            counts = [len(row) for row in rows]
            embeds, region_embeds = self.model.encode_images(
                pixels.to(self.model.device, self.model.dtype),
                torch.from_numpy(np.concatenate(corners)).to(self.model.device) if sum(counts) else None,
                torch.arange(len(rows)).repeat_interleave(torch.tensor(counts)).to(self.model.device),
            )
            images.append(embeds.cpu())
            if region_embeds is None:
                region_embeds = embeds[:0]
            regions += zip(rows, region_embeds.cpu().split(counts), strict=True)
        return EncodedCandidates(torch.cat(images), regions)

    def _corners(self, boxes: np.ndarray, image: Image.Image, index: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            corners = self.processor.normalize_boxes(boxes, *image.size)
        bad = ~(np.isfinite(boxes).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1))
        if bad.any():
            row = int(bad.argmax())
            size = f"{image.width} x {image.height}"
            raise ValueError(f"boxes: entry {index}, row {row}: {boxes[row].tolist()} has no area in its {size} px")
        return corners

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model, processor and this file. `pipeline(task, model=..., trust_remote_code=True)` reads them with
        this package installed; `hub/release.py` makes a folder that needs nothing of it."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _description(query: str | Mapping[str, Any], number: int) -> tuple[str, list[str]]:
    text = query.get("text") if isinstance(query, Mapping) else query
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"queries: entry {number} is no description")
    sentences = query.get("sentences") if isinstance(query, Mapping) else None
    if sentences is not None and (isinstance(sentences, str) or not all(isinstance(item, str) for item in sentences)):
        raise ValueError(f"queries: 'sentences' of entry {number} must be a list of strings")
    return text, list(sentences or [text])


def _image(item: Any) -> Image.Image:
    if isinstance(item, np.ndarray):
        return Image.fromarray(item).convert("RGB")
    return load_image(item).convert("RGB")


def _boxes(boxes: Sequence[Any] | None, index: int) -> np.ndarray:
    try:
        rows = np.asarray([] if boxes is None else boxes[index], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes: entry {index} does not hold rows of four numbers") from error
    if rows.size % 4:
        raise ValueError(f"boxes: entry {index} of shape {list(rows.shape)} does not hold rows of x, y, w, h")
    return rows.reshape(-1, 4)


def register() -> None:
    """Makes the task known to `transformers.pipeline`; calling it again changes nothing."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=TextBasedPersonSearchPipeline, pt_model=AutoModel, type="multimodal"
        )


__all__ = ["TASK", "EncodedCandidates", "TextBasedPersonSearchPipeline", "register"]
