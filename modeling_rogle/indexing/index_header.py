"""The manifest of a new index, and whether an existing index can be continued with it."""

from pathlib import Path
from typing import Any

from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.image_io import printable_path
from modeling_rogle.index.manifest import FORMAT, VERSION, new_id, new_name, read_manifest
from modeling_rogle.index.shards import MAX_REGIONS, Index
from modeling_rogle.indexing.person_detector import DEFAULT_THRESHOLD
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import clip_preprocessing, fingerprint, model_path, preprocessing_of
from modeling_rogle.inference.preprocessing import Preprocessing
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor


def new_header(model: RogleModel, processor: RogleProcessor, precision: str) -> dict[str, Any]:
    """Returns the manifest of an empty index."""
    boxes, labels = template_boxes(), list(TEMPLATE_LABELS)
    if len(boxes) > MAX_REGIONS:
        raise GalleryError(f"{len(boxes)} regions per image, an index holds at most {MAX_REGIONS}")
    if not model.config.trained_regions and model.config.late_interaction_weight == 0:
        boxes, labels = boxes[-1:], labels[-1:]  # the whole image: regions are neither shown nor scored
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": new_id(),
        "model": {"path": model_path(model), "fingerprint": fingerprint(model)},
        "precision": precision,
        "dimension": model.config.projection_dim,
        "template_boxes": boxes.astype(float).round(6).tolist(),
        "template_labels": labels,
        "preprocessing": preprocessing_of(model, processor).to_manifest(),
        "collection": new_name("rogle").replace("-", "_"),
        "images": 0,
        "shards": [],
        "next_id": 0,
        "complete": False,
        "appending": None,  # the source whose images are the only ones that an unfinished index lacks
        "metadata": None,
        "store": None,
        "ignored": 0,
        "skipped": [],
    }


def check_folder(out: Path, header: dict[str, Any]) -> None:
    """Refuses to replace the index of another folder or data set, whose images may be in no other index."""
    try:
        old = read_manifest(out)
    except (GalleryError, FileNotFoundError):  # no index yet, or one that cannot be read
        return
    if old["folder"] != header["folder"]:
        folders = f"{printable_path(old['folder'])}, not of {printable_path(header['folder'])}"
        raise GalleryError(f"{out}: the index of {folders}; choose another --out, or delete {out} first")


def compatible_header(out: Path, name: str, header: dict[str, Any]) -> dict[str, Any]:
    """Reads a manifest whose index can be continued with the settings of a new manifest.

    Raises:
        FileNotFoundError: the folder does not exist.
        GalleryError: the index is of another model, detector or precision, or is damaged.
    """
    existing = read_manifest(out, name)
    if existing["model"]["fingerprint"] != header["model"]["fingerprint"]:
        raise GalleryError("made by another model")
    for key in ("folder", "detector", "files", "precision", "dimension"):
        if existing.get(key) != header[key]:
            raise GalleryError(f"{key.replace('_', ' ')} {_short(existing.get(key))}, not {_short(header[key])}")
    if (existing.get("detector_threshold") or DEFAULT_THRESHOLD) != (header["detector_threshold"] or DEFAULT_THRESHOLD):
        raise GalleryError("made with another threshold of the detector")
    # Image size and text length are part of the fingerprint.
    fit = (existing.get("preprocessing") or {}).get("fit", "squeeze")
    if fit != header["preprocessing"]["fit"]:
        raise GalleryError(f"images fitted by {fit!r}, not by {header['preprocessing']['fit']!r}")
    boxes = header["template_boxes"]  # an index that was made before stays as it is if it has more regions
    if existing["template_boxes"][-len(boxes) :] != boxes:
        raise GalleryError("made with other regions")
    Index(out, name)  # raises if a file is damaged
    return existing


def choose_preprocessing(
    out: Path,
    model: str,
    image_size: tuple[int, int] | None = None,
    max_tokens: int | None = None,
    fit: str | None = None,
) -> Preprocessing | None:
    """Chooses how images and texts are prepared for CLIP weights: as asked, else as in the index, else as trained.

    Args:
        out: folder of the index, which need not exist.
        model: folder or Hub name of the model.
        image_size: height and width in pixels. Default: see above.
        max_tokens: maximum length of a text in tokens. Default: see above.
        fit: `pad`, `squeeze` or `crop`. Default: see above.

    Returns:
        None for a Rogle checkpoint, which keeps its own.

    Raises:
        GalleryError: something was asked for a Rogle checkpoint, or a value is out of range.
    """
    chosen = clip_preprocessing(model, image_size, max_tokens, fit)
    if chosen is None:
        if image_size or max_tokens or fit:
            raise GalleryError(f"{model}: a Rogle checkpoint keeps its own image size, text length and fit")
        return None
    try:
        header = read_manifest(out)
    except (GalleryError, FileNotFoundError):
        return chosen
    if header["model"].get("path") not in (model, str(Path(model).resolve())):
        return chosen
    stored = Preprocessing.from_manifest(header)
    return clip_preprocessing(
        model, image_size or stored.image_size, max_tokens or stored.max_tokens, fit or stored.fit
    )


def _short(value: Any) -> str:
    text = "none" if value is None else printable_path(str(value))
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["check_folder", "choose_preprocessing", "compatible_header", "new_header"]
