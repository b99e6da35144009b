"""Builds an index of images or brings it up to date: new and changed images are encoded, missing ones are removed.

A killed run keeps everything that it had committed, and the next run continues from there. An index of another model or
detector is replaced when the new index is complete. An index of another folder is refused.
"""

import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeling_rogle.image_io import printable_path
from modeling_rogle.index.index_writer import IndexWriter
from modeling_rogle.index.manifest import (
    COPIES_FOLDER,
    COPY_COLUMN,
    MANIFEST,
    PRECISIONS,
    STAGED_MANIFEST,
    check_index_folder,
    locked,
    read_manifest,
    remove_unreferenced,
)
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_address import require_trusted
from modeling_rogle.index.store_sync import PROBES, clear_store, delete_from_store, sync_store
from modeling_rogle.index.vector_store import check_store
from modeling_rogle.indexing.changes import Changes, find_changes, update_metadata
from modeling_rogle.indexing.decoding import default_workers
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import Source, find_source
from modeling_rogle.indexing.index_header import check_folder, compatible_header, new_header
from modeling_rogle.indexing.item_encoder import ItemEncoder
from modeling_rogle.indexing.person_detector import DEFAULT_THRESHOLD, Detector
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import TorchEncoder
from modeling_rogle.inference.row_images import warn_of_metadata
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor


@dataclass(frozen=True)
class IndexReport:
    """What [`build_index`] did.

    Attributes:
        path: the index folder.
        images: number of images in the index.
        added: number of images that were added in this run.
        copied: number of added images that are exact copies of an indexed one, and were not encoded again.
        kept: number of images that were in the index before.
        removed: number of rows that were removed because their image has changed or is missing.
        skipped: images that were not indexed, with reasons.
        ignored: number of files that are not images.
        seconds: duration of the run, without filling a vector store.
        unreadable_metadata: number of encoded images whose metadata, such as EXIF, cannot be read.
    """

    path: Path
    images: int
    added: int
    copied: int
    kept: int
    removed: int
    skipped: tuple[Skipped, ...]
    ignored: int
    seconds: float
    unreadable_metadata: int = 0

    @property
    def images_per_second(self) -> float:
        """Number of images that were added in a second."""
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
    """Builds an index of images, or brings an existing one up to date.

    Images that are already indexed and have not changed are kept. Changed images are encoded again, and missing images
    are removed. A killed run is continued. Images that cannot be read, are too large, or are links out of the folder
    are skipped and listed. An index of another model or detector is replaced when the new one is complete.

    Args:
        source: a folder; a glob (`photos/2026-*/**/*.jpg`); the folder of a data set (`save_to_disk` or Parquet
            files); or rows, as a `datasets.Dataset` or a list of dictionaries with `image` and `image_id`.
        model: the model, in evaluation mode.
        processor: the processor of that model.
        out: the index folder, which is created.
        batch_size: images in a forward pass. Default: 32.
        progress: show progress bars. Default: True.
        append: add to an existing index and keep images that are not in `source`, which must lie in the indexed folder.
            The index keeps its precision. Default: False.
        detector: a detector, or the folder or Hub name of an object-detection model. The images are then full scenes,
            and each detected person becomes an image of the index. Default: none.
        workers: number of processes that decode; 0 decodes in threads. Default: 0 for a model on the CPU, otherwise one
            a core, at most 8.
        precision: `float32` or `bfloat16`, of the global embeddings on the disk. Default: `float32`.
        store: vector store to fill, see [`open_store`]; `exact` removes the store. Default: the store that the index
            has, or none.

    Returns:
        the report of this run.

    Raises:
        FileNotFoundError: `source` does not exist, or `append` is set and there is no index.
        GalleryError: `source` has no images; `out` holds other files or the index of another folder, or is being
            written by another process; the embeddings are not finite; the index cannot be appended to; or the store
            does not answer.

    Warns:
        UserWarning: the index has another precision than the given one, or its store has a low recall or is slow.
    """
    started = time.perf_counter()
    out = Path(out)
    _check_arguments(batch_size, workers, precision)
    if store not in (None, "exact"):
        check_store(store, out, model.config.projection_dim)  # before the images are encoded, not after
    check_index_folder(out)
    _check_own_store(out, store)
    header = new_header(model, processor, precision or PRECISIONS[0])
    source_path = os.path.abspath(source) if isinstance(source, str | Path) else None
    source, detector = _find_source_and_detector(source, out, header, append, detector)
    if precision not in (None, header["precision"]):
        warnings.warn(f"{out}: the index keeps its precision {header['precision']}, not {precision}", stacklevel=2)
    source = _without_index_folder(source, out)
    appending = (source_path or _digest_of_paths(source)) if append else None
    header |= {
        "folder": source.root,
        "detector": detector.name if detector else None,
        "detector_threshold": detector.threshold if detector else None,
        "files": source.rows is None,
    }
    check_folder(out, header)
    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out), warnings.catch_warnings():
            # Pillow warns of sizes and metadata. What matters is raised as an error, and the image is listed.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            build = _Build(source, out, header, appending, store)
            encoder = ItemEncoder(source, model, processor, detector, build.writer)
            workers = default_workers(model.device) if workers is None else workers
            encoder.run(build.changes.items, batch_size, workers, progress, lambda: build.commit(encoder.skipped))
            build.publish(encoder.added, encoder.skipped)
    finally:
        if created and not (out / MANIFEST).exists():  # nothing was committed
            shutil.rmtree(out, ignore_errors=True)
    seconds = time.perf_counter() - started
    warn_of_metadata(encoder.metadata_faults)
    own = read_manifest(out).get("store")
    store = store or (require_trusted(own["uri"]) if own else None)
    if store:
        text_encoder = TorchEncoder(model, processor)
        with locked(out):
            sync_store(out, store, lambda: text_encoder.encode_texts(PROBES), progress)
    return IndexReport(
        path=out,
        images=build.kept + encoder.added,
        added=encoder.added,
        copied=encoder.copied,
        kept=build.kept,
        removed=len(build.changes.removed_rows),
        skipped=(*source.skipped, *encoder.skipped),
        ignored=source.ignored,
        seconds=seconds,
        unreadable_metadata=len(encoder.metadata_faults),
    )


def _check_arguments(batch_size: int, workers: int | None, precision: str | None) -> None:
    if batch_size < 1:
        raise GalleryError(f"batch size must be at least 1, not {batch_size}")
    if workers is not None and workers < 0:
        raise GalleryError(f"workers must be at least 0, not {workers}")
    if precision is not None and precision not in PRECISIONS:
        raise GalleryError(f"precision must be {' or '.join(PRECISIONS)}, not {precision!r}")


def _check_own_store(out: Path, store: str | None) -> None:
    """Checks that the store of an existing index may be contacted, before images are encoded."""
    try:
        own = read_manifest(out).get("store")
    except (GalleryError, FileNotFoundError):
        return
    if own and store is None:
        try:
            require_trusted(own["uri"])
        except GalleryError as error:
            raise GalleryError(f"{out}: {error}, or --store exact to leave it") from error


def _find_source_and_detector(
    source: Any, out: Path, header: dict[str, Any], append: bool, detector: str | Path | Detector | None
) -> tuple[Source, Detector | None]:
    """Finds the source, and loads the detector. With `append`, both must fit the index, whose precision is kept."""
    old = read_manifest(out) if append else None
    if old is not None:
        if old["model"]["fingerprint"] != header["model"]["fingerprint"]:
            raise GalleryError(
                f"{out}: made by another model ({old['model'].get('path')}); images cannot be appended with this one"
            )
        detector = detector or old.get("detector")
        header["precision"] = old["precision"]
    if detector is not None and not isinstance(detector, Detector):
        stored = None if old is None or detector != old.get("detector") else old.get("detector_threshold")
        detector = Detector(detector, stored or DEFAULT_THRESHOLD)
    if old is None:
        return find_source(source), detector
    new_source = find_source(source, Path(old["folder"]) if old.get("files", True) else None)
    holds_files = old.get("files", True)
    if holds_files != (new_source.rows is None):
        kinds = ("a data set", "files")
        raise GalleryError(f"{out}: holds {kinds[holds_files]}; {kinds[not holds_files]} cannot be appended")
    return new_source if holds_files else replace(new_source, root=old["folder"]), detector


def _without_index_folder(source: Source, out: Path) -> Source:
    """Drops the copies in the index folder, where that lies in the indexed folder.

    A run that was killed before its first commit leaves no manifest that would mark the folder as an index.
    """
    if source.rows is not None or not out.resolve().is_relative_to(source.root):
        return source
    prefix = out.resolve().relative_to(source.root).as_posix() + "/"
    return replace(
        source,
        items=[item for item in source.items if not item.path.startswith(prefix)],
        skipped=[item for item in source.skipped if not item.path.startswith(prefix)],
    )


def _digest_of_paths(source: Source) -> str:
    """Returns an identifier of rows that have no path of their own."""
    return "rows " + hashlib.sha256("\n".join(sorted(item.path for item in source.items)).encode()).hexdigest()


class _Build:
    """The index that one run writes: it continues an existing manifest or starts a new one.

    Args:
        source: the source.
        out: the index folder, whose lock the caller holds.
        header: the manifest of a new index.
        appending: identifier of the source that is appended; None to index only the source.
        store: the store that the user named; None for the index's own.

    Attributes:
        writer: writer of the index, from which outdated rows are removed already.
        changes: the items to encode and the rows that were removed.
        kept: number of rows of the index that stay.

    Raises:
        GalleryError: the index cannot be appended to.
    """

    def __init__(
        self, source: Source, out: Path, header: dict[str, Any], appending: str | None, store: str | None = None
    ):
        self.source, self.out, self.append, self.store = source, out, appending is not None, store
        existing = self._existing_header(header)
        self.completes = True  # whether the index is complete after this run
        if self.append and existing is not None:
            self.completes = existing["complete"] or existing.get("appending") == appending
        self.unfinished = {"complete": False, "appending": appending if self.completes else None}
        index = Index(out, self.name) if existing is not None else None
        settings = {"preprocessing": header["preprocessing"]}  # an index of format 2 does not state them
        self.writer = IndexWriter(out, existing | settings if existing else header, self.name)
        remove_unreferenced(out)
        _remove_orphaned_copies(out)
        self.changes: Changes = find_changes(source, index, self.append)
        self.kept = (len(index) if index is not None else 0) - len(self.changes.removed_rows)
        self._remove_outdated(index)

    def _existing_header(self, header: dict[str, Any]) -> dict[str, Any] | None:
        """Finds the manifest that this run continues and sets `name`, the manifest that it writes."""
        self.name = MANIFEST
        try:
            return compatible_header(self.out, MANIFEST, header)
        except (GalleryError, FileNotFoundError) as error:
            if self.append:  # replacing the index would lose the images that are not in the source
                reason = f"cannot be appended to ({error}); index the whole folder without --append"
                raise GalleryError(f"{self.out}: {reason}") from error
        if not (self.out / MANIFEST).exists():
            return None
        # An index of another model or format, or a damaged one. It stays until the new one is complete.
        self.name = STAGED_MANIFEST
        try:
            return compatible_header(self.out, STAGED_MANIFEST, header)
        except (GalleryError, FileNotFoundError):
            return None

    def _remove_outdated(self, index: Index | None) -> None:
        """Removes changed and missing images from the index and updates the user's metadata."""
        old = self.writer.header.get("metadata")
        fields: dict[str, Any] = {"metadata": update_metadata(self.out, old, self.source, self.append)}
        if index is None:
            self.writer.header |= fields
        elif self.changes.removed_rows or fields["metadata"] != old:
            ids = index.ids[self.changes.removed_rows]
            if self.writer.header.get("store"):
                fields["store"] = delete_from_store(self.out, self.writer.header, ids, self.store)
            self.writer.remove(ids)
            self.writer.commit(**fields, **self.unfinished)

    def commit(self, skipped: Sequence[Skipped]) -> None:
        """Commits encoded images; the index stays unfinished.

        Args:
            skipped: items that could not be encoded so far.
        """
        entries = _skipped_entries([*self.source.skipped, *skipped])
        self.writer.commit(**self.unfinished, skipped=entries, ignored=self.source.ignored)

    def publish(self, added: int, skipped: Sequence[Skipped]) -> None:
        """Commits the finished index, which replaces an incompatible one.

        Args:
            added: number of images that were encoded.
            skipped: items that could not be encoded.

        Raises:
            GalleryError: no image could be indexed.
        """
        all_skipped = [*self.source.skipped, *skipped]
        if not self.kept + added and all_skipped:
            reason = f"{printable_path(all_skipped[0].path)}: {all_skipped[0].reason}"
            (self.out / STAGED_MANIFEST).unlink(missing_ok=True)
            remove_unreferenced(self.out)
            raise GalleryError(f"{self.source.root}: none of {len(all_skipped)} images can be indexed ({reason})")
        entries = _skipped_entries(all_skipped)
        if self.append:
            paths = {entry["path"] for entry in entries} | {item.path for item in self.source.items}
            entries = [entry for entry in self.writer.header["skipped"] if entry["path"] not in paths] + entries
        self.writer.commit(complete=self.completes, appending=None, skipped=entries, ignored=self.source.ignored)
        if self.name == STAGED_MANIFEST:
            clear_store(self.out, self.store)
            os.replace(self.out / STAGED_MANIFEST, self.out / MANIFEST)
        elif (self.out / STAGED_MANIFEST).exists():  # of an abandoned run for another model
            (self.out / STAGED_MANIFEST).unlink()
        else:
            return
        remove_unreferenced(self.out)
        _remove_orphaned_copies(self.out)


def _remove_orphaned_copies(out: Path) -> None:
    """Removes copies of images that no row of either manifest refers to."""
    copies: set[str | None] = set()
    for name in (MANIFEST, STAGED_MANIFEST):
        try:
            copies.update(Index(out, name).table.column(COPY_COLUMN).to_pylist())
        except (GalleryError, OSError):
            continue
    if (out / COPIES_FOLDER).is_dir():
        for name in os.listdir(out / COPIES_FOLDER):
            if name not in copies:
                (out / COPIES_FOLDER / name).unlink()


def _skipped_entries(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"path": printable_path(item.path), "reason": item.reason} for item in skipped]


__all__ = ["IndexReport", "build_index"]
