"""Time and memory of ranking with modeling_rogle.metrics, against a bare matrix product and a full argsort.

    python -m benchmarks.speed.ranking [--size icfg|tiny] [--rounds N] [--threads N] [--out FILE.json]

Measured are the CPU seconds (all threads) and the added memory of

    engine      modeling_rogle.metrics.retrieval.global_scores, called with embeddings
    matmul      the similarities alone: a blocked float32 product into one buffer, in the engine's block size
    reference   the code that published text-based person search shares: the full matrix, a full argsort, a gather of
                the sorted identities, running sums of the matches
    tall        the engine with a gallery of 5 times the size
    growth      the engine with half of the queries, half of the gallery, and both

Every measurement runs in a process of its own, which loads the embeddings and then does one thing. Engine and matmul
take turns over the rounds, so that other load on the machine affects both. Read the ratios.

The embeddings (512-d unit vectors, 20 images and 20 captions an identity) are synthetic. Identities lie in groups
around a common centre. Every item has its own amount of noise, captions more than images. The constants are chosen so
that R@1, mAP and mINP are near those published on ICFG-PEDES (R@1 60 to 70, mAP about 40, mINP about 8).
"""

import argparse
import multiprocessing
import os
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.common.memory import memory_bytes
from benchmarks.common.tables import write_json
from modeling_rogle.metrics.ranks import BLOCK_BYTES
from modeling_rogle.metrics.retrieval import global_scores

DIMENSION, PER_IDENTITY = 512, 20
IDENTITIES_PER_GROUP, IDENTITY_DISTANCE = 10, 0.52  # distance of an identity from the centre of its group
NOISE = {"query": 2.3, "gallery": 1.8}
NOISE_SPREAD = 0.25  # standard deviation of the logarithm of an item's noise
# queries and gallery of the main run, then of the run with the tall gallery
SIZES = {"icfg": (19848, 19848, 20000, 100_000), "tiny": (300, 300, 300, 1500)}
METRICS = ("R@1", "R@5", "R@10", "mAP", "mINP")


def make_embeddings(kind: str, n: int, n_identities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic embeddings of queries or of a gallery.

    Args:
        kind: `query` or `gallery`.
        n: number of items.
        n_identities: number of identities.
        seed: the same seed gives the same identities for both kinds.

    Returns:
        float32 unit vectors `[n, 512]` and identities `[n]`.
    """
    shared = np.random.default_rng(seed)
    groups = shared.standard_normal((-(-n_identities // IDENTITIES_PER_GROUP), DIMENSION), dtype=np.float32)
    people = IDENTITY_DISTANCE * shared.standard_normal((n_identities, DIMENSION), dtype=np.float32)
    people += groups[np.arange(n_identities) // IDENTITIES_PER_GROUP]
    rng = np.random.default_rng([seed, len(kind)])
    ids = rng.permutation(np.arange(n) % n_identities)
    embeds = rng.standard_normal((n, DIMENSION), dtype=np.float32)
    embeds *= NOISE[kind] * np.exp(NOISE_SPREAD * rng.standard_normal((n, 1), dtype=np.float32))
    embeds += people[ids]
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    return embeds, ids


def bare_matmul(query: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
    """Computes the similarities in blocks into one buffer, and nothing else."""
    rows = max(1, BLOCK_BYTES // (4 * len(gallery)))
    block = np.empty((min(rows, len(query)), len(gallery)), dtype=np.float32)
    for start in range(0, len(query), rows):
        part = query[start : start + rows]
        np.matmul(part, gallery.T, out=block[: len(part)])
    return {}


def full_argsort(
    query: np.ndarray, query_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray, rows: int
) -> dict[str, float]:
    """The metrics from fully sorted matrices, for `rows` queries at a time (all of them if the memory suffices)."""
    import torch

    query_people, gallery_people = torch.from_numpy(query_ids), torch.from_numpy(gallery_ids)
    sums, n = dict.fromkeys(METRICS, 0.0), 0
    for start in range(0, len(query), rows):
        similarity = torch.from_numpy(query[start : start + rows]) @ torch.from_numpy(gallery).T
        order = torch.argsort(similarity, dim=1, descending=True)
        matches = gallery_people[order] == query_people[start : start + rows, None]
        hits = matches.cumsum(dim=1)
        n_positives = hits[:, -1]
        ranks = torch.arange(1, len(gallery_people) + 1)
        precision = hits / ranks * matches
        last = (matches * ranks).amax(dim=1)
        for k in (1, 5, 10):
            sums[f"R@{k}"] += float((hits[:, min(k, len(gallery_people)) - 1] > 0).sum())
        sums["mAP"] += float((precision.sum(dim=1) / n_positives).double().sum())
        sums["mINP"] += float((n_positives / last).double().sum())
        n += len(matches)
    return {name: 100 * value / n for name, value in sums.items()}


def measure_call(work: Callable[[], dict[str, float]]) -> dict:
    """CPU and wall seconds of a call, the memory that it added at its peak, and its result (`scores`)."""
    before = memory_bytes("VmRSS")
    clear = Path("/proc/self/clear_refs")
    if before is not None and clear.exists():
        clear.write_text("5")  # resets the peak, which loading has raised
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu, wall = time.process_time(), time.perf_counter()
    scores = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = memory_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": cpu, "wall_s": wall, "added_bytes": after - before, "scores": scores}


def run_part(part: str, folder: Path, n_query: int, n_gallery: int, rows: int = 0) -> dict:
    """One measurement in this process.

    Args:
        part: `engine`, `matmul` or `reference`.
        folder: holds the embeddings.
        n_query: number of queries.
        n_gallery: number of gallery images.
        rows: queries at a time of the reference.
    """

    def load(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        embeds, ids = (np.load(folder / f"{name}.npy", allow_pickle=False)[:n] for name in (kind, f"{kind}_ids"))
        return embeds, ids

    query, gallery = load("query", n_query), load("gallery", n_gallery)
    if part == "matmul":
        return measure_call(lambda: bare_matmul(query[0], gallery[0]))
    if part == "reference":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return measure_call(lambda: full_argsort(*query, *gallery, rows))
    return measure_call(lambda: global_scores(*query, *gallery))


def run_in_process(
    pool: ProcessPoolExecutor, part: str, folder: Path, n_query: int, n_gallery: int, rows: int = 0
) -> dict:
    """[`run_part`] in a new process; prints the result to stderr."""
    print(f"{part}, {n_query:,} x {n_gallery:,} ...", file=sys.stderr, end=" ", flush=True)
    result = pool.submit(run_part, part, folder, n_query, n_gallery, rows).result()
    added = f"{result['added_bytes'] / 2**20:.0f} MiB"
    print(f"{result['cpu_s']:.2f} CPU s, {added}, {result['wall_s']:.0f} s", file=sys.stderr, flush=True)
    return result


def save_embeddings(folder: Path, n_query: int, n_gallery: int) -> None:
    n_identities = -(-n_gallery // PER_IDENTITY)
    for kind, n in (("query", n_query), ("gallery", n_gallery)):
        embeds, ids = make_embeddings(kind, n, n_identities, seed=1)
        np.save(folder / f"{kind}.npy", embeds)
        np.save(folder / f"{kind}_ids.npy", ids)


def reference_rows(n_query: int, n_gallery: int) -> int:
    """Number of queries of the reference that fit into the available memory, at 40 bytes a similarity."""
    available = memory_bytes("MemAvailable")
    return n_query if available is None else max(1, min(n_query, int(0.6 * available) // (40 * n_gallery)))


def measure(size: str, rounds: int, threads: int) -> dict:
    """Runs all measurements.

    Args:
        size: a size of `SIZES`.
        rounds: rounds of engine and matmul.
        threads: CPU threads of every measurement.

    Returns:
        Part -> its result, or the list of its results.
    """
    n_query, n_gallery, tall_query, tall_gallery = SIZES[size]
    results: dict = {"engine": [], "matmul": [], "growth": []}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # read when the server that forks all processes imports numpy
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["modeling_rogle.metrics.retrieval"])
    with (
        tempfile.TemporaryDirectory(prefix="rogle-ranking-") as name,
        ProcessPoolExecutor(1, mp_context=server, max_tasks_per_child=1) as pool,
    ):
        folder = Path(name)
        save_embeddings(folder, n_query, n_gallery)
        for _ in range(rounds):
            for part in ("engine", "matmul"):
                results[part].append(run_in_process(pool, part, folder, n_query, n_gallery))
        half = n_query // 2, n_gallery // 2
        for shape in ((half[0], half[1]), (half[0], n_gallery), (n_query, half[1])):
            run = run_in_process(pool, "engine", folder, *shape)
            results["growth"].append(run | {"queries": shape[0], "gallery": shape[1]})
        rows = reference_rows(n_query, n_gallery)
        results["reference"] = run_in_process(pool, "reference", folder, n_query, n_gallery, rows) | {"rows": rows}
        save_embeddings(folder, tall_query, tall_gallery)
        results["tall"] = run_in_process(pool, "engine", folder, tall_query, tall_gallery)
    reference, engine = results["reference"]["scores"], results["engine"][0]["scores"]
    results["disagreement"] = max(abs(reference[name] - engine[name]) for name in METRICS)
    return results


def ratios(results: dict) -> dict[str, float]:
    """Time and memory of the engine relative to the others: medians over the rounds."""
    engine, matmul, reference = results["engine"], results["matmul"], results["reference"]
    seconds = statistics.median(run["cpu_s"] for run in engine)
    added = max(run["added_bytes"] for run in engine)
    # The memory of the reference is that of one block of queries, scaled to all of them.
    reference_bytes = reference["added_bytes"] * results["n_query"] / reference["rows"]
    return {
        "reference / engine, CPU time": reference["cpu_s"] / seconds,
        "engine / matmul, CPU time": statistics.median(
            one["cpu_s"] / other["cpu_s"] for one, other in zip(engine, matmul, strict=True)
        ),
        "reference / engine, added memory": reference_bytes / max(1, added),
    }


def markdown(results: dict, command: str) -> str:
    """The tables of a run."""

    def line(name: str, shape: str, runs: list[dict]) -> str:
        seconds = [run["cpu_s"] for run in runs]
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        return f"| {name} | {shape} | {spread} | {max(run['added_bytes'] for run in runs) / 2**20:.0f} MiB |"

    shape = f"{results['n_query']:,} x {results['n_gallery']:,}"
    tall_shape = f"{results['n_query_tall']:,} x {results['n_gallery_tall']:,}"
    name = "reference"
    if results["reference"]["rows"] < results["n_query"]:
        name += f", {results['reference']['rows']:,} queries at a time"
    lines = [f"`{command}`", "", "| | queries x gallery | CPU s, median (rounds) | added memory |", "|---|---|---|---|"]
    lines += [line("engine", shape, results["engine"]), line("matmul", shape, results["matmul"])]
    lines += [line(name, shape, [results["reference"]]), line("engine", tall_shape, [results["tall"]])]
    for run in results["growth"]:
        lines.append(line("engine", f"{run['queries']:,} x {run['gallery']:,}", [run]))
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in ratios(results).items()]
    lines += ["", "| engine | ns a similarity |", "|---|---|"]
    pairs = results["n_query"] * results["n_gallery"]
    sizes = [(run["queries"], run["gallery"], run["cpu_s"]) for run in results["growth"]]
    sizes.append((results["n_query"], results["n_gallery"], statistics.median(r["cpu_s"] for r in results["engine"])))
    sizes.append((results["n_query_tall"], results["n_gallery_tall"], results["tall"]["cpu_s"]))
    lines += [f"| {q:,} x {g:,} ({q * g / pairs:.2f} of the work) | {1e9 * s / (q * g):.2f} |" for q, g, s in sizes]
    scores = ", ".join(f"{name} {results['engine'][0]['scores'][name]:.2f}" for name in METRICS)
    return "\n".join([*lines, "", f"{scores}; engine and reference differ by {results['disagreement']:.1e} points."])


def main(argv: Sequence[str] | None = None) -> dict:
    """Measures, prints the tables, writes the JSON file, and returns its content."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.ranking", description="CPU time and memory of ranking, as ratios."
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="icfg",
        help="queries and gallery; icfg is 19,848 x 19,848 and needs 1 GB of disk (default: icfg)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of engine and matmul (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of every measurement (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    args = parser.parse_args(argv)
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.out and not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: the folder does not exist")
    results = measure(args.size, args.rounds, args.threads)
    results |= dict(zip(("n_query", "n_gallery", "n_query_tall", "n_gallery_tall"), SIZES[args.size], strict=True))
    results |= {"threads": args.threads, "numpy": np.__version__, "ratios": ratios(results)}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(markdown(results, f"python -m benchmarks.speed.ranking {words}".strip()))
    if args.out:
        write_json(args.out, results)
    return results


if __name__ == "__main__":
    main()
