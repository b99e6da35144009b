"""The encoder of an index: the model that made it, prepared as it was when the images were encoded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.search.query import Encoder

if TYPE_CHECKING:
    from modeling_rogle.processing_rogle import RogleProcessor


def load_encoder(
    path: Path, header: dict[str, Any], model: str | Path | None, processor: "RogleProcessor | None"
) -> Encoder:
    """Loads the model of an index.

    Args:
        path: folder of the index, for messages.
        header: its manifest.
        model: folder or Hub name of the model. Default: the one that the manifest names.
        processor: the processor of that model. Default: the one in the model's folder.

    Raises:
        GalleryError: the model cannot be found or is not the one that made the index.
    """
    from modeling_rogle import load_model  # registers the model with transformers
    from modeling_rogle.inference.image_encoder import TorchEncoder
    from modeling_rogle.inference.preprocessing import Preprocessing

    name = str(model or header["model"].get("path") or "")
    if not name:
        raise GalleryError(f"{path}: made by a model that was never saved; name a model")
    if os.path.isabs(name) and not Path(name).is_dir():
        raise GalleryError(f"{path}: model {name} does not exist; name the model's folder")
    loaded, own_processor = load_model(name, Preprocessing.from_manifest(header))
    encoder = TorchEncoder(loaded, processor or own_processor)
    check_encoder(path, header, encoder)
    return encoder


def check_encoder(path: Path, header: dict[str, Any], encoder: Encoder) -> None:
    """Checks that an encoder is the one that made an index.

    Args:
        path: folder of the index, for messages.
        header: its manifest.
        encoder: the encoder.

    Raises:
        GalleryError: it is of another model, or fits images in another way.
    """
    if encoder.fingerprint != str(header["model"].get("fingerprint")):
        name = header["model"].get("path") or "one that was never saved"
        made_by = f"{name}, dimension {header['dimension']}"
        raise GalleryError(
            f"{path}: made by another model ({made_by}); search with that model, or index the folder again"
        )
    fit = (header.get("preprocessing") or {}).get("fit", "squeeze")
    if encoder.fit != fit:  # an image as a query would be prepared in another way than the indexed images
        raise GalleryError(f"{path}: its images were fitted by {fit!r}, those of this encoder by {encoder.fit!r}")


__all__ = ["check_encoder", "load_encoder"]
