"""python -m benchmarks.speed.search [--size tiny|20k|100k|1m] [--parts exact,faiss,...] [--embeddings FILE] [--seed N]

What a search costs: clustered synthetic embeddings of width 512 (unit vectors: a centre, drawn once for each cluster,
plus noise of a given length in a random direction; queries are drawn the same way around the same centres) in a real
index, looked up through the code of `Gallery.search`, text encoding excluded; or, with --embeddings, those of a trained
model. Each part can be run by itself:

    exact       the shards, against a bare `torch.matmul + topk` on one array in memory; with a filter of 1 %
    faiss       an inverted file beside them; faiss-hnsw: a graph; milvus: a local file of milvus-lite; each with its
                recall@10 against the exact search, unfiltered, with the filter of 1 %, and with one of 50 %
    rerank      late interaction over the best 200: what it adds to an exact query of one text and three sentences
    build       images a second of `Gallery.build`, decoding included, against a plain loop over `CLIPModel`, in fp32
                and as the machine chooses; and a search end to end (random weights, or those of --model)

Milliseconds are this machine's (--clock cpu on one that others use); ratios, recall, memory and disk are what to read.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel

from benchmarks.robustness.kill_index import draw_images
from benchmarks.speed.search_rows import DIMENSION, clustered, make_index, trained
from benchmarks.speed.step import SIZES, configurations
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_sync import sync_store
from modeling_rogle.index.vector_store import exact_search, nearest, open_store
from modeling_rogle.inference.loading import load_model
from modeling_rogle.late_interaction import late_interaction
from modeling_rogle.search.gallery import Gallery

IMAGES = {"tiny": 3_000, "20k": 20_000, "100k": 100_000, "1m": 1_000_000}
TOP, RERANKED = 10, 200
NOTES = ("effort", "fell back", "chosen")
CLOCK = time.perf_counter
PARTS = ("exact", "faiss", "faiss-hnsw", "milvus", "rerank", "build")


def timed(call: Callable[[int], object], count: int) -> tuple[float, float]:
    """Median and 95th percentile of milliseconds over calls with 0 .. count - 1, after two to warm up."""
    seconds = []
    for number in (0, 1, *range(count)):
        started = CLOCK()
        call(number)
        seconds.append(CLOCK() - started)
    ordered = sorted(seconds[2:])
    return 1e3 * statistics.median(ordered), 1e3 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def resident_bytes() -> int:
    """Memory of this process now, mapped files that were read among it; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:")).split()[1])


def disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure_exact(index: Index, queries: np.ndarray, one_percent: np.ndarray) -> list[dict]:
    """The exact search, and what it is compared with, taking turns."""
    before = resident_bytes()
    exact_search(index, queries[0], RERANKED)
    memory = resident_bytes() - before
    array = torch.from_numpy(index.global_rows())
    asked = torch.from_numpy(queries)
    rows = [
        ("bare torch.matmul + topk", lambda n: torch.topk(array @ asked[n], RERANKED)),
        ("exact", lambda n: exact_search(index, queries[n], RERANKED)),
        ("exact, 1 % filter", lambda n: exact_search(index, queries[n], RERANKED, one_percent)),
    ]
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in rows}
    for _ in range(3):
        for name, call in rows:
            turns[name].append(timed(call, len(queries)))
    found = []
    for name, _ in rows:
        p50, p95 = (statistics.median(values) for values in zip(*turns[name], strict=True))
        found.append({"part": name, "p50": p50, "p95": p95})
    wanted = [set(torch.topk(array @ row, TOP).indices.tolist()) for row in asked]
    exact = [set(exact_search(index, row, TOP)[0].tolist()) for row in queries]
    found[1]["recall"] = sum(len(a & b) for a, b in zip(wanted, exact, strict=True)) / (TOP * len(queries))
    found[1] |= {"disk": disk(index.path), "memory": memory}
    return found


def measure_store(index: Index, uri: str, queries: np.ndarray, filters: dict[str, np.ndarray | None]) -> list[dict]:
    """A store: filled, its effort tuned on queries of another draw, then timed and judged on these."""
    half = len(queries) // 2
    sync_store(index.path, "exact")
    bytes_before, started = disk(index.path), CLOCK()
    sync_store(index.path, uri, lambda: queries[:half])
    seconds = CLOCK() - started
    index = Index(index.path)
    known = index.header["store"]
    exact_search(index, queries[0], TOP)  # the shards' own pages are none of the store's memory
    before = resident_bytes()
    store = open_store(uri, index.path, index.header)
    found = []
    try:
        for name, rows in filters.items():
            wanted = [set(exact_search(index, query, TOP, rows)[0].tolist()) for query in queries[half:]]
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")

                def ask(n: int, count: int = RERANKED, rows: np.ndarray | None = rows) -> np.ndarray:
                    return nearest(index, queries[half:][n], count, rows, store, known["upto"], known["filtered"])[0]

                got = [ask(n, TOP) for n in range(len(wanted))]
                fallen = len(told)
                p50, p95 = timed(ask, half)
            hits = sum(len(a & set(b.tolist())) for a, b in zip(wanted, got, strict=True))
            recall = hits / sum(len(one) for one in wanted)
            found.append({"part": f"{uri}{name}", "p50": p50, "p95": p95, "recall": recall, "fell back": fallen})
        memory = resident_bytes() - before
    finally:
        store.close()
    found[0] |= {"build s": seconds, "disk": disk(index.path) - bytes_before, "memory": memory}
    found[0]["effort"] = known["effort"]
    return found


def measure_rerank(index: Index, queries: np.ndarray, sentences: int = 3) -> list[dict]:
    """Exact search with and without late interaction over the best 200, taking turns."""
    said = [np.stack([queries[(n + s) % len(queries)] for s in range(sentences)]) for n in range(len(queries))]

    def both(n: int) -> None:
        rows, scores = exact_search(index, queries[n], RERANKED)
        late_interaction(scores, index.region_cosines(rows, said[n]), 0.5)

    turns: dict[str, list[tuple[float, float]]] = {"exact, once more": [], "exact + late interaction over 200": []}
    for _ in range(3):
        turns["exact, once more"].append(timed(lambda n: exact_search(index, queries[n], RERANKED), len(queries)))
        turns["exact + late interaction over 200"].append(timed(both, len(queries)))
    return [
        {"part": name, **dict(zip(("p50", "p95"), map(statistics.median, zip(*values, strict=True)), strict=True))}
        for name, values in turns.items()
    ]


def measure_build(size: str, model_folder: str | None, pictures: int, batch_size: int, work: Path) -> list[dict]:
    """`Gallery.build` against a loop: open, process, `CLIPModel.get_image_features`, batch by batch."""
    folder = draw_images(work / "images", pictures)
    if model_folder:
        model, processor = load_model(model_folder)
        clip_config = model.config
    else:
        config, clip_config = configurations(size)
        torch.manual_seed(0)
        model, processor = RogleModel(config).eval(), _processor(SIZES[size][0])
    clip = CLIPModel(clip_config).eval() if not model_folder else None
    files = sorted(folder.iterdir())

    @torch.no_grad()
    def plain() -> None:
        for start in range(0, len(files), batch_size):
            images = [Image.open(file).convert("RGB") for file in files[start : start + batch_size]]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            if clip is None:
                model.encode_images(pixels)
            else:
                clip.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)

    from modeling_rogle.inference import image_encoder as embedding

    chosen = embedding.fast_bfloat16
    rates: dict[str, list[float]] = {"plain loop over CLIPModel, fp32": [], "Gallery.build, fp32": []}
    dtype = embedding.with_fast_dtype(model).dtype
    if dtype != torch.float32:
        rates["Gallery.build, bf16 (chosen)"] = []
    for turn in range(3):
        for name, values in rates.items():
            started = CLOCK()
            if name.startswith("plain"):
                plain()
            else:
                embedding.fast_bfloat16 = chosen if "bf16" in name else lambda device: False
                out = work / f"{turn}-{'chosen' if 'bf16' in name else 'fp32'}"
                Gallery.build(folder, model, processor, out, batch_size, progress=False)
            values.append(len(files) / (CLOCK() - started))
    embedding.fast_bfloat16 = chosen
    found = [{"part": name, "images/s": statistics.median(values)} for name, values in rates.items()]
    found[-1]["chosen"] = str(dtype).removeprefix("torch.")
    gallery = Gallery.open(work / "0-fp32", model, processor)
    text = "A man in a red coat. He carries a black bag. His shoes are white."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random tokenizer knows no words
        p50, p95 = timed(lambda n: gallery.search(text), 10)
        alone = timed(lambda n: gallery.encode_query(text), 10)[0]
    found.append({"part": f"search end to end, of that the text {alone:.1f} ms", "p50": p50, "p95": p95})
    return found


def _processor(image_size: tuple[int, int]) -> RogleProcessor:
    from transformers import CLIPImageProcessorPil

    from train.small_model import train_tokenizer

    images = CLIPImageProcessorPil(size={"height": image_size[0], "width": image_size[1]}, do_center_crop=False)
    return RogleProcessor(images, train_tokenizer(["A man in a red coat carries a black bag."] * 20, max_length=64))


def told(rows: list[dict]) -> list[dict]:
    """The rows, shown at once on stderr: a run of hours that is stopped has said what it found."""
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def markdown(found: Sequence[dict]) -> str:
    """A table; times are compared with the first row that has them, rates with the first that has one."""
    base = next((row["p50"] for row in found if "p50" in row), None)
    rate = next((row["images/s"] for row in found if "images/s" in row), None)
    lines = ["| part | p50 ms | p95 ms | x first | recall@10 | images/s | build s | memory MB | disk MB | notes |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for row in found:
        times = f"{row['p50']:.2f} | {row['p95']:.2f}" if "p50" in row else "- | -"
        ratio = row["p50"] / base if "p50" in row else row["images/s"] / rate
        cells = [
            f"{row['recall']:.4f}" if "recall" in row else "-",
            f"{row['images/s']:.1f}" if "images/s" in row else "-",
            f"{row['build s']:.1f}" if "build s" in row else "-",
            *(f"{row[name] / 1e6:.0f}" if name in row else "-" for name in ("memory", "disk")),
            ", ".join(f"{name} {row[name]}" for name in NOTES if row.get(name)),
        ]
        lines.append(f"| {row['part']} | {times} | {ratio:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Measures the parts asked for, prints a table, and returns its rows."""
    parser = argparse.ArgumentParser(
        description="Milliseconds, recall, memory and disk of a search; images/s of a build."
    )
    parser.add_argument("--size", choices=IMAGES, default="100k", help="embeddings (default 100k)")
    parser.add_argument("--parts", default="exact,faiss,milvus,rerank", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--queries", type=int, default=100, help="half of them tune the stores (default 100)")
    parser.add_argument("--clusters", type=int, help="default: 5,000, but at least 20 embeddings in each")
    parser.add_argument("--noise", type=float, default=1.0, help="its length beside a centre's 1 (default 1.0)")
    parser.add_argument(
        "--embeddings", metavar="FILE", help="instead: images and long captions that eval/eval.py --cache left"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process (default wall)")
    parser.add_argument("--model-size", choices=SIZES, default="vitb16", help="towers of the part build")
    parser.add_argument("--model", help="a model's folder for the part build, instead of random weights")
    parser.add_argument("--images", type=int, default=256, help="of the part build (default 256)")
    parser.add_argument("--batch", type=int, default=32, help="of the part build (default 32)")
    parser.add_argument("--work", help="where the index is made (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="save the rows as well")
    args = parser.parse_args(argv)
    parts = args.parts.split(",")
    for part in parts:
        if part not in PARTS:
            parser.error(f"--parts: {part!r} is not one of {', '.join(PARTS)}")
    for name in ("queries", "threads", "images", "batch"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    global CLOCK
    CLOCK = time.process_time if args.clock == "cpu" else time.perf_counter
    count = IMAGES[args.size]
    clusters = args.clusters or min(5_000, count // 20)
    found: list[dict] = []
    width = DIMENSION
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work = Path(temporary)
        if set(parts) - {"build"}:
            if args.embeddings:
                blocks, queries = trained(args.embeddings, count, args.noise, args.seed)
                queries = queries[: args.queries]
            else:
                blocks = clustered(count, clusters, args.noise, args.seed, 1)
                queries = next(clustered(args.queries, clusters, args.noise, args.seed, 3))
            width = queries.shape[1]
            index = make_index(work / "index", blocks, args.noise, args.seed, "rerank" in parts)
            draw = np.random.default_rng([args.seed, 4])
            narrow, wide = (np.flatnonzero(draw.random(count) < share) for share in (0.01, 0.5))
            filters = {"": None, ", 1 % filter": narrow, ", 50 % filter": wide}
            if "exact" in parts:
                found += told(measure_exact(index, queries, narrow))
            for uri in ("faiss", "faiss-hnsw", "milvus"):
                if uri in parts:
                    found += told(measure_store(index, uri, queries, filters))
            if "rerank" in parts:
                found += told(measure_rerank(index, queries))
        if "build" in parts:
            found += told(measure_build(args.model_size, args.model, args.images, args.batch, work))
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(f"`python -m benchmarks.speed.search {words}`\n")
    if set(parts) - {"build"}:
        drawn = f"images of {args.embeddings}" if args.embeddings else f"{clusters:,} clusters"
        print(f"{count:,} x {width}, {drawn}, noise {args.noise}, seed {args.seed}, ", end="")
    print(f"{args.threads} threads, {args.clock} clock\n")
    print(markdown(found))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
