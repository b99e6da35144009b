"""The image of the methods' table: R@1 of every system for long and short captions, and what time bought it."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: there may be no display)

BLUE, ORANGE = "#1f77b4", "#ff7f0e"


def draw_methods(found: Mapping[str, Sequence[Mapping]], titles: Mapping[str, str], line: str, path: Path) -> None:
    """Bars over the seeds with their standard deviation, the best for long captions on top, and validation curves.

    Args:
        found: of each system a list of cells with `long`, `short` and `curve`, a list of `minutes` and `line`; systems
            without cells are left out. Nothing is drawn where there are none.
        titles: of the systems. line: what of the curves is drawn, in %.
        path: PNG.
    """
    means = {name: statistics.mean(cell["long"] for cell in cells) for name, cells in found.items() if cells}
    names = sorted(means, key=means.get)
    if not names:
        return
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 1.6 + 0.42 * max(len(names), 4)))
    for offset, score, colour in ((0.2, "long", BLUE), (-0.2, "short", ORANGE)):
        values = [[cell[score] for cell in found[name]] for name in names]
        errors = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
        drawn = bars.barh(
            np.arange(len(names)) + offset,
            [statistics.mean(each) for each in values],
            0.38,
            xerr=errors,
            color=colour,
            capsize=2,
            label=f"{score} captions",
        )
        bars.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    bars.set_yticks(range(len(names)), [titles[name] for name in names])
    bars.set_xlabel("test R@1, %")
    bars.legend(frameon=False, loc="lower right")
    colours = plt.get_cmap("tab10")
    for number, name in enumerate(reversed(names)):
        epochs = min(len(cell["curve"]) for cell in found[name])
        minutes, scores = (
            [statistics.mean(cell["curve"][e][key] for cell in found[name]) for e in range(epochs)]
            for key in ("minutes", line)
        )
        style = {"color": colours(number % 10), "linestyle": "-" if number < 10 else "--"}
        curves.plot([0, *minutes], [0, *scores], marker="o", markersize=3, label=titles[name], **style)
    curves.set_xlabel("minutes of training")
    curves.set_ylabel("validation R@1, long captions, global, %")
    curves.legend(frameon=False, fontsize=8)
    for axis in (bars, curves):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


__all__ = ["draw_methods"]
