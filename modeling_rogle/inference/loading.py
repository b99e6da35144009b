"""A model and its processor from a folder, checked as far as a search needs it; what tells one model from another."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from modeling_rogle.configuration_rogle import RogleConfig
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor


def best_device() -> torch.device:
    """The accelerator that torch finds (CUDA, MPS, XPU, ...), else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def device_of(model: Any) -> torch.device:
    """Where a model's weights lie; the CPU for one without any."""
    return next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")


def load_model(name: str | Path) -> tuple[RogleModel, RogleProcessor]:
    """Model in fp32, on the GPU when there is one, and its processor, from a folder or a Hub name.

    Raises:
        GalleryError: not a Rogle or CLIP model, a configuration out of range, damaged weights, or a tokenizer of
            another model.
        OSError: no weights, configuration or processor there.
    """
    name = str(name)
    kind = RogleConfig.get_config_dict(name)[0].get("model_type")
    if kind not in ("rogle", "clip"):
        raise GalleryError(f"{name}: model_type {kind!r} in config.json, only 'rogle' and 'clip' can search persons")
    bars = is_progress_bar_enabled()
    disable_progress_bar()  # one for the weights of every search would say nothing
    try:
        model = RogleModel.from_pretrained(name, dtype=torch.float32)
    except StrictDataclassError as error:
        raise GalleryError(f"{name}: config.json: {str(error.__cause__ or error).splitlines()[0]}") from error
    except (SafetensorError, RuntimeError) as error:
        raise GalleryError(f"{name}: weights cannot be read ({str(error).splitlines()[0]})") from error
    finally:
        if bars:
            enable_progress_bar()
    model.name_or_path = name  # CLIP weights come through another class, which forgets it
    processor = RogleProcessor.from_pretrained(name)
    # Without its vocabulary file a tokenizer loads empty, and every query would mean the same. 2: old CLIP configs.
    end, ends = processor.tokenizer.eos_token_id, model.config.text_config.eos_token_id
    if len(processor.tokenizer) > model.config.text_config.vocab_size or (end != ends and ends != 2):
        raise GalleryError(f"{name}: the tokenizer is not this model's (end token {end}, config.json says {ends})")
    return model.to(best_device()), processor


def fingerprint(model: RogleModel) -> str:
    """sha256 over the weights and the fields that decide what they compute; equal for a saved and reloaded model.

    `local_weight` is left out: it changes how scores are joined, not what is stored.
    """
    config, vision, text = model.config, model.config.vision_config, model.config.text_config
    towers = [(part.num_attention_heads, part.hidden_act, part.layer_norm_eps) for part in (vision, text)]
    fields = [list(config.image_size), config.region_feature, vision.patch_size, text.eos_token_id, towers]
    digest = hashlib.sha256(json.dumps(fields).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_path(model: RogleModel) -> str:
    """Where a model came from, absolute if it is a folder; empty if it was never saved."""
    name = model.name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


__all__ = ["best_device", "device_of", "fingerprint", "load_model", "model_path"]
