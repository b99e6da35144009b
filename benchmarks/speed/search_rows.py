"""Embeddings for benchmarks.speed.search, synthetic or from a trained model, and an index of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.index.index_writer import IndexWriter
from modeling_rogle.index.manifest import FORMAT, VERSION
from modeling_rogle.index.shards import Index

DIMENSION = 512
BLOCK = 65_536  # rows of a shard, so that each is written once


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(
    count: int, clusters: int, noise: float, seed: int, stream: int, dimension: int = DIMENSION
) -> Iterator[np.ndarray]:
    """Unit vectors around random centres, in blocks `[n, dimension]`.

    Args:
        count: number of vectors.
        clusters: number of centres; they depend on the seed only.
        noise: length of the noise that is added to a centre of length 1.
        seed: of the random numbers.
        stream: a different number gives different vectors around the same centres.
        dimension: of the vectors. Default: 512.
    """
    centres = unit(np.random.default_rng(seed).normal(size=(clusters, dimension)))
    generator = np.random.default_rng([seed, stream])
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        offsets = unit(generator.standard_normal((size, dimension), dtype=np.float32))
        yield unit(centres[generator.integers(0, clusters, size)] + noise * offsets)


def trained(file: str, count: int, noise: float, seed: int) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Embeddings of a trained model, from a file that `eval/eval.py --cache` writes.

    Args:
        file: the safetensors file.
        count: number of image embeddings; the images of the split are repeated with new noise.
        noise: length of the noise.
        seed: of the random numbers.

    Returns:
        Blocks of unit vectors of images `[n, D]`, and the embeddings of the long captions `[q, D]` in random order.

    Raises:
        ValueError: the file lacks these embeddings.
    """
    tensors = load_file(file)
    if not {"image_embeds", "long.embeds"} <= set(tensors):
        raise ValueError(f"{file}: has no image_embeds or long.embeds; `eval/eval.py --cache` writes such a file")
    images, queries = tensors["image_embeds"], tensors["long.embeds"]

    def blocks() -> Iterator[np.ndarray]:
        generator = np.random.default_rng([seed, 1])
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            offsets = unit(generator.standard_normal((size, images.shape[1]), dtype=np.float32))
            yield unit(images[np.arange(start, start + size) % len(images)] + noise * offsets)

    return blocks(), np.random.default_rng([seed, 3]).permutation(queries)


def make_index(path: Path, blocks: Iterator[np.ndarray], noise: float, seed: int, regions: bool) -> Index:
    """Writes an index of embeddings.

    Args:
        path: folder of the index.
        blocks: embeddings of images, `[n, D]` each.
        noise: length of the noise that is added to the embedding of an image for each of its regions.
        seed: of the noise.
        regions: write all template regions. False: write one region an image, equal to the image, which needs less time
            and disk.
    """
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
    writer, written = IndexWriter(path, header), 0
    generator = np.random.default_rng([seed, 2])
    while len(block):
        for part in np.array_split(block, max(1, len(block) // 4096)):
            facts = [{"path": f"{written + n:08d}.jpg", "width": 128, "height": 384} for n in range(len(part))]
            around = part[:, None]
            if regions:
                offsets = generator.standard_normal((len(part), len(boxes), dimension), dtype=np.float32)
                around = unit(around + noise * unit(offsets))
            writer.add(facts, part, around)
            written += len(part)
        writer.commit()
        block = next(blocks, block[:0])
    writer.commit(complete=True)
    return Index(path)
