"""Mutated input of every kind ends in a result or in one line: no trace, no hang, no large allocation.

`ROGLE_FUZZ=20000 pytest tests/fuzz -s` tries that many mutants of each kind instead of 250.
"""

import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import pytest

from modeling_rogle.cli.common import printable
from modeling_rogle.conversion import checkpoint_files, convert
from modeling_rogle.conversion.checkpoint_files import read_state_dict
from modeling_rogle.conversion.convert import rogle_from_layout
from modeling_rogle.conversion.layouts import recognise
from modeling_rogle.image_io import decode_image
from modeling_rogle.index import manifest, shards, store_address
from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.index.shards import Index, read_parquet
from modeling_rogle.indexing import metadata_tables
from modeling_rogle.indexing.image_sources import find_source
from modeling_rogle.search import requests
from modeling_rogle.search.requests import read_requests
from modeling_rogle.sentences import normalize_text
from tests.fuzz.mutants import KINDS, TEXTS, parses

BUDGET = int(os.environ.get("ROGLE_FUZZ", "250"))  # mutants of each kind; a fifth of them for checkpoints
SECONDS, MEGABYTES = 5, 1024  # for one mutant, of CPU time and above the process before it
PNG = b"\x89PNG"


class Hang(BaseException):
    """An input took longer than SECONDS."""


def read_image(file: Path) -> None:
    decode_image(file.read_bytes(), file.name, (32, 16))


def read_table(file: Path) -> None:
    folder = file.parent / "images"
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(PNG)
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).unlink(missing_ok=True)
    file.rename(folder / f"metadata{file.suffix}")
    find_source(folder)


def read_document(file: Path) -> None:
    for request in read_requests(file):
        normalize_text(request.query).encode()
        assert printable(request.query).replace("\n", "").isprintable()


def read_index(file: Path) -> None:
    (file.parent / "index.json").write_bytes(file.read_bytes())
    store = (read_manifest(file.parent).get("store") or {}).get("uri")
    if store is not None:
        address = store_address.trusted_address(store)
        assert address is None or address.startswith("faiss"), address
    Index(file.parent)


def read_columns(file: Path) -> None:
    read_parquet(file)


def read_checkpoint(file: Path) -> None:
    state, wrapper = read_state_dict(file)
    assert all(value.isfinite().all() for value in state.values()), "weights that are not finite"
    rogle_from_layout(recognise(state, str(file), wrapper), (32, 16), 77)


def read_array(file: Path) -> None:
    shards._mapped(file, np.float32, (0, 8))


READERS: dict[str, Callable[[Path], None]] = {
    "image": read_image,
    "table": read_table,
    "JSON": read_document,
    "manifest": read_index,
    "Parquet": read_columns,
    "checkpoint": read_checkpoint,
    "array": read_array,
}


def resident() -> int:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"over {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # CPU time, so that a busy machine changes nothing
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault_of(kind: str, file: Path, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> str | None:
    """What is wrong with how a mutant is read, or None."""
    before = resident()
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[kind](file)
    except UnicodeEncodeError as error:
        return f"trace: {error!r}"
    except (ValueError, OSError) as error:
        if "\n" in str(error).strip():
            return f"several lines: {error}"
    except Hang as error:
        return f"hang: {error}"
    except Exception as error:
        return f"trace: {error!r}"
    if resident() - before > megabytes:
        return f"{resident() - before} MB"
    return None


def fuzz(kind: str, folder: Path, count: int, seed: int = 0, **limits: Any) -> tuple[list[str], int]:
    """Tries mutants; returns the faults that were found, and how many mutants their format's own parser opens."""
    faults, valid = [], 0
    for number in range(count):
        rng = random.Random(f"{kind} {seed} {number}")
        mutant = KINDS[kind](rng)
        valid += parses(mutant)
        file = folder / f"mutant{mutant[0]}"
        file.write_bytes(mutant[1])
        if fault := fault_of(kind, file, **limits):
            faults.append(f"{kind} {seed} {number}: {fault[:300]}")
            if limits:
                break
    return faults, valid


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_end_in_a_result_or_in_one_line(kind, tmp_path):
    count = BUDGET // 5 if kind == "checkpoint" else BUDGET  # a model is built of each
    faults, valid = fuzz(kind, tmp_path, count)
    print(f"{kind}: {count} mutants, {valid} valid to the parser, {len(faults)} faults")
    assert not faults, "\n".join(faults)
    assert valid >= count / 2


def test_texts_of_every_kind_are_cleaned_and_printed():
    rng = random.Random(0)
    for _ in range(BUDGET):
        text = "".join(rng.choice((*TEXTS, chr(rng.randrange(0x110000)))) for _ in range(rng.randint(0, 4)))
        normalize_text(text).encode()
        assert "\x1b" not in printable(text)


def recursive(text: str | bytes) -> Any:
    return json.loads(text)


def by_arrow(text: str, _: Path) -> Any:
    return pyarrow.json.read_json(io.BytesIO(text.encode(errors="replace")))


def largest_block(state: dict[str, Any], tower: str | None, _: str) -> int:
    return 1 + max(int(m[2]) for m in map(convert._BLOCK.fullmatch, state) if m and m[1] == tower)


def copied(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.load(file, mmap_mode="r" if shape[0] else None)


# Each fault that was fixed: the kind of mutant that finds it, and the attribute that puts it back.
FAULTS: dict[str, tuple[str, Any, str, Any]] = {
    "index.json of many brackets": ("manifest", manifest, "parse_json", recursive),
    "a store that only the index names": ("manifest", store_address, "trusted_address", lambda uri, *_: uri),
    "rows of many brackets": ("table", metadata_tables, "_read_json_lines", by_arrow),
    "queries of many brackets": ("JSON", requests, "json", pickle),
    "a query that is not text": ("JSON", sys.modules[__name__], "normalize_text", lambda text: text),
    "escape sequences": ("JSON", sys.modules[__name__], "printable", lambda text: text),
    "a Parquet file that repeats a value": ("Parquet", shards, "check_parquet", lambda _: None),
    "an array that claims to be large": ("array", shards, "_mapped", copied),
    "modules that share modules": ("checkpoint", checkpoint_files, "MAX_MODULES", 1 << 60),
    "block 99,999,999": ("checkpoint", convert, "_count_blocks", largest_block),
    "a compressed pickle": ("checkpoint", checkpoint_files, "MAX_PICKLE", 1 << 60),
    "weights that are not finite, and views": ("checkpoint", checkpoint_files, "_check_tensors", lambda *_: None),
    "a large image": ("image", sys.modules["modeling_rogle.image_io"], "MAX_PIXELS", 1 << 60),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_back_is_found(fault, tmp_path):
    """In a child process, because some of these faults end it. Its limits are lower, so that a fault costs less."""
    kind, module, name, old = FAULTS[fault]
    assert hasattr(module, name)
    child = os.fork()
    if not child:
        try:
            setattr(module, name, old)
            sys.stderr.close()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            found = fuzz(kind, tmp_path, BUDGET, seconds=1, megabytes=200)[0]
            os._exit(7 if found else 0)
        except BaseException:
            os._exit(8)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (7, 8), f"{fault}: not found in {BUDGET} mutants"
