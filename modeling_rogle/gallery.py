"""Gallery: index a folder of pictures once, then search it with a description and see why each picture matched."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from .configuration_rogle import RogleConfig
from .folder import Picture, Skipped, decoded_batches, picture_files, shown
from .matching import TEMPLATE_LABELS, encode_with_templates, template_boxes
from .modeling_rogle import RogleModel
from .processing_rogle import RogleProcessor
from .sentences import split_sentences
from .store import SCHEMA, GalleryError, Store, StoreWriter, dequantise, quantise

RERANKED = 200  # how many of the best global scores meet late interaction


@dataclass(frozen=True)
class IndexReport:
    """What [`Gallery.build`] did: pictures indexed, pictures left out and why, other files, seconds."""

    path: Path
    images: int
    skipped: tuple[Skipped, ...]
    ignored: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class SentenceMatch:
    """The region of a picture that fits a sentence best: its label, its cosine (`score`) and its `box` x, y, w, h in
    pixels of the picture, None when the whole picture fits best. `start`, `end`: the sentence's offsets in the query.
    """

    sentence: str
    start: int
    end: int
    label: str
    box: tuple[float, float, float, float] | None
    score: float


@dataclass(frozen=True)
class Match:
    """A result. `path` is relative to the indexed folder, `file` absolute; `score` ranks, `global_score` is the cosine
    of query and picture; width and height in pixels of the upright picture (EXIF applied)."""

    rank: int
    path: str
    file: Path
    score: float
    global_score: float
    width: int
    height: int
    sentences: tuple[SentenceMatch, ...]


class Gallery:
    """An index opened for search; [`Gallery.build`] makes one, [`Gallery.open`] opens it."""

    def __init__(self, store: Store, model: RogleModel | str | Path | None, processor: RogleProcessor | None):
        self._store = store
        self._model, self._processor = model, processor
        if isinstance(model, RogleModel):
            self._check_model(model)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        model: RogleModel,
        processor: RogleProcessor,
        out: str | Path,
        batch_size: int = 32,
        progress: bool = True,
    ) -> IndexReport:
        """Indexes every picture under `folder` into the index folder `out`, replacing an index that stands there.

        Pictures that are truncated, too large, no pictures at all, or links out of the folder are left out and listed.

        Raises:
            FileNotFoundError: `folder` does not exist.
            GalleryError: nothing to index, `out` holds something that is not an index, or a model whose weights are
                broken.
        """
        started = time.perf_counter()
        folder, out = Path(folder), Path(out)
        if batch_size < 1:
            raise GalleryError(f"batch size must be at least 1, not {batch_size}")
        if not folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder")
        if not folder.is_dir():
            raise GalleryError(f"{folder}: not a folder")
        root = folder.resolve()
        files, skipped, ignored = picture_files(root)
        if not files and not skipped:
            others = f", only {ignored} other files" if ignored else ""
            raise GalleryError(f"{folder}: no pictures in this folder{others}")
        boxes = template_boxes()
        with (
            warnings.catch_warnings(),
            StoreWriter(out, model.config.projection_dim, len(boxes)) as writer,
            tqdm(total=len(files), unit=" images", desc="indexing", disable=not progress) as bar,
        ):
            # Pillow's own, about sizes and metadata: what matters is raised, and listed.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for pictures, failed in decoded_batches(root, files, batch_size, tuple(model.config.image_size)):
                skipped += failed
                if pictures:
                    images, regions = _encode_pictures(model, processor, pictures)
                    writer.append(_metadata(pictures), images, *quantise(regions))
                bar.update(len(pictures) + len(failed))
            if not writer.rows:
                first = f"{shown(skipped[0].path)}: {skipped[0].reason}"
                raise GalleryError(f"{folder}: none of {len(skipped)} pictures can be indexed ({first})")
            writer.publish(
                {
                    "folder": str(root),
                    "model": {"path": _model_path(model), "fingerprint": fingerprint(model)},
                    "template_boxes": boxes.astype(float).round(6).tolist(),
                    "template_labels": list(TEMPLATE_LABELS),
                    "ignored": ignored,
                    "skipped": [{"path": shown(item.path), "reason": item.reason} for item in skipped],
                }
            )
            images = writer.rows
        return IndexReport(out, images, tuple(skipped), ignored, time.perf_counter() - started)

    @classmethod
    def open(
        cls, path: str | Path, model: RogleModel | str | Path | None = None, processor: RogleProcessor | None = None
    ) -> "Gallery":
        """Opens an index. The model, an object or a folder, is by default the one that the index was made with; it is
        loaded when first needed.

        Raises:
            FileNotFoundError: `path` does not exist.
            GalleryError: not an index, of another version, incomplete, or made by another model than the one given.
        """
        return cls(Store(Path(path)), model, processor)

    def __len__(self) -> int:
        return len(self._store.paths)

    @property
    def folder(self) -> Path:
        """The indexed folder."""
        return Path(self._store.header["folder"])

    @property
    def paths(self) -> list[str]:
        """The indexed pictures, relative to the folder."""
        return self._store.paths

    def search(
        self, query: str, top_k: int = 10, local_weight: float | None = None, reranked: int = RERANKED
    ) -> list[Match]:
        """The pictures that fit a description best, best first.

        The cosine of the query with every picture is exact; then, among the best `reranked`, each sentence meets its
        best region: `score = (1 - w) * global + w * mean over sentences of the best region's cosine`.

        Args:
            query: a description of one or more sentences.
            top_k: how many results; fewer when the index holds fewer.
            local_weight: w in [0, 1]; by default the one in the model's configuration.

        Raises:
            GalleryError: an empty query, a number out of range, an index without images, another model, or one whose
                weights are broken.

        Warns:
            UserWarning: the query is longer than the model reads; says how many tokens were cut.
        """
        sentences = split_sentences(query)
        if not sentences:
            raise GalleryError('query: no words in it; describe a person, as in "a man in a red coat"')
        if top_k < 1:
            raise GalleryError(f"top-k must be at least 1, not {top_k}")
        if local_weight is not None and not 0.0 <= local_weight <= 1.0:
            raise GalleryError(f"local weight must lie in [0, 1], not {local_weight}")
        if not len(self):
            raise GalleryError(f"{self._store.path}: no image is left in this index")
        model, processor = self._loaded()
        weight = float(model.config.local_weight if local_weight is None else local_weight)
        embeds = _encode_query(model, processor, query.strip(), [text for text, _, _ in sentences])

        global_scores = self._store.global_embeds @ embeds[0]
        rows = np.argsort(-global_scores, kind="stable")[: max(reranked, top_k)]
        regions = dequantise(self._store.regions[rows], self._store.scales[rows])
        cosines = np.einsum("sd,ntd->nst", embeds[1:], regions)
        best = cosines.max(axis=2)
        scores = (1.0 - weight) * global_scores[rows] + weight * best.mean(axis=1)
        found = []
        for rank, i in enumerate(np.argsort(-scores, kind="stable")[:top_k], start=1):
            row = rows[i]
            width, height = self._store.sizes[row].tolist()
            path = self._store.paths[row]
            explained = self._explain(sentences, cosines[i], width, height)
            numbers = float(scores[i]), float(global_scores[row])
            found.append(Match(rank, path, self.folder / path, *numbers, width, height, explained))
        return found

    def delete(self, paths: Iterable[str | Path]) -> int:
        """Removes images from the index, embeddings and metadata, by rewriting it without them: all of them or none.
        The name of a picture that was skipped, which the index lists too, is removed in the same way.

        The picture files are not touched: one that stays in the folder returns when the folder is indexed again.

        Args:
            paths: relative to the indexed folder, as in `Match.path`, or absolute.

        Returns:
            how many entries were removed, images and names of skipped pictures.

        Raises:
            GalleryError: a path is not in the index.
        """
        row_of = {path: row for row, path in enumerate(self.paths)}
        listed = {item["path"] for item in self._store.header["skipped"]}
        rows, names = set(), set()
        for path in paths:
            written = self.folder / path
            # The folder may have been named through a link; a picture that is a link itself keeps its name.
            for place in (written, Path(os.path.realpath(written.parent), written.name)):
                name = place.relative_to(self.folder).as_posix() if place.is_relative_to(self.folder) else None
                if name in row_of:
                    rows.add(row_of[name])
                    break
                if name is not None and shown(name) in listed:
                    names.add(shown(name))
                    break
            else:
                raise GalleryError(f"{self._store.path}: {shown(path)} is not in this index; nothing was deleted")
        if rows or names:
            self._store = self._store.without(rows, names)
        return len(rows) + len(names)

    def _loaded(self) -> tuple[RogleModel, RogleProcessor]:
        if not isinstance(self._model, RogleModel):
            name = str(self._model or self._store.header["model"].get("path") or "")
            if not name:
                raise GalleryError(f"{self._store.path}: made by a model that was never saved; name a model")
            if os.path.isabs(name) and not Path(name).is_dir():
                raise GalleryError(f"{self._store.path}: model {name} is not there; name the model's folder")
            model, processor = load_model(name)
            self._check_model(model)
            self._model, self._processor = model, self._processor or processor
        if self._processor is None:
            self._processor = RogleProcessor.from_pretrained(self._model.name_or_path)
        return self._model, self._processor

    def _check_model(self, model: RogleModel) -> None:
        made_by = self._store.header["model"]
        if fingerprint(model) != made_by.get("fingerprint"):
            name = made_by.get("path") or "one that was never saved"
            raise GalleryError(
                f"{self._store.path}: made by another model ({name}, {self._store.header['dimension']} numbers an "
                "image); search with that one, or index the folder again"
            )

    def _explain(
        self, sentences: Sequence[tuple[str, int, int]], cosines: np.ndarray, width: int, height: int
    ) -> tuple[SentenceMatch, ...]:
        explained = []
        for (text, start, end), row in zip(sentences, cosines, strict=True):  # row: one cosine a region
            region = int(row.argmax())
            x0, y0, x1, y1 = self._store.boxes[region].tolist()
            # The last template is the whole picture: a frame around everything would explain nothing.
            whole = region == len(row) - 1
            corners = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
            box = None if whole else tuple(round(value, 2) for value in corners)
            label = self._store.header["template_labels"][region]
            explained.append(SentenceMatch(text, start, end, label, box, float(row[region])))
        return tuple(explained)


def load_model(name: str | Path) -> tuple[RogleModel, RogleProcessor]:
    """Model in fp32, on the GPU when there is one, and its processor, from a folder or a Hub name.

    Raises:
        GalleryError: not a Rogle or CLIP model, a configuration out of range, damaged weights, or a tokenizer of
            another model.
        OSError: no weights, configuration or processor there.
    """
    name = str(name)
    kind = RogleConfig.get_config_dict(name)[0].get("model_type")
    if kind not in ("rogle", "clip"):
        raise GalleryError(f"{name}: model_type {kind!r} in config.json, only 'rogle' and 'clip' can search persons")
    bars = is_progress_bar_enabled()
    disable_progress_bar()  # one for the weights of every search would say nothing
    try:
        model = RogleModel.from_pretrained(name, dtype=torch.float32)
    except StrictDataclassError as error:
        raise GalleryError(f"{name}: config.json: {str(error.__cause__ or error).splitlines()[0]}") from error
    except (SafetensorError, RuntimeError) as error:
        raise GalleryError(f"{name}: weights cannot be read ({str(error).splitlines()[0]})") from error
    finally:
        if bars:
            enable_progress_bar()
    model.name_or_path = name  # CLIP weights come through another class, which forgets it
    processor = RogleProcessor.from_pretrained(name)
    # Without its vocabulary file a tokenizer loads empty, and every query would mean the same. 2: old CLIP configs.
    end, ends = processor.tokenizer.eos_token_id, model.config.text_config.eos_token_id
    if len(processor.tokenizer) > model.config.text_config.vocab_size or (end != ends and ends != 2):
        raise GalleryError(f"{name}: the tokenizer is not this model's (end token {end}, config.json says {ends})")
    return model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"), processor


def fingerprint(model: RogleModel) -> str:
    """sha256 over the weights and the fields that decide what they compute; equal for a saved and reloaded model.

    `local_weight` is left out: it changes how scores are joined, not what is stored.
    """
    config, vision, text = model.config, model.config.vision_config, model.config.text_config
    towers = [(part.num_attention_heads, part.hidden_act, part.layer_norm_eps) for part in (vision, text)]
    fields = [list(config.image_size), config.region_feature, vision.patch_size, text.eos_token_id, towers]
    digest = hashlib.sha256(json.dumps(fields).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _model_path(model: RogleModel) -> str:
    name = model.name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _metadata(pictures: Sequence[Picture]) -> pa.Table:
    return pa.table({name: [getattr(picture, name) for picture in pictures] for name in SCHEMA.names}, schema=SCHEMA)


def _encode_pictures(
    model: RogleModel, processor: RogleProcessor, pictures: Sequence[Picture]
) -> tuple[np.ndarray, np.ndarray]:
    images, regions, _ = encode_with_templates(model, processor, [picture.image for picture in pictures])
    return _finite(images), _finite(regions)


def _finite(embeds: torch.Tensor) -> np.ndarray:
    if not bool(embeds.isfinite().all()):  # as int8 it would look like any other region
        raise GalleryError("the model gives embeddings that are not finite; its weights are broken")
    return embeds.numpy()


def _encode_query(model: RogleModel, processor: RogleProcessor, query: str, sentences: Sequence[str]) -> np.ndarray:
    """`[1 + S, D]`: the query, then its sentences."""
    texts = [query, *sentences]
    limit = min(processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    tokens = [len(ids) for ids in processor.tokenizer(texts, verbose=False)["input_ids"]]
    if tokens[0] > limit:
        cut = sum(count > limit for count in tokens[1:])
        warnings.warn(
            f"query: {tokens[0]} tokens, the model reads {limit}: the last {tokens[0] - limit} were cut from it; "
            f"{len(sentences) - cut} of {len(sentences)} sentences are still read in full, each by itself",
            stacklevel=3,
        )
    encoded = processor(text=texts, return_tensors="pt", max_length=limit)
    return _finite(model.encode_texts(encoded["input_ids"].to(model.device)).cpu())


__all__ = ["Gallery", "GalleryError", "IndexReport", "Match", "SentenceMatch", "fingerprint", "load_model"]
