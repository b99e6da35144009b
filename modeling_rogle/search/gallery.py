"""Gallery: index a folder of images once, then search it with a description and see why each image matched."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from modeling_rogle.index.deletion import find_rows, remove_images
from modeling_rogle.index.manifest import locked, read_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.vector_store import MIN_RECALL, VectorStore, nearest, open_store, resolve_store
from modeling_rogle.indexing.build_index import IndexReport, build_index
from modeling_rogle.indexing.person_detector import Detector
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import fingerprint, load_model
from modeling_rogle.late_interaction import late_interaction, rerank
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.search.calibration import DEPTH, FEWEST, Calibration
from modeling_rogle.search.filters import parse_where
from modeling_rogle.search.query import Query, encode_query
from modeling_rogle.search.query_checks import negated_words, negation_warning, unread_script
from modeling_rogle.search.results import Match, Matches, SentenceMatch, as_matches

RERANKED = 200  # how many of the best global scores meet late interaction
BACKGROUND = 20_000  # images that a query's own distribution of scores is read from
FEWEST_FILTERED = 100  # under which a filter says too little about that distribution
FAR = 10  # times the gallery sizes that a calibration was fitted on, beyond which it warns
_ROWS_AT_ONCE = 4096


class Gallery:
    """An index opened for search; [`Gallery.build`] makes one, [`Gallery.open`] opens it."""

    def __init__(
        self,
        path: Path,
        model: RogleModel | str | Path | None = None,
        processor: RogleProcessor | None = None,
        store: str | None = None,
    ):
        self.path = Path(path)
        self._model, self._processor, self._asked_store = model, processor, store
        self._open_index()
        if isinstance(model, RogleModel):
            self._check_model(model)

    @classmethod
    def build(
        cls,
        source: Any,
        model: RogleModel,
        processor: RogleProcessor,
        out: str | Path,
        batch_size: int = 32,
        progress: bool = True,
        *,
        append: bool = False,
        detector: str | Path | Detector | None = None,
        workers: int | None = None,
        precision: str | None = None,
        store: str | None = None,
    ) -> IndexReport:
        """Makes the index folder `out` the index of `source`, from nothing or from what stands there.

        What is indexed already and has not changed is kept, what changed is encoded anew, what is gone is dropped. A
        run that was killed goes on where it was. Images that are truncated, too large, no images at all, or links
        out of the folder are left out and listed. An index of another model, folder or detector is replaced, once the
        new one is whole.

        Args:
            source: a folder, a glob, a folder of a data set, or rows; see [`find_source`].
            batch_size: images a forward.
            append: keep what is indexed and not in `source`, which must then lie inside the indexed folder; the
                precision is the index's own, and an index of another model or detector, or a damaged one, is an error.
            detector: an object-detection model of transformers, by folder or Hub name, where the images are full
                scenes: each person found becomes an image of the index.
            workers: processes that decode, by default none on the CPU (threads do) and up to 8 beside a GPU.
            precision: `float32` (default) or `bfloat16`, of the global embeddings on the disk.
            store: a store beside the index, see [`open_store`]; by default the one it has, `exact` for none.

        Raises:
            FileNotFoundError: `source` does not exist.
            GalleryError: nothing to index, `out` holds something that is not an index or is being written by another
                process, a model whose weights are broken, a store that does not answer.

        Warns:
            UserWarning: the index that is appended to has another precision than the one asked for; the store does not
                pay, or loses too much.
        """
        return build_index(
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

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: RogleModel | str | Path | None = None,
        processor: RogleProcessor | None = None,
        *,
        store: str | None = None,
    ) -> "Gallery":
        """Opens an index. The model, an object or a folder, is by default the one that the index was made with; it is
        loaded when first needed. `store`: the one to look up in, by default the index's own; `exact` for none.

        Raises:
            FileNotFoundError: `path` does not exist.
            GalleryError: not an index, of another version, incomplete, made by another model than the one given, or a
                store that it was never filled into.
        """
        return cls(Path(path), model, processor, resolve_store(store))

    def _open_index(self) -> None:
        self._index = Index(self.path)
        self._store: VectorStore | None = None
        self._store_opened = False
        self._sample: tuple[np.ndarray, np.ndarray] | None = None
        self._calibration: tuple[Calibration | None] | None = None
        known = self._index.header.get("store")
        if self._asked_store not in (None, "exact") and (known or {}).get("uri") != self._asked_store:
            raise GalleryError(
                f"{self.path}: not filled into store {self._asked_store!r}; `rogle index ... --store` does that"
            )

    def refresh(self) -> bool:
        """Opens the index anew if another process changed it since; whether it did."""
        if read_manifest(self.path) == self._index.header:
            return False
        self.close()
        self._open_index()
        return True

    def close(self) -> None:
        """Lets go of the store; a local Milvus file is held by one process at a time."""
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
        """The indexed images, relative to the folder."""
        return self._index.paths

    @property
    def table(self) -> pa.Table:
        """What is known of each image, in the order of `paths`: the columns of `shards.SCHEMA`, then the user's."""
        return self._index.table

    @property
    def schema(self) -> pa.Schema:
        """The columns that `where` can speak of."""
        return self._index.table.schema

    @property
    def header(self) -> dict[str, Any]:
        """The manifest: model, indexed folder, skipped images."""
        return self._index.header

    @property
    def fingerprint(self) -> str:
        """Of the model that made the index; see [`fingerprint`]."""
        return str(self._index.header["model"].get("fingerprint"))

    @property
    def complete(self) -> bool:
        """False while an indexing that was begun is not finished."""
        return bool(self._index.header["complete"])

    def model(self) -> RogleModel:
        """The model, loaded when first needed. Raises as [`Gallery.search`] does."""
        return self._loaded()[0]

    def processor(self) -> RogleProcessor:
        """The model's processor."""
        return self._loaded()[1]

    def encode_query(self, query: str = "", image: str | Path | Image.Image | None = None) -> Query:
        """A description, an image or both as embeddings; see [`query.encode_query`]."""
        return encode_query(*self._loaded(), query, image)

    def encode_gallery(self, rows: np.ndarray | None = None) -> np.ndarray:
        """float32 `[n, D]` unit vectors of the indexed images (of some rows, or of all), in memory."""
        return self._index.global_rows(rows)

    def similarity(
        self, query: str | Query, local_weight: float | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """The final score of every image, not only of the best: float32 `[N]` in the order of `paths`, or of `rows`.

        Raises:
            GalleryError: as [`Gallery.search`].
        """
        query = self.encode_query(query) if isinstance(query, str) else query
        weight = self._weight(local_weight)
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
    ) -> Matches:
        """The images that fit a description best, best first.

        The cosine of the query with every image comes first; then, among the best `reranked`, each sentence meets its
        best region: `score = (1 - w) * global + w * mean over sentences of the best region's cosine`. The others follow
        behind these with their global score, and in its order, so that `top_k` never changes who is before whom.

        With a calibration a description's results have probabilities; none where an image is asked for too, in an
        index of less than 20 images, and for results that did not meet late interaction.

        Args:
            query: a description of one or more sentences; may be empty beside an image.
            top_k: how many results; fewer when the index holds fewer, or fewer pass the filter.
            local_weight: w in [0, 1]; by default the one in the model's configuration.
            reranked: how many meet late interaction; 0 for none.
            image: an image of the person, alone or beside the description (the mean of both is looked for).
            where: a filter over `table`'s columns, as `camera = 'c3' and time > '2026-01-01'`, or a pyarrow expression.

        Returns:
            [`Matches`]; empty if nothing passes the filter.

        Raises:
            GalleryError: an empty query, a number out of range, a filter that cannot be read, an index without images,
                another model, or one whose weights are broken.

        Warns:
            UserWarning: the query is longer than the model reads, denies something or is in a script that the tokenizer
                does not know; the index is unfinished; the store could not be asked; the calibration is of another
                model or local weight, or of far smaller or larger galleries.
        """
        if top_k < 1:
            raise GalleryError(f"top-k must be at least 1, not {top_k}")
        if reranked < 0:
            raise GalleryError(f"reranked must be at least 0, not {reranked}")
        if local_weight is not None and not 0.0 <= local_weight <= 1.0:
            raise GalleryError(f"local weight must lie in [0, 1], not {local_weight}")
        rows = self._passing(where)
        if not len(self):
            raise GalleryError(f"{self.path}: no image is left in this index")
        asked = self.encode_query(query, image)
        self._warn(asked.text)
        weight = self._weight(local_weight)
        count = max(reranked, top_k, DEPTH)
        known = self._index.header.get("store") or {}
        upto, filtered = known.get("upto", 0), known.get("filtered", 1.0)
        candidates, global_scores = nearest(self._index, asked.embed, count, rows, self._opened_store(), upto, filtered)
        cosines = [np.zeros((0, len(asked.sentences), len(self._index.boxes)), dtype=np.float32)]
        for start in range(0, len(candidates), _ROWS_AT_ONCE):  # their regions as float32 all at once fill the memory
            part = candidates[start : start + _ROWS_AT_ONCE]
            cosines.append(self._index.region_cosines(part, asked.sentence_embeds))
        met_all = len(candidates) if weight == 0 or not asked.sentences else reranked  # then global scores are final
        met, order = rerank(global_scores, np.concatenate(cosines), weight, met_all)
        found = as_matches(self._index, asked, met, candidates, global_scores, order[:top_k])
        if image is not None:  # calibrations are fitted to descriptions
            return found
        judged = order[: min(max(top_k, DEPTH), met_all)]
        return self._calibrated(found, met.score[judged], global_scores[judged], asked, rows, weight)

    def _passing(self, where: str | pc.Expression | None) -> np.ndarray | None:
        if where is None:
            return None
        if isinstance(where, str):
            try:
                where = parse_where(where, self.schema)
            except ValueError as error:
                raise GalleryError(str(error)) from error
        table = self.table.append_column("\0row", pa.array(np.arange(len(self))))
        try:
            return table.filter(where).column("\0row").to_numpy()
        except pa.ArrowException as error:
            raise GalleryError(f"where: {str(error).splitlines()[0]}") from error

    def _weight(self, local_weight: float | None) -> float:
        return float(self._loaded()[0].config.local_weight if local_weight is None else local_weight)

    def _warn(self, query: str) -> None:
        denied = negated_words(query)
        if denied:
            warnings.warn(negation_warning(denied), stacklevel=3)
        tokens = len(self.processor().tokenizer(query.strip(), verbose=False)["input_ids"]) - 2
        line = unread_script(query.strip(), tokens)
        if line:
            warnings.warn(line, stacklevel=3)
        if not self.complete:
            warnings.warn(
                f"{self.path}: indexing is not finished, {len(self)} images are searched; run `rogle index` again",
                stacklevel=3,
            )

    def _opened_store(self) -> VectorStore | None:
        """The store to look up in; None for the exact search, with one warning where that is not as was asked."""
        known = self._index.header.get("store")
        if known is None or self._asked_store == "exact" or not known["upto"]:
            return None
        if not self._store_opened:
            self._store_opened = True
            if known.get("recall", 1.0) < MIN_RECALL:
                share = f"{100 * known['recall']:.1f} %"
                warnings.warn(
                    f"store {known['uri']}: finds {share} of the best ten; searched exactly instead", stacklevel=3
                )
                return None
            try:
                self._store = open_store(known["uri"], self.path, self._index.header)
            except GalleryError as error:
                if self._asked_store is not None:
                    self._store_opened = False
                    raise
                warnings.warn(f"{error}; searched exactly instead", stacklevel=3)
        return self._store

    def _calibrated(
        self,
        found: Matches,
        scores: np.ndarray,
        global_scores: np.ndarray,
        asked: Query,
        rows: np.ndarray | None,
        weight: float,
    ) -> Matches:
        calibration = self._loaded_calibration()
        if calibration is None or not found or len(self) < FEWEST:
            return found
        fitted, searched = calibration.local_weight, len(self) if rows is None else len(rows)
        reason = None
        if abs(fitted - weight) > 1e-6:
            reason = f"fitted with local weight {fitted:g}, not {weight:g}"
        elif len(scores) < min(DEPTH, searched):
            reason = f"reads the best {DEPTH} results, only {len(scores)} met late interaction"
        if reason:
            warnings.warn(f"calibration.json: {reason}; no probabilities", stacklevel=3)
            return found
        least, most = calibration.gallery_sizes
        if searched * FAR < least or searched > most * FAR:
            warnings.warn(
                f"calibration.json: fitted on galleries of {least:g} to {most:g} images, {searched} are searched; "
                "probabilities may be off",
                stacklevel=3,
            )
        background = self._background(rows) @ asked.embed
        sure = calibration.probability(scores, background, searched, global_scores)
        matches = Matches(
            replace(match, probability=float(sure[n]) if n < len(sure) else None) for n, match in enumerate(found)
        )
        matches.nobody = calibration.nobody(scores, background, searched, global_scores)
        matches.false_alarm_rate = calibration.false_alarm_rate
        return matches

    def _loaded_calibration(self) -> Calibration | None:
        if self._calibration is None:
            found = Calibration.load(self.path) if self.path.is_dir() else None
            place = self._loaded()[0].name_or_path
            if found is None and place and Path(place).is_dir():
                found = Calibration.load(place)
            if found is not None and found.fingerprint != self.fingerprint:
                warnings.warn("calibration.json: fitted to another model; no probabilities", stacklevel=4)
                found = None
            self._calibration = (found,)
        return self._calibration[0]

    def _background(self, rows: np.ndarray | None) -> np.ndarray:
        """`[B, D]`: a fixed random sample of what is searched; of everything where a filter is narrow."""
        if rows is not None and len(rows) >= FEWEST_FILTERED:
            return self._index.global_rows(_sampled(rows))
        if self._sample is None:
            sample = _sampled(np.arange(len(self)))
            self._sample = (sample, self._index.global_rows(sample))
        return self._sample[1]

    def delete(self, paths: Iterable[str | Path]) -> int:
        """Removes images from the index: embeddings, metadata, the index's own copies of their images and what its
        store holds, off the disk; all of them or none. The name of an image that was skipped, which the index lists
        too, is removed in the same way. A scene's name stands for every person in it.

        The image files of the folder are not touched: one that stays there returns when the folder is indexed again.

        Args:
            paths: relative to the indexed folder, as in `Match.path`, or absolute.

        Returns:
            how many entries were removed, images and names of skipped images.

        Raises:
            GalleryError: a path is not in the index, another process is writing it, or its store does not answer.
        """
        paths = list(paths)
        with locked(self.path):
            self.refresh()
            rows, names = find_rows(self._index, paths)
            if rows or names:
                self.close()
                remove_images(self.path, {self.paths[row] for row in rows}, names)
                self._open_index()
        return len(rows) + len(names)

    def _loaded(self) -> tuple[RogleModel, RogleProcessor]:
        if not isinstance(self._model, RogleModel):
            name = str(self._model or self._index.header["model"].get("path") or "")
            if not name:
                raise GalleryError(f"{self.path}: made by a model that was never saved; name a model")
            if os.path.isabs(name) and not Path(name).is_dir():
                raise GalleryError(f"{self.path}: model {name} is not there; name the model's folder")
            model, processor = load_model(name)
            self._check_model(model)
            self._model, self._processor = model, self._processor or processor
        if self._processor is None:
            self._processor = RogleProcessor.from_pretrained(self._model.name_or_path)
        return self._model, self._processor

    def _check_model(self, model: RogleModel) -> None:
        made_by = self._index.header["model"]
        if fingerprint(model) != self.fingerprint:
            name = made_by.get("path") or "one that was never saved"
            raise GalleryError(
                f"{self.path}: made by another model ({name}, {self._index.header['dimension']} numbers an "
                "image); search with that one, or index the folder again"
            )


def _sampled(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= BACKGROUND:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, BACKGROUND, replace=False))


__all__ = [
    "Gallery",
    "GalleryError",
    "IndexReport",
    "Match",
    "Matches",
    "Query",
    "SentenceMatch",
    "fingerprint",
    "load_model",
]
