"""Cost of a search: the exact search, approximate stores, late interaction, and the building of an index.

    python -m benchmarks.speed.search [--size tiny|20k|100k|1m] [--parts exact,faiss,...] [--embeddings FILE] [--seed N]

The embeddings are clustered and synthetic, or those of a trained model (--embeddings). Synthetic ones are unit vectors
of 512 dimensions: a centre of a cluster plus noise of a given length in a random direction. Queries are drawn around
the same centres. The embeddings are in a real index, which the code of `Gallery.search` reads. The encoding of the
query text is not included. Parts:

    exact       exact search in the shards, against a bare `torch.matmul + topk` on one array in memory; and with a
                filter that keeps 1 % of the images
    faiss-flat  8-bit codes besides the shards; faiss: an inverted file; faiss-hnsw: a graph; milvus, pgvector: a graph
                on a server, which this program starts. Each with its recall@10 against the exact search (mean; the
                worst query in the notes): without a filter, and with filters of 1 % and of 50 %
    rerank      late interaction over the best 200 images, against an exact query of one text and three sentences
    build       images a second of `Gallery.build` with decoding, against a plain loop over `CLIPModel`, in fp32 and in
                the precision that the machine chooses; and an end-to-end search (random weights, or --model)

Read ratios, recall, memory and disk: milliseconds depend on the machine. Use --clock cpu on a machine with other load.
That clock does not count the time of a server; the notes give it as CPU milliseconds a query.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel

from benchmarks.common.memory import resident_bytes
from benchmarks.common.milvus_server import TOKEN, MilvusServer
from benchmarks.common.postgres_server import PostgresServer
from benchmarks.common.random_images import write_random_images
from benchmarks.common.random_models import SIZES, configurations, random_processor
from benchmarks.speed.search_rows import DIMENSION, clustered, make_index, trained
from modeling_rogle import Gallery, RogleModel, load_model
from modeling_rogle.index.exact_search import exact_search, exact_search_batch
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_quality import recall_of
from modeling_rogle.index.store_sync import sync_store
from modeling_rogle.index.vector_store import nearest, open_store
from modeling_rogle.inference import image_encoder
from modeling_rogle.inference.preprocessing import PERSON_SEARCH
from modeling_rogle.late_interaction import late_interaction

IMAGES = {"tiny": 3_000, "20k": 20_000, "100k": 100_000, "1m": 1_000_000}
TOP, RERANKED = 10, 200
NOTES = ("worst", "effort", "fell back", "chosen", "server CPU ms")
STORES = ("faiss-flat", "faiss", "faiss-hnsw", "milvus", "pgvector")
PARTS = ("exact", *STORES, "rerank", "build")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]
QUERY = "A man in a red coat. He carries a black bag. His shoes are white."


def time_calls(call: Callable[[int], object], count: int, clock: Clock) -> tuple[float, float]:
    """Median and 95th percentile of the milliseconds of `call(0)` to `call(count - 1)`, after two calls to warm up."""
    seconds = []
    for number in (0, 1, *range(count)):
        started = clock()
        call(number)
        seconds.append(clock() - started)
    ordered = sorted(seconds[2:])
    return 1e3 * statistics.median(ordered), 1e3 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def time_in_turns(calls: Mapping[str, Callable[[int], object]], count: int, clock: Clock) -> list[dict]:
    """Rows of the table with the times of each call: medians over three turns."""
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(3):
        for name, call in calls.items():
            turns[name].append(time_calls(call, count, clock))
    rows = []
    for name, times in turns.items():
        p50, p95 = (statistics.median(values) for values in zip(*times, strict=True))
        rows.append({"part": name, "p50": p50, "p95": p95})
    return rows


def disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure_exact(index: Index, queries: np.ndarray, one_percent: np.ndarray, clock: Clock) -> list[dict]:
    """Exact search in an index, against a matrix product.

    Args:
        index: the index.
        queries: `[q, D]`.
        one_percent: rows that the filter keeps.
        clock: measures seconds.
    """
    before = resident_bytes()
    exact_search(index, queries[0], RERANKED)
    memory = resident_bytes() - before
    array = torch.from_numpy(index.global_rows())
    tensors = torch.from_numpy(queries)
    rows = time_in_turns(
        {
            "bare torch.matmul + topk": lambda n: torch.topk(array @ tensors[n], RERANKED),
            "exact": lambda n: exact_search(index, queries[n], RERANKED),
            "exact, 1 % filter": lambda n: exact_search(index, queries[n], RERANKED, one_percent),
        },
        len(queries),
        clock,
    )
    expected = [set(torch.topk(array @ query, TOP).indices.tolist()) for query in tensors]
    results = [set(exact_search(index, query, TOP)[0].tolist()) for query in queries]
    rows[1]["recall"] = sum(len(a & b) for a, b in zip(expected, results, strict=True)) / (TOP * len(queries))
    rows[1] |= {"disk": disk_bytes(index.path), "memory": memory}
    return rows


class InProcess:
    """Stands for the server of a store that has none."""

    def __init__(self, uri: str):
        self.uri = uri

    def cpu_seconds(self) -> float:
        return 0.0

    def resident_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        pass


def start_server(part: str, work: Path) -> InProcess | MilvusServer | PostgresServer:
    """Starts the server of a store.

    Args:
        part: name of the store.
        work: folder for the files of a server.
    """
    if part == "milvus":
        server = MilvusServer(work / "milvus")
        os.environ |= {"MILVUS_URI": server.uri, "MILVUS_TOKEN": TOKEN}
        return server
    return PostgresServer() if part == "pgvector" else InProcess(part)


def measure_store(
    index: Index,
    name: str,
    server: InProcess | MilvusServer | PostgresServer,
    queries: np.ndarray,
    filters: Mapping[str, np.ndarray | None],
    clock: Clock,
) -> list[dict]:
    """Fills a store, which chooses its effort on the first half of the queries, and measures it on the second half.

    Args:
        index: the index.
        name: of the store.
        server: of the store.
        queries: `[q, D]`.
        filters: suffix of the row's name -> rows that the filter keeps; None without a filter.
        clock: measures seconds.
    """
    half, uri = len(queries) // 2, server.uri
    sync_store(index.path, "exact")
    bytes_before, started = disk_bytes(index.path), clock()
    sync_store(index.path, uri, lambda: queries[:half])
    seconds = clock() - started
    index = Index(index.path)
    stored = index.header["store"]
    exact_search(index, queries[0], TOP)  # reads the pages of the shards, which are no memory of the store
    before = resident_bytes()
    store = open_store(uri, index.path, index.header)
    table = []
    try:
        for suffix, rows in filters.items():
            expected = exact_search_batch(index, queries[half:], TOP, rows)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")

                def search(
                    n: int, count: int = RERANKED, rows: np.ndarray | None = rows
                ) -> tuple[np.ndarray, np.ndarray]:
                    return nearest(index, queries[half:][n], count, rows, store, stored["upto"], stored["filtered"])

                results = [search(n, TOP) for n in range(len(expected))]
                fallbacks = len(caught)
                busy = server.cpu_seconds()
                p50, p95 = time_calls(search, half, clock)
                busy = 1e3 * (server.cpu_seconds() - busy) / (half + 2)
            found = [recall_of([result], [best]) for result, best in zip(results, expected, strict=True)]
            row = {"part": f"{name}{suffix}", "p50": p50, "p95": p95, "recall": statistics.mean(found)}
            table.append(
                row
                | {"worst": f"{min(found):.1f}", "fell back": fallbacks, "server CPU ms": f"{busy:.1f}" if busy else ""}
            )
        memory = server.resident_bytes() or resident_bytes() - before
    finally:
        store.close()
    table[0] |= {"build s": seconds, "disk": disk_bytes(index.path) - bytes_before, "memory": memory}
    table[0]["effort"] = stored.get("effort")
    return table


def measure_rerank(index: Index, queries: np.ndarray, clock: Clock, sentences: int = 3) -> list[dict]:
    """Exact search with and without late interaction over the best 200 images, in turn."""
    count = len(queries)
    sentence_embeds = [np.stack([queries[(n + s) % count] for s in range(sentences)]) for n in range(count)]

    def search_and_rerank(n: int) -> None:
        rows, scores = exact_search(index, queries[n], RERANKED)
        late_interaction(scores, index.region_cosines(rows, sentence_embeds[n]), 0.5)

    calls = {
        "exact, once more": lambda n: exact_search(index, queries[n], RERANKED),
        f"exact + late interaction over {RERANKED}": search_and_rerank,
    }
    return time_in_turns(calls, count, clock)


def measure_build(
    size: str, model_folder: str | None, images: int, batch_size: int, work: Path, clock: Clock
) -> list[dict]:
    """`Gallery.build` against a loop that opens, processes and encodes images batch by batch; and a search.

    Args:
        size: towers with random weights.
        model_folder: a trained model instead; the loop then calls its own `encode_images`, otherwise
            `CLIPModel.get_image_features`.
        images: number of images.
        batch_size: images a batch.
        work: folder for images and indexes.
        clock: measures seconds.
    """
    folder = write_random_images(work / "images", images)
    clip = None
    if model_folder:
        model, processor = load_model(model_folder, PERSON_SEARCH)
    else:
        config, clip_config = configurations(size)
        torch.manual_seed(0)
        model, processor = RogleModel(config).eval(), random_processor(size)
        clip = CLIPModel(clip_config).eval()
    files = sorted(folder.iterdir())

    @torch.no_grad()
    def plain_loop() -> None:
        for start in range(0, len(files), batch_size):
            batch = [Image.open(file).convert("RGB") for file in files[start : start + batch_size]]
            pixels = processor(images=batch, return_tensors="pt")["pixel_values"]
            if clip is None:
                model.encode_images(pixels)
            else:
                clip.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)

    fast_bfloat16 = image_encoder.fast_bfloat16
    rates: dict[str, list[float]] = {"plain loop over CLIPModel, fp32": [], "Gallery.build, fp32": []}
    dtype = image_encoder.with_fast_dtype(model).dtype
    if dtype != torch.float32:
        rates["Gallery.build, bf16 (chosen)"] = []
    for turn in range(3):
        for name, values in rates.items():
            started = clock()
            if name.startswith("plain"):
                plain_loop()
            else:
                image_encoder.fast_bfloat16 = fast_bfloat16 if "bf16" in name else lambda device: False
                out = work / f"{turn}-{'chosen' if 'bf16' in name else 'fp32'}"
                Gallery.build(folder, model, processor, out, batch_size, progress=False)
            values.append(len(files) / (clock() - started))
    image_encoder.fast_bfloat16 = fast_bfloat16
    table = [{"part": name, "images/s": statistics.median(values)} for name, values in rates.items()]
    table[-1]["chosen"] = str(dtype).removeprefix("torch.")
    gallery = Gallery.open(work / "0-fp32", model, processor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the random tokenizer does not know the words
        p50, p95 = time_calls(lambda n: gallery.search(QUERY), 10, clock)
        text_ms = time_calls(lambda n: gallery.encode_query(QUERY), 10, clock)[0]
    table.append({"part": f"search end to end, of that the text {text_ms:.1f} ms", "p50": p50, "p95": p95})
    return table


def measure(args: argparse.Namespace, parts: Sequence[str], clusters: int, work: Path) -> tuple[list[dict], int]:
    """The rows of all parts, and the dimension of the embeddings. Each part is printed to stderr when it is done."""
    table: list[dict] = []
    clock = CLOCKS[args.clock]
    width = DIMENSION
    if set(parts) - {"build"}:
        count = IMAGES[args.size]
        if args.embeddings:
            blocks, queries = trained(args.embeddings, count, args.noise, args.seed)
            queries = queries[: args.queries]
        else:
            blocks = clustered(count, clusters, args.noise, args.seed, 1)
            queries = next(clustered(args.queries, clusters, args.noise, args.seed, 3))
        width = queries.shape[1]
        index = make_index(work / "index", blocks, args.noise, args.seed, "rerank" in parts)
        generator = np.random.default_rng([args.seed, 4])
        narrow, wide = (np.flatnonzero(generator.random(count) < share) for share in (0.01, 0.5))
        filters = {"": None, ", 1 % filter": narrow, ", 50 % filter": wide}
        if "exact" in parts:
            table += print_rows(measure_exact(index, queries, narrow, clock))
        for name in STORES:
            if name in parts:
                server = start_server(name, work)
                try:
                    table += print_rows(measure_store(index, name, server, queries, filters, clock))
                finally:
                    server.stop()
        if "rerank" in parts:
            table += print_rows(measure_rerank(index, queries, clock))
    if "build" in parts:
        table += print_rows(measure_build(args.model_size, args.model, args.images, args.batch, work, clock))
    return table, width


def print_rows(rows: list[dict]) -> list[dict]:
    """Prints rows to stderr at once, so that an interrupted run of hours has printed its results."""
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def markdown(table: Sequence[dict]) -> str:
    """A Markdown table. Times are relative to the first row with a time, rates to the first with a rate."""
    base = next((row["p50"] for row in table if "p50" in row), None)
    rate = next((row["images/s"] for row in table if "images/s" in row), None)
    lines = ["| part | p50 ms | p95 ms | x first | recall@10 | images/s | build s | memory MB | disk MB | notes |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for row in table:
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.search",
        description="Milliseconds, recall, memory and disk of a search; images/s of a build.",
    )
    parser.add_argument("--size", choices=IMAGES, default="100k", help="number of embeddings (default: 100k)")
    parser.add_argument(
        "--parts",
        default="exact,faiss-flat,faiss,rerank",
        help=f"comma-separated list of {', '.join(PARTS)} (default: exact,faiss-flat,faiss,rerank)",
    )
    parser.add_argument(
        "--queries", type=int, default=100, help="number of queries; stores are tuned on half of them (default: 100)"
    )
    parser.add_argument(
        "--clusters", type=int, help="number of clusters (default: 5,000, with at least 20 embeddings in each)"
    )
    parser.add_argument("--noise", type=float, default=1.0, help="length of the noise; a centre has 1 (default: 1.0)")
    parser.add_argument(
        "--embeddings",
        metavar="FILE",
        help="use images and long captions from a file of eval/eval.py --cache (default: synthetic embeddings)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic embeddings (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure (default: wall)")
    parser.add_argument("--model-size", choices=SIZES, default="vitb16", help="towers of part build (default: vitb16)")
    parser.add_argument("--model", metavar="DIR", help="trained model for part build (default: random weights)")
    parser.add_argument("--images", type=int, default=256, help="images of part build (default: 256)")
    parser.add_argument("--batch", type=int, default=32, help="images a batch of part build (default: 32)")
    parser.add_argument("--work", metavar="DIR", help="folder for the index (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to a JSON file (default: none)")
    args = parser.parse_args(argv)
    for part in args.parts.split(","):
        if part not in PARTS:
            parser.error(f"--parts: {part!r} is not one of {', '.join(PARTS)}")
    for name in ("queries", "threads", "images", "batch"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    return args


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Measures the parts, prints a table, and returns its rows."""
    args = parse(argv)
    parts = args.parts.split(",")
    torch.set_num_threads(args.threads)
    count = IMAGES[args.size]
    clusters = args.clusters or min(5_000, count // 20)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        table, width = measure(args, parts, clusters, Path(work))
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(f"`python -m benchmarks.speed.search {words}`\n")
    if set(parts) - {"build"}:
        source = f"images of {args.embeddings}" if args.embeddings else f"{clusters:,} clusters"
        print(f"{count:,} x {width}, {source}, noise {args.noise}, seed {args.seed}, ", end="")
    print(f"{args.threads} threads, {args.clock} clock\n")
    print(markdown(table))
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1) + "\n")
    return table


if __name__ == "__main__":
    main()
