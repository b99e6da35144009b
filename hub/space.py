"""Assembles the two Spaces: the metric for `evaluate.load("user/pvlg")`, and the demo on drawn images."""

import io
import json
import shutil
from pathlib import Path

from PIL import Image

import modeling_rogle.release
from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows
from modeling_rogle.release.model_files import check_empty
from modeling_rogle.release.upload import ReleaseError

METRIC = Path(__file__).resolve().parents[1] / "eval" / "pvlg"
DEMO = Path(modeling_rogle.release.__file__).with_name("space")
QUERIES = 4  # example queries of the demo


def check_metric_name(repo_id: str) -> None:
    """Raises ReleaseError unless the repository has the name of the module, which `evaluate.load` looks for."""
    if repo_id.rpartition("/")[2] != METRIC.name:
        raise ReleaseError(
            f"{repo_id}: the Space of the metric must be named {METRIC.name}, like its module {METRIC.name}.py"
        )


def assemble_metric(repo_id: str, folder: str | Path) -> None:
    """Copies the metric. Links are replaced by the linked files, and the README names the Space.

    Args:
        repo_id: `user/pvlg`.
        folder: a new or empty folder.

    Raises:
        ReleaseError: the repository has another name, or `folder` is not empty.
    """
    folder = Path(folder)
    check_metric_name(repo_id)
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(METRIC.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    readme = readme.replace('evaluate.load("eval/pvlg"', f'evaluate.load("{repo_id}"')
    (folder / "README.md").write_text(readme, encoding="utf-8")


def assemble_demo(model_id: str, revision: str | None, folder: str | Path, people: int = 24, images: int = 2) -> None:
    """Writes the demo: app, requirements, name and commit of the model, and a gallery of drawn pedestrians.

    Args:
        model_id: `user/name` of the model.
        revision: the commit of the model that the Space loads; None if the model was not pushed yet.
        folder: a new or empty folder.
        people: identities from the test split of the synthetic data set. Default: 24.
        images: images per identity. Default: 2.

    Raises:
        ReleaseError: `folder` is not empty.
    """
    folder = Path(folder)
    check_empty(folder)
    gallery = folder / "gallery"
    gallery.mkdir(parents=True)
    for name in ("app.py", "requirements.txt"):
        shutil.copyfile(DEMO / name, folder / name)
    readme = (DEMO / "README.md").read_text(encoding="utf-8").replace("MODEL_NAME", model_id)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    write_revision(folder, model_id, revision)
    lines = []
    for number, row in enumerate(rows("test", 0, people, SyntheticConfig(images_per_identity=images))):
        name = f"{row['person_id']:05d}_{number % images}.jpg"
        Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").save(gallery / name, quality=90)
        entry = {"file_name": name, "caption": row["caption"]}
        if number % images == 0 and number < QUERIES * images:
            entry["query"] = row["captions"][0]
        lines.append(json.dumps(entry, ensure_ascii=False))
    (gallery / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_revision(folder: Path, model_id: str, revision: str | None) -> None:
    """Writes `model.json`: the name of the model and the commit that the demo loads."""
    content = json.dumps({"model": model_id, "revision": revision or "main"}, indent=1)
    (folder / "model.json").write_text(content + "\n", encoding="utf-8")


__all__ = ["assemble_demo", "assemble_metric", "check_metric_name", "write_revision"]
