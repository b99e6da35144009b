"""Tables of the ablation. Each is made of the cells that are finished."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset

from benchmarks.common.tables import format_table, mean_and_deviation
from benchmarks.common.training_runs import read_cell, score_at_budget
from benchmarks.studies.ablation_cells import (
    DEFAULTS,
    EDITED_IMAGES,
    FEATURES,
    FULL,
    KINDS,
    RELIABILITY,
    SHARES,
    SHUFFLES,
    STARTS,
    TERMS,
    UNSUITED_KINDS,
    cell_folder,
    reliability_flags,
    shuffle_flags,
)
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.leakage import region_leakage
from train.recipe import read_recipe
from train.run_setup import prepare_model

LONG, SHORT, FUSED = "global/long/R@1", "global/short/R@1", "global+local/long/R@1"
Scores = dict[str, list[float]]  # column -> one value a seed


def read_cells(out: Path, flags: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """The finished cells with these flags."""
    return [cell for seed in seeds if (cell := read_cell(cell_folder(out, flags, seed)))]


def training_minutes(cell: Mapping) -> float:
    return cell["curve"][-1]["cpu_seconds"] / 60


def report_terms(out: Path, seeds: Sequence[int]) -> tuple[str, dict[str, Scores]]:
    """A Markdown table, and the scores of each row.

    A column compares the rows at equal CPU time: that of the cheapest row, `global only`.
    """
    groups = {name: read_cells(out, flags, seeds) for name, flags in TERMS.items()}
    budgets = [cell["curve"][-1]["cpu_seconds"] for cell in groups["global only"]]
    budget = statistics.mean(budgets) if budgets else 0.0
    scores: dict[str, Scores] = {}
    for name, group in [*groups.items(), (FULL, groups[DEFAULTS])]:
        # A cell whose validation chose the local weight 0 has no scores of its own for global + local.
        sources = ["global+local" if name == FULL and FUSED in cell["results"] else "global" for cell in group]
        at_equal_time = [score_at_budget(cell["curve"], budget, f"validation/{LONG}") for cell in group]
        scores[name] = {
            **{
                column: [cell["results"][f"{source}/{line}"] for source, cell in zip(sources, group, strict=True)]
                for column, line in (("long R@1", "long/R@1"), ("long mAP", "long/mAP"), ("short R@1", "short/R@1"))
            },
            "region R@10": [cell["results"].get("local/R@10", 0.0) for cell in group],
            "pointing": [cell["results"].get("local/pointing", 0.0) for cell in group],
            "equal time": [] if name == FULL else at_equal_time,
            "CPU minutes": [training_minutes(cell) for cell in group],
        }
    titles = ["", "long R@1", "long mAP", "short R@1", "sentence → region R@10", "pointing"]
    titles += [f"validation long R@1 at {budget / 60:.1f} CPU min", "CPU min of training"]
    rows = [[name, *(mean_and_deviation(values) for values in scores[name].values())] for name in scores]
    return format_table(titles, rows), scores


def report_reliability(out: Path, seed: int) -> str:
    """The kinds of reliability on validation, with half of one kind of pair shuffled."""
    rows = []
    for pairs in SHUFFLES:
        side = "local" if pairs == "region-sentence" else "global"
        for kind in (kind for kind in KINDS if kind == "none" or kind not in UNSUITED_KINDS[pairs]):
            if cell := read_cell(cell_folder(out, reliability_flags(pairs, kind), seed)):
                best = max(cell["curve"], key=lambda entry: entry[f"validation/{LONG}"])
                detection = [cell["curve"][-1].get(f"trust/{side}/{name}") for name in ("precision", "recall")]
                row = [f"{pairs}, {kind}", f"{best[f'validation/{LONG}']:.1f}"]
                row += [f"{best['validation/global/long/mAP']:.1f}", f"{best.get('validation/local/R@10', 0):.1f}"]
                rows.append([*row, *("-" if value is None else f"{value:.3f}" for value in detection)])
    titles = ["50 % shuffled", "validation long R@1", "mAP", "sentence → region R@10"]
    return format_table([*titles, "clean pairs: precision", "recall"], rows)


def report_noise(out: Path, seeds: Sequence[int]) -> tuple[str, dict[str, dict[str, Scores]]]:
    """Test R@1 of long captions with shuffled pairs, without and with the chosen reliability.

    There is one table for the global similarity and one with late interaction, which region-sentence pairs serve.

    Returns:
        The Markdown tables, and row -> similarity -> `none` and `chosen` -> one value a seed.
    """
    parts, scores = [], {}
    titles = ["shuffled", "seeds", "long R@1, no reliability", "with reliability", "loss without", "loss with"]
    titles += ["share of the loss", "clean pairs: precision", "recall"]
    for score, heading in ((LONG, "global"), (FUSED, "with late interaction")):
        rows = []
        for pairs, start, share in ((p, start, share) for p in RELIABILITY for start in STARTS[p] for share in SHARES):
            name = f"{share} % of {pairs} pairs" + (", pre-trained" if start else "")
            triples = _noise_cells(out, pairs, start, share, seeds)
            none, chosen, clean = (
                [cells[k]["results"].get(score, cells[k]["results"][LONG]) for cells in triples] for k in range(3)
            )
            scores.setdefault(name, {})[heading] = {"none": none, "chosen": chosen}
            rows.append([name, *_noise_row(pairs, share, triples, none, chosen, clean)])
        parts += [f"Similarity: {heading}.", format_table(titles, rows)]
    return "\n\n".join(parts), scores


def _noise_cells(
    out: Path, pairs: str, start: Sequence[str], share: int, seeds: Sequence[int]
) -> list[tuple[dict, dict, dict]]:
    """For each seed: the cell without reliability, with it, and with clean pairs; only if all three are finished."""
    flags = [*start, *shuffle_flags(pairs, share)]
    each = (flags, [*flags, *RELIABILITY[pairs]], start)
    triples = [tuple(read_cell(cell_folder(out, one, seed)) for one in each) for seed in seeds]
    return [triple for triple in triples if all(triple)]


def _noise_row(
    pairs: str, share: int, triples: Sequence[tuple], none: list[float], chosen: list[float], clean: list[float]
) -> list[str]:
    losses = [statistics.mean(clean) - statistics.mean(values) for values in (none, chosen)] if triples else []
    row = [str(len(triples)), mean_and_deviation(none), mean_and_deviation(chosen)]
    row += [f"{value:.1f}" for value in losses] or ["-", "-"]
    row.append(f"{losses[1] / losses[0]:.0%}" if share and triples and losses[0] > 0 else "-")
    side = "local" if pairs == "region-sentence" else "global"
    for name in ("precision", "recall"):
        values = [with_it["curve"][-1].get(f"trust/{side}/{name}") for _, with_it, _ in triples]
        values = [value for value in values if value is not None]
        row.append(f"{statistics.mean(values):.3f}" if values else "-")
    return row


def report_edited_images(out: Path, seeds: Sequence[int]) -> str:
    """Test scores with edited images in the training data."""
    rows = []
    for name, flags in EDITED_IMAGES.items():
        group = read_cells(out, flags, seeds)
        results = [cell["results"] for cell in group]
        columns = [
            [each[LONG] for each in results],
            [each.get(FUSED, each[LONG]) for each in results],
            [each[SHORT] for each in results],
            [each.get("local/R@10", 0.0) for each in results],
            [cell["curve"][-1]["step"] for cell in group],
            [training_minutes(cell) for cell in group],
        ]
        rows.append([name, str(len(group)), *map(mean_and_deviation, columns)])
    titles = ["", "seeds", "long R@1", "with late interaction", "short R@1", "sentence → region R@10", "steps"]
    return format_table([*titles, "CPU min"], rows)


@torch.no_grad()
def mean_leakage(
    model: RogleModel, processor: RogleProcessor, rows: Dataset, feature: str, images: int = 64
) -> tuple[float, float]:
    """Leakage and spread of a region feature. Leakage means little if the spread is small: all regions are alike then.

    Args:
        model: its region feature is set to `feature`.
        processor: of the model.
        rows: P-VLG rows.
        feature: the region feature.
        images: number of rows to use, from the first on. Default: 64.

    Returns:
        Leakage (mean `1 - cosine` of a region's embeddings with and without its surroundings), and spread (mean
        `1 - cosine` of different regions of one image).
    """
    model.config.region_feature = feature
    leakages, spreads = [], []
    for start in range(0, min(images, len(rows)), 16):
        batch = [rows[i] for i in range(start, min(start + 16, len(rows)))]
        boxes, box_image = [], []
        for number, row in enumerate(batch):
            corners = processor.normalize_boxes([r["bbox"] for r in row["regions"]], row["width"], row["height"])
            boxes.append(torch.from_numpy(corners))
            box_image += [number] * len(corners)
        pixels = processor(images=[row["image"].convert("RGB") for row in batch], return_tensors="pt")["pixel_values"]
        boxes, box_image = torch.cat(boxes), torch.tensor(box_image)
        leakages.append(region_leakage(model, pixels, boxes, box_image))
        _, regions = model.encode_images(pixels, boxes, box_image)
        other = (box_image[:, None] == box_image[None, :]) & ~torch.eye(len(box_image), dtype=torch.bool)
        spreads.append((1 - regions @ regions.T)[other])
    return max(float(torch.cat(leakages).mean()), 0.0), float(torch.cat(spreads).mean())


def report_features(out: Path, seed: int, dataset: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Leakage before and after training, retrieval and grounding of each region feature.

    The feature `crop` has no training run: its leakage is that of the model trained with `patch_mean`.

    Args:
        out: folder of the ablation.
        seed: of the cells.
        dataset: name of the P-VLG data set.

    Returns:
        The Markdown table, and feature -> its figures.
    """
    data, _ = load_rows(dataset)
    rows, train_rows = data["validation"], data["train"]
    captions = train_rows["caption"][:] + [c for row in train_rows["captions"][:] for c in row]
    torch.manual_seed(seed)
    untrained, processor = prepare_model(read_recipe([]), captions)
    lines, figures = [], {}
    for feature in (*FEATURES, "crop"):
        flags = [] if feature in ("patch_mean", "crop") else ["--region-feature", feature]
        folder = cell_folder(out, flags, seed)
        cell = read_cell(folder)
        if cell is None:
            continue
        before = mean_leakage(untrained.eval(), processor, rows, feature)
        after = mean_leakage(RogleModel.from_pretrained(folder / "best").eval(), processor, rows, feature)
        figures[feature] = {"before": before[0], "after": after[0]}
        trained = feature != "crop"
        row = [feature, *(f"{leakage:.3f} / {spread:.3f}" for leakage, spread in (before, after))]
        for name in (LONG, FUSED, "local/R@10", "local/pointing", "local/IoU@0.5"):
            value = cell["results"].get(name)
            row.append(f"{value:.1f}" if trained and value is not None else "-")
        lines.append([*row, f"{training_minutes(cell):.1f}" if trained else "-"])
        figures[feature] |= {"long R@1": cell["results"][LONG]} if trained else {}
    titles = ["region feature", "leakage / spread before", "after training", "long R@1", "with late interaction"]
    titles += ["sentence → region R@10", "pointing", "IoU ≥ 0.5", "CPU min"]
    return format_table(titles, lines), figures


__all__ = [
    "mean_leakage", "report_edited_images", "report_features", "report_noise", "report_reliability", "report_terms",
]  # fmt: skip
