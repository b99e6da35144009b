"""The transformers pipeline "text-based-person-search": a description and candidate images -> a ranked list."""

import base64
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .box_ops import template_boxes
from .image_io import DecodedImage, ImageError, decode_image, read_image, reduce_image, upright_rgb
from .late_interaction import late_interaction, quantize_regions, region_cosines
from .sentences import bytes_without_text, normalize_text, query_sentences

TASK = "text-based-person-search"
# Field `custom_pipelines` of config.json, by which transformers finds this file in a repository.
PIPELINES: dict[str, dict[str, Any]] = {
    TASK: {"impl": "pipeline_rogle.TextBasedPersonSearchPipeline", "pt": ["AutoModel"], "type": "multimodal"}
}
MAX_DOWNLOAD = 256 * 2**20  # bytes of an image that a URL names


@dataclass(frozen=True)
class EncodedCandidates:
    """Embeddings of candidates, from [`TextBasedPersonSearchPipeline.encode_candidates`].

    Attributes:
        image_embeds: float32 `[n, d]` unit vectors.
        boxes: for each candidate its regions `[r, 4]`, x, y, w, h in pixels.
        regions: for each candidate int8 `[r, d]`, see `late_interaction.quantize_regions`.
        scales: for each candidate float32 `[r]`.
    """

    image_embeds: np.ndarray
    boxes: list[np.ndarray]
    regions: list[np.ndarray]
    scales: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.image_embeds)


class TextBasedPersonSearchPipeline(Pipeline):
    """Ranks candidate images of persons by their similarity to a description.

    ```python
    >>> import modeling_rogle  # registers the task
    >>> from transformers import pipeline
    >>> search = pipeline("text-based-person-search", model=folder)
    >>> search("a woman in a red coat", candidates=["a.jpg", "b.jpg"], top_k=1)
    [{'index': 1, 'score': 0.41, 'global_score': 0.41, 'sentences': [{'sentence': 'a woman in a red coat', ...}]}]
    ```

    The score is that of `rogle search`: `(1 - w) * global + w * mean over sentences of the best region's cosine`. w is
    `local_weight` of the model's configuration. Regions are rounded to int8, as in an index.
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
        """Ranks the candidates for one query, or for each of several queries.

        Args:
            queries: a description; or `{"text": description, "sentences": [str, ...]}`; or a list of these. By default
                the sentences are the clauses of those of the description.
            candidates: images, each a path, a URL, base64, a PIL image or a uint8 array `[h, w, 3]`; or the result of
                [`TextBasedPersonSearchPipeline.encode_candidates`].
            boxes: for each candidate its regions `[r, 4]`, x, y, w, h in pixels of that image. With r = 0 the candidate
                keeps its global score. By default the template regions of a pedestrian, the last of which is the whole
                image.
            top_k: number of results for each query; all by default.
            local_weight: w in [0, 1]; by default the one in the model's configuration.
            batch_size: number of candidates in a forward pass; 32 by default.

        Returns:
            For each query a list of dicts, best first: `index` (of the candidate), `score`, `global_score` (cosine of
            description and image) and `sentences`, empty for a candidate without regions: `{sentence, box, score}`,
            where box is the best region's `[x, y, w, h]` and score its cosine.

        Raises:
            ValueError: no candidates, a description without words, or boxes that do not fit the candidates; a box that
                is not finite or lies outside its image is named.

        Warns:
            UserWarning: a description has more than 64 clauses; the rest is ignored.
        """
        listed = [queries] if isinstance(queries, str | Mapping) else queries
        descriptions = [_description(query, i) for i, query in enumerate(listed)]
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: must be at least 1, not {top_k}")
        if local_weight is not None and not 0.0 <= local_weight <= 1.0:
            raise ValueError(f"local_weight: must lie in [0, 1], not {local_weight}")
        if not isinstance(candidates, EncodedCandidates):
            candidates = self.encode_candidates(candidates, boxes, batch_size)
        elif boxes is not None:
            raise ValueError("boxes: the candidates are encoded already, pass their boxes to encode_candidates")
        results = super().__call__(descriptions, candidates=candidates, top_k=top_k, local_weight=local_weight)
        return results[0] if isinstance(queries, str | Mapping) else results

    def encode_candidates(
        self, candidates: Sequence[Any], boxes: Sequence[Any] | None = None, batch_size: int = 32
    ) -> EncodedCandidates:
        """Encodes candidates once, for several calls of the pipeline.

        Args:
            candidates: as in [`TextBasedPersonSearchPipeline.__call__`].
            boxes: as in [`TextBasedPersonSearchPipeline.__call__`].
            batch_size: number of candidates in a forward pass; 32 by default.

        Raises:
            ValueError: as in [`TextBasedPersonSearchPipeline.__call__`].
        """
        if isinstance(candidates, str) or not len(candidates):
            raise ValueError("candidates: pass a list with at least one image")
        if boxes is not None and len(boxes) != len(candidates):
            raise ValueError(f"boxes: {len(boxes)} entries for {len(candidates)} candidates")
        encoded = EncodedCandidates(np.zeros((0, self.model.config.projection_dim), dtype=np.float32), [], [], [])
        parts = [encoded.image_embeds]
        for start in range(0, len(candidates), batch_size):
            batch = candidates[start : start + batch_size]
            images, sizes = zip(*(self._read(item, i) for i, item in enumerate(batch, start)), strict=True)
            pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
            corners = []
            for i, size in enumerate(sizes, start):
                rows = None if boxes is None else _rows(boxes[i], i)
                corners.append(template_boxes() if rows is None else self._corners(rows, size, i))
                encoded.boxes.append(_pixel_boxes(corners[-1], size) if rows is None else rows)
            counts = torch.tensor([len(boxes) for boxes in corners])
            image_embeds, region_embeds = self.model.encode_images(
                pixels.to(self.model.device, self.model.dtype),
                torch.from_numpy(np.concatenate(corners)).to(self.model.device),
                torch.arange(len(images)).repeat_interleave(counts).to(self.model.device),
            )
            parts.append(image_embeds.cpu().numpy())
            for regions in region_embeds.cpu().split(counts.tolist()):
                quantized, scales = quantize_regions(regions.numpy())
                encoded.regions.append(quantized)
                encoded.scales.append(scales)
        return EncodedCandidates(np.concatenate(parts), encoded.boxes, encoded.regions, encoded.scales)

    def _sanitize_parameters(self, candidates=None, top_k=None, local_weight=None):
        return {}, {}, {"candidates": candidates, "top_k": top_k, "local_weight": local_weight}

    def preprocess(self, description):
        limit = self.processor.tokenizer.model_max_length
        limit = min(limit, self.model.config.text_config.max_position_embeddings)
        texts = [description["text"], *description["sentences"]]
        encoded = self.processor(text=texts, return_tensors="pt", max_length=limit)
        return {"sentences": description["sentences"], "input_ids": encoded["input_ids"]}

    def _forward(self, model_inputs):
        return {
            "sentences": model_inputs["sentences"],
            "embeds": self.model.encode_texts(model_inputs["input_ids"]),
        }

    def postprocess(self, model_outputs, candidates, top_k=None, local_weight=None):
        embeds, sentences = model_outputs["embeds"].float().numpy(), model_outputs["sentences"]
        config = self.model.config
        if local_weight is None:
            local_weight = config.late_interaction_weight
        global_scores = candidates.image_embeds @ embeds[0]
        results = []
        for index, boxes in enumerate(candidates.boxes):
            score, matches = global_scores[index : index + 1], []
            if len(boxes):
                regions, scales = candidates.regions[index][None], candidates.scales[index][None]
                cosines = region_cosines(regions, scales, embeds[1:])
                score = late_interaction(score, cosines, local_weight, explain=False).score
                for sentence, row in zip(sentences, cosines[0], strict=True):
                    best = int(row.argmax())
                    matches.append({"sentence": sentence, "box": boxes[best].tolist(), "score": float(row[best])})
            result = {"index": index, "score": float(score[0]), "global_score": float(global_scores[index])}
            results.append(result | {"sentences": matches})
        results.sort(key=lambda item: -item["score"])  # stable: equal scores keep the candidates' order
        return results[:top_k]

    def _read(self, item: Any, index: int) -> tuple[Image.Image, tuple[int, int]]:
        """A candidate as RGB image, reduced as in an index, and its width and height before that."""
        height, width = self.model.config.image_size
        if isinstance(item, str | Path):
            try:
                decoded = _decode(str(item), (height, width))
            except ImageError as error:
                name = item if len(str(item)) <= 200 else f"{str(item):.200}..."
                raise ValueError(f"candidates: entry {index}, {name}: {error}") from error
            return decoded.image, (decoded.width, decoded.height)
        try:
            image = Image.fromarray(item) if isinstance(item, np.ndarray) else item
        except (TypeError, ValueError) as error:
            raise ValueError(f"candidates: entry {index}: an array {list(item.shape)} is no image") from error
        if not isinstance(image, Image.Image):
            raise ValueError(f"candidates: entry {index} is no path, URL or image but a {type(item).__name__}")
        image = upright_rgb(image)
        return reduce_image(image, (height, width)), image.size

    def _corners(self, boxes: np.ndarray, size: tuple[int, int], index: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            corners = self.processor.normalize_boxes(boxes, *size)
        bad = ~(np.isfinite(boxes).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1))
        if bad.any():
            row = int(bad.argmax())
            area = f"{size[0]} x {size[1]}"
            raise ValueError(f"boxes: entry {index}, row {row}: {boxes[row].tolist()} has no area in its {area} px")
        return corners

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model, processor and this file.

        `pipeline(task, model=..., trust_remote_code=True)` loads them where this package is installed. `rogle push`
        makes a repository that does not need it.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _decode(item: str, min_size: tuple[int, int]) -> DecodedImage:
    """Reads a candidate that is a path, a URL or base64."""
    if item.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(item, timeout=60) as response:  # no other protocol, in redirects neither
                data = response.read(MAX_DOWNLOAD + 1)
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be loaded: {error}") from error
        if len(data) > MAX_DOWNLOAD:
            raise ImageError(f"over the limit of {MAX_DOWNLOAD} bytes")
        return decode_image(data, item, min_size)
    try:
        is_file = Path(item).is_file()
    except (OSError, ValueError):  # base64 is too long for a file name
        is_file = False
    if is_file:
        return read_image(Path(item), item, min_size)
    try:
        data = base64.b64decode(item.partition(",")[2] if item.startswith("data:image/") else item, validate=True)
    except ValueError as error:
        raise ImageError("neither a file nor a URL nor base64") from error
    return decode_image(data, "base64", min_size)


def _description(query: str | Mapping[str, Any], number: int) -> dict[str, Any]:
    """The text to encode, without white space around it or sentences over the limit, and the sentences."""
    text = query.get("text") if isinstance(query, Mapping) else query
    if not isinstance(text, str) or not normalize_text(text).strip():
        raise ValueError(f"queries: entry {number} is not a description")
    if lost := bytes_without_text(text):
        warnings.warn(f"queries: {lost} bytes of entry {number} are not text in UTF-8 and were removed", stacklevel=4)
    text = normalize_text(text)
    sentences = query.get("sentences") if isinstance(query, Mapping) else None
    if sentences:
        if isinstance(sentences, str) or not all(isinstance(item, str) for item in sentences):
            raise ValueError(f"queries: 'sentences' of entry {number} must be a list of strings")
        return {"text": text.strip(), "sentences": [normalize_text(item) for item in sentences]}
    spans, omitted = query_sentences(text)
    if not spans:
        raise ValueError(f"queries: entry {number} is not a description")
    if omitted:
        warnings.warn(
            f"queries: entry {number} has {len(spans) + omitted} clauses, the last {omitted} are ignored",
            stacklevel=4,
        )
        text = text[: spans[-1][2]]
    return {"text": text.strip(), "sentences": [sentence for sentence, _, _ in spans]}


def _rows(boxes: Any, index: int) -> np.ndarray:
    try:
        rows = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes: entry {index} does not hold rows of four numbers") from error
    if rows.size % 4:
        raise ValueError(f"boxes: entry {index} of shape {list(rows.shape)} does not hold rows of x, y, w, h")
    return rows.reshape(-1, 4)


def _pixel_boxes(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[r, 4]` x0, y0, x1, y1 in [0, 1] -> x, y, w, h in pixels, rounded to hundredths."""
    pixels = corners.astype(np.float64) * np.array([*size] * 2)
    return np.concatenate([pixels[:, :2], pixels[:, 2:] - pixels[:, :2]], axis=1).round(2)


def register() -> None:
    """Registers the task with `transformers.pipeline`; calling it again changes nothing."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=TextBasedPersonSearchPipeline, pt_model=AutoModel, type="multimodal"
        )


__all__ = ["PIPELINES", "TASK", "EncodedCandidates", "TextBasedPersonSearchPipeline", "register"]
