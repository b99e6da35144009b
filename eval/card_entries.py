"""Scores as the Hub shows them: `model-index` entries in the model card beside a checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

COUNTS = ("queries", "dropped_queries", "gallery", "grounded", "median_rank")  # no percentages
TASK, KIND = "text-based-person-search", "pvlg"


def card_path(card: str | Path) -> Path:
    """README.md of a checkpoint's folder, or that file itself.

    Raises:
        ValueError: neither a folder nor a Markdown file in one.
    """
    card = Path(card)
    if card.is_dir():
        return card / "README.md"
    if card.suffix.lower() == ".md" and card.parent.is_dir():
        return card
    raise ValueError(f"--card {card}: no folder, and no Markdown file in one")


def read_card(path: Path, name: str) -> ModelCard:
    """The card at `path`, or a new one of the model `name` where there is none.

    Raises:
        ValueError: its metadata cannot be read.
    """
    try:
        if path.exists():
            return ModelCard.load(path)
        return ModelCard(f"---\nlibrary_name: transformers\n---\n\n# {name}\n\nScored by `eval/eval.py` of Rogle.\n")
    except Exception as error:  # YAML's errors have no common base with the rest of what may be wrong in a header
        raise ValueError(f"{path}: its metadata cannot be read ({str(error).strip().splitlines()[0]})") from error


def write_entries(card: str | Path, found: Mapping[str, Any]) -> Path:
    """Puts the percentages of `found` into the card; entries of the same data, split and metric are replaced.

    Args:
        card: see `card_path`; a card that is not there yet is begun.
        found: what `eval.py` reports: dataset, split, results, model.

    Raises:
        ValueError: a path that can be no card, or one whose metadata cannot be read.
    """
    path = card_path(card)
    name = Path(found["model"]).resolve().name if Path(found["model"]).exists() else found["model"].rpartition("/")[2]
    content = read_card(path, name)
    title = "P-VLG, embedded synthetic pedestrians" if found["dataset"].startswith("synthetic") else found["dataset"]
    new = [
        EvalResult(
            task_type=TASK,
            dataset_type=KIND,
            dataset_name=f"{title} ({found['split']})",
            dataset_config=found["dataset"],
            dataset_split=found["split"],
            metric_type=key,
            metric_name=key,
            metric_value=round(value, 2),
        )
        for key, value in found["results"].items()
        if key.rpartition("/")[2] not in COUNTS
    ]
    replaced = {_same(entry) for entry in new}
    content.data.eval_results = [e for e in content.data.eval_results or [] if _same(e) not in replaced] + new
    content.data.model_name = content.data.model_name or name
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(str(content), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _same(entry: EvalResult) -> tuple:
    return entry.task_type, entry.dataset_type, entry.dataset_config, entry.dataset_split, entry.metric_type
