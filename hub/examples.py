"""Examples for the page of a model: drawn images with scores that the released model computed."""

import io
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import pipeline

from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows

COUNT = 3
HEIGHT = 384  # pixels of the stored images


def write_examples(folder: Path) -> list[dict[str, Any]]:
    """Writes images into `folder/examples` and scores them with the model in `folder`.

    Every score is computed by the released model. The labels are one sentence of each image's caption. They contain no
    comma, because the widget splits labels at commas.

    Args:
        folder: the assembled repository of a model.

    Returns:
        For each image `file`, `title`, `candidate_labels` and `output`: `[{label, score}]`, the highest score first.
    """
    chosen = list(rows("test", 0, COUNT, SyntheticConfig(images_per_identity=1)))
    labels = list(dict.fromkeys(_sentence(row) for row in chosen))
    classify = pipeline("zero-shot-image-classification", model=str(folder), trust_remote_code=False, device="cpu")
    (folder / "examples").mkdir(exist_ok=True)
    examples = []
    for number, row in enumerate(chosen, 1):
        file = f"examples/{number}.jpg"
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        image.resize((round(image.width * HEIGHT / image.height), HEIGHT)).save(folder / file, quality=90)
        # Score the stored JPEG, which is what the page shows.
        output = classify(str(folder / file), candidate_labels=labels, hypothesis_template="{}")
        examples.append(
            {"file": file, "title": f"drawn pedestrian {number}", "candidate_labels": labels, "output": output}
        )
    return examples


def _sentence(row: dict[str, Any]) -> str:
    """The longest sentence of the long caption without a comma."""
    texts = [sentence["text"] for sentence in row["sentences"]]
    return max((text for text in texts if "," not in text), key=len, default=texts[0].partition(",")[0]).rstrip(".")


__all__ = ["write_examples"]
