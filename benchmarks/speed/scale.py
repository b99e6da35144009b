"""Memory, disk, latency and cost of a gallery of 10^5 to 10^9 images, calculated.

    python -m benchmarks.speed.scale [--ram-price 2.5] [--disk-price 0.08] [--machine-memory 256]

Each figure of `MEASURED` belongs to one image and is multiplied by the number of images. The output is the tables of
docs/scale.md. Latencies are for one idle core. Prices are assumptions, in dollars a GB and month.
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
MEASURED = {  # name: (figure, unit, command that measured it)
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
class Method:
    """A way to search n vectors.

    Attributes:
        name: in the tables.
        memory: n -> bytes of memory an image with which no query reads the disk.
        disk: bytes an image on disk besides the shards; negative for shards in bf16.
        milliseconds: n -> latency of a query.
        formula: the same in words.
    """

    name: str
    memory: Callable[[int], float]
    disk: float
    milliseconds: Callable[[int], float]
    formula: str


def cells_milliseconds(n: int, share: float) -> float:
    """Latency of an inverted file of n vectors that reads a share of its cells."""
    return (CELLS * math.sqrt(n) * figure("fp32 scan") + share * n * figure("int8 scan")) / 1e6


def methods() -> list[Method]:
    d = DIMENSION
    scans = [("exact, fp32", "fp32 scan", 4 * d, 0), ("exact, bf16", "bf16 scan", 2 * d, -2 * d)]
    scans += [("int8 codes", "int8 scan", d, d), (f"PQ{d // 8} codes", "PQ64 scan", d // 8, d // 8)]
    rows = [
        Method(
            name, lambda n, size=size: size, disk, lambda n, kind=kind: n * figure(kind) / 1e6, f"{figure(kind):g} ns n"
        )
        for name, kind, size, disk in scans
    ]
    code = figure("int8 scan")
    for share in (0.01, 0.1):
        rows.append(
            Method(
                f"`faiss`, {share:.0%} of the cells",
                lambda n: d + 8 + CELLS * 4 * d / math.sqrt(n),
                d + 8,
                lambda n, share=share: cells_milliseconds(n, share),
                f"{CELLS} x {figure('fp32 scan'):g} ns sqrt(n) + {share:g} x {code:g} ns n",
            )
        )
    links = 2 * 32 * 4 + 8
    graph = Method(
        "`faiss-hnsw`, or HNSW in Milvus",
        lambda n: 4 * d + links,
        4 * d + links,
        lambda n: figure("graph at 100,000") * math.log(n) / math.log(1e5),
        f"{figure('graph at 100,000'):g} ms ln n / ln 10^5",
    )
    return [*rows, graph]


def shard_bytes() -> float:
    """Bytes of an image in the shards: global embedding, int8 regions with one scale each, row of the table."""
    return 4 * DIMENSION + REGIONS * (DIMENSION + 4) + figure("row of the table")


def format_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def format_duration(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.3g} s"


def table(
    title: str, cell: Callable[[Method, int], str], last: tuple[str, Callable[[Method], str]] | None = None
) -> str:
    """A Markdown table with a row for each method and a column for each size.

    Args:
        title: of the first column.
        cell: text for a method and a number of images.
        last: title and text of a further column. Default: none.
    """
    heads = [title, *(f"10^{round(math.log10(n))}" for n in SIZES), *([last[0]] if last else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(SIZES) + "---|" * bool(last)]
    for method in methods():
        texts = [method.name, *(cell(method, n) for n in SIZES), *([last[1](method)] if last else [])]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def tables(ram_price: float, disk_price: float, machine_memory: float) -> str:
    """All tables as Markdown.

    Args:
        ram_price: dollars a GB of memory and month.
        disk_price: dollars a GB of disk and month.
        machine_memory: GB of memory a machine.
    """
    measured = ["| measured | figure | command |", "|---|---:|---|"]
    measured += [f"| {name} | {value:g} {unit} | `{command}` |" for name, (value, unit, command) in MEASURED.items()]

    def cost(method: Method, n: int) -> str:
        memory, disk = n * method.memory(n) / 1e9, n * (shard_bytes() + method.disk) / 1e9
        machines = math.ceil(memory / machine_memory)
        return f"${memory * ram_price + disk * disk_price:,.0f}, {machines}"

    memory_column = ("bytes an image", lambda method: f"{method.memory(10**9):.0f}")
    disk_column = ("bytes an image", lambda method: f"{shard_bytes():.0f} {method.disk:+.0f}")
    parts = [
        "\n".join(measured),
        table("memory", lambda method, n: format_size(n * method.memory(n)), memory_column),
        table("disk", lambda method, n: format_size(n * (shard_bytes() + method.disk)), disk_column),
        table(
            "latency",
            lambda method, n: format_duration(method.milliseconds(n)),
            ("arithmetic", lambda method: method.formula),
        ),
        table("a month, machines", cost),
    ]
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> str:
    """Prints and returns the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.scale",
        description="Calculate memory, disk, latency and cost of large galleries.",
    )
    parser.add_argument("--ram-price", type=float, default=2.5, help="dollars a GB and month (default: 2.5)")
    parser.add_argument("--disk-price", type=float, default=0.08, help="dollars a GB and month (default: 0.08)")
    parser.add_argument("--machine-memory", type=float, default=256, help="GB of memory a machine (default: 256)")
    args = parser.parse_args(argv)
    text = tables(args.ram_price, args.disk_price, args.machine_memory)
    print(text)
    return text


if __name__ == "__main__":
    main()
