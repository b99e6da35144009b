"""python -m benchmarks.speed.ranking [--size icfg|tiny] [--rounds N] [--threads N] [--out FILE.json]

What ranking costs: CPU seconds (all threads) and added memory of the engine, called with embeddings, beside

    matmul      the similarities alone: a blocked float32 product into one buffer, in the engine's block size
    reference   the way that published text-based person search codes share: the whole matrix, a full argsort, a gather
                of the sorted identities, running sums of the matches
    tall        the engine with 5 times the gallery
    growth      the engine with half the queries, half the gallery, and both

Every measurement is a process of its own that loads its embeddings, notes its memory, and does the one thing. Engine
and matmul take turns over the rounds, so that whatever else the machine does meets both. Ratios are what to read.

Embeddings (512-d unit vectors, 20 images and 20 captions an identity) are made: identities in groups of look-alikes
around a common centre, every item with its own amount of noise, captions with more than images. The constants are
chosen so that R@1, mAP and mINP come near what is published on ICFG-PEDES (R@1 60 to 70, mAP about 40, mINP about 8).
"""

import argparse
import json
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

from modeling_rogle.metrics.ranks import BLOCK_BYTES
from modeling_rogle.metrics.retrieval import global_scores

DIMENSION, PER_IDENTITY = 512, 20
IDENTITIES_A_GROUP, APART = 10, 0.52  # distance of an identity from its group's centre
NOISE = {"query": 2.3, "gallery": 1.8}
NOISE_SPREAD = 0.25  # of the logarithm, between items
# queries and gallery of the main run; of the tall one.
SIZES = {"icfg": (19848, 19848, 20000, 100_000), "tiny": (300, 300, 300, 1500)}
FIGURES = ("R@1", "R@5", "R@10", "mAP", "mINP")


def make_embeddings(kind: str, n: int, n_identities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`[n, 512]` float32 unit vectors and `[n]` identities; equal `seed` means the same people for both kinds."""
    shared = np.random.default_rng(seed)
    groups = shared.standard_normal((-(-n_identities // IDENTITIES_A_GROUP), DIMENSION), dtype=np.float32)
    people = APART * shared.standard_normal((n_identities, DIMENSION), dtype=np.float32)
    people += groups[np.arange(n_identities) // IDENTITIES_A_GROUP]
    rng = np.random.default_rng([seed, len(kind)])
    ids = rng.permutation(np.arange(n) % n_identities)
    embeds = rng.standard_normal((n, DIMENSION), dtype=np.float32)
    embeds *= NOISE[kind] * np.exp(NOISE_SPREAD * rng.standard_normal((n, 1), dtype=np.float32))
    embeds += people[ids]
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    return embeds, ids


def bare_matmul(query: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
    """The similarities, by blocks into one buffer, and nothing else."""
    rows = max(1, BLOCK_BYTES // (4 * len(gallery)))
    block = np.empty((min(rows, len(query)), len(gallery)), dtype=np.float32)
    for start in range(0, len(query), rows):
        part = query[start : start + rows]
        np.matmul(part, gallery.T, out=block[: len(part)])
    return {}


def full_argsort(
    query: np.ndarray, query_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray, rows: int
) -> dict[str, float]:
    """The metrics from whole sorted matrices, `rows` queries at a time (all of them, if they fit into memory)."""
    import torch

    wanted, offered = torch.from_numpy(query_ids), torch.from_numpy(gallery_ids)
    sums, n = dict.fromkeys(FIGURES, 0.0), 0
    for start in range(0, len(query), rows):
        similarity = torch.from_numpy(query[start : start + rows]) @ torch.from_numpy(gallery).T
        order = torch.argsort(similarity, dim=1, descending=True)
        matches = offered[order] == wanted[start : start + rows, None]
        hits = matches.cumsum(dim=1)
        n_positives = hits[:, -1]
        places = torch.arange(1, len(offered) + 1)
        precision = hits / places * matches
        last = (matches * places).amax(dim=1)
        for k in (1, 5, 10):
            sums[f"R@{k}"] += float((hits[:, min(k, len(offered)) - 1] > 0).sum())
        sums["mAP"] += float((precision.sum(dim=1) / n_positives).double().sum())
        sums["mINP"] += float((n_positives / last).double().sum())
        n += len(matches)
    return {name: 100 * value / n for name, value in sums.items()}


def memory_bytes(field: str) -> int | None:
    """`VmRSS` or `VmHWM` (highest so far) of this process, `MemAvailable` of the machine; None where unknown."""
    path = Path("/proc/meminfo" if field.startswith("Mem") else "/proc/self/status")
    if not path.exists():
        return None
    line = next((line for line in path.read_text().splitlines() if line.startswith(field + ":")), None)
    return int(line.split()[1]) * 1024 if line else None


def measured(work: Callable[[], dict[str, float]]) -> dict:
    """CPU and wall seconds of `work`, the memory that it added at its peak, and what it returned."""
    before = memory_bytes("VmRSS")
    clear = Path("/proc/self/clear_refs")
    if before is not None and clear.exists():
        clear.write_text("5")  # what loading took at its peak is none of the work's
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu, wall = time.process_time(), time.perf_counter()
    scores = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = memory_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": cpu, "wall_s": wall, "added_bytes": after - before, "scores": scores}


def run_part(part: str, folder: Path, n_query: int, n_gallery: int, rows: int = 0) -> dict:
    """One measurement, in this process. `rows`: of the reference, queries at a time."""

    def load(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        embeds, ids = (np.load(folder / f"{name}.npy", allow_pickle=False)[:n] for name in (kind, f"{kind}_ids"))
        return embeds, ids

    query, gallery = load("query", n_query), load("gallery", n_gallery)
    if part == "matmul":
        return measured(lambda: bare_matmul(query[0], gallery[0]))
    if part == "reference":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return measured(lambda: full_argsort(*query, *gallery, rows))
    return measured(lambda: global_scores(*query, *gallery))


def in_a_process(pool: ProcessPoolExecutor, part: str, folder: Path, n_query: int, n_gallery: int, rows=0) -> dict:
    """`run_part` in a new process; says how it goes."""
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
    """How many queries of the reference fit into the memory that is free, at 40 bytes a similarity."""
    free = memory_bytes("MemAvailable")
    return n_query if free is None else max(1, min(n_query, int(0.6 * free) // (40 * n_gallery)))


def measure(size: str, rounds: int, threads: int) -> dict:
    """Everything, as `{"engine": [result of each round], "matmul": [...], "reference": ..., "tall": ..., ...}`."""
    n_query, n_gallery, tall_query, tall_gallery = SIZES[size]
    results: dict = {"engine": [], "matmul": [], "growth": []}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # read where numpy is imported: in the server that all processes come from
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
                results[part].append(in_a_process(pool, part, folder, n_query, n_gallery))
        half = n_query // 2, n_gallery // 2
        for shape in ((half[0], half[1]), (half[0], n_gallery), (n_query, half[1])):
            grown = in_a_process(pool, "engine", folder, *shape)
            results["growth"].append(grown | {"queries": shape[0], "gallery": shape[1]})
        rows = reference_rows(n_query, n_gallery)
        results["reference"] = in_a_process(pool, "reference", folder, n_query, n_gallery, rows) | {"rows": rows}
        save_embeddings(folder, tall_query, tall_gallery)
        results["tall"] = in_a_process(pool, "engine", folder, tall_query, tall_gallery)
    said, found = results["reference"]["scores"], results["engine"][0]["scores"]
    results["disagreement"] = max(abs(said[name] - found[name]) for name in FIGURES)
    return results


def ratios(results: dict) -> dict[str, float]:
    """The figures that are held against targets: time and memory of the engine beside the others, medians of rounds."""
    engine, matmul, reference = results["engine"], results["matmul"], results["reference"]
    seconds = statistics.median(run["cpu_s"] for run in engine)
    added = max(run["added_bytes"] for run in engine)
    # With fewer rows at a time the reference's memory is that of its blocks.
    whole = reference["added_bytes"] * results["n_query"] / reference["rows"]
    return {
        "reference / engine, CPU time": reference["cpu_s"] / seconds,
        "engine / matmul, CPU time": statistics.median(
            one["cpu_s"] / other["cpu_s"] for one, other in zip(engine, matmul, strict=True)
        ),
        "reference / engine, added memory": whole / max(1, added),
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
    cells = results["n_query"] * results["n_gallery"]
    grown = [(run["queries"], run["gallery"], run["cpu_s"]) for run in results["growth"]]
    grown.append((results["n_query"], results["n_gallery"], statistics.median(r["cpu_s"] for r in results["engine"])))
    grown.append((results["n_query_tall"], results["n_gallery_tall"], results["tall"]["cpu_s"]))
    lines += [f"| {q:,} x {g:,} ({q * g / cells:.2f} of the work) | {1e9 * s / (q * g):.2f} |" for q, g, s in grown]
    scores = ", ".join(f"{name} {results['engine'][0]['scores'][name]:.2f}" for name in FIGURES)
    return "\n".join([*lines, "", f"{scores}; engine and reference differ by {results['disagreement']:.1e} points."])


def main(argv: Sequence[str] | None = None) -> dict:
    """Measures, prints the tables, writes the JSON file, and returns what it holds."""
    parser = argparse.ArgumentParser(description="CPU time and memory of ranking, as ratios.")
    parser.add_argument("--size", choices=SIZES, default="icfg", help="default icfg, 19,848 x 19,848; 1 GB of disk")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of engine and matmul (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of every measurement (default 1)")
    parser.add_argument("--out", type=Path, help="JSON file for every measurement")
    args = parser.parse_args(argv)
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.out and not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: there is no such folder")
    results = measure(args.size, args.rounds, args.threads)
    results |= dict(zip(("n_query", "n_gallery", "n_query_tall", "n_gallery_tall"), SIZES[args.size], strict=True))
    results |= {"threads": args.threads, "numpy": np.__version__, "ratios": ratios(results)}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(markdown(results, f"python -m benchmarks.speed.ranking {words}".strip()))
    if args.out:
        beside = args.out.with_name(args.out.name + ".part")
        beside.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(beside, args.out)
    return results


if __name__ == "__main__":
    main()
