"""ROGLE against other systems of the field on synthetic P-VLG.

    python -m benchmarks.studies.methods --out runs/methods [--systems rogle acsa ...] [--seeds 0 1 2] [--epochs 5]

All systems have one small backbone, the same number of steps, and one recipe, except for what the system's file in
train/configs sets. Each is trained once on long and short captions and scored on both from the same checkpoint. Every
system has the same search over three learning rates, in short runs of seed 0 (ROGLE on mined pairs uses the rate of
ROGLE). The learning rate, the checkpoint (R@1 of long captions) and the weight of the local similarity are chosen on
validation. The test split is scored once. The generated data of CTLG are edited images (`rogle data generate`); with
them it trains on more images in fewer epochs, for as many steps.

Every system and seed is a cell. Finished cells are kept, an interrupted one is resumed, and one that another process
trains is skipped: run the same command twice to use two cores. `--only` selects cells by name. `--write
docs/results.md` writes the tables into that page.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset

from benchmarks.common.processes import ROOT
from benchmarks.common.tables import format_table, mean_and_deviation, write_text
from benchmarks.common.training_runs import (
    check_cell,
    claimed,
    read_cell,
    run_cell,
    score_at_budget,
    with_edited_images,
)
from benchmarks.studies.methods_figure import draw_methods
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.fusion import caption_similarities
from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from modeling_rogle.late_interaction import fuse
from modeling_rogle.metrics.retrieval import cosine
from train.recipe import read_recipe


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        title: its name.
        config: file in train/configs; None for the defaults of train.py.
        flags: further flags of train.py.
        edited_images: whether the training data include edited images.
        supervision: supervision besides captions and identities, in words.
        rate_of: the system whose learning rate is used instead of an own search; None for an own search.
    """

    title: str
    config: str | None
    flags: tuple[str, ...] = ()
    edited_images: bool = False
    supervision: str = "-"
    rate_of: str | None = None


SYSTEMS = {
    "rogle": System("ROGLE (ours)", None, supervision="ground-truth region-sentence pairs"),
    # Two epochs are too few to mine: a search of its own would compare learning rates on poor pairs.
    "rogle_mined": System("ROGLE (ours), mined pairs", None, ("--regions", "mined"), rate_of="rogle"),
    "clip_itc": System("CLIP, fine-tuned", "clip_itc.yaml"),
    "longclip": System("Long-CLIP", "longclip.yaml"),
    "goal": System("GOAL", "goal.yaml", supervision="ground-truth region-sentence pairs"),
    "irra": System("IRRA (SDM, IRR)", "irra.yaml"),
    "rde": System("RDE (TAL, clean pairs)", "rde.yaml"),
    "ctlg": System("CTLG", "ctlg.yaml"),
    "ctlg_pdg": System(
        "CTLG + PDG",
        "ctlg.yaml",
        ("--approximate", "0.5", "--mix", "0.5"),
        edited_images=True,
        supervision="edited images as in-batch hard negatives",
    ),
    "acsa": System("ACSA", "acsa.yaml", supervision="sentences of ground-truth pairs, as phrases"),
    "parts": System("part-level correspondence", "parts.yaml"),
}
RATES = (0.5, 1.0, 2.0)  # factors of the recipe's learning rate that the search tries
CURVE = "validation/global/long/R@1"
BEGIN, END = "<!-- measured by benchmarks/studies/methods.py -->", "<!-- end of what was measured -->"
TIMED_QUERIES = 64
SCORES = {  # score of a cell: title of its column
    "long": "long R@1",
    "long, global": "global alone",
    "long mAP": "long mAP",
    "short": "short R@1",
    "short, global": "global alone",
    "short mAP": "short mAP",
    "local": "sentence → region R@10",
    "pointing": "pointing",
    "joint": "joint mAP, captions",
}


def cell_name(system: str, seed: int) -> str:
    return f"{system}_seed-{seed}"


def flags_of(
    system: str, seed: int, out: Path, dataset: str, epochs: int, make: bool, rate: float = 1.0
) -> tuple[list[str], list[str]]:
    """A cell's own flags of train.py, and the shared ones that a finished cell is compared with.

    Args:
        system: a name of `SYSTEMS`.
        seed: of the training run.
        out: folder of the benchmark.
        dataset: name of the P-VLG data set.
        epochs: epochs without edited images.
        make: generate edited images if they are missing.
        rate: factor of the recipe's learning rate. Default: 1.
    """
    chosen = SYSTEMS[system]
    own = ["--config", str(ROOT / "train" / "configs" / chosen.config)] if chosen.config else []
    own = [*own, *chosen.flags, "--seed", str(seed)]
    shared = ["--dataset", dataset, "--epochs", str(epochs), "--threads", "1"]
    if chosen.edited_images:
        shared = with_edited_images(out, dataset, epochs, make)
    return own, [*shared, "--learning-rate", str(rate * read_recipe(own).learning_rate)]


def search_cell(out: Path, system: str, rate: float) -> Path:
    """Folder of the short run with a learning rate."""
    return out / "search" / f"{system}_rate-{rate:g}"


def search_scores(out: Path, system: str) -> dict[float, float]:
    """Rate -> the best validation R@1 of long captions (global) of its short run, for the finished runs."""
    runs = {rate: read_cell(search_cell(out, system, rate)) for rate in RATES}
    return {rate: max(entry[CURVE] for entry in run["curve"]) for rate, run in runs.items() if run}


def searched_system(system: str) -> str:
    """The system whose search chooses the learning rate of this one."""
    return SYSTEMS[system].rate_of or system


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the best score; among equal ones the nearest to that of the recipe."""
    return max(scores, key=lambda rate: (scores[rate], -abs(rate - 1.0)))


def score_cell(folder: Path, rows: Dataset) -> None:
    """Writes scores.json of a finished cell: the joint protocol on the test rows, and the cost of a query."""
    if (folder / "scores.json").exists():
        return
    model = RogleModel.from_pretrained(folder / "best").eval()
    processor = RogleProcessor.from_pretrained(folder / "best")
    embeddings = encode_split(model, processor, rows, progress=False, split="test")
    weight = json.loads((folder / "results.json").read_text(encoding="utf-8"))["local_weight"]
    scores = all_protocols(embeddings, protocols=("joint",))
    scores |= query_cost(model, processor, rows, embeddings, weight) | {"gallery": len(rows)}
    write_text(folder / "scores.json", json.dumps(scores, indent=1))


@torch.no_grad()
def query_cost(
    model: RogleModel, processor: RogleProcessor, rows: Dataset, embeddings: SplitEmbeddings, weight: float
) -> dict[str, float]:
    """CPU milliseconds of a long caption.

    Args:
        model: of the system.
        processor: of the model.
        rows: P-VLG rows.
        embeddings: of the rows.
        weight: of the local similarity; at 0 it is not computed.

    Returns:
        `encoding_ms`: encoding of the caption and of what the local similarity needs. `ranking_ms`: its similarities
        to the whole gallery.
    """
    captions, slots = rows["caption"][:TIMED_QUERIES], model.part_counts[1]
    sentences = [s["text"] for parts in rows["sentences"][:TIMED_QUERIES] for s in parts]
    texts = captions + (sentences if weight and not slots else [])
    started = time.process_time()
    for start in range(0, len(texts), 32):
        ids = processor(text=texts[start : start + 32], return_tensors="pt")["input_ids"]
        model.encode_texts(ids)
        if weight and slots:
            model.encode_text_parts(ids)
    encoding = time.process_time() - started
    started = time.process_time()
    if weight:
        fuse(*caption_similarities(embeddings, embeddings.long)(0, len(captions)), weight)
    else:
        cosine(embeddings.long.embeds.numpy(), embeddings.image_embeds.numpy())(0, len(captions))
    ranking = time.process_time() - started
    return {"encoding_ms": 1000 * encoding / len(captions), "ranking_ms": 1000 * ranking / len(captions)}


def read_scores(folder: Path) -> dict | None:
    """The figures of a cell by name, and its `curve`; None if it is not finished and scored."""
    cell = read_cell(folder)
    if cell is None or not (folder / "scores.json").exists():
        return None
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    results, curve = cell["results"], cell["curve"]
    # A cell whose validation chose the local weight 0 has no scores of its own for global + local.
    source = "global+local" if "global+local/long/R@1" in results else "global"
    clock = "cpu_seconds" if _device(folder) == "cpu" else "seconds"
    return {
        "long, global": results["global/long/R@1"],
        "long": results[f"{source}/long/R@1"],
        "long mAP": results[f"{source}/long/mAP"],
        "short, global": results["global/short/R@1"],
        "short": results[f"{source}/short/R@1"],
        "short mAP": results[f"{source}/short/mAP"],
        "local": results.get("local/R@10", 0.0),
        "pointing": results.get("local/pointing", 0.0),
        "joint": scores.get("joint/caption/mAP", 0.0),
        "weight": cell["local_weight"],
        "steps": curve[-1]["step"],
        "minutes": curve[-1][clock] / 60,
        "encoding": scores["encoding_ms"],
        "ranking": scores["ranking_ms"],
        "curve": [{"minutes": e[clock] / 60, "cpu_seconds": e[clock], CURVE: e[CURVE]} for e in curve],
    }


def _device(folder: Path) -> str:
    file = folder / "environment.json"
    return json.loads(file.read_text(encoding="utf-8"))["device"] if file.exists() else "cpu"


def report(cells: Mapping[str, Sequence[Mapping]]) -> str:
    """Two Markdown tables: scores at equal steps, and scores at equal time with the costs.

    Args:
        cells: system -> results of [`read_scores`], one a seed; empty for a system that is not trained yet.
    """
    budget = min((cell["minutes"] for group in cells.values() for cell in group), default=0.0)

    def column(name: str, group: Sequence[Mapping]) -> str:
        return mean_and_deviation([cell[name] for cell in group])

    rows = [
        [SYSTEMS[name].title, SYSTEMS[name].supervision, str(len(group)), *(column(score, group) for score in SCORES)]
        for name, group in cells.items()
    ]
    equal_steps = format_table(["", "extra supervision", "seeds", *SCORES.values()], rows)
    titles = ["", "steps", "minutes of training", f"validation long R@1 at {budget:.1f} min (global)"]
    titles += ["weight of the local similarity", "CPU ms a query: encoding", "ranking"]
    rows = []
    for name, group in cells.items():
        early = [score_at_budget(cell["curve"], 60 * budget, CURVE) for cell in group]
        weight = f"{statistics.mean(cell['weight'] for cell in group):.2f}" if group else "-"
        row = [SYSTEMS[name].title, column("steps", group), column("minutes", group), mean_and_deviation(early), weight]
        rows.append([*row, column("encoding", group), column("ranking", group)])
    between = "The table above is at equal steps. The next one shows the scores at equal time, and the costs:"
    return "\n\n".join([equal_steps, between, format_table(titles, rows)])


def search_report(scores: Mapping[str, Mapping[float, float]]) -> str:
    """A Markdown table of the scores of [`search_scores`] for each system, with the chosen rate in bold."""
    rows = []
    for name, by_rate in scores.items():
        best = best_rate(by_rate) if len(by_rate) == len(RATES) else None
        shown = {rate: f"{score:.1f}" for rate, score in by_rate.items()}
        shown |= {best: f"**{shown[best]}**"} if best else {}
        rows.append([SYSTEMS[name].title, *(shown.get(rate, "-") for rate in RATES)])
    return format_table(["learning rate", *(f"x {rate:g}" for rate in RATES)], rows)


def introduction(args: argparse.Namespace, images: int) -> str:
    """The command, and what the figures mean.

    Args:
        args: arguments of this program.
        images: of the test split.
    """
    systems = "" if args.systems == list(SYSTEMS) else f" --systems {' '.join(args.systems)}"
    command = f"python -m benchmarks.studies.methods --dataset {args.dataset} --epochs {args.epochs}"
    command += f" --seeds {' '.join(map(str, args.seeds))}{systems}"
    return (
        f"`{command}`: each cell has the steps of {args.epochs} epochs. The learning rate, the checkpoint and the "
        "local weight are chosen on validation. "
        f"R@1, R@10 and mAP on the test split ({images} images) in %, mean and standard deviation over the seeds."
    )


def search_introduction(epochs: int) -> str:
    return (
        f"The learning-rate search is the same for all: {epochs} epochs at each of {len(RATES)} rates, seed 0. "
        "Validation R@1 of long captions (global); the chosen rate is in bold:"
    )


def write_between_marks(path: Path, text: str) -> None:
    """Writes the text between the two marks of a page.

    Raises:
        ValueError: the page does not have both marks in order.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no {BEGIN!r} with {END!r} after it")
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}".rstrip("\n"))


def search(args: argparse.Namespace, out: Path, systems: Sequence[str]) -> dict[str, dict[float, float]]:
    """Trains the missing runs of the learning-rate search, and returns the scores of each system."""
    for system in systems:
        for rate in RATES:
            folder, make = search_cell(out, system, rate), not args.report_only
            flags, shared = flags_of(system, 0, out, args.dataset, args.search_epochs, make, rate)
            check_cell(folder, shared)
            if make and not (folder / "results.json").exists():
                print(f"[search] {folder.name}", flush=True)
                run_cell(folder, flags, shared)
    return {system: search_scores(out, system) for system in systems}


def train_cells(args: argparse.Namespace, out: Path, test: Dataset) -> dict[str, dict[float, float]]:
    """Trains and scores the missing cells, and returns the scores of the search.

    Args:
        args: arguments of this program.
        out: folder of the benchmark.
        test: rows of the test split.
    """
    # Seed by seed, so that an interrupted run has complete rows of the table.
    cells = [(system, seed) for seed in args.seeds for system in args.systems]
    cells = [(system, seed) for system, seed in cells if not args.only or args.only in cell_name(system, seed)]
    searched = search(args, out, sorted({searched_system(system) for system, _ in cells}, key=list(SYSTEMS).index))
    for number, (system, seed) in enumerate(cells, 1):
        folder = out / "cells" / cell_name(system, seed)
        scores = searched[searched_system(system)]
        if len(scores) < len(RATES):
            print(f"[{number}/{len(cells)}] {folder.name}: its search is not finished", flush=True)
            continue
        flags, shared = flags_of(system, seed, out, args.dataset, args.epochs, not args.report_only, best_rate(scores))
        check_cell(folder, shared)
        if args.report_only:
            continue
        print(f"[{number}/{len(cells)}] {folder.name}", flush=True)
        if not run_cell(folder, flags, shared):
            print("    another process trains it", flush=True)
            continue
        with claimed(folder) as lock:
            if lock is not None:
                score_cell(folder, test)
    return searched


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder (default: runs/methods)")
    parser.add_argument(
        "--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), help="rows of the table (default: all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--epochs", type=int, default=5, help="budget of a cell, in epochs without edited images (default: 5)"
    )
    parser.add_argument(
        "--search-epochs", type=int, default=2, help="epochs of a run of the learning-rate search (default: 2)"
    )
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="P-VLG data set (default: synthetic)")
    parser.add_argument(
        "--only", metavar="TEXT", help="train only cells whose name (system_seed-N) contains TEXT (default: all)"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing and report the finished cells (default: off)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="also write the report between the marks of a page (default: none)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    out = args.out.resolve()
    test = load_rows(args.dataset)[0]["test"]
    searched = train_cells(args, out, test)
    folders = {system: [out / "cells" / cell_name(system, seed) for seed in args.seeds] for system in args.systems}
    groups = {
        system: [scores for folder in names if (scores := read_scores(folder))] for system, names in folders.items()
    }
    cells = [cell for group in groups.values() for cell in group]
    text = "\n\n".join(
        [
            introduction(args, len(test)),
            report(groups),
            f"{len(cells)} of {len(args.systems) * len(args.seeds)} cells, "
            f"{sum(cell['minutes'] for cell in cells) / 60:.2f} hours of training.",
            search_introduction(args.search_epochs),
            search_report(searched),
        ]
    )
    write_text(out / "report.md", text)
    write_text(out / "report.json", json.dumps(groups, indent=1))
    draw_methods(groups, {name: system.title for name, system in SYSTEMS.items()}, CURVE, out / "methods.png")
    if args.write:
        write_between_marks(args.write, text)
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the cost of a query is that of one thread
    main()
