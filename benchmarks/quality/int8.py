"""What int8 costs: R@1 of an exported model's float32 and int8 encoder on a split, with sizes and times.

    python -m benchmarks.quality.int8 --model runs/small/best --dataset synthetic --split validation

Both run in onnxruntime with the same tokens and pixels, so the difference is the quantisation's alone.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_rogle.inference.onnx_encoder import OnnxEncoder
from modeling_rogle.late_interaction import fuse
from modeling_rogle.metrics.retrieval import rank, same_id
from modeling_rogle.sentences import split_sentences


@dataclass(frozen=True)
class Cost:
    """Figures of one precision.

    Args:
        r1_global: R@1 in percent, caption -> images by identity, by the cosine of the global embeddings.
        r1_fused: the same by the score of a search, `(1 - w) * global + w * best region of each sentence`.
        queries, gallery: how many.
        megabytes: of both graphs.
        text_ms, image_ms: one query, one image with its regions, in onnxruntime, mean over the split.
    """

    r1_global: float
    r1_fused: float
    queries: int
    gallery: int
    megabytes: float
    text_ms: float
    image_ms: float


def measure(
    exported: str | Path, rows: Sequence[Mapping[str, Any]], int8: bool, batch_size: int = 32, progress: bool = True
) -> Cost:
    """Encodes a split with an exported model and ranks its long captions against its images.

    Args:
        exported: folder that `rogle export` wrote.
        rows: P-VLG rows with images.
        int8: the int8 encoder, not the float32 ones.
        batch_size: images, or texts, a call.

    Raises:
        OnnxError, FileNotFoundError: as [`OnnxEncoder`].
        ValueError: no rows.
    """
    if not len(rows):
        raise ValueError("no rows to measure on")
    encoder = OnnxEncoder(exported, int8)
    encoder.encode_texts(["a warm-up"])
    images, regions, image_seconds = [], [], 0.0
    for start in tqdm(range(0, len(rows), batch_size), desc="images", disable=not progress):
        pictures = [rows[n]["image"] for n in range(start, min(start + batch_size, len(rows)))]
        begun = time.perf_counter()
        whole, parts = encoder.encode_images(pictures)
        image_seconds += time.perf_counter() - begun
        images.append(whole)
        regions.append(parts)
    image_embeds, region_embeds = np.concatenate(images), np.concatenate(regions)
    people = np.array([row["person_id"] for row in rows])
    captions = [row["caption"] for row in rows]
    begun = time.perf_counter()
    caption_embeds = encoder.encode_texts(captions, batch_size)
    text_seconds = time.perf_counter() - begun
    sentences = [[sentence for sentence, *_ in split_sentences(caption)] for caption in captions]
    said = encoder.encode_texts([sentence for each in sentences for sentence in each], batch_size)
    starts = np.cumsum([0, *map(len, sentences)])
    weight = encoder.local_weight

    def fused(start: int, stop: int) -> np.ndarray:
        block = caption_embeds[start:stop] @ image_embeds.T
        for row in range(start, stop) if weight > 0 else ():
            own = said[starts[row] : starts[row + 1]]
            if len(own):
                best = (region_embeds.reshape(-1, region_embeds.shape[-1]) @ own.T).reshape(
                    *region_embeds.shape[:2], -1
                )
                block[row - start] = fuse(block[row - start], best.max(axis=1).mean(axis=-1), weight)
        return block

    def r1(similarity: Any) -> float:
        return rank(similarity, len(rows), len(rows), same_id(people, people)).scores()["R@1"]

    suffix = ".int8.onnx" if int8 else ".onnx"
    return Cost(
        r1_global=r1(lambda start, stop: caption_embeds[start:stop] @ image_embeds.T),
        r1_fused=r1(fused),
        queries=len(rows),
        gallery=len(rows),
        megabytes=sum((Path(exported) / (tower + suffix)).stat().st_size for tower in ("text", "image")) / 1e6,
        text_ms=1000 * text_seconds / len(rows),
        image_ms=1000 * image_seconds / len(rows),
    )


def as_table(float32: Cost, int8: Cost) -> str:
    """Markdown: a row a precision, then what int8 loses."""
    lines = [
        "| precision | R@1 global | R@1 as searched | MB | ms a query | ms an image |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost in (("float32", float32), ("int8", int8)):
        lines.append(
            f"| {name} | {cost.r1_global:.2f} | {cost.r1_fused:.2f} | {cost.megabytes:.1f} | {cost.text_ms:.2f} "
            f"| {cost.image_ms:.2f} |"
        )
    lost = float32.r1_global - int8.r1_global, float32.r1_fused - int8.r1_fused
    return "\n".join([*lines, f"\nint8 loses {lost[0]:.2f} and {lost[1]:.2f} points of {float32.queries} queries"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="a model's folder, or one that rogle export wrote"
    )
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="as of rogle calibrate")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--image-root", metavar="DIR")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    args = parser.parse_args(argv)
    from dataset_pvlg.loading import load_rows

    try:
        splits, _ = load_rows(args.dataset, args.data_root, args.image_root)
        if args.split not in splits:
            raise ValueError(f"--split {args.split}: {args.dataset} has {', '.join(splits)}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(args.model)
            if not (folder / "rogle_onnx.json").is_file():
                from modeling_rogle.onnx_export.export import export_onnx

                folder = export_onnx(folder, Path(scratch) / "onnx").folder
            found = [measure(folder, splits[args.split], int8, progress=sys.stderr.isatty()) for int8 in (False, True)]
    except (ValueError, OSError) as error:
        print(f"int8: {error}", file=sys.stderr)
        return 2
    print(as_table(*found))
    if args.json:
        figures = {"float32": asdict(found[0]), "int8": asdict(found[1])}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
