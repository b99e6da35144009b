"""accelerate launch --num_processes 1 train/train.py [--config train/configs/vitb16.yaml] [--dataset cuhk_pedes ...]

Trains Rogle: both branches, validated after each epoch. The checkpoint is chosen on validation, and both protocols are
scored on test at the end. Without arguments it trains a small model from scratch on the embedded synthetic P-VLG, in
minutes on two CPU cores. Every field of `Recipe` is a flag (with dashes) and a key of the YAML file; flags override the
file. From a laptop to several machines: docs/training.md.
"""

import os
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # started by path: packages are found from the root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import PartialState

from modeling_rogle import RogleModel
from modeling_rogle.evaluation.fusion import fit_local_weight
from modeling_rogle.evaluation.protocols import PROTOCOL, both_protocols
from modeling_rogle.evaluation.references import fit_look_up, reference_lines, sentences_of
from modeling_rogle.evaluation.split_embeddings import encode_split
from modeling_rogle.evaluation.tables import format_table
from train.checkpoints import save_folder, write_json
from train.recipe import Recipe, flat_fields, read_recipe
from train.report import draw_curves, write_card
from train.run_setup import Run, set_up
from train.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs one recipe.

    Args:
        argv (defaults to `None`): arguments; None takes those of the process.

    Returns:
        The test scores in percent, in the main process; their means over several `--seeds`.
    """
    recipe = read_recipe(argv)
    arguments = shlex.join(sys.argv[1:] if argv is None else argv)
    processes = os.environ.get("WORLD_SIZE", "1")  # Accelerate is not started yet
    command = f"accelerate launch --num_processes {processes} train/train.py {arguments}".strip()
    return train_seeds(recipe, command) if recipe.seeds else train(recipe, command)


def train(recipe: Recipe, command: str) -> dict[str, float]:
    """One run. Every process calls it; the main process writes and scores.

    Args:
        recipe: the choices of the run.
        command: the command line, for results and card.

    Returns:
        The test scores in percent, in the main process; nothing in the others.
    """
    run = set_up(recipe)
    Trainer(run).fit()
    results = score_test(run, command) if run.accelerator.is_main_process else {}
    run.accelerator.wait_for_everyone()
    for tracker in run.accelerator.trackers:
        tracker.finish()
    return results


def score_test(run: Run, command: str) -> dict[str, float]:
    """Fits the local weight on validation, scores test once, and writes results, curves and card.

    Args:
        run: a run that has trained.
        command: the command line, for results and card.

    Returns:
        The test scores in percent.
    """
    out, log, progress = Path(run.recipe.out), run.accelerator.print, run.progress
    best = RogleModel.from_pretrained(out / "best").to(run.accelerator.device).eval()
    validation = encode_split(best, run.processor, run.splits["validation"], progress=False, split="validation")
    best.config.local_weight, _ = fit_local_weight(validation)
    adapter = out / "best" / "adapter"

    def write(folder: Path) -> None:
        best.save_pretrained(folder)
        run.processor.save_pretrained(folder)
        if adapter.exists():
            shutil.copytree(adapter, folder / "adapter")

    save_folder(out / "best", write)
    test = encode_split(best, run.processor, run.splits["test"], progress=False, split="test")
    results = both_protocols(test, best.config.local_weight)
    references = reference_lines(test, sentences_of(run.splits["test"]), fit_look_up(run.splits["train"]))
    reference_results = {f"{line}/{k}": v for line, ranked in references.items() for k, v in ranked.scores().items()}
    summary = {
        "command": command,
        "protocol": PROTOCOL,
        "split": "test",
        "chosen_on": f"validation R@1 of long captions, epoch {progress.best_epoch} of {run.recipe.epochs}",
        "local_weight": best.config.local_weight,
        "training_seconds": round(progress.seconds, 1),
        "bad_steps": progress.bad_steps,
        "results": results,
        "references": reference_results,
    }
    write_json(out / "results.json", summary)
    draw_curves(progress.history, out / "curves.png")
    write_card(out / "best" / "README.md", flat_fields(run.recipe), summary)
    minutes = progress.seconds / 60
    log(f"best epoch {progress.best_epoch}, chosen on validation; trained {minutes:.1f} min; test split:")
    log(format_table(results | reference_results))
    return results


def train_seeds(recipe: Recipe, command: str) -> dict[str, float]:
    """Runs a recipe once per seed, in folders `seed-N`, one after the other.

    Returns:
        The mean test scores in percent.
    """
    scores = []
    for seed in recipe.seeds:
        one_seed = replace(recipe, seed=seed, seeds=[], out=str(Path(recipe.out) / f"seed-{seed}"))
        scores.append(train(one_seed, command))
    names = [name for name in scores[0] if all(name in run for run in scores)]
    mean = {name: statistics.mean(run[name] for run in scores) for name in names}
    deviation = {name: statistics.stdev(run[name] for run in scores) if len(scores) > 1 else 0.0 for name in names}
    if PartialState().is_main_process:
        write_json(Path(recipe.out) / "seeds.json", {"seeds": recipe.seeds, "mean": mean, "deviation": deviation})
        for name in names:
            print(f"{name:<32} {mean[name]:8.2f} ± {deviation[name]:.2f}")
    return mean


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:  # one line that names file and field, no traceback
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from error
    if PartialState().num_processes > 1:
        PartialState().destroy_process_group()
