"""Time and memory of the local protocol with sparse relevance, and of a whole evaluation after encoding.

    python -m benchmarks.speed.protocols [--size full|tiny] [--threads N] [--out FILE.json]

Measured are the CPU and wall seconds (all threads) and the added memory at its peak of

    similarities   the cosines of 25,000 sentences and 20,000 regions alone, block by block
    local          the local protocol on the same embeddings, with relevance from facts
    evaluation     everything that eval/eval.py does after encoding: all protocols with a local weight, the reference
                   lines and the bootstrap, on a split of 4,000 images

Every measurement runs in a process of its own. Embeddings (256-d) and facts are random. A region has six facts (12
kinds of things, 12 colours, 5 patterns, 3 sides and two relations). A sentence claims one to three of them, and a fifth
of the sentences describe two regions.
"""

import argparse
import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.tables import write_json
from benchmarks.speed.ranking import measure_call
from eval.intervals import bootstrap
from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.evaluation.local_protocol import BLOCK_ROWS, rank_sentences, region_relevance
from modeling_rogle.evaluation.protocols import ranked_queries
from modeling_rogle.evaluation.references import reference_lines
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.metrics.cosine import cosine

DIMENSION, VALUES = 256, (12, 12, 5, 3, 8, 8)  # number of values of each kind of fact
# identities, images of each, regions and sentences of an image: of the local protocol, and of the evaluation
SIZES = {"full": ((1000, 4, 5, 6.25), (1000, 4, 6, 7)), "tiny": ((12, 2, 3, 4), (12, 2, 3, 4))}
PARTS = ("similarities", "local", "evaluation")


def make_split(identities: int, images_each: int, regions_each: int, sentences_each: float) -> SplitEmbeddings:
    """A split of random embeddings and facts; every sentence describes one or two regions of its image."""
    rng, n_images = np.random.default_rng(0), identities * images_each
    n_regions, n_sentences = n_images * regions_each, int(n_images * sentences_each)

    def unit(*shape: int) -> torch.Tensor:
        values = rng.standard_normal((*shape, DIMENSION), dtype=np.float32)
        return torch.from_numpy(values / np.linalg.norm(values, axis=-1, keepdims=True))

    first = np.concatenate([[0], np.cumsum(VALUES)[:-1]])
    facts = rng.integers(0, VALUES, (n_regions, len(VALUES))) + first
    image = np.sort(rng.integers(0, n_images, n_sentences))
    own, claims = [], []
    for sentence in range(n_sentences):
        n_groups = 1 + (rng.random() < 0.2)
        for group, slot in enumerate(rng.permutation(regions_each)[:n_groups]):
            region = image[sentence] * regions_each + slot
            own.append((sentence, region))
            claims += [(sentence, group, facts[region, k]) for k in rng.permutation(len(VALUES))[: rng.integers(1, 4)]]
    own_regions = torch.tensor(np.array(own))
    sentence_region = torch.full((n_sentences,), -1)
    sentence_region[own_regions[:, 0]] = own_regions[:, 1]
    low = rng.random((n_regions, 2)) * 0.5
    boxes = np.concatenate([low, 0.1 + 0.4 * rng.random((n_regions, 2))], axis=1) * [64, 192, 64, 192]
    texts = torch.arange(n_sentences)
    captions = CaptionSet(unit(n_images), torch.arange(n_images), unit(n_sentences), torch.from_numpy(image))
    return SplitEmbeddings(
        split="test",
        image_embeds=unit(n_images),
        image_person_ids=torch.arange(n_images) // images_each,
        image_sizes=torch.tensor([[64, 192]]).repeat(n_images, 1),
        long=captions,
        short=captions,
        sentence_text_ids=texts,
        sentence_region=sentence_region,
        region_embeds=unit(n_regions),
        region_image=torch.arange(n_images).repeat_interleave(regions_each),
        region_boxes=torch.from_numpy(boxes).float(),
        region_texts=own_regions.flip(1),
        template_embeds=unit(n_images, len(TEMPLATE_LABELS)),
        template_boxes=torch.from_numpy(template_boxes()),
        own_regions=own_regions,
        region_labels=torch.from_numpy(facts[:, 0]),
        claims=torch.tensor(np.array(claims)),
        region_facts=torch.from_numpy(np.stack([np.repeat(np.arange(n_regions), len(VALUES)), facts.reshape(-1)], 1)),
        facts_known=torch.tensor(True),
    )


def run_part(part: str, size: str, threads: int) -> dict:
    """One measurement in this process."""
    torch.set_num_threads(threads)
    split = make_split(*SIZES[size][part == "evaluation"])
    n_query, n_region = len(split.sentence_region), len(split.region_image)

    def similarities() -> dict[str, float]:
        block = cosine(split.long.sentence_embeds.numpy(), split.region_embeds.numpy(), reuse=True)
        for start in range(0, n_query, BLOCK_ROWS):
            block(start, min(start + BLOCK_ROWS, n_query))
        return {}

    def local() -> dict[str, float]:
        return rank_sentences(split, region_relevance(split), "pessimistic").scores()

    def evaluation() -> dict[str, float]:
        lines = ranked_queries(split, 0.3) | reference_lines(split, ["a red coat"] * n_query)
        for line in lines.values():
            bootstrap(line.ranking, line.person_ids)
        return lines["local"].scores() | {
            f"oracle {name}": value for name, value in lines["local/oracle"].scores().items()
        }

    result = measure_call({"similarities": similarities, "local": local, "evaluation": evaluation}[part])
    return result | {"queries": n_query, "gallery": n_region}


def main(argv: Sequence[str] | None = None) -> dict:
    """Measures, prints the table, writes the JSON file, and returns its content."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.protocols", description="CPU time and memory of the protocols after encoding."
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="size of the split (default: full)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"--threads must be at least 1, not {args.threads}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # read when the new processes import numpy
    results: dict = {"threads": args.threads, "size": args.size}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for part in PARTS:
            results[part] = pool.submit(run_part, part, args.size, args.threads).result()
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(f"`{f'python -m benchmarks.speed.protocols {words}'.strip()}`\n")
    print("| | sentences x regions | CPU s | wall s | added memory |\n|---|---|---:|---:|---:|")
    for part in PARTS:
        run = results[part]
        shape, memory = f"{run['queries']:,} x {run['gallery']:,}", f"{run['added_bytes'] / 2**20:.0f} MiB"
        print(f"| {part} | {shape} | {run['cpu_s']:.1f} | {run['wall_s']:.1f} | {memory} |")
    scores = results["evaluation"]["scores"]
    print(f"\nA sentence is true of {scores['positives']:.0f} regions (median); oracle R@1 {scores['oracle R@1']:.1f}.")
    if args.out:
        write_json(args.out, results)
    return results


if __name__ == "__main__":
    main()
