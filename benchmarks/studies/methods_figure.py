"""Figure of the comparison of systems: R@1 on long and short captions, and R@1 over the time of training."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is set first: there may be no display)

BLUE, ORANGE = "#1f77b4", "#ff7f0e"


def draw_methods(cells: Mapping[str, Sequence[Mapping]], titles: Mapping[str, str], line: str, path: Path) -> None:
    """Draws bars of test R@1 with standard deviations, the best system for long captions on top, and validation curves.

    Args:
        cells: system -> its cells with `long`, `short` and `curve` (a list of `minutes` and `line`). Systems without
            cells are left out. Nothing is drawn if there are none.
        titles: system -> its name in the figure.
        line: name of the score of the curves, in %.
        path: of the PNG file.
    """
    means = {name: statistics.mean(cell["long"] for cell in group) for name, group in cells.items() if group}
    names = sorted(means, key=means.get)
    if not names:
        return
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 1.6 + 0.42 * max(len(names), 4)))
    for offset, score, colour in ((0.2, "long", BLUE), (-0.2, "short", ORANGE)):
        values = [[cell[score] for cell in cells[name]] for name in names]
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
        epochs = min(len(cell["curve"]) for cell in cells[name])
        minutes, scores = (
            [statistics.mean(cell["curve"][e][key] for cell in cells[name]) for e in range(epochs)]
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
