"""python -m benchmarks.speed.step_figure STEP.json --out docs/step.png

Bars of what `benchmarks/speed/step.py --out STEP.json` measured: CPU time and memory of a training step beside plain CLIP's.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: there may be no display)


def draw_step(found: dict, path: Path) -> None:
    """Draws the medians of each variant over those of the first, plain CLIP as people run it.

    Args:
        found: what step.py wrote: `seconds`, a list of rounds a variant; `memory_bytes`, one figure a variant, or none.
        path: PNG.
    """
    seconds = {name: statistics.median(rounds) for name, rounds in found["seconds"].items()}
    panels = [("CPU time of a step", seconds)]
    if found.get("memory_bytes"):
        panels.append(("memory", found["memory_bytes"]))
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
    parser = argparse.ArgumentParser(description="Bars of a step benchmark.")
    parser.add_argument("found", type=Path, help="the JSON that benchmarks/speed/step.py --out wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/step.png"))
    args = parser.parse_args(argv)
    draw_step(json.loads(args.found.read_text(encoding="utf-8")), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
