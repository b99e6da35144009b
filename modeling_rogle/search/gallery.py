"""Gallery: an index of person images, searched with a description. Torch is imported only where a model runs in it."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from modeling_rogle.index.deletion import find_rows, remove_images
from modeling_rogle.index.manifest import locked, read_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_address import public_address, require_trusted
from modeling_rogle.index.vector_store import MIN_RECALL, VectorStore, nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import late_interaction, rerank
from modeling_rogle.search.calibration import DEPTH
from modeling_rogle.search.filters import filter_rows
from modeling_rogle.search.grouping import MAX_GROUPED, Grouping, Groups, check_column, distinct_candidates
from modeling_rogle.search.index_encoder import check_encoder, load_encoder
from modeling_rogle.search.probabilities import Probabilities
from modeling_rogle.search.query import Encoder, Query, encode_query, query_like
from modeling_rogle.search.query_checks import query_warnings
from modeling_rogle.search.results import Matches, make_matches

if TYPE_CHECKING:
    from modeling_rogle.indexing.build_index import IndexReport
    from modeling_rogle.indexing.person_detector import Detector
    from modeling_rogle.modeling_rogle import RogleModel
    from modeling_rogle.processing_rogle import RogleProcessor

RERANKED = 200  # number of the best global scores that late interaction reranks
_ROWS_AT_ONCE = 4096  # rows whose regions are in memory as float32


class Gallery:
    """An index opened for search. [`Gallery.build`] makes an index and opens it, [`Gallery.open`] opens one.

    Attributes:
        path: folder of the index.
        report: what [`Gallery.build`] did; None for a gallery that [`Gallery.open`] opened.
    """

    report: "IndexReport | None" = None

    def __init__(
        self,
        path: str | Path,
        encoder: Encoder | None = None,
        model: str | Path | None = None,
        processor: "RogleProcessor | None" = None,
        store: str | None = None,
    ):
        self.path = Path(path)
        self._encoder, self._model_folder, self._processor = encoder, model, processor
        self._store_uri = store
        self._open_index()

    @classmethod
    def build(
        cls,
        source: Any,
        model: "RogleModel",
        processor: "RogleProcessor",
        out: str | Path,
        batch_size: int = 32,
        progress: bool = True,
        *,
        append: bool = False,
        detector: "str | Path | Detector | None" = None,
        workers: int | None = None,
        precision: str | None = None,
        store: str | None = None,
    ) -> "Gallery":
        """Indexes images, or brings an index up to date, and opens the index.

        For the arguments, errors and warnings see [`build_index`].

        Returns:
            The opened gallery. Its `report` lists what was added, removed and skipped.
        """
        from modeling_rogle.indexing.build_index import build_index
        from modeling_rogle.inference.image_encoder import TorchEncoder

        report = build_index(
            source,
            model,
            processor,
            out,
            batch_size,
            progress,
            append=append,
            detector=detector,
            workers=workers,
            precision=precision,
            store=store,
        )
        gallery = cls(out, TorchEncoder(model, processor))
        gallery.report = report
        return gallery

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: "RogleModel | str | Path | None" = None,
        processor: "RogleProcessor | None" = None,
        *,
        encoder: Encoder | None = None,
        store: str | None = None,
    ) -> "Gallery":
        """Opens an index.

        Args:
            path: folder of the index.
            model: the model that made the index, as an object or a folder. A folder is loaded when the model is first
                needed. Default: the folder that the index names.
            processor: the processor of that model. Default: the one in the model's folder.
            encoder: the encoder to search with, instead of a model: `OnnxEncoder(folder)` needs no torch.
            store: the vector store to search in; `exact` for none. Default: the index's own, if it is a file
                of the index or is named by MILVUS_URI or ROGLE_POSTGRES_URI; see [`trusted_address`].

        Raises:
            FileNotFoundError: `path` does not exist.
            GalleryError: `path` is not an index, is incomplete, has another version or was made by another model, or
                the index is not in `store`.
        """
        if model is not None and not isinstance(model, str | Path):
            from modeling_rogle.inference.image_encoder import TorchEncoder

            encoder, model = TorchEncoder(model, processor or _load_processor(model.name_or_path)), None
        gallery = cls(path, encoder, model, processor, store)
        if encoder is not None:
            check_encoder(gallery.path, gallery.header, encoder)
        return gallery

    def _open_index(self) -> None:
        self._index = Index(self.path)
        self._store: VectorStore | None = None
        self._store_opened = False
        self._probabilities: Probabilities | None = None
        self._groups = Groups(self._index)
        index_store = self._index.header.get("store") or {}
        address = public_address(self._store_uri or "exact")
        if address != "exact" and index_store.get("uri") != address:
            raise GalleryError(
                f"{self.path}: this index is not in store {address!r}; add it with `rogle index --store`"
            )

    def refresh(self) -> bool:
        """Opens the index again if another process has changed it.

        Returns:
            Whether the index had changed.
        """
        if read_manifest(self.path) == self._index.header:
            return False
        self.close()
        self._open_index()
        return True

    def close(self) -> None:
        """Closes the vector store. A local Milvus file can be open in one process at a time."""
        if self._store is not None:
            self._store.close()
        self._store, self._store_opened = None, False

    def __len__(self) -> int:
        return len(self._index)

    @property
    def folder(self) -> Path:
        """The indexed folder."""
        return Path(self._index.header["folder"])

    @property
    def paths(self) -> list[str]:
        """The N indexed images, relative to the folder."""
        return self._index.paths

    @property
    def table(self) -> pa.Table:
        """N rows in the order of `paths`: the columns of `shards.SCHEMA`, then the user's columns."""
        return self._index.table

    @property
    def schema(self) -> pa.Schema:
        """The columns that a filter can test."""
        return self._index.table.schema

    @property
    def header(self) -> dict[str, Any]:
        """The manifest: model, indexed folder, skipped images."""
        return self._index.header

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model that made the index; see [`loading.fingerprint`]."""
        return str(self._index.header["model"].get("fingerprint"))

    @property
    def complete(self) -> bool:
        """False while an index run has started and not finished."""
        return bool(self._index.header["complete"])

    @property
    def encoder(self) -> Encoder:
        """The encoder of queries. The model of the index is loaded on first access.

        Raises:
            GalleryError: the model cannot be found or is not the one that made the index.
        """
        if self._encoder is None:
            self._encoder = load_encoder(self.path, self._index.header, self._model_folder, self._processor)
        return self._encoder

    def encode_query(self, query: str = "", image: str | Path | Image.Image | None = None) -> Query:
        """Encodes a description, an image or both; see [`query.encode_query`]."""
        return encode_query(self.encoder, query, image)

    def encode_gallery(self, rows: np.ndarray | None = None) -> np.ndarray:
        """float32 `[n, D]` unit vectors of the images in `rows` `[n]`; of all images by default."""
        return self._index.global_rows(rows)

    def similarity(
        self, query: str | Query, local_weight: float | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Final scores of all images, with late interaction for each.

        Args:
            query: a description, or an encoded query.
            local_weight: weight of the local score, in [0, 1]. Default: the model's own.
            rows: `[n]` rows to score. Default: all.

        Returns:
            float32 `[n]`, in the order of `rows` or of `paths`.

        Raises:
            GalleryError: see [`Gallery.search`].
        """
        query = self.encode_query(query) if isinstance(query, str) else query
        weight = self._local_weight(local_weight)
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        parts = [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            scores = self._index.global_rows(part) @ query.embed
            if weight > 0 and query.sentences:
                cosines = self._index.region_cosines(part, query.sentence_embeds)
                scores = late_interaction(scores, cosines, weight, explain=False).score
            parts.append(scores.astype(np.float32))
        return np.concatenate(parts)

    def search(
        self,
        query: str = "",
        top_k: int = 10,
        local_weight: float | None = None,
        reranked: int = RERANKED,
        *,
        image: str | Path | Image.Image | None = None,
        where: str | pc.Expression | None = None,
        like: str | None = None,
        group: bool = False,
        group_by: str | None = None,
    ) -> Matches:
        """Finds the images that match a description best.

        All images are ranked by their cosine with the query. Late interaction reranks the best `reranked` of them:
        `score = (1 - w) * global + w * mean over sentences of the best region's cosine`. The other images follow with
        their global score and in its order, so `top_k` does not affect the ranking. Exact copies of an image are one
        result.

        Args:
            query: a description of one or more sentences. May be empty if there is an image.
            top_k: number of results; fewer if the index has fewer images or fewer pass the filter. Default: 10.
            local_weight: w in [0, 1]. Default: the one in the model's configuration.
            reranked: number of images that late interaction reranks; 0 for none. Default: 200.
            image: an image of the person or its file. With a description, the mean of both is the query.
            where: a filter over the columns of `table`, as `camera = 'c3' and time > '2026-01-01'`, or a pyarrow
                expression. Default: none.
            like: path of an indexed image, as in `Match.path`, instead of a description and an image. Its embedding is
                the query, and the image and its exact copies are no results. Default: none.
            group: near-duplicates, and images of one `camera` that follow each other in `time` or `frame`, are one
                result; see `grouping.py`. Default: False.
            group_by: images with the same value in this column are one result. Default: none.

        Returns:
            The results, best first; empty if no image passes the filter. With a calibration, the results of a
            description have probabilities, except those that were not reranked.

        Raises:
            GalleryError: the query is empty, a number is out of range, the filter is invalid, or the index has no
                images. Or the model is not the one that made the index, or its embeddings are not finite.

        Warns:
            UserWarning: the query is longer than the model reads, contains a negation, or is in a script that the
                tokenizer does not know. Or the index is incomplete, or the store does not answer. Or the calibration
                does not apply to the model, the local weight or the size of the gallery.
        """
        if top_k < 1:
            raise GalleryError(f"top-k must be at least 1, not {top_k}")
        if reranked < 0:
            raise GalleryError(f"reranked must be at least 0, not {reranked}")
        if local_weight is not None and not 0.0 <= local_weight <= 1.0:
            raise GalleryError(f"local weight must lie in [0, 1], not {local_weight}")
        if group_by is not None:
            check_column(self._index, group_by)
        rows = None if where is None else filter_rows(self.table, where)
        if not len(self):
            raise GalleryError(f"{self.path}: no image is left in this index")
        if like is None:
            encoded = self.encode_query(query, image)
            self._warn(encoded.text)
        else:
            encoded, rows = query_like(self._index, like, rows)
        weight = self._local_weight(local_weight)
        count = max(reranked, top_k, DEPTH)
        grouping = Grouping(group, group_by)
        while True:
            found = distinct_candidates(self._index, lambda k: self._nearest(encoded.embed, k, rows), count)
            # Without late interaction the global score of every candidate is final.
            final = len(found.rows) if weight == 0 or not encoded.sentences else reranked
            interaction, order = rerank(found.scores, self._region_cosines(found.rows, encoded), weight, final)
            groups = self._groups.groups(found.rows[order], grouping)[:top_k]
            if len(groups) == top_k or found.complete or count >= MAX_GROUPED:
                break
            count = min(4 * count, MAX_GROUPED)  # many of the candidates are one result
        positions = [members[0] for members in groups]
        others = [[row for n in members for row in found.with_copies(order[n])][1:] for members in groups]
        shown = self.encoder.trained_regions
        matches = make_matches(
            self._index, encoded, interaction, found.rows, found.scores, order[positions], others, shown
        )
        if image is not None or like is not None:  # calibrations are fitted to descriptions
            return matches
        if self._probabilities is None:
            self._probabilities = Probabilities(self._index, self.encoder.folder)
        head = order[: min(max(positions[-1] + 1 if positions else 0, DEPTH), final)]
        scores = interaction.score[head], found.scores[head]
        return self._probabilities.add(matches, *scores, encoded.embed, rows, weight, positions)

    def explain(self, matches: Matches) -> int:
        """Finds the best region of each sentence by encoding crops of the results, for a model without trained regions.

        Scores and ranks stay. It takes one forward pass for each of the 11 regions of each result.

        Args:
            matches: the results of [`Gallery.search`], changed in place.

        Returns:
            The number of crops that were encoded; 0 if the query has no sentences.
        """
        from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
        from modeling_rogle.search.explanations import explain_with_crops

        return explain_with_crops(self.encoder, matches, template_boxes(), TEMPLATE_LABELS)

    def _local_weight(self, local_weight: float | None) -> float:
        return float(self.encoder.local_weight if local_weight is None else local_weight)

    def _warn(self, text: str) -> None:
        text = text.strip()
        for line in query_warnings(text, self.encoder.count_tokens(text) - 2):
            warnings.warn(line, stacklevel=3)
        if not self.complete:
            warnings.warn(
                f"{self.path}: indexing is not finished, {len(self)} images are searched; run `rogle index` again",
                stacklevel=3,
            )

    def _nearest(self, embed: np.ndarray, count: int, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[k]` with the highest cosines, and the cosines `[k]`, best first."""
        store = self._index.header.get("store") or {}
        synced_until_id, filtered_recall = store.get("upto", 0), store.get("filtered", 1.0)
        return nearest(self._index, embed, count, rows, self._open_store(), synced_until_id, filtered_recall)

    def _region_cosines(self, rows: np.ndarray, query: Query) -> np.ndarray:
        """float32 `[n, S, T]` cosines of the query's sentences with the regions of `rows` `[n]`."""
        parts = [np.zeros((0, len(query.sentences), len(self._index.boxes)), dtype=np.float32)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            parts.append(self._index.region_cosines(rows[start : start + _ROWS_AT_ONCE], query.sentence_embeds))
        return np.concatenate(parts)

    def _open_store(self) -> VectorStore | None:
        """The vector store to search in, or None for exact search. Warns once if the store cannot be used."""
        store = self._index.header.get("store")
        if store is None or self._store_uri == "exact" or not store["upto"]:
            return None
        if not self._store_opened:
            self._store_opened = True
            if store.get("recall", 1.0) < MIN_RECALL:
                share = f"{100 * store['recall']:.1f} %"
                warnings.warn(
                    f"store {store['uri']}: finds {share} of the best ten; searched exactly instead", stacklevel=4
                )
                return None
            try:
                address = require_trusted(store["uri"], self._store_uri)
                self._store = open_store(address, self.path, self._index.header)
            except GalleryError as error:
                if self._store_uri is not None:
                    self._store_opened = False
                    raise
                warnings.warn(f"{error}; searched exactly instead", stacklevel=4)
        return self._store

    def delete(self, paths: Iterable[str | Path]) -> int:
        """Deletes images from the index and from the disk: embeddings, metadata, copied images, and their vectors in
        the store. Either all of them are deleted or none.

        The name of a skipped image is deleted from the list of skipped images. The name of a scene stands for every
        person in it. The image files of the indexed folder remain; the next index run adds them again.

        Args:
            paths: paths relative to the indexed folder, as in `Match.path`, or absolute paths.

        Returns:
            The number of deleted entries, including names of skipped images.

        Raises:
            GalleryError: a path is not in the index, another process writes the index, or the store does not answer or
                is named by the index only.
        """
        paths = list(paths)
        with locked(self.path):
            self.refresh()
            rows, names = find_rows(self._index, paths)
            if rows or names:
                self.close()
                remove_images(self.path, {self.paths[row] for row in rows}, names, self._store_uri)
                self._open_index()
        return len(rows) + len(names)


def _load_processor(name: str) -> "RogleProcessor":
    from modeling_rogle.processing_rogle import RogleProcessor

    return RogleProcessor.from_pretrained(name)


__all__ = ["Gallery"]
