"""Ablation of ROGLE on synthetic P-VLG, by training.

    python -m benchmarks.studies.ablation --out runs/ablation [--studies terms noise ...] [--seeds 0 1 2] [--epochs 5]

Every cell is one run of train/train.py on one CPU thread. All cells have the same recipe (the defaults), the same
number of epochs, and train on long and short captions together. The checkpoint and the weight of late interaction are
chosen on validation, and the test split is scored once. Finished cells are kept and an interrupted one is resumed. The
report contains what is finished.

    terms          global only | + local contrastive | + TSL | + reliability | full (the checkpoints of + TSL, scored
                   with late interaction); at equal steps, and at equal CPU time (read from the validation curve)
    reliability    the kinds of reliability with half of the pairs shuffled, on validation, from a pre-trained model
    noise          0, 20 and 50 % of the region-sentence pairs, or of the image-caption pairs, shuffled: no reliability
                   against the chosen one, and how well it detects clean pairs. Region-sentence pairs also from scratch.
                   Pre-trained models were trained on the first half of the training identities; the second half is used
    features       the region features: retrieval, grounding, and leakage before and after training
    edited-images  edited copies of the training images, with one colour changed, as hard negatives (PDG, arXiv
                   2311.09084)
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.tables import write_text
from benchmarks.common.training_runs import check_cell, read_cell, run_cell, with_edited_images, with_pretraining
from benchmarks.studies.ablation_cells import COPIES, DEFAULTS, PRETRAINED, STUDIES, TERMS, cell_folder, cells
from benchmarks.studies.ablation_figures import draw_features, draw_noise, draw_similarity_map, draw_terms
from benchmarks.studies.ablation_reports import (
    report_edited_images,
    report_features,
    report_noise,
    report_reliability,
    report_terms,
)
from dataset_pvlg.loading import load_rows


def flags_of_cell(
    flags: Sequence[str], args: argparse.Namespace, out: Path, make: bool = False
) -> tuple[list[str], list[str]]:
    """A cell's own flags of train.py, and those that it shares with other cells.

    Args:
        flags: of the cell, with COPIES and PRETRAINED.
        args: arguments of this program.
        out: folder of the ablation.
        make: make the data and the pre-trained model if they are missing. Default: False.
    """
    own = [flag for flag in flags if flag not in (COPIES, PRETRAINED)]
    if PRETRAINED in flags:
        return own, with_pretraining(out, args.dataset, args.pretrained_epochs, make)
    if COPIES in flags:
        return own, with_edited_images(out, args.dataset, args.epochs, make)
    return own, shared_flags(args)


def shared_flags(args: argparse.Namespace) -> list[str]:
    return ["--dataset", args.dataset, "--epochs", str(args.epochs), "--threads", "1"]


def write_report(args: argparse.Namespace, out: Path) -> str:
    """Writes report.md, report.json and the figures, and returns the text of the report."""
    parts = [f"Every cell: {' '.join(shared_flags(args))}; commands and curves are in {args.out}/cells."]
    figures: dict[str, object] = {}
    if "terms" in args.studies:
        text, figures["terms"] = report_terms(out, args.seeds)
        parts += ["## Terms", text]
    if "reliability" in args.studies:
        parts += ["## Kinds of reliability", report_reliability(out, args.seeds[0])]
    if "noise" in args.studies:
        text, figures["noise"] = report_noise(out, args.seeds)
        parts += ["## Shuffled pairs", text]
    if "features" in args.studies:
        text, figures["features"] = report_features(out, args.seeds[0], args.dataset)
        parts += ["## Region features", text]
    if "edited-images" in args.studies:
        parts += ["## Edited images", report_edited_images(out, args.seeds)]
    done = [cell for folder in sorted((out / "cells").glob("*")) if folder.is_dir() and (cell := read_cell(folder))]
    hours = sum(cell["curve"][-1]["cpu_seconds"] for cell in done) / 3600
    parts.append(f"{len(done)} cells, {hours:.2f} CPU hours of training.")
    text = "\n\n".join(parts)
    write_text(out / "report.md", text)
    write_text(out / "report.json", json.dumps(figures, indent=1))
    if "terms" in args.studies:
        draw_terms(figures["terms"], out / "ablation.png")
        best = cell_folder(out, TERMS[DEFAULTS], args.seeds[0]) / "best"
        if best.exists():
            draw_similarity_map(best, load_rows(args.dataset)[0]["validation"], out / "similarity_map.webp")
    if "noise" in args.studies:
        draw_noise(figures["noise"], out / "noise.png")
    if "features" in args.studies:
        draw_features(figures["features"], out / "leak.png")
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder (default: runs/ablation)")
    parser.add_argument(
        "--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="studies to run (default: all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a cell from scratch (default: 5)")
    parser.add_argument(
        "--pretrained-epochs", type=int, default=4, help="epochs of a cell from a pre-trained model (default: 4)"
    )
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="P-VLG data set (default: synthetic)")
    parser.add_argument("--only", metavar="TEXT", help="train only cells whose name contains TEXT (default: all)")
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing and report the finished cells (default: off)"
    )
    args = parser.parse_args(argv)
    out = args.out.resolve()
    selected = {k: v for k, v in cells(args.studies, args.seeds).items() if not args.only or args.only in k}
    if not args.report_only:
        for number, (name, flags) in enumerate(selected.items(), 1):
            print(f"[{number}/{len(selected)}] {name}", flush=True)
            run_cell(out / "cells" / name, *flags_of_cell(flags, args, out, make=True))
    for name, flags in selected.items():
        check_cell(out / "cells" / name, flags_of_cell(flags, args, out)[1])
    print(write_report(args, out))


if __name__ == "__main__":
    main()
