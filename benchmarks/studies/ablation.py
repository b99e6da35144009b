"""python -m benchmarks.studies.ablation --out runs/ablation [--studies terms trust noise features] [--seeds 0 1 2] [--epochs 5]

What each part of ROGLE is worth on synthetic P-VLG, by training: every cell is one run of train/train.py on one CPU
thread, with the same recipe, number of epochs and search budget (none: the defaults), trained on long and short
captions at once; checkpoint and late-interaction weight are chosen on validation, test is scored once. Cells that are
finished are kept and a killed one goes on, so that the table may be filled in any number of runs; the report is made
of what is there.

    terms      global only | + local contrastive | + TSL | + reliability | full (the defaults, which are those of + TSL,
               scored with global + local similarity); at equal steps, and at equal CPU time read off the validation
               curve
    trust      the kinds of reliability against each other with half of the pairs shuffled, on validation (`learnt`)
    noise      none, 20 % and 50 % of the region-sentence pairs, and of the image-caption pairs, shuffled: no trust
               against the reliability chosen for that kind of pair, and how well it tells clean pairs; region-sentence
               pairs from scratch; and both kinds as the field does it, from a model that has learnt before, here from
               the first half of the training people, on the second (`learnt`)
    features   the region features: retrieval, grounding and leak, before and after training
    borrowed   edited copies of the training images with one colour swapped, as hard negatives (PDG, arXiv 2311.09084)
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common.training_runs import (
    at_budget,
    check_cell,
    read_cell,
    run_cell,
    spread,
    table,
    with_copies,
    with_start,
    write_whole,
)
from benchmarks.studies.ablation_figures import draw_features, draw_noise, draw_similarity_map, draw_terms
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.leakage import region_leakage

TRUST = {  # the chosen reliability of each kind of pair
    "region-sentence": ["--reliability-local", "places"],
    "image-caption": ["--reliability-global", "identity"],
}
TERMS = {
    "global only": ["--regions", "none"],
    "+ local contrastive": ["--tsl-text-weight", "0"],
    "+ TSL": [],
    "+ reliability": TRUST["region-sentence"],
}
DEFAULTS, FULL = "+ TSL", "full"  # the same checkpoints, the latter with late interaction at inference
KINDS = ("none", "gmm_consensus", "places", "identity")  # the last two of one kind of pair
SHUFFLES = {"region-sentence": "--shuffle-sentences", "image-caption": "--shuffle-captions"}
SHARES = (0, 20, 50)  # %
FEATURES = ("patch_mean", "dense_roi")
# No flags of train.py: the cell's data are those with near copies; the cell goes on from a model that has learnt.
COPIES, LEARNT = "--copies", "--learnt"
STARTS = {"region-sentence": ([], [LEARNT]), "image-caption": ([LEARNT],)}  # of the study of noise
BORROWED = {
    "the defaults": [],
    "near copies": [COPIES],
    "near copies beside those whom they copy": [COPIES, "--images-per-identity", "2"],
}
STUDIES = ("terms", "trust", "noise", "features", "borrowed")
LONG, SHORT, FUSED = "global/long/R@1", "global/short/R@1", "global+local/long/R@1"


def cells(studies: Sequence[str], seeds: Sequence[int]) -> dict[str, list[str]]:
    """Folder of every cell -> its flags. A cell that two studies share is one cell; other studies than `terms` and
    `noise` use the first seed alone."""
    found: dict[str, list[str]] = {}

    def add(flags: Sequence[str], seed: int) -> None:
        words = [flag.lstrip("-") for flag in flags] or ["defaults"]
        found["_".join([*words, f"seed-{seed}"])] = [*flags, "--seed", str(seed)]

    if "trust" in studies:
        for pairs in SHUFFLES:
            for kind in KINDS:
                add(trust_flags(pairs, kind), seeds[0])
    if "features" in studies:
        for feature in FEATURES[1:]:
            add(["--region-feature", feature], seeds[0])
    for seed in seeds:
        if "terms" in studies:
            for flags in TERMS.values():
                add(flags, seed)
        if "borrowed" in studies:
            for flags in BORROWED.values():
                add(flags, seed)
        if "noise" in studies:
            for pairs, chosen in TRUST.items():
                for flags in ([*start, *shuffled(pairs, share)] for start in STARTS[pairs] for share in SHARES):
                    add(flags, seed)
                    add([*flags, *chosen], seed)
    return found


def shuffled(pairs: str, share: int) -> list[str]:
    """Flags that shuffle so many per cent of a kind of pair."""
    return [SHUFFLES[pairs], f"{share / 100:g}"] if share else []


def trust_flags(pairs: str, kind: str) -> list[str]:
    """Flags of a kind of reliability with half of a kind of pair shuffled, of a model that has learnt before."""
    side = "--reliability-local" if pairs == "region-sentence" else "--reliability-global"
    return [LEARNT, *shuffled(pairs, 50), *([side, kind] if kind not in _unknowing(pairs) else [])]


def _unknowing(pairs: str) -> tuple[str, ...]:
    """Kinds of reliability that say nothing of such pairs."""
    return ("none", "identity") if pairs == "region-sentence" else ("none", "places")


def folder_of(out: Path, flags: Sequence[str], seed: int) -> Path:
    words = [flag.lstrip("-") for flag in flags] or ["defaults"]
    return out / "cells" / "_".join([*words, f"seed-{seed}"])


def report_terms(out: Path, seeds: Sequence[int]) -> tuple[str, dict[str, dict[str, list[float]]]]:
    """Markdown table, and for each row its scores over the seeds."""
    found = {
        name: [cell for seed in seeds if (cell := read_cell(folder_of(out, flags, seed)))]
        for name, flags in TERMS.items()
    }
    # Equal CPU time: what the cheapest row took in all.
    budgets = [cell["curve"][-1]["cpu_seconds"] for cell in found["global only"]]
    budget = statistics.mean(budgets) if budgets else 0.0
    scores: dict[str, dict[str, list[float]]] = {}
    for name, group in [*found.items(), (FULL, found[DEFAULTS])]:
        # Where no weight of the local similarity helps on validation, 0 is chosen, and there is no line of its own.
        found_in = ["global+local" if name == FULL and FUSED in cell["results"] else "global" for cell in group]
        scores[name] = {
            **{
                column: [cell["results"][f"{prefix}/{line}"] for prefix, cell in zip(found_in, group, strict=True)]
                for column, line in (("long R@1", "long/R@1"), ("long mAP", "long/mAP"), ("short R@1", "short/R@1"))
            },
            "region R@10": [cell["results"].get("local/R@10", 0.0) for cell in group],
            "pointing": [cell["results"].get("local/pointing", 0.0) for cell in group],
            "equal time": []
            if name == FULL
            else [at_budget(cell["curve"], budget, f"validation/{LONG}") for cell in group],
            "CPU minutes": [cell["curve"][-1]["cpu_seconds"] / 60 for cell in group],
        }
    titles = ["", "long R@1", "long mAP", "short R@1", "sentence → region R@10", "pointing"]
    titles += [f"validation long R@1 at {budget / 60:.1f} CPU min", "CPU min of training"]
    rows = [[name, *(spread(values) for values in scores[name].values())] for name in scores]
    return table(titles, rows), scores


def report_trust(out: Path, seed: int) -> str:
    """The kinds of reliability on validation, half of the pairs of one kind shuffled."""
    rows = []
    for pairs in SHUFFLES:
        side = "local" if pairs == "region-sentence" else "global"
        for kind in (kind for kind in KINDS if kind == "none" or kind not in _unknowing(pairs)):
            if cell := read_cell(folder_of(out, trust_flags(pairs, kind), seed)):
                best = max(cell["curve"], key=lambda entry: entry[f"validation/{LONG}"])
                told = [cell["curve"][-1].get(f"trust/{side}/{name}") for name in ("precision", "recall")]
                rows.append(
                    [
                        f"{pairs}, {kind}",
                        f"{best[f'validation/{LONG}']:.1f}",
                        f"{best['validation/global/long/mAP']:.1f}",
                    ]
                    + [f"{best.get('validation/local/R@10', 0):.1f}"]
                    + ["-" if value is None else f"{value:.3f}" for value in told]
                )
    titles = ["50 % shuffled", "validation long R@1", "mAP", "sentence → region R@10", "clean: precision", "recall"]
    return table(titles, rows)


def report_noise(out: Path, seeds: Sequence[int]) -> tuple[str, dict[str, dict[str, dict[str, list[float]]]]]:
    """Test R@1 of long captions with shuffled pairs, without and with the chosen reliability, over the seeds: of the
    global similarity, and with late interaction, which is what region-sentence pairs are for."""
    parts, scores = [], {}
    told = ["clean: precision", "recall"]
    for score, heading in ((LONG, "global"), (FUSED, "with late interaction")):
        rows = []
        for pairs, start, share in ((p, start, share) for p in TRUST for start in STARTS[p] for share in SHARES):
            side = "local" if pairs == "region-sentence" else "global"
            flags = [*start, *shuffled(pairs, share)]
            every = [
                [read_cell(folder_of(out, each, seed)) for each in (flags, [*flags, *TRUST[pairs]], start)]
                for seed in seeds
            ]
            found = [three for three in every if all(three)]
            none, ours, clean = (
                [three[k]["results"].get(score, three[k]["results"][LONG]) for three in found] for k in range(3)
            )
            name = f"{share} % of {pairs} pairs" + (", learnt" if start else "")
            scores.setdefault(name, {})[heading] = {"none": none, "chosen": ours}
            row = [name, str(len(found)), spread(none), spread(ours)]
            lost = [statistics.mean(clean) - statistics.mean(values) for values in (none, ours)] if found else []
            row += [f"{value:.1f}" for value in lost] or ["-", "-"]
            row.append(f"{lost[1] / lost[0]:.0%}" if share and found and lost[0] > 0 else "-")
            for which in ("precision", "recall"):
                values = [three[1]["curve"][-1].get(f"trust/{side}/{which}") for three in found]
                values = [value for value in values if value is not None]
                row.append(f"{statistics.mean(values):.3f}" if values else "-")
            rows.append(row)
        titles = ["shuffled", "seeds", "none: long R@1", "chosen: long R@1", "none loses", "chosen loses", "of that"]
        parts += [f"Similarity: {heading}.", table([*titles, *told], rows)]
    return "\n\n".join(parts), scores


def report_borrowed(out: Path, seeds: Sequence[int]) -> str:
    """What other systems know, inside ROGLE, on test over the seeds."""
    rows = []
    for name, flags in BORROWED.items():
        found = [cell for seed in seeds if (cell := read_cell(folder_of(out, flags, seed)))]
        results = [cell["results"] for cell in found]
        fused = [each.get(FUSED, each[LONG]) for each in results]
        row = [name, str(len(found)), spread([each[LONG] for each in results]), spread(fused)]
        row += [spread([each[SHORT] for each in results]), spread([each.get("local/R@10", 0.0) for each in results])]
        row += [spread([cell["curve"][-1]["step"] for cell in found])]
        rows.append([*row, spread([cell["curve"][-1]["cpu_seconds"] / 60 for cell in found])])
    titles = [
        "",
        "seeds",
        "long R@1",
        "with late interaction",
        "short R@1",
        "sentence → region R@10",
        "steps",
        "CPU min",
    ]
    return table(titles, rows)


@torch.no_grad()
def mean_leak(
    model: RogleModel, processor: RogleProcessor, rows, feature: str, images: int = 64
) -> tuple[float, float]:
    """Leak and spread over the first validation rows: mean `1 - cos` of the regions' embeddings with and without their
    surroundings, and of different regions of one image. A leak says little where all regions are alike: read it beside
    the spread.
    """
    model.config.region_feature = feature
    leaks, spreads = [], []
    for start in range(0, min(images, len(rows)), 16):
        batch = [rows[i] for i in range(start, min(start + 16, len(rows)))]
        boxes, owner = [], []
        for number, row in enumerate(batch):
            corners = processor.normalize_boxes([r["bbox"] for r in row["regions"]], row["width"], row["height"])
            boxes.append(torch.from_numpy(corners))
            owner += [number] * len(corners)
        pixels = processor(images=[row["image"].convert("RGB") for row in batch], return_tensors="pt")["pixel_values"]
        boxes, owner = torch.cat(boxes), torch.tensor(owner)
        leaks.append(region_leakage(model, pixels, boxes, owner))
        _, regions = model.encode_images(pixels, boxes, owner)
        other = (owner[:, None] == owner[None, :]) & ~torch.eye(len(owner), dtype=torch.bool)
        spreads.append((1 - regions @ regions.T)[other])
    return max(float(torch.cat(leaks).mean()), 0.0), float(torch.cat(spreads).mean())


def report_features(out: Path, seed: int, dataset: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Leak before and after training, retrieval and grounding of each region feature."""
    from train.recipe import read_recipe
    from train.run_setup import prepare_model

    data, _ = load_rows(dataset)
    rows = data["validation"]
    train_rows = data["train"]
    captions = train_rows["caption"][:] + [c for row in train_rows["captions"][:] for c in row]
    torch.manual_seed(seed)
    new, processor = prepare_model(read_recipe([]), captions)
    lines, scores = [], {}
    for feature in (*FEATURES, "crop"):
        flags = [] if feature in ("patch_mean", "crop") else ["--region-feature", feature]
        folder = folder_of(out, flags, seed)
        cell = read_cell(folder)
        if cell is None:
            continue
        before = mean_leak(new.eval(), processor, rows, feature)
        after = mean_leak(RogleModel.from_pretrained(folder / "best").eval(), processor, rows, feature)
        scores[feature] = {"before": before[0], "after": after[0]}
        own = feature != "crop"  # not trained with: read from the patch_mean checkpoint, for its leak alone
        row = [feature, *(f"{found[0]:.3f} / {found[1]:.3f}" for found in (before, after))]
        for name in (LONG, FUSED, "local/R@10", "local/pointing", "local/IoU@0.5"):
            value = cell["results"].get(name)
            row.append(f"{value:.1f}" if own and value is not None else "-")
        minutes = cell["curve"][-1]["cpu_seconds"] / 60
        lines.append([*row, f"{minutes:.1f}" if own else "-"])
        scores[feature] |= {"long R@1": cell["results"][LONG]} if own else {}
    titles = ["region feature", "leak / spread before", "after training", "long R@1", "with late interaction"]
    return table([*titles, "sentence → region R@10", "pointing", "IoU ≥ 0.5", "CPU min"], lines), scores


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learnt-epochs", type=int, default=4, help="of the cells that go on from a learnt model")
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--only", help="train only cells whose folder name holds this text")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is there")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    common = ["--dataset", args.dataset, "--epochs", str(args.epochs), "--threads", "1"]

    def given(flags: Sequence[str], make: bool = False) -> tuple[list[str], list[str]]:
        """A cell's own flags, and those that it shares with the others."""
        own = [flag for flag in flags if flag not in (COPIES, LEARNT)]
        if LEARNT in flags:
            return own, with_start(out, args.dataset, args.learnt_epochs, make)
        return own, with_copies(out, args.dataset, args.epochs, make) if COPIES in flags else common

    wanted = {k: v for k, v in cells(args.studies, args.seeds).items() if not args.only or args.only in k}
    if not args.report_only:
        for number, (name, flags) in enumerate(wanted.items(), 1):
            print(f"[{number}/{len(wanted)}] {name}", flush=True)
            run_cell(out / "cells" / name, *given(flags, make=True))

    for name, flags in wanted.items():
        check_cell(out / "cells" / name, given(flags)[1])
    parts = [f"Every cell: {' '.join(common)}; commands and curves in {args.out}/cells."]
    figures: dict[str, object] = {}
    if "terms" in args.studies:
        text, figures["terms"] = report_terms(out, args.seeds)
        parts += ["## Terms", text]
    if "trust" in args.studies:
        parts += ["## Reliability: which kind", report_trust(out, args.seeds[0])]
    if "noise" in args.studies:
        text, figures["noise"] = report_noise(out, args.seeds)
        parts += ["## Shuffled pairs", text]
    if "features" in args.studies:
        text, figures["features"] = report_features(out, args.seeds[0], args.dataset)
        parts += ["## Region features", text]
    if "borrowed" in args.studies:
        parts += ["## What other systems know, inside ROGLE", report_borrowed(out, args.seeds)]
    done = [cell for folder in sorted((out / "cells").glob("*")) if folder.is_dir() and (cell := read_cell(folder))]
    hours = sum(cell["curve"][-1]["cpu_seconds"] for cell in done) / 3600
    parts.append(f"{len(done)} cells, {hours:.2f} CPU hours of training.")
    write_whole(out / "report.md", "\n\n".join(parts))
    write_whole(out / "report.json", json.dumps(figures, indent=1))
    if "terms" in args.studies:
        draw_terms(figures["terms"], out / "ablation.png")
        best = folder_of(out, TERMS[DEFAULTS], args.seeds[0]) / "best"
        if best.exists():
            draw_similarity_map(best, load_rows(args.dataset)[0]["validation"], out / "similarity_map.webp")
    if "noise" in args.studies:
        draw_noise(figures["noise"], out / "noise.png")
    if "features" in args.studies:
        draw_features(figures["features"], out / "leak.png")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
