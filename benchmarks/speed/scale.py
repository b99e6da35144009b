"""python -m benchmarks.speed.scale [--ram-price 2.5] [--disk-price 0.08] [--machine-memory 256]

Memory, disk, latency and cost of a gallery of 10^5 to 10^9 images, on paper: what was measured for one image
(`MEASURED`, each with the command that measured it) times the number of images. Prints the tables of docs/scale.md.
Latencies are of one core that does nothing else; prices are assumptions, in dollars a GB and month.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modeling_rogle.index.faiss_store import CELLS

DIMENSION, REGIONS = 512, 11
SIZES = tuple(10**power for power in range(5, 10))
SCAN = "python -m benchmarks.speed.scan"
GRAPH = "python -m benchmarks.speed.search --size 100k --parts exact,faiss,faiss-hnsw --clock cpu"
LATE = "python -m benchmarks.speed.search --size 100k --parts exact,faiss,rerank --queries 400 --clock cpu"
MEASURED = {  # what: (figure, unit, command)
    "fp32 scan": (178.0, "ns a vector", SCAN),
    "bf16 scan": (316.0, "ns a vector", SCAN),
    "int8 scan": (94.0, "ns a vector", SCAN),
    "PQ64 scan": (26.0, "ns a vector", SCAN),
    "graph at 100,000": (7.75, "ms", GRAPH),
    "late interaction over 200": (2.5, "ms", LATE),
    "row of the table": (92.0, "bytes", "65,536 rows of shards.SCHEMA with hash, path, sizes and time as Parquet"),
}


def figure(name: str) -> float:
    return MEASURED[name][0]


@dataclass(frozen=True)
class Way:
    """A way to look vectors up: bytes of memory an image so that no query waits for the disk, bytes on the disk beside
    the shards (less than nothing where they are in bf16), and milliseconds a query, of n images; `formula` says the
    last in words."""

    name: str
    memory: Callable[[int], float]
    disk: float
    milliseconds: Callable[[int], float]
    formula: str


def cells(n: int, share: float) -> float:
    return (CELLS * math.sqrt(n) * figure("fp32 scan") + share * n * figure("int8 scan")) / 1e6


def ways() -> list[Way]:
    d = DIMENSION
    scans = [("exact, fp32", "fp32 scan", 4 * d, 0), ("exact, bf16", "bf16 scan", 2 * d, -2 * d)]
    scans += [("int8 codes", "int8 scan", d, d), (f"PQ{d // 8} codes", "PQ64 scan", d // 8, d // 8)]
    found = [
        Way(
            name, lambda n, size=size: size, disk, lambda n, kind=kind: n * figure(kind) / 1e6, f"{figure(kind):g} ns n"
        )
        for name, kind, size, disk in scans
    ]
    code = figure("int8 scan")
    for share in (0.01, 0.1):
        found.append(
            Way(
                f"`faiss`, {share:.0%} of the cells",
                lambda n: d + 8 + CELLS * 4 * d / math.sqrt(n),
                d + 8,
                lambda n, share=share: cells(n, share),
                f"{CELLS} x {figure('fp32 scan'):g} ns sqrt(n) + {share:g} x {code:g} ns n",
            )
        )
    links = 2 * 32 * 4 + 8
    grown = f"{figure('graph at 100,000'):g} ms ln n / ln 10^5"
    graph = Way(
        "`faiss-hnsw`, or HNSW in Milvus",
        lambda n: 4 * d + links,
        4 * d + links,
        lambda n: figure("graph at 100,000") * math.log(n) / math.log(1e5),
        grown,
    )
    return [*found, graph]


def shard_bytes() -> float:
    """An image in the shards: global embedding, regions in int8 with a scale each, a row of the table."""
    return 4 * DIMENSION + REGIONS * (DIMENSION + 4) + figure("row of the table")


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def duration(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.3g} s"


def table(title: str, cell: Callable[[Way, int], str], last: tuple[str, Callable[[Way], str]] | None = None) -> str:
    heads = [title, *(f"10^{round(math.log10(n))}" for n in SIZES), *([last[0]] if last else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(SIZES) + "---|" * bool(last)]
    for way in ways():
        cells_ = [way.name, *(cell(way, n) for n in SIZES), *([last[1](way)] if last else [])]
        lines.append("| " + " | ".join(cells_) + " |")
    return "\n".join(lines)


def tables(ram_price: float, disk_price: float, machine_memory: float) -> str:
    """All of it, as Markdown."""
    measured = ["| measured | figure | command |", "|---|---:|---|"]
    measured += [f"| {name} | {value:g} {unit} | `{command}` |" for name, (value, unit, command) in MEASURED.items()]

    def cost(way: Way, n: int) -> str:
        memory, disk = n * way.memory(n) / 1e9, n * (shard_bytes() + way.disk) / 1e9
        machines = math.ceil(memory / machine_memory)
        return f"${memory * ram_price + disk * disk_price:,.0f}, {machines}"

    parts = [
        "\n".join(measured),
        table("memory", lambda way, n: size(n * way.memory(n)), ("bytes an image", lambda w: f"{w.memory(10**9):.0f}")),
        table("disk", lambda way, n: size(n * (shard_bytes() + way.disk)),
              ("bytes an image", lambda way: f"{shard_bytes():.0f} {way.disk:+.0f}")),
        table("latency", lambda way, n: duration(way.milliseconds(n)), ("arithmetic", lambda way: way.formula)),
        table("a month, machines", cost),
    ]  # fmt: skip
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description="Memory, disk, latency and cost of large galleries, on paper.")
    parser.add_argument("--ram-price", type=float, default=2.5, help="dollars a GB and month (default 2.5)")
    parser.add_argument("--disk-price", type=float, default=0.08, help="dollars a GB and month (default 0.08)")
    parser.add_argument("--machine-memory", type=float, default=256, help="GB a machine (default 256)")
    args = parser.parse_args(argv)
    found = tables(args.ram_price, args.disk_price, args.machine_memory)
    print(found)
    return found


if __name__ == "__main__":
    main()
