"""The two Spaces: the metric, as `evaluate.load("user/pvlg")` reads it, and the demo over drawn images."""

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
QUERIES = 4  # of the demo, to start from


def check_metric_name(repo_id: str) -> None:
    """Raises ReleaseError where `evaluate.load` would not find the module: it looks for the repository's own name."""
    if repo_id.rpartition("/")[2] != METRIC.name:
        raise ReleaseError(
            f"{repo_id}: the metric's Space must be called {METRIC.name}: its module is {METRIC.name}.py"
        )


def assemble_metric(repo_id: str, folder: str | Path) -> None:
    """Copies the metric, links replaced by the files that they point to; its README names the Space.

    Raises:
        ReleaseError: a name other than `user/pvlg`, or `folder` is not empty.
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
    """Writes the demo: app, requirements, the model's name and commit, and a gallery of drawn pedestrians.

    Args:
        revision: commit of the model whose code the Space runs; None only where nothing was pushed yet.
        people, images: of the test split of the embedded synthetic data.

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
    """Names the model, and the commit of it that the demo runs."""
    content = json.dumps({"model": model_id, "revision": revision or "main"}, indent=1)
    (folder / "model.json").write_text(content + "\n", encoding="utf-8")


__all__ = ["assemble_demo", "assemble_metric", "check_metric_name", "write_revision"]
