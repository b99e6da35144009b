"""Figures of the ablation: scores by term, scores with shuffled pairs, leakage, and similarity maps of sentences."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from modeling_rogle import RogleModel, RogleProcessor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is set first: there may be no display)

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#9a9a9a"


def _save(figure: plt.Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw_terms(scores: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draws bars of R@1 for long and short captions with standard deviations.

    Args:
        scores: row -> `long R@1` and `short R@1` -> one value a seed. Nothing is drawn if there are none.
        path: of the PNG file.
    """
    names = [name for name in scores if scores[name]["long R@1"]]
    if not names:
        return
    figure, axis = plt.subplots(figsize=(8, 3.6))
    for offset, column, colour in ((-0.2, "long R@1", BLUE), (0.2, "short R@1", ORANGE)):
        means, errors = zip(*(_mean_and_deviation(scores[name][column]) for name in names), strict=True)
        bars = axis.bar(np.arange(len(names)) + offset, means, 0.38, yerr=errors, color=colour, capsize=3)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        bars.set_label(f"{column.split()[0]} captions")
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("R@1, %")
    axis.legend(frameon=False)
    _save(figure, path)


def draw_noise(scores: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], path: Path) -> None:
    """Draws R@1 over the share of shuffled pairs, with a panel for each kind of pair.

    Args:
        scores: `S % of PAIRS` -> similarity -> `chosen` and `none` -> one value a seed.
        path: of the PNG file.
    """
    if not any(values["global"]["none"] for values in scores.values()):
        return
    kinds = list(dict.fromkeys(name.split(" % of ")[1] for name in scores))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds), 3.6), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for similarity, line in (("with late interaction", "--"), ("global", "-")):
            for name, colour in (("chosen", BLUE), ("none", GREY)):
                shares = [(share, scores[f"{share} % of {kind}"][similarity][name]) for share in (0, 20, 50)]
                points = [(share, *_mean_and_deviation(values)) for share, values in shares if values]
                if points:
                    label = f"{name}, {similarity}"
                    axis.errorbar(*zip(*points, strict=True), color=colour, ls=line, marker="o", capsize=3, label=label)
        axis.set_xlabel(f"shuffled {kind}, %")
        axis.set_xticks([0, 20, 50])
        axis.set_ylim(0, 100)
    axes[0, 0].set_ylabel("long captions, R@1, %")
    axes[0, -1].legend(
        *axes[0, 0].get_legend_handles_labels(),
        title="reliability",
        frameon=False,
        loc="lower left",
        fontsize=8,
        handlelength=3.5,
    )
    _save(figure, path)


def draw_features(scores: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draws the leakage of each region feature `before` and `after` training into a PNG file."""
    if not scores:
        return
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for offset, column, colour in ((-0.2, "before", GREY), (0.2, "after", BLUE)):
        bars = axis.bar(
            np.arange(len(scores)) + offset, [s[column] for s in scores.values()], 0.38, color=colour, label=column
        )
        axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set_ylabel("leakage: 1 − cos(in its image, alone)")
    axis.legend(title="training", frameon=False)
    _save(figure, path)


@torch.no_grad()
def sentence_map(model: RogleModel, processor: RogleProcessor, image: Image.Image, sentence: str) -> np.ndarray:
    """Cosines `[rows, columns]` of a sentence and every patch of an image, each patch taken as a region."""
    rows, columns = model.config.patch_grid
    y, x = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    boxes = torch.stack([x, y, x + 1 / columns, y + 1 / rows], dim=-1).reshape(-1, 4)
    pixels = processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
    _, regions = model.encode_images(pixels, boxes, torch.zeros(len(boxes), dtype=torch.long))
    text = model.encode_texts(processor(text=[sentence], return_tensors="pt")["input_ids"])
    return (regions @ text[0]).reshape(rows, columns).numpy()


def draw_similarity_map(checkpoint: Path, rows: Dataset, path: Path, number: int = 0) -> None:
    """Draws the similarity maps of three sentences of a row, before and after training.

    Args:
        checkpoint: folder of the trained model.
        rows: P-VLG rows.
        path: of the image file.
        number: of the row. Default: 0.
    """
    trained = RogleModel.from_pretrained(checkpoint).eval()
    processor = RogleProcessor.from_pretrained(checkpoint)
    torch.manual_seed(0)
    untrained = RogleModel(trained.config).eval()
    row = rows[number]
    boxes: dict[int, list] = {}
    for region in row["regions"]:
        if region["sentence"] >= 0:
            boxes.setdefault(region["sentence"], []).append(region["bbox"])
    chosen = sorted(boxes)[:3]
    image = row["image"].convert("RGB")
    figure, axes = plt.subplots(2, 1 + len(chosen), figsize=(2.6 * (1 + len(chosen)), 8.6))
    for line, (name, model) in enumerate((("before", untrained), ("after", trained))):
        axes[line, 0].imshow(image)
        axes[line, 0].set_title(f"{name} training", fontsize=10)
        for axis, sentence in zip(axes[line, 1:], chosen, strict=True):
            words = row["sentences"][sentence]["text"]
            cosines = sentence_map(model, processor, image, words)
            axis.imshow(image.convert("L"), cmap="gray", extent=(0, image.width, image.height, 0))
            axis.imshow(
                cosines, cmap="magma", alpha=0.6, extent=(0, image.width, image.height, 0), interpolation="bilinear"
            )
            for x, y, w, h in boxes[sentence]:
                axis.add_patch(plt.Rectangle((x, y), w, h, fill=False, edgecolor="white", linewidth=1.5))
            if line == 0:
                axis.set_title("\n".join(_wrap(words, 24)), fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _wrap(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


__all__ = ["draw_features", "draw_noise", "draw_similarity_map", "draw_terms", "sentence_map"]
