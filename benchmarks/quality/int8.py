"""Accuracy, size and time of an exported model's int8 encoder, against its float32 encoder.

    python -m benchmarks.quality.int8 --model runs/small/best --dataset synthetic --split validation

Both run in onnxruntime on the same tokens and pixels, so that they differ by the quantisation only.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_pvlg.loading import load_rows
from modeling_rogle.inference.onnx_encoder import OnnxEncoder
from modeling_rogle.late_interaction import late_interaction
from modeling_rogle.metrics.retrieval import rank, same_id
from modeling_rogle.onnx_export.export import export_onnx
from modeling_rogle.sentences import query_sentences


@dataclass(frozen=True)
class Cost:
    """Figures of one precision.

    Attributes:
        r1_global: R@1 in percent of long captions, by identity, with the cosine of the global embeddings.
        r1_fused: the same with late interaction of the sentences of the caption.
        queries: number of captions.
        gallery: number of images.
        megabytes: size of both graphs.
        text_ms: mean milliseconds of encoding one caption.
        image_ms: mean milliseconds of encoding one image with its regions.
    """

    r1_global: float
    r1_fused: float
    queries: int
    gallery: int
    megabytes: float
    text_ms: float
    image_ms: float


def encode_images(
    encoder: OnnxEncoder, rows: Sequence[Mapping[str, Any]], batch_size: int, progress: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Embeddings `[n, D]` of images and `[n, T, D]` of their regions, and seconds of encoding."""
    images, regions, seconds = [], [], 0.0
    for start in tqdm(range(0, len(rows), batch_size), desc="images", disable=not progress):
        batch = [rows[n]["image"] for n in range(start, min(start + batch_size, len(rows)))]
        started = time.perf_counter()
        image_embeds, region_embeds = encoder.encode_images(batch)
        seconds += time.perf_counter() - started
        images.append(image_embeds)
        regions.append(region_embeds)
    return np.concatenate(images), np.concatenate(regions), seconds


def measure(
    exported: str | Path, rows: Sequence[Mapping[str, Any]], int8: bool, batch_size: int = 32, progress: bool = True
) -> Cost:
    """Encodes a split with an exported model and ranks its images for each long caption.

    Args:
        exported: folder that `rogle export` wrote.
        rows: P-VLG rows with images.
        int8: use the int8 encoder instead of the float32 one.
        batch_size: images, or texts, a call. Default: 32.
        progress: show a progress bar. Default: True.

    Raises:
        OnnxError, FileNotFoundError: as [`OnnxEncoder`].
        ValueError: there are no rows.
    """
    if not len(rows):
        raise ValueError("no rows to measure on")
    encoder = OnnxEncoder(exported, int8)
    encoder.encode_texts(["a warm-up"])
    image_embeds, region_embeds, image_seconds = encode_images(encoder, rows, batch_size, progress)
    people = np.array([row["person_id"] for row in rows])
    captions = [row["caption"] for row in rows]
    started = time.perf_counter()
    caption_embeds = encoder.encode_texts(captions, batch_size)
    text_seconds = time.perf_counter() - started
    sentences = [[sentence for sentence, *_ in query_sentences(caption)[0]] for caption in captions]
    sentence_embeds = encoder.encode_texts([sentence for each in sentences for sentence in each], batch_size)
    starts = np.cumsum([0, *map(len, sentences)])

    def global_similarity(start: int, stop: int) -> np.ndarray:
        return caption_embeds[start:stop] @ image_embeds.T

    def fused_similarity(start: int, stop: int) -> np.ndarray:
        block = global_similarity(start, stop)
        for row in range(start, stop) if encoder.local_weight > 0 else ():
            cosines = (region_embeds @ sentence_embeds[starts[row] : starts[row + 1]].T).transpose(0, 2, 1)
            block[row - start] = late_interaction(
                block[row - start], cosines, encoder.local_weight, explain=False
            ).score
        return block

    def r1(similarity: Callable[[int, int], np.ndarray]) -> float:
        return rank(similarity, len(rows), len(rows), same_id(people, people)).scores()["R@1"]

    suffix = ".int8.onnx" if int8 else ".onnx"
    return Cost(
        r1_global=r1(global_similarity),
        r1_fused=r1(fused_similarity),
        queries=len(rows),
        gallery=len(rows),
        megabytes=sum((Path(exported) / (tower + suffix)).stat().st_size for tower in ("text", "image")) / 1e6,
        text_ms=1000 * text_seconds / len(rows),
        image_ms=1000 * image_seconds / len(rows),
    )


def as_table(float32: Cost, int8: Cost) -> str:
    """A Markdown table with a row for each precision, and the loss of int8."""
    lines = [
        "| precision | R@1 global | R@1 with late interaction | MB | ms a query | ms an image |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost in (("float32", float32), ("int8", int8)):
        lines.append(
            f"| {name} | {cost.r1_global:.2f} | {cost.r1_fused:.2f} | {cost.megabytes:.1f} | {cost.text_ms:.2f} "
            f"| {cost.image_ms:.2f} |"
        )
    loss = float32.r1_global - int8.r1_global, float32.r1_fused - int8.r1_fused
    return "\n".join([*lines, f"\nint8 loses {loss[0]:.2f} and {loss[1]:.2f} points of {float32.queries} queries"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.int8", description="Accuracy, size and time of int8, against float32."
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="folder of a model, or one written by rogle export (required)"
    )
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="P-VLG data set (default: synthetic)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data set's files (default: none)")
    parser.add_argument("--image-root", metavar="DIR", help="folder of the images (default: that of the public layout)")
    parser.add_argument("--split", default="validation", help="split to measure on (default: validation)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a JSON file (default: none)")
    args = parser.parse_args(argv)
    try:
        splits, _ = load_rows(args.dataset, args.data_root, args.image_root)
        if args.split not in splits:
            raise ValueError(f"--split {args.split}: {args.dataset} has {', '.join(splits)}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(args.model)
            if not (folder / "rogle_onnx.json").is_file():
                folder = export_onnx(folder, Path(scratch) / "onnx").folder
            costs = [measure(folder, splits[args.split], int8, progress=sys.stderr.isatty()) for int8 in (False, True)]
    except (ValueError, OSError) as error:
        print(f"int8: {error}", file=sys.stderr)
        return 2
    print(as_table(*costs))
    if args.json:
        figures = {"float32": asdict(costs[0]), "int8": asdict(costs[1])}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
