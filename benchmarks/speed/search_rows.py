"""Embeddings for benchmarks/speed/search.py: clustered synthetic ones or those of a trained model, and their index."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from modeling_rogle.index.index_writer import IndexWriter
from modeling_rogle.index.manifest import FORMAT, VERSION
from modeling_rogle.index.shards import Index
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes

DIMENSION = 512
AT_ONCE = 65_536  # a shard: none is written twice


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(
    count: int, clusters: int, noise: float, seed: int, stream: int, dimension: int = DIMENSION
) -> Iterator[np.ndarray]:
    """`count` unit vectors in blocks, around centres that depend on the seed alone; `stream` tells draws apart."""
    centres = unit(np.random.default_rng(seed).normal(size=(clusters, dimension)))
    draw = np.random.default_rng([seed, stream])
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        away = unit(draw.standard_normal((size, dimension), dtype=np.float32))
        yield unit(centres[draw.integers(0, clusters, size)] + noise * away)


def trained(file: str, count: int, noise: float, seed: int) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Embeddings of a split as `eval/eval.py --cache` leaves them: `count` unit vectors in blocks, its images over
    and over, each time with noise of this length, and its long captions `[q, D]` in random order.

    Raises:
        ValueError: not such a file.
    """
    tensors = load_file(file)
    if not {"image_embeds", "long.embeds"} <= set(tensors):
        raise ValueError(f"{file}: holds no image_embeds and long.embeds; `eval/eval.py --cache` makes such a file")
    images, queries = tensors["image_embeds"], tensors["long.embeds"]

    def blocks() -> Iterator[np.ndarray]:
        draw = np.random.default_rng([seed, 1])
        for start in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - start)
            away = unit(draw.standard_normal((size, images.shape[1]), dtype=np.float32))
            yield unit(images[np.arange(start, start + size) % len(images)] + noise * away)

    return blocks(), np.random.default_rng([seed, 3]).permutation(queries)


def make_index(path: Path, blocks: Iterator[np.ndarray], noise: float, seed: int, regions: bool) -> Index:
    """A real index of blocks of embeddings, regions as far from their image as `noise` says; without `regions` one
    region an image, itself, to spare time and disk."""
    block = next(blocks)
    dimension = block.shape[1]
    boxes = template_boxes() if regions else template_boxes()[-1:]
    path.mkdir(parents=True)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "folder": "/synthetic",
        "files": True,
        "model": {"path": "", "fingerprint": ""},
        "precision": "float32",
        "dimension": dimension,
        "template_boxes": boxes.astype(float).tolist(),
        "template_labels": list(TEMPLATE_LABELS[-len(boxes) :]),
        "collection": "rogle_benchmark",
        "images": 0,
        "shards": [],
        "next_id": 0,
        "complete": False,
        "metadata": None,
        "store": None,
        "skipped": [],
    }
    writer, done = IndexWriter(path, header), 0
    draw = np.random.default_rng([seed, 2])
    while len(block):
        for part in np.array_split(block, max(1, len(block) // 4096)):
            facts = [{"path": f"{done + n:08d}.jpg", "width": 128, "height": 384} for n in range(len(part))]
            around = part[:, None]
            if regions:
                apart = draw.standard_normal((len(part), len(boxes), dimension), dtype=np.float32)
                around = unit(around + noise * unit(apart))
            writer.add(facts, part, around)
            done += len(part)
        writer.commit()
        block = next(blocks, block[:0])
    writer.commit(complete=True)
    return Index(path)
