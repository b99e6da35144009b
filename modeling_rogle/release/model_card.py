"""What a release adds to the card that training wrote: how to load it, scores by attribute, examples, metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCard, eval_result_entries_to_yaml

from modeling_rogle.release.upload import ReleaseError

TEMPLATE = Path(__file__).with_name("model_card_release.md")
EVAL_RESULTS = Path(".eval_results") / "pvlg.yaml"
# Lines of the evaluation whose groups are shown, and how they are called.
SHOWN = {"global/long": "long caption → image", "local": "sentence → region"}
LEAST_QUERIES = 10  # of a group; fewer say little
FIELDS = ("dataset", "split", "results", "breakdown", "checkpoint_sha256")


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """`results.json` of `eval/eval.py --out`, or the folder that it lies in.

    Raises:
        ReleaseError: not such a file.
        OSError: not there.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(f"{path}: not JSON") from error
    for field in FIELDS:
        if not isinstance(found, dict) or field not in found:
            raise ReleaseError(f"{path}: no field {field!r}; `eval/eval.py --out` writes what is needed")
    return found


def finish_card(
    folder: Path,
    repo_id: str,
    clip_part: str,
    evaluation: Mapping[str, Any] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    dataset: str | None = None,
    adapter: str | None = None,
) -> None:
    """Adds the release's sections and metadata to `folder/README.md`, and writes `.eval_results/` beside it.

    Args:
        clip_part: see `model_files.clip_part`.
        evaluation: see `read_evaluation`; without one there is no table by attribute.
        examples: widget entries, each with its `file` in the repository, `candidate_labels` and computed `output`.
        dataset: Hub name of the data that it was scored on.
        adapter: Hub name of the adapters.

    Raises:
        ReleaseError: a card whose metadata cannot be read.
    """
    from jinja2 import Template  # huggingface_hub's own templates need it too

    path = folder / "README.md"
    try:
        card = ModelCard.load(path, ignore_metadata_errors=False)
    except Exception as error:  # YAML's errors and huggingface_hub's have no common base
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
    """Markdown: R@1 and mAP of the shown lines by attribute, groups of at least LEAST_QUERIES queries.

    Args:
        breakdown: of `eval/breakdown.py`: `{"protocol", "attribute", "group", "queries", "R@1", "mAP"}` entries.
    """
    rows = [
        f"| {SHOWN[entry['protocol']]} | {_cell(entry['attribute'])} | {_cell(entry['group'])} | {entry['queries']} | "
        f"{entry['R@1']:.1f} | {entry['mAP']:.1f} |"
        for entry in breakdown
        if entry["protocol"] in SHOWN and entry["queries"] >= LEAST_QUERIES
    ]
    if not rows:
        return ""
    return "\n".join(["| protocol | attribute | group | queries | R@1 | mAP |", "|---|---|---|---:|---:|---:|", *rows])


def eval_results(evaluation: Mapping[str, Any], repo_id: str, dataset: str) -> str:
    """R@1 of each protocol as the Hub's `.eval_results/*.yaml`; shown by the Hub for listed benchmarks alone."""
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
