"""Examples of the model's page: drawn images, and what the released model itself said about them."""

import io
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import pipeline

from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows

SHOWN = 3
HEIGHT = 384  # pixels, of the stored image


def write_examples(folder: Path) -> list[dict[str, Any]]:
    """Puts images into `folder/examples` and asks the model in `folder` which sentence fits which.

    Nothing in the outputs is written by hand: a weak model shows weak scores. The labels are one sentence of each
    image's own captions; the widget splits at commas, so none has one.

    Returns:
        For each image `file`, `title`, `candidate_labels` and `output`, `[{label, score}]` with the highest first.
    """
    chosen = list(rows("test", 0, SHOWN, SyntheticConfig(images_per_identity=1)))
    labels = list(dict.fromkeys(_sentence(row) for row in chosen))
    classify = pipeline("zero-shot-image-classification", model=str(folder), trust_remote_code=False, device="cpu")
    (folder / "examples").mkdir(exist_ok=True)
    found = []
    for number, row in enumerate(chosen, 1):
        file = f"examples/{number}.jpg"
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        image.resize((round(image.width * HEIGHT / image.height), HEIGHT)).save(folder / file, quality=90)
        # From the stored file, as anyone could: the JPEG is what the page shows.
        output = classify(str(folder / file), candidate_labels=labels, hypothesis_template="{}")
        found.append(
            {"file": file, "title": f"drawn pedestrian {number}", "candidate_labels": labels, "output": output}
        )
    return found


def _sentence(row: dict[str, Any]) -> str:
    """The longest sentence without a comma, of the long caption."""
    texts = [sentence["text"] for sentence in row["sentences"]]
    return max((text for text in texts if "," not in text), key=len, default=texts[0].partition(",")[0]).rstrip(".")


__all__ = ["write_examples"]
