"""The report of a run: training curves as an image, and the model card, filled with the measured results."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from huggingface_hub import EvalResult, ModelCard, ModelCardData

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from modeling_rogle.evaluation.tables import format_table  # noqa: E402

NOT_PERCENT = ("queries", "dropped_queries", "gallery", "grounded", "median_rank", "positives", "within-queries")
TEMPLATE = Path(__file__).parents[1] / "modeling_rogle" / "release" / "model_card.md"
LOCAL_PATHS = ("out", "data_root", "image_root")  # fields that name folders of this machine
LOSSES = {
    "loss": "weighted sum",
    "loss_global": "global",
    "loss_local": "local",
    "loss_tsl_text": "token similarity (text)",
    "loss_tsl_image": "token similarity (image)",
    "loss_id": "identity",
    "loss_short": "short captions",
    "loss_head": "head",
}
SCORES = {
    "global/long/R@1": "long caption → image, R@1",
    "global/short/R@1": "short caption → image, R@1",
    "global/long/mAP": "long caption → image, mAP",
    "local/R@1": "sentence → region, R@1",
}


def draw_curves(history: Sequence[dict], path: Path) -> None:
    """Draws losses and validation scores over the steps.

    Args:
        history: a dict for each epoch: `step`, `loss...` and `validation/...` in percent.
        path: PNG file, written atomically.
    """
    steps = [entry["step"] for entry in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, label in LOSSES.items():
        if any(name in entry for entry in history):
            left.plot(steps, [entry.get(name) for entry in history], marker=".", label=label)
    left.set(title="training loss", xlabel="step", ylim=(0, None))
    for name, label in SCORES.items():
        if any(f"validation/{name}" in entry for entry in history):
            right.plot(steps, [entry.get(f"validation/{name}") for entry in history], marker=".", label=label)
    right.set(title="validation, %", xlabel="step", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    plt.close(figure)
    os.replace(part, path)


def write_card(path: Path, recipe: dict, summary: dict) -> None:
    """Fills the model card with measured results. Folders of this machine are not named in it.

    Args:
        path: README.md beside the weights, written atomically.
        recipe: fields of the run, see `recipe.flat_fields`.
        summary: command, split, chosen_on and results (percent), as in results.json.
    """
    synthetic = recipe["dataset"].startswith("synthetic")
    title = "P-VLG, embedded synthetic pedestrians" if synthetic else recipe["dataset"]
    local = bool(recipe["model"]) and Path(recipe["model"]).exists()
    start = Path(recipe["model"]).name if local else recipe["model"]
    shown = {name: value for name, value in recipe.items() if name not in (*LOCAL_PATHS, "resume", "threads", "seeds")}
    if recipe["model"]:
        shown["model"] = start
    hidden = {str(recipe[name]): name.upper() for name in LOCAL_PATHS if recipe.get(name)}
    if local:
        hidden[recipe["model"]] = start
    words = [word.partition("=") for word in shlex.split(summary["command"])]
    command = shlex.join(hidden.get(flag, flag) + equals + hidden.get(value, value) for flag, equals, value in words)
    ours = synthetic and not recipe["model"]  # no data or weights of others
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        license="apache-2.0" if ours else "other",
        license_name=None if ours else "see-the-data-and-the-starting-weights",
        language="en",
        base_model=None if local else recipe["model"],
        tags=["text-based-person-search", "person-re-identification", "rogle"],
        model_name="rogle",
        eval_results=[
            EvalResult(
                task_type="text-based-person-search",
                dataset_type="pvlg",
                dataset_name=f"{title} (test)",
                dataset_config=recipe["dataset"],
                dataset_split="test",
                metric_type=name,
                metric_name=name,
                metric_value=round(value, 2),
            )
            for name, value in summary["results"].items()
            if name.rpartition("/")[2] not in NOT_PERCENT
        ],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        drawn=synthetic,
        dataset_title=title,
        start=start,
        recipe=shown,
        command=command,
        summary=summary,
        table=format_table(summary["results"] | summary["references"]),
    )
    part = path.with_suffix(".part")
    part.write_text(str(card), encoding="utf-8")
    os.replace(part, path)


__all__ = ["draw_curves", "write_card"]
