"""Images -> index: what is new or changed is encoded and committed every few seconds, what is gone is dropped.

A killed run leaves everything that it had reported done; the next one goes on from there. An index of another model,
folder or detector is replaced only when its successor is whole.
"""

import hashlib
import os
import secrets
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from modeling_rogle.index.index_writer import SMALL_SHARD, IndexWriter, write_table
from modeling_rogle.index.manifest import (
    COPIES_FOLDER,
    COPY_COLUMN,
    FORMAT,
    MANIFEST,
    PRECISIONS,
    STAGED_MANIFEST,
    VERSION,
    check_index_folder,
    locked,
    new_name,
    read_manifest,
    remove_unreferenced,
)
from modeling_rogle.index.shards import MAX_REGIONS, Index, read_parquet
from modeling_rogle.index.store_sync import PROBES, clear_store, delete_from_store, sync_store
from modeling_rogle.index.vector_store import check_store, resolve_store
from modeling_rogle.indexing.decoding import Preparer, Ready, as_jpeg, default_workers, prepared_batches
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import Item, Source, find_source
from modeling_rogle.indexing.person_detector import Detector
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import TorchEncoder, encode_pixels, with_fast_dtype
from modeling_rogle.inference.image_io import printable_path
from modeling_rogle.inference.loading import fingerprint, model_path
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes

COMMIT_SECONDS = 5.0  # what a kill can lose, at most
SCENES_AT_ONCE = 4  # decoded whole, up to 240 MB each


@dataclass(frozen=True)
class IndexReport:
    """What [`build_index`] did. images: in the index now, of which `added` were encoded and `kept` stood there before;
    removed: rows that were dropped, or encoded anew; skipped: images left out and why; ignored: other files."""

    path: Path
    images: int
    added: int
    kept: int
    removed: int
    skipped: tuple[Skipped, ...]
    ignored: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.added / max(self.seconds, 1e-9)


def build_index(
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
    """Makes `out` the index of `source`; see [`Gallery.build`]."""
    started = time.perf_counter()
    out, store = Path(out), resolve_store(store)
    if store not in (None, "exact"):
        check_store(store, out, model.config.projection_dim)  # before the images are encoded, not after
    if batch_size < 1:
        raise GalleryError(f"batch size must be at least 1, not {batch_size}")
    if workers is not None and workers < 0:
        raise GalleryError(f"workers must be at least 0, not {workers}")
    if precision is not None and precision not in PRECISIONS:
        raise GalleryError(f"precision must be {' or '.join(PRECISIONS)}, not {precision!r}")
    check_index_folder(out)
    fresh = _fresh_header(model, precision or PRECISIONS[0])
    named = os.path.abspath(source) if isinstance(source, str | Path) else None
    source, finder = _source_and_finder(source, out, fresh, append, detector)
    if precision not in (None, fresh["precision"]):
        kept = f"its embeddings are {fresh['precision']}, and so is what is appended, not {precision}"
        warnings.warn(f"{out}: {kept}", stacklevel=3)
    source = _outside(source, out)
    part = (named or _digest(source)) if append else None
    fresh |= {"folder": source.root, "detector": finder.name if finder else None, "files": source.rows is None}
    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out), warnings.catch_warnings():
            # Pillow's own, about sizes and metadata: what matters is raised, and listed.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            build = _Build(source, model, processor, out, fresh, finder, append, part)
            build.drop_what_changed(append)
            build.encode(batch_size, progress, default_workers(model.device) if workers is None else workers)
            counts = build.publish(append)
    finally:
        if created and not (out / MANIFEST).exists():  # nothing was committed
            shutil.rmtree(out, ignore_errors=True)
    seconds = time.perf_counter() - started
    store = store or (read_manifest(out).get("store") or {}).get("uri")
    if store:
        encoder = TorchEncoder(model, processor)
        with locked(out):
            sync_store(out, store, lambda: encoder.encode_texts(PROBES), progress)
    return IndexReport(out, *counts, tuple(build.skipped), source.ignored, seconds)


def _fresh_header(model: RogleModel, precision: str) -> dict[str, Any]:
    boxes = template_boxes()
    if len(boxes) > MAX_REGIONS:
        raise GalleryError(f"{len(boxes)} regions an image, an index holds at most {MAX_REGIONS}")
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {"path": model_path(model), "fingerprint": fingerprint(model)},
        "precision": precision,
        "dimension": model.config.projection_dim,
        "template_boxes": boxes.astype(float).round(6).tolist(),
        "template_labels": list(TEMPLATE_LABELS),
        "collection": new_name("rogle").replace("-", "_"),
        "images": 0,
        "shards": [],
        "next_id": 0,
        "complete": False,
        "appending": None,  # the only part that an unfinished index lacks
        "metadata": None,
        "store": None,
        "ignored": 0,
        "skipped": [],
    }


def _source_and_finder(
    source: Any, out: Path, fresh: dict[str, Any], append: bool, detector: str | Path | Detector | None
) -> tuple[Source, Detector | None]:
    within = None
    if append:
        old = read_manifest(out)
        if old["model"]["fingerprint"] != fresh["model"]["fingerprint"]:
            raise GalleryError(f"{out}: made by another model ({old['model'].get('path')}); nothing can be appended")
        detector = detector or old.get("detector")
        fresh["precision"] = old["precision"]
        within = Path(old["folder"]) if old["files"] else None
    finder = detector if isinstance(detector, Detector) or detector is None else Detector(detector)
    found = find_source(source, within)
    if append and old["files"] != (found.rows is None):
        raise GalleryError(f"{out}: holds {'files' if old['files'] else 'a data set'}; what is appended is not")
    if append and not old["files"]:
        found = Source(old["folder"], *(getattr(found, n) for n in ("items", "skipped", "ignored", "metadata", "rows")))
    return found, finder


def _outside(source: Source, out: Path) -> Source:
    """Without the index's own images, where it lies in the indexed folder: one that was killed before its first
    commit has no manifest yet that tells the folder to be an index."""
    if source.rows is not None or not out.resolve().is_relative_to(source.root):
        return source
    own = out.resolve().relative_to(source.root).as_posix() + "/"
    parts = {name: [x for x in getattr(source, name) if not x.path.startswith(own)] for name in ("items", "skipped")}
    return replace(source, **parts)


def _digest(source: Source) -> str:
    """Names rows that have no path of their own, by what they are called."""
    return "rows " + hashlib.sha256("\n".join(sorted(item.path for item in source.items)).encode()).hexdigest()


class _Build:
    """One run over a source: which manifest it goes on from, what is left to do, and what it did."""

    def __init__(
        self,
        source: Source,
        model: RogleModel,
        processor: RogleProcessor,
        out: Path,
        fresh: dict[str, Any],
        detector: Detector | None,
        append: bool,
        part: str | None,
    ):
        self.source, self.model, self.processor, self.out, self.detector = source, model, processor, out, detector
        self.skipped = list(source.skipped)
        self.added = self.removed = self.done = 0
        header, self.name = fresh, MANIFEST
        try:
            header = self._going_on(MANIFEST, fresh)
        except (GalleryError, FileNotFoundError) as error:
            if append:  # all that is not in the source would be lost
                reason = f"nothing can be appended ({error}); index the whole folder without --append"
                raise GalleryError(f"{out}: {reason}") from error
            # Of another model, of an older format or damaged: it stays until this one is whole.
            if (out / MANIFEST).exists():
                self.name = STAGED_MANIFEST
                try:
                    header = self._going_on(STAGED_MANIFEST, fresh)
                except (GalleryError, FileNotFoundError):
                    header = fresh
        self.before = Index(out, self.name) if header is not fresh else None
        # What an unfinished index still lacks is not in the part that is appended, unless it lacks just that part.
        self.whole = not append or header["complete"] or (part is not None and header.get("appending") == part)
        self.unfinished = {"complete": False, "appending": part if self.whole else None}
        self.writer = IndexWriter(out, header, self.name)
        remove_unreferenced(out)
        self._remove_orphans()

    def _going_on(self, name: str, fresh: dict[str, Any]) -> dict[str, Any]:
        header = read_manifest(self.out, name)
        same = ("folder", "detector", "files", "precision", "dimension", "template_boxes")
        if header["model"]["fingerprint"] != fresh["model"]["fingerprint"]:
            raise GalleryError("made by another model")
        for key in same:
            if header.get(key) != fresh[key]:
                raise GalleryError(f"{key.replace('_', ' ')} {_short(header.get(key))}, not {_short(fresh[key])}")
        Index(self.out, name)  # a damaged one is none to go on from
        return header

    def _remove_orphans(self) -> None:
        held = {name for name in (MANIFEST, STAGED_MANIFEST) if (self.out / name).exists()}
        known: set[str | None] = set()
        for name in held:
            try:
                known.update(Index(self.out, name).table.column(COPY_COLUMN).to_pylist())
            except (GalleryError, OSError):
                continue
        if (self.out / COPIES_FOLDER).is_dir():
            for name in os.listdir(self.out / COPIES_FOLDER):
                if name not in known:
                    (self.out / COPIES_FOLDER / name).unlink()

    def drop_what_changed(self, append: bool) -> None:
        """Finds what is left to do, and takes out what is gone or changed."""
        rows: dict[str, list[int]] = defaultdict(list)
        if self.before is not None:
            table = self.before.table
            for number, key in enumerate(pc.coalesce(table.column("scene"), table.column("path")).to_pylist()):
                rows[key].append(number)
            times = table.column("mtime").cast(pa.int64()).to_pylist()
            facts = list(zip(table.column("bytes").to_pylist(), times, table.column("sha256").to_pylist(), strict=True))
        gone: list[int] = []
        self.todo: list[Item] = []
        for item in self.source.items:
            found = rows.pop(item.path, None)
            if found is None or not self._unchanged(item, *facts[found[0]]):
                gone += found or []
                self.todo.append(item)
        if not append:
            gone += [number for numbers in rows.values() for number in numbers]
        self.kept = (len(self.before) if self.before is not None else 0) - len(gone)
        fields = {"metadata": self._metadata(append)}
        self.removed = len(gone)
        if self.before is None:
            self.writer.header |= fields
        elif gone or fields["metadata"] != self.writer.header["metadata"]:
            ids = self.before.ids[gone]
            if self.writer.header.get("store"):
                fields["store"] = delete_from_store(self.out, self.writer.header, ids)
            self.writer.remove(ids)
            self.writer.commit(**fields, **self.unfinished)

    def _unchanged(self, item: Item, size: int, mtime: int | None, digest: str) -> bool:
        if item.mtime is not None and item.bytes != size:
            return False
        return item.mtime is not None and item.mtime == mtime or self.source.digest(item) == digest

    def _metadata(self, append: bool) -> str | None:
        """The file of the user's columns, as they are now; the one that stands there if nothing changed."""
        name, new = self.writer.header["metadata"], self.source.metadata
        old = None if name is None else read_parquet(self.out / name)
        if append and old is not None:
            if new is not None:
                rest = old.filter(pc.invert(pc.is_in(old.column("path"), value_set=new.column("path"))))
                try:
                    new = pa.concat_tables([rest, new], promote_options="permissive")
                except pa.ArrowException as error:
                    reason = str(error).split("\n")[0]
                    raise GalleryError(f"{self.source.root}: metadata do not fit the index's ({reason})") from error
            else:
                new = old
        if new is None:
            return None
        if old is not None and old.equals(new.combine_chunks()):
            return name
        name = new_name("metadata", ".parquet")
        write_table(new.combine_chunks(), self.out / name)
        return name

    def encode(self, batch_size: int, progress: bool, workers: int) -> None:
        """Decodes and encodes what is left; the bar counts what is committed, nothing else."""
        config = self.model.config
        preparer = Preparer(self.source, self.processor, tuple(config.image_size), self.detector is not None, self.todo)
        size = min(batch_size, SCENES_AT_ONCE) if self.detector is not None else batch_size
        last = time.monotonic()
        self.encoder = with_fast_dtype(self.model)
        with tqdm(total=len(self.todo), unit=" images", desc="indexing", disable=not progress) as bar:
            waiting = 0
            for ready, failed, count in prepared_batches(preparer, size, workers):
                self.skipped += failed
                waiting += count
                if ready:
                    self._add(ready, preparer, batch_size)
                late = time.monotonic() - last >= COMMIT_SECONDS
                if self.writer.pending_rows and (late or self.writer.pending_rows >= SMALL_SHARD):
                    self._commit()
                    bar.update(waiting)
                    waiting, last = 0, time.monotonic()
            if self.writer.pending_rows:
                self._commit()
            bar.update(waiting)

    def _commit(self) -> None:
        self.writer.commit(**self.unfinished, skipped=_listed(self.skipped), ignored=self.source.ignored)

    def _add(self, ready: list[Ready], preparer: Preparer, batch_size: int) -> None:
        if self.detector is not None:
            ready = self._persons(ready, preparer)
        for start in range(0, len(ready), batch_size):
            part = ready[start : start + batch_size]
            images, regions = encode_pixels(self.encoder, torch.stack([one.pixels for one in part]))
            for one in part:
                if one.copy is not None:
                    name = secrets.token_hex(16) + ".jpg"  # none that another index, which still answers, has
                    (self.out / COPIES_FOLDER).mkdir(exist_ok=True)
                    (self.out / COPIES_FOLDER / name).write_bytes(one.copy)
                    one.facts[COPY_COLUMN] = name
            self.writer.add([one.facts for one in part], images, regions)
            self.added += len(part)

    def _persons(self, scenes: list[Ready], preparer: Preparer) -> list[Ready]:
        """The persons of decoded scenes, each an item of its own."""
        assert self.detector is not None
        found = []
        for scene, persons in zip(scenes, self.detector([one.image for one in scenes]), strict=True):
            if not persons:
                self.skipped.append(Skipped(scene.item.path, "no person found"))
            for number, person in enumerate(persons):
                x, y, width, height = person.box
                crop = scene.image.crop((x, y, x + width, y + height))
                copy = as_jpeg(crop, crop.size, preparer.least)
                facts = {
                    **scene.facts,
                    "path": f"{scene.item.path}#{number}",
                    "width": width,
                    "height": height,
                    "scene": scene.item.path,
                    "box": [float(value) for value in person.box],
                }
                found.append(Ready(scene.item, facts, preparer.pixels([crop])[0], copy=copy))
        return found

    def publish(self, append: bool) -> tuple[int, int, int, int]:
        """The last commit, and the end of the index that was replaced. Gives rows, added, kept, removed."""
        rows = self.kept + self.added
        if not rows and self.skipped:
            first = f"{printable_path(self.skipped[0].path)}: {self.skipped[0].reason}"
            self.out.joinpath(STAGED_MANIFEST).unlink(missing_ok=True)
            remove_unreferenced(self.out)
            raise GalleryError(f"{self.source.root}: none of {len(self.skipped)} images can be indexed ({first})")
        skipped = _listed(self.skipped)
        if append:
            names = {item["path"] for item in skipped} | {item.path for item in self.source.items}
            skipped = [item for item in self.writer.header["skipped"] if item["path"] not in names] + skipped
        self.writer.commit(complete=self.whole, appending=None, skipped=skipped, ignored=self.source.ignored)
        if self.name == STAGED_MANIFEST:
            clear_store(self.out)
            os.replace(self.out / STAGED_MANIFEST, self.out / MANIFEST)
        elif (self.out / STAGED_MANIFEST).exists():  # another that was to replace this one
            (self.out / STAGED_MANIFEST).unlink()
        else:
            return rows, self.added, self.kept, self.removed
        remove_unreferenced(self.out)
        self._remove_orphans()
        return rows, self.added, self.kept, self.removed


def _short(value: Any) -> str:
    text = "none" if value is None else printable_path(str(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _listed(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"path": printable_path(item.path), "reason": item.reason} for item in skipped]


__all__ = ["IndexReport", "build_index"]
