"""python -m benchmarks.studies.methods --out runs/methods [--systems rogle acsa ...] [--seeds 0 1 2] [--epochs 5]

ROGLE beside the other systems of the field on synthetic P-VLG: one small backbone, one recipe but for what the system's
file in train/configs says, the same number of steps for all, trained once on long and short captions and scored on both
from the one checkpoint. Every system has the same search, over three learning rates in short runs of seed 0 (ROGLE on
mined pairs takes what ROGLE found); that rate, the checkpoint (R@1 of long captions) and the weight of each system's
local similarity are chosen on validation, test is scored once. CTLG's generated data are near copies drawn by the
renderer (`rogle data generate`); with them it sees more images in fewer epochs, in as many steps.

Every system x seed is a cell. Cells that are finished are kept, a killed one goes on, and one that another process is
training is left to it: run the same command twice to use two cores. `--only` trains the cells whose name holds a text,
`--write docs/results.md` puts the tables there.
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

from benchmarks.common.training_runs import (
    ROOT,
    at_budget,
    check_cell,
    claimed,
    read_cell,
    run_cell,
    spread,
    table,
    with_copies,
    write_whole,
)
from benchmarks.studies.methods_figure import draw_methods
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.fusion import caption_similarities
from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from modeling_rogle.late_interaction import fuse
from modeling_rogle.metrics.retrieval import cosine
from train.recipe import read_recipe  # noqa: E402


@dataclass(frozen=True)
class System:
    """title: in the table. config: file in train/configs; None is train.py's own defaults. flags: over it. copies:
    trained on the data with generated near copies. told: what it learns from beside captions and identities. rate_of:
    the system whose learning rate it takes, where it has no search of its own."""

    title: str
    config: str | None
    flags: tuple[str, ...] = ()
    copies: bool = False
    told: str = "-"
    rate_of: str | None = None


SYSTEMS = {
    "rogle": System("ROGLE (ours)", None, told="true region-sentence pairs"),
    # Two epochs are too few to mine by: a search of its own would compare rates on pairs that nobody would train with.
    "rogle_mined": System("ROGLE (ours), mined pairs", None, ("--regions", "mined"), rate_of="rogle"),
    "clip_itc": System("CLIP, fine-tuned", "clip_itc.yaml"),
    "longclip": System("Long-CLIP", "longclip.yaml"),
    "goal": System("GOAL", "goal.yaml", told="true region-sentence pairs"),
    "irra": System("IRRA (SDM, IRR)", "irra.yaml"),
    "rde": System("RDE (TAL, clean pairs)", "rde.yaml"),
    "ctlg": System("CTLG", "ctlg.yaml"),
    "ctlg_pdg": System(
        "CTLG + PDG", "ctlg.yaml", ("--approximate", "0.5", "--mix", "0.5"), copies=True, told="near copies"
    ),
    "acsa": System("ACSA", "acsa.yaml", told="sentences of true pairs, as phrases"),
    "parts": System("part-level correspondence", "parts.yaml"),
}
OURS = ("rogle", "rogle_mined")
RATES = (0.5, 1.0, 2.0)  # of the recipe's learning rate: what is searched, for all alike
CURVE = "validation/global/long/R@1"
BEGIN, END = "<!-- measured by benchmarks/studies/methods.py -->", "<!-- end of what was measured -->"
TIMED_QUERIES = 64


def cell_name(system: str, seed: int) -> str:
    return f"{system}_seed-{seed}"


def flags_of(
    system: str, seed: int, out: Path, dataset: str, epochs: int, make: bool, rate: float = 1.0
) -> tuple[list[str], list[str]]:
    """A cell's own flags of train.py, and those by which a finished cell is known to be this one.

    Args:
        make: whether generated data may be made now. rate: of the recipe's learning rate.
    """
    chosen = SYSTEMS[system]
    own = ["--config", str(ROOT / "train" / "configs" / chosen.config)] if chosen.config else []
    own = [*own, *chosen.flags, "--seed", str(seed)]
    shared = ["--dataset", dataset, "--epochs", str(epochs), "--threads", "1"]
    if chosen.copies:
        shared = with_copies(out, dataset, epochs, make)
    return own, [*shared, "--learning-rate", str(rate * read_recipe(own).learning_rate)]


def search_cell(out: Path, system: str, rate: float) -> Path:
    """Folder of the short run that tries a learning rate."""
    return out / "search" / f"{system}_rate-{rate:g}"


def searched(out: Path, system: str) -> dict[float, float]:
    """Rate -> the best validation R@1 of long captions (global) that its short run came to, of those that are done."""
    runs = {rate: read_cell(search_cell(out, system, rate)) for rate in RATES}
    return {rate: max(entry[CURVE] for entry in run["curve"]) for rate, run in runs.items() if run}


def searcher(system: str) -> str:
    """The system whose search chooses the learning rate of this one."""
    return SYSTEMS[system].rate_of or system


def best_rate(tried: Mapping[float, float]) -> float:
    """The rate that scored best; of equal ones that nearest to the recipe's."""
    return max(tried, key=lambda rate: (tried[rate], -abs(rate - 1.0)))


def score_cell(folder: Path, rows: Dataset) -> None:
    """Adds scores.json to a finished cell: the joint protocol on test, and what a query costs."""
    if (folder / "scores.json").exists():
        return
    model = RogleModel.from_pretrained(folder / "best").eval()
    processor = RogleProcessor.from_pretrained(folder / "best")
    embeddings = encode_split(model, processor, rows, progress=False, split="test")
    weight = json.loads((folder / "results.json").read_text(encoding="utf-8"))["local_weight"]
    found = all_protocols(embeddings, protocols=("joint",))
    found |= query_cost(model, processor, rows, embeddings, weight) | {"gallery": len(rows)}
    write_whole(folder / "scores.json", json.dumps(found, indent=1))


@torch.no_grad()
def query_cost(
    model: RogleModel, processor: RogleProcessor, rows: Dataset, embeddings: SplitEmbeddings, weight: float
) -> dict[str, float]:
    """CPU milliseconds of a long caption: `encoding_ms`, its own and what the local similarity reads where that has a
    weight, and `ranking_ms`, its similarities to the whole gallery."""
    captions, slots = rows["caption"][:TIMED_QUERIES], model.part_counts[1]
    sentences = [s["text"] for parts in rows["sentences"][:TIMED_QUERIES] for s in parts]
    texts = captions + (sentences if weight and not slots else [])
    began = time.process_time()
    for start in range(0, len(texts), 32):
        ids = processor(text=texts[start : start + 32], return_tensors="pt")["input_ids"]
        model.encode_texts(ids)
        if weight and slots:
            model.encode_text_parts(ids)
    encoding = time.process_time() - began
    began = time.process_time()
    if weight:
        fuse(*caption_similarities(embeddings, embeddings.long)(0, len(captions)), weight)
    else:
        cosine(embeddings.long.embeds.numpy(), embeddings.image_embeds.numpy())(0, len(captions))
    ranking = time.process_time() - began
    return {"encoding_ms": 1000 * encoding / len(captions), "ranking_ms": 1000 * ranking / len(captions)}


def read_scores(folder: Path) -> dict | None:
    """Everything of a finished and scored cell, flat where it is a figure; None while it is not."""
    cell = read_cell(folder)
    if cell is None or not (folder / "scores.json").exists():
        return None
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    results, curve = cell["results"], cell["curve"]
    # Where no weight of the local similarity helps on validation, 0 is chosen, and there is no line of its own.
    own = "global+local" if "global+local/long/R@1" in results else "global"
    clock = "cpu_seconds" if _device(folder) == "cpu" else "seconds"
    return {
        "long, global": results["global/long/R@1"],
        "long": results[f"{own}/long/R@1"],
        "long mAP": results[f"{own}/long/mAP"],
        "short, global": results["global/short/R@1"],
        "short": results[f"{own}/short/R@1"],
        "short mAP": results[f"{own}/short/mAP"],
        "local": results.get("local/R@10", 0.0),
        "pointing": results.get("local/pointing", 0.0),
        "joint": scores.get("joint/mAP", 0.0),
        "weight": cell["local_weight"],
        "steps": curve[-1]["step"],
        "minutes": curve[-1][clock] / 60,
        "encoding": scores["encoding_ms"],
        "ranking": scores["ranking_ms"],
        "curve": [{"minutes": e[clock] / 60, "cpu_seconds": e[clock], CURVE: e[CURVE]} for e in curve],
    }


def _device(folder: Path) -> str:
    found = folder / "environment.json"
    return json.loads(found.read_text(encoding="utf-8"))["device"] if found.exists() else "cpu"


def report(found: Mapping[str, Sequence[Mapping]]) -> str:
    """Two markdown tables, scores and costs, and a line for each thing in which ROGLE should lead.

    Args:
        found: of each system what [`read_scores`] gives for its seeds; none for one that is not trained yet.
    """
    budgets = [cell["minutes"] for cells in found.values() for cell in cells]
    budget = min(budgets, default=0.0)

    def column(name: str, cells: Sequence[Mapping]) -> str:
        return spread([cell[name] for cell in cells])

    scores = ["long", "long, global", "long mAP", "short", "short, global", "short mAP", "local", "pointing", "joint"]
    titles = ["", "told besides", "seeds", "long R@1", "global alone", "long mAP", "short R@1", "global alone"]
    titles += ["short mAP", "sentence → region R@10", "pointing", "joint mAP"]
    rows = [
        [SYSTEMS[name].title, SYSTEMS[name].told, str(len(cells)), *(column(score, cells) for score in scores)]
        for name, cells in found.items()
    ]
    parts = [table(titles, rows)]
    titles = ["", "steps", "minutes of training", f"validation long R@1 at {budget:.1f} min (global)"]
    titles += ["weight of the local similarity", "CPU ms a query: encoding", "ranking"]
    rows = []
    for name, cells in found.items():
        early = [at_budget(cell["curve"], 60 * budget, CURVE) for cell in cells]
        weight = f"{statistics.mean(cell['weight'] for cell in cells):.2f}" if cells else "-"
        rows.append([SYSTEMS[name].title, column("steps", cells), column("minutes", cells), spread(early), weight])
        rows[-1] += [column("encoding", cells), column("ranking", cells)]
    parts += ["At equal steps above; at equal time, and what it costs:", table(titles, rows)]
    verdicts = [_verdict(found, ours, score, title) for ours in OURS for score, title in LEADS.items()]
    return "\n\n".join([*parts, "\n".join(filter(None, verdicts))]).rstrip()


def search_report(tried: Mapping[str, Mapping[float, float]]) -> str:
    """A markdown table of what [`searched`] gives for each system, the chosen rate in bold."""
    rows = []
    for name, scores in tried.items():
        best = best_rate(scores) if len(scores) == len(RATES) else None
        told = {rate: f"{score:.1f}" for rate, score in scores.items()}
        told |= {best: f"**{told[best]}**"} if best else {}
        rows.append([SYSTEMS[name].title, *(told.get(rate, "-") for rate in RATES)])
    return table(["learning rate", *(f"x {rate:g}" for rate in RATES)], rows)


LEADS = {
    "long": "long captions, R@1",
    "short": "short captions, R@1",
    "local": "sentence → region, R@10",
    "joint": "joint, mAP",
}


def _verdict(found: Mapping[str, Sequence[Mapping]], ours: str, score: str, title: str) -> str:
    """Whether one of ours leads the others, and by how much or not; empty while there is nothing to compare."""
    means = {name: statistics.mean(cell[score] for cell in cells) for name, cells in found.items() if cells}
    others = {name: mean for name, mean in means.items() if name not in OURS}
    if ours not in means or not others:
        return ""
    best = max(others, key=others.get)
    gap, name = means[ours] - others[best], SYSTEMS[ours].title
    says = f"{name} leads by {gap:.1f}" if gap > 0 else f"**{name} does not lead**: it is {abs(gap):.1f} behind"
    return f"- {title}: {says} ({means[ours]:.1f}; the best other is {SYSTEMS[best].title} with {others[best]:.1f})."


def write_between(path: Path, text: str) -> None:
    """Puts the text between the two marks of a page.

    Raises:
        ValueError: the page has not both marks, in their order.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no {BEGIN!r} with {END!r} after it")
    write_whole(path, f"{before}{begin}\n\n{text}\n\n{end}{after}".rstrip("\n"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="the budget of each cell, in epochs of the plain data")
    parser.add_argument("--search-epochs", type=int, default=2, help="of the runs that choose the learning rate")
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--only", help="train only cells whose name (system_seed-N) holds this text")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is there")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also put the report between the marks of this page")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    # Seed by seed, so that a run that is stopped has whole rows of the table.
    wanted = [(system, seed) for seed in args.seeds for system in args.systems]
    wanted = [(s, seed) for s, seed in wanted if not args.only or args.only in cell_name(s, seed)]
    test = load_rows(args.dataset)[0]["test"]
    tried = _search(args, out, sorted({searcher(system) for system, _ in wanted}, key=list(SYSTEMS).index))
    for number, (system, seed) in enumerate(wanted, 1):
        folder = out / "cells" / cell_name(system, seed)
        if len(tried[searcher(system)]) < len(RATES):
            print(f"[{number}/{len(wanted)}] {folder.name}: its search is not finished", flush=True)
            continue
        rate, make = best_rate(tried[searcher(system)]), not args.report_only
        flags, shared = flags_of(system, seed, out, args.dataset, args.epochs, make, rate)
        check_cell(folder, shared)
        if args.report_only:
            continue
        print(f"[{number}/{len(wanted)}] {folder.name}", flush=True)
        if not run_cell(folder, flags, shared):
            print("    another process is training it", flush=True)
            continue
        with claimed(folder) as lock:
            if lock is not None:
                score_cell(folder, test)

    names = {system: [cell_name(system, seed) for seed in args.seeds] for system in args.systems}
    found = {
        system: [cell for name in cells if (cell := read_scores(out / "cells" / name))]
        for system, cells in names.items()
    }
    cells = [cell for each in found.values() for cell in each]
    chosen = "" if args.systems == list(SYSTEMS) else f" --systems {' '.join(args.systems)}"
    text = [
        f"`python -m benchmarks.studies.methods --dataset {args.dataset} --epochs {args.epochs} --seeds "
        f"{' '.join(map(str, args.seeds))}{chosen}`: {args.epochs} epochs of the plain data a cell, or as many steps; "
        f"learning rate, checkpoint and weight chosen on validation; R@1, R@10 and mAP on the test split "
        f"({len(test)} images), in %, mean and standard deviation over the seeds.",
        report(found),
        f"{len(cells)} of {len(args.systems) * len(args.seeds)} cells, {sum(c['minutes'] for c in cells) / 60:.2f} "
        "hours of training.",
        f"The search, the same for all: {args.search_epochs} epochs at each of {len(RATES)} learning rates, seed 0; "
        "validation R@1 of long captions (global), the chosen one in bold:",
        search_report(tried),
    ]
    write_whole(out / "report.md", "\n\n".join(text))
    write_whole(out / "report.json", json.dumps(found, indent=1))
    draw_methods(found, {name: system.title for name, system in SYSTEMS.items()}, CURVE, out / "methods.png")
    if args.write:
        write_between(args.write, "\n\n".join(text))
    print("\n\n".join(text))


def _search(args: argparse.Namespace, out: Path, systems: Sequence[str]) -> dict[str, dict[float, float]]:
    """Runs what is missing of the search, and gives for each system what its rates scored so far."""
    for system in systems:
        for rate in RATES:
            folder, make = search_cell(out, system, rate), not args.report_only
            flags, shared = flags_of(system, 0, out, args.dataset, args.search_epochs, make, rate)
            check_cell(folder, shared)
            if make and not (folder / "results.json").exists():
                print(f"[search] {folder.name}", flush=True)
                run_cell(folder, flags, shared)
    return {system: searched(out, system) for system in systems}


if __name__ == "__main__":
    torch.set_num_threads(1)  # what a query costs is told for one
    main()
