"""Draws the result of benchmarks.speed.step: CPU time and memory of a training step, relative to plain CLIP.

    python -m benchmarks.speed.step_figure STEP.json --out docs/step.png

STEP.json is the file that `python -m benchmarks.speed.step --out STEP.json` writes.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is set first: there may be no display)


def draw_step(measured: dict, path: Path) -> None:
    """Draws bars: the median of each variant divided by that of the first variant, plain CLIP.

    Args:
        measured: content of STEP.json: `seconds` (variant -> one value a round) and `memory_bytes` (variant -> bytes,
            may be empty).
        path: of the PNG file.
    """
    seconds = {name: statistics.median(rounds) for name, rounds in measured["seconds"].items()}
    panels = [("CPU time of a step", seconds)]
    if measured.get("memory_bytes"):
        panels.append(("memory", measured["memory_bytes"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.2), sharey=True, squeeze=False)
    for axis, (title, values) in zip(axes[0], panels, strict=True):
        names = list(values)[::-1]
        ratios = [values[name] / values[next(iter(values))] for name in names]
        colours = ["#1f77b4" if name.startswith("rogle") else "#9a9a9a" for name in names]
        axis.axvline(1, color="#cccccc", linewidth=1, zorder=0)
        bars = axis.barh(names, ratios, color=colours, zorder=2)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axis.set_title(f"{title}, plain CLIP = 1", fontsize=10)
        axis.set_xlim(0, 1.15 * max(ratios))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.step_figure", description="Draw CPU time and memory of a training step."
    )
    parser.add_argument("measured", type=Path, metavar="STEP.json", help="file written by benchmarks.speed.step --out")
    parser.add_argument("--out", type=Path, default=Path("docs/step.png"), help="PNG file (default: docs/step.png)")
    args = parser.parse_args(argv)
    draw_step(json.loads(args.measured.read_text(encoding="utf-8")), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
