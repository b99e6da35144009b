"""Scores as `model-index` entries in a checkpoint's model card, which the Hub displays."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from modeling_rogle.evaluation.references import REFERENCES

# Figures that are not percentages, or that do not depend on the model.
COUNTS = (
    "queries", "dropped_queries", "gallery", "grounded", "median_rank", "positives", "within-queries", "chance",
    "within-chance",
)  # fmt: skip
TASK, KIND = "text-based-person-search", "pvlg"


def card_path(card: str | Path) -> Path:
    """The model card for a path: README.md of a folder, or the Markdown file itself.

    Raises:
        ValueError: the path is neither a folder nor a Markdown file in an existing folder.
    """
    card = Path(card)
    if card.is_dir():
        return card / "README.md"
    if card.suffix.lower() == ".md" and card.parent.is_dir():
        return card
    raise ValueError(f"--card {card}: no folder, and no Markdown file in an existing folder")


def read_card(path: Path, name: str) -> ModelCard:
    """Reads the card at `path`, or creates one for the model `name` if the file does not exist.

    Raises:
        ValueError: the metadata of the card cannot be read.
    """
    try:
        if path.exists():
            return ModelCard.load(path)
        return ModelCard(f"---\nlibrary_name: transformers\n---\n\n# {name}\n\nScored by `eval/eval.py` of Rogle.\n")
    except Exception as error:  # YAML errors and the other errors of a header have no common base class
        raise ValueError(f"{path}: its metadata cannot be read ({str(error).strip().splitlines()[0]})") from error


def write_entries(card: str | Path, report: Mapping[str, Any]) -> Path:
    """Writes the percentages of an evaluation into a card; entries of the same data, split and metric are replaced.

    Args:
        card: see `card_path`; a missing card is created.
        report: the report of `eval.py`; dataset, split, results and model are read.

    Returns:
        The path of the card.

    Raises:
        ValueError: the path cannot be a card, or the metadata of the card cannot be read.
    """
    path = card_path(card)
    name = (
        Path(report["model"]).resolve().name if Path(report["model"]).exists() else report["model"].rpartition("/")[2]
    )
    content = read_card(path, name)
    title = "P-VLG, embedded synthetic pedestrians" if report["dataset"].startswith("synthetic") else report["dataset"]
    new = [
        EvalResult(
            task_type=TASK,
            dataset_type=KIND,
            dataset_name=f"{title} ({report['split']})",
            dataset_config=report["dataset"],
            dataset_split=report["split"],
            metric_type=key,
            metric_name=key,
            metric_value=round(value, 2),
        )
        for key, value in report["results"].items()
        if key.rpartition("/")[2] not in COUNTS and key.rpartition("/")[0] not in REFERENCES
    ]
    replaced = {_key(entry) for entry in new}
    content.data.eval_results = [e for e in content.data.eval_results or [] if _key(e) not in replaced] + new
    content.data.model_name = content.data.model_name or name
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(str(content), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _key(entry: EvalResult) -> tuple:
    return entry.task_type, entry.dataset_type, entry.dataset_config, entry.dataset_split, entry.metric_type
