"""Mutated inputs: images, tables, JSON, Parquet, checkpoints and manifests. Half of them still parse."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from tests.helpers.checkpoint_layouts import openai_state
from tests.helpers.index_files import HEADER

BOMB = 300 << 20  # bytes that a small file unpacks to
TEXTS = ("", "a", "\x1b[31m", "\ud83d", "\u202e", "&#" + "9" * 5000 + ";", "../../etc/passwd", "nan", "x" * 5000)
TEXTS += ("a \x1b[2J man", "a \ud83d man")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 10**30, 1e308, -0.0, float("nan"), *TEXTS, [], {}, [[]], {"a": []},
)  # fmt: skip
Mutant = tuple[str, bytes]  # suffix of the file, and its content


def flipped(rng: random.Random, content: bytes, head: int = 4096) -> bytes:
    """A copy with bytes changed, cut, repeated or inserted, mostly near the start."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(min(len(data), head)) if data else 0
        kind = rng.randrange(4)
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def changed(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """A copy of a JSON value in which one place holds another value, or is missing."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.8):
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed(rng, value[at], depth + 1), *value[at + 1 :]]
    return rng.choice(VALUES)


def nested(rng: random.Random) -> bytes:
    """JSON of many brackets."""
    return b'{"file_name": ' + b"[" * (count := rng.choice((500, 5_000, 200_000))) + b"]" * count + b"}"


def image(rng: random.Random) -> Mutant:
    """An image of any mode and size, or a damaged one."""
    kind = rng.choice(("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"))
    mode = rng.choice(("RGB", "L", "1") if kind in ("JPEG", "WEBP", "PPM") else ("RGB", "L", "1", "P"))
    if kind == "PNG":
        mode = rng.choice(("RGB", "RGBA", "L", "LA", "I;16", "1", "P"))
    size = rng.choice(((1, 1), (24, 16), (300, 1), (9, 40)))
    if rng.random() < 0.04:
        kind, mode, size = "PNG", "1", (12_000, 12_000)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = rng.choice((1, 3, 6, 8))
    picture = Image.new(mode, size, rng.randrange(2)) if mode == "1" else Image.new(mode, size)
    options = {"exif": exif.tobytes()} if kind in ("PNG", "JPEG", "WEBP") and size[0] < 1000 else {}
    (picture.convert("RGB") if kind == "WEBP" else picture).save(buffer, kind, **options)
    content = buffer.getvalue()
    return f".{kind.lower()}", content if rng.random() < 0.5 or len(content) < 20 else flipped(rng, content)


def table(rng: random.Random) -> Mutant:
    """Metadata of images as JSON lines or CSV."""
    rows: list[Any] = [{"file_name": f"{n}.png", "camera": f"c{n}", "time": "2026-01-01", "n": n} for n in range(3)]
    suffix = rng.choice((".jsonl", ".csv"))
    if suffix == ".jsonl":
        if rng.random() < 0.1:
            return suffix, nested(rng)
        rows[rng.randrange(3)] = changed(rng, rows[0])
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        cells = [
            [rng.choice((*TEXTS, "003", "1e9")) if rng.random() < 0.2 else str(v) for v in row.values()] for row in rows
        ]
        lines = [",".join(json.dumps(cell) for cell in row) for row in [list(rows[0]), *cells]]
        content = ("\n".join(lines) + "\n").encode()
    return suffix, content if rng.random() < 0.6 else flipped(rng, content)


def document(rng: random.Random) -> Mutant:
    """JSON lines of queries."""
    if rng.random() < 0.1:
        return ".jsonl", nested(rng)
    value = rng.choice(
        ({"query": "A man.", "image": "a.png", "where": "n > 1"}, {"inputs": {"text": ["a"], "images": ["b"]}})
    )
    content = json.dumps(changed(rng, value)).encode()
    return ".jsonl", content if rng.random() < 0.6 else flipped(rng, content)


def manifest(rng: random.Random) -> Mutant:
    """The manifest of an index, some with a store."""
    header: dict[str, Any] = {**HEADER, "images": 0, "shards": [], "metadata": None, "collection": "rogle_0"}
    uris = ("faiss", "http://stranger:1", "/home/a/b.db", "milvus", "x\x1b[2J")
    header["store"] = rng.choice((None, {"uri": rng.choice(uris), "upto": 3, "effort": 64, "recall": 1.0}))
    if rng.random() < 0.1:
        return ".json", nested(rng)
    content = json.dumps(changed(rng, header) if rng.random() < 0.8 else header).encode()
    return ".json", content if rng.random() < 0.65 else flipped(rng, content)


def parquet(rng: random.Random) -> Mutant:
    """A Parquet file of an index or of a data set; some repeat one long value."""
    count = rng.choice((0, 1, 5))
    columns: dict[str, Any] = {"path": [f"{n}.png" for n in range(count)], "camera": rng.choice(TEXTS[:2])}
    columns["camera"] = pa.array([columns["camera"]] * count, pa.string())
    if rng.random() < 0.15:
        rows = BOMB // 1_000_000
        value = pa.array(["x" * 1_000_000])
        columns = {"path": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), value)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression=rng.choice(("zstd", "snappy", "none")), store_schema=False)
    content = sink.getvalue()
    return ".parquet", content if rng.random() < 0.6 else flipped(rng, content)


def checkpoint(rng: random.Random) -> Mutant:
    """A checkpoint as safetensors, as `torch.save` writes it, or as a TorchScript archive."""
    kind = rng.choice(("safetensors", "torch", "archive", "archive"))
    if kind == "archive":
        return ".pt", _archive(rng)
    state = dict(STATE)
    for _ in range(rng.randint(0, 2)):
        key = rng.choice(list(state))
        tensor, action = state[key], rng.randrange(6)
        if action == 0:
            del state[key]
        elif action == 1:
            state[key.replace(".0.", f".{rng.choice((1, 7, 99_999_999))}.")] = tensor
        elif action == 2:
            state[key] = tensor.flatten()[: rng.randrange(4)].clone()
        elif action == 3 and tensor.ndim:
            state[key] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"))))
        elif action == 4:
            prefix = rng.choice(("_orig_mod.", "model.", "clip.", "module.", "x."))
            state = {prefix + name: value for name, value in state.items()}
        elif kind == "torch":
            state[key] = torch.zeros(1).expand(100_000_000)
    if kind == "safetensors":
        content = save_safetensors({name: value.clone().contiguous() for name, value in state.items()})
        return ".safetensors", content if rng.random() < 0.6 else flipped(rng, content, 16_384)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return ".pt", buffer.getvalue() if rng.random() < 0.6 else flipped(rng, buffer.getvalue(), 16_384)


def _archive(rng: random.Random) -> bytes:
    """A TorchScript archive of modules that share modules, or of a compressed pickle."""
    depth = rng.choice((1, 3, 40))
    # Module n holds module n - 1 twice, so that there are 2 ** depth names.
    module, twice = b"c__torch__\nM\n)\x81}", b"U\x01ah\x00sU\x01bh\x00s"
    pickled = (
        b"\x80\x02" + b"".join(module + (twice if n else b"U\x01aNs") + b"bq\x000" for n in range(depth)) + b"h\x00."
    )
    unpacked = rng.choice((0, 0, 0, BOMB))
    content = io.BytesIO()
    with zipfile.ZipFile(
        content, "w", zipfile.ZIP_DEFLATED if unpacked else zipfile.ZIP_STORED, compresslevel=1
    ) as file:
        file.writestr("a/data.pkl", pickled + bytes(unpacked))
        file.writestr("a/constants.pkl", b"")
    data = content.getvalue()
    return data if rng.random() < 0.6 else flipped(rng, data)


def array(rng: random.Random) -> Mutant:
    """A file of NumPy in a shard, some of which claim to be far larger."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((0, 8), np.float32))
    content = buffer.getvalue()
    if rng.random() < 0.5:
        content = content.replace(b"(0, 8), ", b"(%d, 8), " % rng.choice((1, 10**9, 10**12)))
    return ".npy", content if rng.random() < 0.7 else flipped(rng, content, 128)


def parses(mutant: Mutant) -> bool:
    """Whether the format's own parser, which is not ours, opens a mutant."""
    suffix, content = mutant
    try:
        _PARSERS.get(suffix, _opens_as_image)(content)
    except Exception:
        return False
    return True


def _opens_as_image(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as opened:
        if opened.width * opened.height < 1_000_000:
            opened.load()


def _reads_lines(content: bytes) -> None:
    for line in content.decode().splitlines():
        if line.count("[") < 100:
            json.loads(line)


def _reads_zip(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if (name := next((one for one in file.namelist() if one.endswith("data.pkl")), None)) is None:
            raise KeyError("data.pkl")
        if file.getinfo(name).file_size < 1_000_000:
            file.read(name)


_PARSERS: dict[str, Callable[[bytes], object]] = {
    ".json": _reads_lines,
    ".jsonl": _reads_lines,
    ".csv": lambda content: content.decode(),
    ".parquet": lambda content: pq.read_metadata(io.BytesIO(content)),
    ".pt": _reads_zip,
    ".safetensors": lambda content: json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]),
    ".npy": lambda content: np.lib.format.read_array_header_1_0(_after_magic(content)),
}


def _after_magic(content: bytes) -> io.BytesIO:
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    return stream


STATE = openai_state(vocabulary=8)
KINDS: dict[str, Callable[[random.Random], Mutant]] = {
    "image": image,
    "table": table,
    "JSON": document,
    "manifest": manifest,
    "Parquet": parquet,
    "checkpoint": checkpoint,
    "array": array,
}
