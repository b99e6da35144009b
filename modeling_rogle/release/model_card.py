"""Completes the card that training wrote for a release: loading, scores by attribute, examples and metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCard, eval_result_entries_to_yaml

from modeling_rogle.release.upload import ReleaseError

TEMPLATE = Path(__file__).with_name("model_card_release.md")
EVAL_RESULTS = Path(".eval_results") / "pvlg.yaml"
# Protocols of the evaluation that are shown by group, and their names in the card.
PROTOCOLS = {"global/long": "long caption → image", "local": "sentence → region"}
MIN_QUERIES = 10  # per group; smaller groups are not shown
FIELDS = ("dataset", "split", "results", "breakdown", "checkpoint_sha256")


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """Reads the results of `eval/eval.py --out`.

    Args:
        path: `results.json`, or its folder.

    Raises:
        ReleaseError: the file is not JSON, or a field is missing.
        OSError: the file cannot be read.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(f"{path}: not JSON") from error
    for field in FIELDS:
        if not isinstance(evaluation, dict) or field not in evaluation:
            raise ReleaseError(f"{path}: no field {field!r}; use the results of `eval/eval.py --out`")
    return evaluation


def finish_card(
    folder: Path,
    repo_id: str,
    clip_part: str,
    evaluation: Mapping[str, Any] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    dataset: str | None = None,
    adapter: str | None = None,
) -> None:
    """Adds the sections and metadata of a release to `folder/README.md`, and writes `folder/.eval_results/`.

    Args:
        folder: the assembled repository.
        repo_id: `user/name` of the model.
        clip_part: result of `model_files.clip_part`.
        evaluation: result of `read_evaluation`. Default: no scores by attribute.
        examples: results of `hub/examples.py`: `file`, `title`, `candidate_labels` and `output`. Default: none.
        dataset: Hub name of the evaluated data set. Default: none.
        adapter: Hub name of the adapters. Default: none.

    Raises:
        ReleaseError: the metadata of the card cannot be read.
    """
    from jinja2 import Template  # huggingface_hub's own templates need it too

    path = folder / "README.md"
    try:
        card = ModelCard.load(path, ignore_metadata_errors=False)
    except Exception as error:  # errors of YAML and huggingface_hub have no common class
        raise ReleaseError(f"{path}: its metadata cannot be read ({str(error).strip().splitlines()[0]})") from error
    card.data.model_name = repo_id.rpartition("/")[2]
    if dataset is not None:
        card.data.datasets = [dataset]
    if examples:
        card.data.widget = [
            {
                "src": f"https://huggingface.co/{repo_id}/resolve/main/{example['file']}",
                "example_title": example["title"],
                "candidate_labels": ", ".join(example["candidate_labels"]),
                "output": [{"label": item["label"], "score": round(item["score"], 4)} for item in example["output"]],
            }
            for example in examples
        ]
    sections = Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True).render(
        repo_id=repo_id,
        clip_part=clip_part,
        groups=groups_table(evaluation["breakdown"]) if evaluation else "",
        dataset=evaluation["dataset"] if evaluation else "",
        split=evaluation["split"] if evaluation else "",
        examples=examples,
        adapter=adapter,
    )
    card.text = card.text.rstrip() + "\n" + sections
    path.write_text(str(card), encoding="utf-8")
    if evaluation is not None and dataset is not None:
        (folder / EVAL_RESULTS).parent.mkdir(exist_ok=True)
        (folder / EVAL_RESULTS).write_text(eval_results(evaluation, repo_id, dataset), encoding="utf-8")


def groups_table(breakdown: Sequence[Mapping[str, Any]]) -> str:
    """Formats R@1 and mAP by attribute as a Markdown table, for groups of at least MIN_QUERIES queries.

    Args:
        breakdown: entries of `eval/breakdown.py`: `{"protocol", "attribute", "group", "queries", "R@1", "mAP"}`.
    """
    rows = [
        f"| {PROTOCOLS[entry['protocol']]} | {_cell(entry['attribute'])} | {_cell(entry['group'])} | "
        f"{entry['queries']} | {entry['R@1']:.1f} | {entry['mAP']:.1f} |"
        for entry in breakdown
        if entry["protocol"] in PROTOCOLS and entry["queries"] >= MIN_QUERIES
    ]
    if not rows:
        return ""
    return "\n".join(["| protocol | attribute | group | queries | R@1 | mAP |", "|---|---|---|---:|---:|---:|", *rows])


def eval_results(evaluation: Mapping[str, Any], repo_id: str, dataset: str) -> str:
    """R@1 of each protocol in the Hub's format `.eval_results/*.yaml`, which the Hub shows for listed benchmarks."""
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=key.removesuffix("/R@1").replace("/", "_").replace("+", "_"),
            value=round(value, 2),
            source_url=f"https://huggingface.co/{repo_id}",
            source_name="model card",
            notes=f"R@1 in percent, {evaluation['dataset']}, split {evaluation['split']}, eval/eval.py of Rogle",
        )
        for key, value in evaluation["results"].items()
        if key.endswith("/R@1")
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


__all__ = ["eval_results", "finish_card", "groups_table", "read_evaluation"]
