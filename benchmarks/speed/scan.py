"""Time of reading every vector of a gallery once, for each way to store a vector.

    python -m benchmarks.speed.scan [--vectors 200000] [--queries 24]

Printed are the CPU nanoseconds a vector on one thread, and its bytes. benchmarks.speed.scale multiplies these figures.
The vectors are random, since the time of a scan does not depend on them. Use more vectors than the processor's caches
hold: cached ones are read twice as fast.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

DIMENSION, TOP = 512, 200


def measure(vectors: int, queries: int, seed: int = 0) -> dict[str, tuple[int, float]]:
    """Storage -> bytes and CPU nanoseconds a vector (median over the queries).

    Args:
        vectors: number of vectors of 512 dimensions.
        queries: timed queries.
        seed: of the random vectors. Default: 0.
    """
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((vectors, DIMENSION), dtype=np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    tensor = torch.from_numpy(array)
    blocks = tensor.bfloat16().split(8192)  # in blocks, as the exact search of an index reads its shards
    scans: dict[str, tuple[int, Callable[[np.ndarray], object]]] = {
        "fp32": (4 * DIMENSION, lambda q: torch.topk(tensor @ torch.from_numpy(q), TOP)),
        "bf16": (
            2 * DIMENSION,
            lambda q: torch.topk(torch.cat([block.float() @ torch.from_numpy(q) for block in blocks]), TOP),
        ),
    }
    for name, code in (("int8", "SQ8"), ("PQ64", "PQ64")):
        codes = faiss.index_factory(DIMENSION, code, faiss.METRIC_INNER_PRODUCT)
        if name == "PQ64":  # the time of a scan does not depend on how well the codes are trained
            codes.pq.cp.niter, codes.pq.cp.min_points_per_centroid = 1, 1
            codes.do_polysemous_training = False  # takes minutes and serves searches that are not made here
        codes.train(array[:2000])
        codes.add(array)
        scans[name] = (codes.sa_code_size(), lambda q, codes=codes: codes.search(q[None], TOP))
    measured = {}
    for name, (size, search) in scans.items():
        seconds = []
        for query in [*array[:2], *array[:queries]]:  # two to warm up
            started = time.process_time()
            search(query)
            seconds.append(time.process_time() - started)
        measured[name] = (int(size), 1e9 * statistics.median(seconds[2:]) / vectors)
    return measured


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[int, float]]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.scan", description="CPU nanoseconds a vector of a scan, by kind of storage."
    )
    parser.add_argument(
        "--vectors", type=int, default=200_000, help="vectors, more than the caches hold (default: 200,000)"
    )
    parser.add_argument("--queries", type=int, default=24, help="timed queries (default: 24)")
    args = parser.parse_args(argv)
    measured = measure(args.vectors, args.queries)
    print("| stored as | bytes a vector | ns a vector |\n|---|---:|---:|")
    for name, (size, nanoseconds) in measured.items():
        print(f"| {name} | {size} | {nanoseconds:.0f} |")
    return measured


if __name__ == "__main__":
    main()
