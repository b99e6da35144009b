"""python -m benchmarks.speed.scan [--vectors 200000] [--queries 24]

One look at every vector, by what a vector is stored as: CPU nanoseconds a vector of one thread, and its bytes. The
figures that benchmarks/speed/scale.py multiplies; random vectors will do, for a scan takes as long whatever they are, but not
few of them: what stays in the processor's caches is looked at twice as fast.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

DIMENSION, BEST = 512, 200


def measure(vectors: int, queries: int, seed: int = 0) -> dict[str, tuple[int, float]]:
    """Bytes and nanoseconds a vector, by kind."""
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    draw = np.random.default_rng(seed)
    array = draw.standard_normal((vectors, DIMENSION), dtype=np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    whole = torch.from_numpy(array)
    blocks = whole.bfloat16().split(8192)  # as `store.exact_search` reads them
    kinds: dict[str, tuple[int, Callable[[np.ndarray], object]]] = {
        "fp32": (4 * DIMENSION, lambda q: torch.topk(whole @ torch.from_numpy(q), BEST)),
        "bf16": (
            2 * DIMENSION,
            lambda q: torch.topk(torch.cat([block.float() @ torch.from_numpy(q) for block in blocks]), BEST),
        ),
    }
    for name, code in (("int8", "SQ8"), ("PQ64", "PQ64")):
        codes = faiss.index_factory(DIMENSION, code, faiss.METRIC_INNER_PRODUCT)
        if name == "PQ64":  # badly trained codes are looked at as fast as others
            codes.pq.cp.niter, codes.pq.cp.min_points_per_centroid = 1, 1
            codes.do_polysemous_training = False  # minutes of annealing, for searches that are not made here
        codes.train(array[:2000])
        codes.add(array)
        kinds[name] = (codes.sa_code_size(), lambda q, codes=codes: codes.search(q[None], BEST))
    found = {}
    for name, (size, search) in kinds.items():
        seconds = []
        for query in [*array[:2], *array[:queries]]:
            started = time.process_time()
            search(query)
            seconds.append(time.process_time() - started)
        found[name] = (int(size), 1e9 * statistics.median(seconds[2:]) / vectors)
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[int, float]]:
    parser = argparse.ArgumentParser(description="CPU nanoseconds a vector of a scan, by what a vector is stored as.")
    parser.add_argument("--vectors", type=int, default=200_000, help="more than the caches hold (default 200,000)")
    parser.add_argument("--queries", type=int, default=24)
    args = parser.parse_args(argv)
    found = measure(args.vectors, args.queries)
    print("| stored as | bytes a vector | ns a vector |\n|---|---:|---:|")
    for name, (size, nanoseconds) in found.items():
        print(f"| {name} | {size} | {nanoseconds:.0f} |")
    return found


if __name__ == "__main__":
    main()
