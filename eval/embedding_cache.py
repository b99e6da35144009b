"""Embeddings of a split on disk, so that they are computed once, and so that processes can share the work.

There is one safetensors file per key. The key contains everything that the bits depend on (checkpoint, data, code,
batches, threads), so a changed checkpoint never uses old embeddings. The content is checked against a hash.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings, assemble, encode_part, plan_split

CAPTION_SETS = ("long", "short")


@dataclass(frozen=True)
class Encoded:
    """Embeddings with their origin.

    Attributes:
        embeddings: the split.
        origin: `"computed"` or `"cache FILE"`.
        images_by_process: number of images that each process encoded; empty if they came from the cache.
    """

    embeddings: SplitEmbeddings
    origin: str
    images_by_process: list[int]


def cached_split(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    key: Callable[[], Mapping[str, Any]],
    folder: Path | None,
    state: PartialState,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    split: str | None = None,
    progress: bool = True,
) -> Encoded | None:
    """Reads the embeddings of a split from a cache, or encodes the split with all processes and stores it there.

    All processes must make the same call.

    Args:
        model: see `encode_split`.
        processor: see `encode_split`.
        rows: see `encode_split`.
        key: returns everything that the embeddings depend on, as JSON; called once, in the main process.
        folder: folder of the cache, which all processes must share; None stores nothing.
        state: the processes.
        batch_size: see `encode_split`.
        device: see `encode_split`.
        split: see `encode_split`.
        progress: see `encode_split`.

    Returns:
        The embeddings in the main process; None in the others.

    Raises:
        ValueError: as `encode_split`; also if `folder` does not contain the parts of the other processes.
    """
    shared: list[Any] = [None, False]
    cached = None
    if state.is_main_process:
        cache = folder if folder is not None else Path(tempfile.mkdtemp(prefix="rogle-embeddings-"))
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / f"{hashlib.sha256(json.dumps(key(), sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
        cached = _read_if_valid(path, split)
        shared = [str(path), cached is not None]
    if state.num_processes > 1:
        broadcast_object_list(shared)
    path = Path(shared[0])
    try:
        if shared[1]:
            return Encoded(cached, f"cache {path}", []) if state.is_main_process else None
        plan = plan_split(processor, rows, split=split)
        process, processes = state.process_index, state.num_processes
        bar = progress and state.is_main_process
        part = encode_part(model, processor, rows, plan, batch_size, process, processes, bar, device)
        if processes == 1:
            parts, counts = [part], [len(part["image_at"])]
        else:
            save_tensors(part, _part_path(path, process), {})
            del part
            state.wait_for_everyone()
            if not state.is_main_process:
                return None
            for number in range(processes):
                if not _part_path(path, number).is_file():
                    raise ValueError(
                        f"{path.parent}: the part of process {number} is missing; all processes must share --cache"
                    )
            parts = (load_file(_part_path(path, number)) for number in range(processes))
            counts = [_rows_of(_part_path(path, number)) for number in range(processes)]
        embeddings = assemble(plan, parts)
        for number in range(processes if processes > 1 else 0):
            _part_path(path, number).unlink(missing_ok=True)
        if folder is not None:
            write_embeddings(embeddings, path)
        return Encoded(embeddings, "computed", counts)
    finally:
        if folder is None and state.is_main_process:
            shutil.rmtree(path.parent, ignore_errors=True)


def _part_path(path: Path, process: int) -> Path:
    return path.with_name(f".{path.stem}.part-{process}.safetensors")


def _rows_of(path: Path) -> int:
    with safe_open(path, "pt") as stream:
        return stream.get_slice("image_at").get_shape()[0]


def _read_if_valid(path: Path, split: str | None) -> SplitEmbeddings | None:
    if not path.exists():
        return None
    try:
        return read_embeddings(path, split)
    except ValueError as error:
        print(f"{error}; the embeddings are computed again", file=sys.stderr)
        return None


def write_embeddings(embeddings: SplitEmbeddings, path: Path) -> None:
    """Writes all tensors of a split and their hash; the file is replaced atomically."""
    tensors = {}
    for field in fields(SplitEmbeddings):
        value = getattr(embeddings, field.name)
        if field.name in CAPTION_SETS:
            tensors |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(CaptionSet)}
        elif field.name != "split":
            tensors[field.name] = value
    save_tensors(tensors, path, {"sha256": _content_sha256(tensors)})


def read_embeddings(path: Path, split: str | None) -> SplitEmbeddings:
    """Reads a file of `write_embeddings`.

    Args:
        path: the file.
        split: name of the split, for the result.

    Returns:
        The embeddings.

    Raises:
        ValueError: the file is damaged or of another kind; the message names it.
    """
    try:
        with safe_open(path, "pt") as stream:
            expected = (stream.metadata() or {}).get("sha256")
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118, not a mapping
        if expected != _content_sha256(tensors):
            raise ValueError(f"cache {path} is damaged (its content does not match its hash)")
        sets = {
            name: CaptionSet(**{inner.name: tensors.pop(f"{name}.{inner.name}") for inner in fields(CaptionSet)})
            for name in CAPTION_SETS
        }
        return SplitEmbeddings(split=split, **sets, **tensors)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"cache {path} is damaged ({str(error).splitlines()[0]})") from error


def _content_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes a safetensors file; it is replaced atomically."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished, metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
