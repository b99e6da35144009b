"""Loads a model and its processor for search, and computes the fingerprint that identifies a model."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import CLIPConfig
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from modeling_rogle.clip_weights import LEGACY_END_TOKEN
from modeling_rogle.configuration_rogle import RogleConfig
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.preprocessing import Preprocessing
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor


def best_device() -> torch.device:
    """Returns the default device: the accelerator that torch finds (CUDA, MPS, XPU, ...), otherwise the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def device_of(model: Any) -> torch.device:
    """Returns the device of a model's weights, or the CPU for a model without weights."""
    return next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")


def clip_preprocessing(
    name: str | Path, image_size: tuple[int, int] | None = None, max_tokens: int | None = None, fit: str | None = None
) -> Preprocessing | None:
    """Returns how images and texts are prepared for CLIP weights; None for a Rogle checkpoint, which keeps its own.

    Args:
        name: folder or Hub name of a checkpoint.
        image_size: height and width in pixels. Default: that of the weights.
        max_tokens: maximum length of a text in tokens. Default: that of the weights, 77 for most.
        fit: `pad`, `squeeze` or `crop`. Default: `pad`.

    Raises:
        GalleryError: the checkpoint is not a Rogle or CLIP model, or a value is out of range.
        OSError: the configuration is missing.
    """
    stored = _stored_config(str(name))
    if stored["model_type"] == "rogle":
        return None
    config = CLIPConfig.from_dict(stored)
    side, positions = config.vision_config.image_size, config.text_config.max_position_embeddings
    if max_tokens is not None and max_tokens < positions:
        raise GalleryError(f"{name}: reads texts of {positions} tokens; {max_tokens} would drop trained positions")
    return Preprocessing(image_size or (side, side), max_tokens or positions, fit or "pad")


def _stored_config(name: str) -> dict[str, Any]:
    stored = RogleConfig.get_config_dict(name)[0]
    model_type = stored.get("model_type")
    if model_type not in ("rogle", "clip"):
        raise GalleryError(f"{name}: model_type {model_type!r} in config.json, only 'rogle' and 'clip' are supported")
    return stored


def load_model(name: str | Path, preprocessing: Preprocessing | None = None) -> tuple[RogleModel, RogleProcessor]:
    """Loads a model and its processor for search.

    Args:
        name: folder or Hub name of a Rogle or CLIP checkpoint.
        preprocessing: image size, text length and fit for CLIP weights. A Rogle checkpoint keeps its own. Default: the
            size and length that the weights were trained with, and images padded to that size.

    Returns:
        the model in float32 on the default device, in evaluation mode, and its processor.

    Raises:
        GalleryError: the checkpoint is not a Rogle or CLIP model, its configuration is invalid, its weights are
            damaged, or its tokenizer belongs to another model.
        OSError: weights, configuration or processor are missing.
    """
    name = str(name)
    options: dict[str, Any] = {}
    if _stored_config(name)["model_type"] == "clip":
        preprocessing = preprocessing or clip_preprocessing(name)
        assert preprocessing is not None
        options["image_size"] = list(preprocessing.image_size)
        options["max_position_embeddings"] = preprocessing.max_tokens
    try:
        with _quiet():
            model = RogleModel.from_pretrained(name, dtype=torch.float32, **options)
    except StrictDataclassError as error:
        raise GalleryError(f"{name}: config.json: {str(error.__cause__ or error).splitlines()[0]}") from error
    except (SafetensorError, RuntimeError) as error:
        raise GalleryError(f"{name}: weights cannot be read ({str(error).splitlines()[0]})") from error
    assert isinstance(model, RogleModel)
    model.name_or_path = name  # CLIP weights are loaded through another class, which does not keep the name
    if options and preprocessing is not None:
        options["fit"] = preprocessing.fit
    processor = RogleProcessor.from_pretrained(name, **options)
    # A tokenizer without its vocabulary file loads empty, and all queries would get the same tokens.
    end_token, expected = processor.tokenizer.eos_token_id, model.config.text_config.eos_token_id
    is_too_large = len(processor.tokenizer) > model.config.text_config.vocab_size
    if is_too_large or expected not in (end_token, LEGACY_END_TOKEN):
        raise GalleryError(
            f"{name}: the tokenizer is not this model's (end token {end_token}, config.json has {expected})"
        )
    if expected == LEGACY_END_TOKEN and max(processor.tokenizer.get_vocab().values()) > end_token:
        # The model would end a text at the largest id, which is that of an added token.
        model.config.text_config.eos_token_id = model.text_model.eos_token_id = end_token
    return model.to(best_device()), processor


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the bar that counts weights and the line on CLIP's position tables, which are noise in every search."""
    show_bars, log = is_progress_bar_enabled(), logging.getLogger("modeling_rogle.clip_weights")
    level = log.level
    disable_progress_bar()
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        if show_bars:
            enable_progress_bar()


def preprocessing_of(model: RogleModel, processor: RogleProcessor) -> Preprocessing:
    """Returns how a processor prepares images and texts for its model."""
    height, width = model.config.image_size
    limits = processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings
    return Preprocessing((height, width), min(limits), processor.fit)


def fingerprint(model: RogleModel) -> str:
    """Returns the SHA-256 of a model's weights and of the configuration fields that change its embeddings.

    A saved and reloaded model has the same fingerprint. `local_weight` is not included, because it changes how scores
    are combined and not what an index stores.
    """
    config, vision, text = model.config, model.config.vision_config, model.config.text_config
    towers = [(tower.num_attention_heads, tower.hidden_act, tower.layer_norm_eps) for tower in (vision, text)]
    fields = [list(config.image_size), config.region_feature, vision.patch_size, text.eos_token_id, towers]
    digest = hashlib.sha256(json.dumps(fields).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_path(model: RogleModel) -> str:
    """Returns where a model was loaded from: an absolute folder, a Hub name, or "" if it was never saved."""
    name = model.name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


__all__ = [
    "best_device",
    "clip_preprocessing",
    "device_of",
    "fingerprint",
    "load_model",
    "model_path",
    "preprocessing_of",
]
