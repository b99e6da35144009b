"""Searching an index with an exported model: onnxruntime, tokenizers, numpy and pyarrow, no torch and no transformers.

Scores and order are those of [`Gallery.search`] with the exact store, to the rounding of the graphs; indexing, filters,
probabilities and queries by image stay with the whole package.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_io import printable_path
from modeling_rogle.inference.onnx_encoder import OnnxError, OnnxTowers
from modeling_rogle.search.query_checks import negated_words, negation_warning, unread_script
from modeling_rogle.sentences import query_sentences

RERANKED = 200  # as in gallery.py
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class BestRegion:
    """The region of an image that fits a sentence best, its cosine, and x, y, w, h in pixels of the image, None for
    the whole of it."""

    sentence: str
    label: str
    box: tuple[float, float, float, float] | None
    score: float


@dataclass(frozen=True)
class Found:
    """A result; `path` relative to the indexed folder, `score` ranks, `global_score` is the cosine of query and
    image."""

    rank: int
    path: str
    score: float
    global_score: float
    sentences: tuple[BestRegion, ...]


class OnnxGallery:
    """An index opened for search with an exported model.

    Args:
        index: folder that `rogle index` made.
        towers: of the model that made it.

    Raises:
        FileNotFoundError: no such folder.
        GalleryError: not an index, or a damaged one; the file is named.
        OnnxError: an export of another model.
    """

    def __init__(self, index: str | Path, towers: OnnxTowers):
        self.path, self.towers = Path(index), towers
        self.header = read_manifest(self.path)
        made_by = self.header["model"].get("fingerprint")
        if made_by != towers.about["fingerprint"]:
            raise OnnxError(f"{self.path}: made by another model than the one exported to {towers.folder}")
        self.boxes = np.array(self.header["template_boxes"], dtype=np.float32).reshape(-1, 4)
        self._shards = [self._shard(shard["name"], shard["rows"]) for shard in self.header["shards"]]
        self._starts = np.cumsum([0, *(len(shard["table"]) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(
        self, query: str, top_k: int = 10, local_weight: float | None = None, reranked: int = RERANKED
    ) -> list[Found]:
        """The images that fit a description best, best first; see [`Gallery.search`].

        Args:
            query: a description of one or more sentences.
            top_k: how many results.
            local_weight: weight of the regions in [0, 1]; by default the model's own.
            reranked: how many of the best global scores meet late interaction.

        Raises:
            GalleryError: an empty query, a number out of range, an index without images.

        Warns:
            UserWarning: as [`Gallery.search`] of words that deny, scripts that are not read, texts that are cut.
        """
        weight = self.towers.about["local_weight"] if local_weight is None else local_weight
        if top_k < 1 or reranked < 0 or not 0.0 <= weight <= 1.0:
            asked = f"top-k {top_k}, reranked {reranked}, local weight {weight}"
            raise GalleryError(f"{asked}: at least 1, at least 0, and in [0, 1] are wanted")
        sentences, _ = query_sentences(query)
        if not sentences:
            raise GalleryError('query: no words in it; describe a person, as in "a man in a red coat"')
        if not len(self):
            raise GalleryError(f"{self.path}: no image is left in this index")
        self._warn(query)
        said = [sentence for sentence, *_ in sentences]
        embeds = self.towers.encode_texts([query[: sentences[-1][2]].strip(), *said])
        rows, scores = self._nearest(embeds[0], max(reranked, top_k))
        cosines = self._region_cosines(rows, embeds[1:])
        final = scores.copy()
        met = len(rows) if weight == 0 else reranked
        if weight > 0:
            final[:met] = (1.0 - weight) * scores[:met] + weight * cosines[:met].max(axis=2).mean(axis=1)
        order = np.concatenate([np.argsort(-final[:met], kind="stable"), np.arange(min(met, len(rows)), len(rows))])
        return [
            self._found(rank, int(rows[n]), float(final[n]), float(scores[n]), said, cosines[n])
            for rank, n in enumerate(order[:top_k], start=1)
        ]

    def _found(
        self, rank: int, row: int, score: float, global_score: float, said: Sequence[str], cosines: np.ndarray
    ) -> Found:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        fact = self._shards[number]["table"].slice(row - int(self._starts[number]), 1).to_pylist()[0]
        best = []
        for sentence, each in zip(said, cosines, strict=True):
            region = int(each.argmax())
            x0, y0, x1, y1 = (self.boxes[region] * np.array([fact["width"], fact["height"]] * 2)).tolist()
            # The last template is the whole image: a frame around everything would explain nothing.
            box = None if region == len(self.boxes) - 1 else tuple(round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0))
            best.append(BestRegion(sentence, self.header["template_labels"][region], box, float(each[region])))
        return Found(rank, fact["path"], score, global_score, tuple(best))

    def _nearest(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[k]` of the highest cosines and these, best first; of equal ones the earlier row. Block by block."""
        rows, scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        for shard, start in zip(self._shards, self._starts, strict=False):
            stored = shard["global"]
            for first in range(0, len(stored), _ROWS_AT_ONCE):
                block = _as_float(stored[first : first + _ROWS_AT_ONCE]) @ query
                rows = np.concatenate([rows, np.arange(len(block)) + start + first])
                scores = np.concatenate([scores, block])
            order = np.lexsort((rows, -scores))[:count]
            rows, scores = rows[order], scores[order]
        return rows, scores

    def _region_cosines(self, rows: np.ndarray, embeds: np.ndarray) -> np.ndarray:
        """float32 `[n, S, T]`, the cosines of `[S, D]` unit vectors with the regions of some rows."""
        found = np.empty((len(rows), len(embeds), len(self.boxes)), dtype=np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number, shard in enumerate(self._shards):
            places = np.flatnonzero(owner == number)
            local = rows[places] - self._starts[number]
            products = shard["regions"][local].astype(np.float32) @ embeds.T
            found[places] = (products * shard["scales"][local][..., None]).transpose(0, 2, 1)
        return found

    def _warn(self, query: str) -> None:
        denied = negated_words(query)
        if denied:
            warnings.warn(negation_warning(denied), stacklevel=3)
        tokens, limit = self.towers.count_tokens(query.strip()), self.towers.about["max_tokens"]
        line = unread_script(query.strip(), tokens - 2)
        if line:
            warnings.warn(line, stacklevel=3)
        if tokens > limit:
            warnings.warn(
                f"query: {tokens} tokens, the model reads {limit}: the rest was cut; its sentences are read each by "
                "itself",
                stacklevel=3,
            )

    def _shard(self, name: str, rows: int) -> dict[str, Any]:
        folder, width, regions = self.path / name, self.header["dimension"], len(self.boxes)
        kind = np.float32 if self.header["precision"] == "float32" else np.uint16
        found: dict[str, Any] = {}
        for part, file, dtype, shape in (
            ("global", "global.npy", kind, (rows, width)),
            ("regions", "regions.npy", np.int8, (rows, regions, width)),
            ("scales", "region_scales.npy", np.float32, (rows, regions)),
        ):
            try:
                found[part] = np.load(folder / file, mmap_mode="r" if rows else None, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise GalleryError(f"{folder / file}: missing or damaged; build the index again") from error
            if found[part].dtype != dtype or found[part].shape != shape:
                raise GalleryError(f"{folder / file}: not the {rows} rows that index.json tells of")
        try:
            found["table"] = pq.read_table(folder / "images.parquet", columns=["path", "width", "height"])
        except (OSError, pa.ArrowException) as error:
            raise GalleryError(f"{folder / 'images.parquet'}: missing or damaged; build the index again") from error
        if len(found["table"]) != rows:
            raise GalleryError(f"{folder / 'images.parquet'}: not the {rows} rows that index.json tells of")
        return found


def _as_float(stored: np.ndarray) -> np.ndarray:
    """float32 of what global.npy holds: itself, or the upper halves of float32 (bfloat16) as uint16."""
    return stored if stored.dtype == np.float32 else (stored.astype(np.uint32) << 16).view(np.float32)


def as_plain(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Results as JSON knows them."""
    return [asdict(one) for one in found]


def as_table(found: Sequence[Found]) -> str:
    """A line a result: rank, scores, image (its path escaped) and the best region of each sentence."""
    lines = [f"[{n}] {' '.join(best.sentence.split())}" for n, best in enumerate(found[0].sentences, start=1)] + [""]
    width = max(len("image"), *(len(printable_path(one.path)) for one in found))
    lines.append(f"{'rank':>4}  {'score':>6}  {'global':>6}  {'image':<{width}}  best region of each sentence")
    for one in found:
        regions = ", ".join(f"[{n}] {best.label}" for n, best in enumerate(one.sentences, start=1))
        lines.append(
            f"{one.rank:>4}  {one.score:>6.3f}  {one.global_score:>6.3f}  {printable_path(one.path):<{width}}  {regions}"
        )
    return "\n".join(lines)


__all__ = ["BestRegion", "Found", "OnnxGallery", "as_plain", "as_table"]
