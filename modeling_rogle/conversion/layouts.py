"""Recognises the project of a checkpoint by its keys and renames the weights to OpenAI CLIP's keys.

| layout | recognised by | image and text encoder | not converted |
|---|---|---|---|
| OpenAI CLIP, open_clip | `visual.conv1.weight`, `token_embedding.weight` | same names | `logit_bias` |
| open_clip, separate text encoder | `text.token_embedding.weight` | without `text.` | `logit_bias` |
| Long-CLIP | `positional_embedding_res` | text positions: 20 from one table, the rest from another | |
| IRRA | `base_model.` | without `base_model.`, image positions 24 x 8 | MLM and identity heads |
| RDE | `base_model.`, `visul_emb_layer.` | as IRRA | token selection (TSE) |
| TBPS-CLIP | `encode_text.` | without `encode_text.` | SimCLR, MLM and identity heads |

Names and shapes are taken from the published code of each project.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modeling_rogle.clip_weights import UNCHANGED_TEXT_POSITIONS
from modeling_rogle.conversion.checkpoint_files import ConvertError

ACTIVATIONS = ("quick_gelu", "gelu")
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BILINEAR, BICUBIC = 2, 3  # as in PIL
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # scalars in OpenAI's archives
HEAD_WIDTH = 64  # OpenAI's code: heads = width // 64 in both encoders
OPEN_CLIP_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}  # width of ViT-H, g, bigG, e -> width of a head
# Settings of open_clip that change the computation without changing the keys -> the value that CLIP uses.
_CLIP_SETTINGS = {
    "pool_type": "tok",
    "no_causal_mask": False,
    "attentional_pool": False,
    "act_kwargs": None,
    "hf_model_name": None,
    "timm_model_name": None,
}
PUBLISHED_TEMPERATURE = 0.02  # default option of IRRA and RDE, whose files do not contain it


@dataclass(frozen=True)
class Layout:
    """A recognised checkpoint.

    Args:
        name: the project.
        state: tensors by OpenAI CLIP's key names.
        keys: OpenAI CLIP's key -> key in the file.
        unused: tensors that a RogleModel does not have, by their keys in the file.
        activation: `quick_gelu` or `gelu`.
        vision_head: width of an attention head of the image encoder.
        text_head: width of an attention head of the text encoder.
        pixels: mean and standard deviation of the colour channels in training.
        resample: PIL's number of the filter with which the project's evaluation resizes images.
        for_persons: trained for person search, so the image size of the file is kept.
        notes: assumptions about what the file does not contain.
    """

    name: str
    state: dict[str, torch.Tensor]
    keys: dict[str, str]
    unused: dict[str, torch.Tensor]
    activation: str = "quick_gelu"
    vision_head: int = HEAD_WIDTH
    text_head: int = HEAD_WIDTH
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = CLIP_PIXELS
    resample: int = BICUBIC
    for_persons: bool = False
    notes: tuple[str, ...] = ()


def recognise(
    state: Mapping[str, torch.Tensor],
    name: str,
    wrapper: str | None = None,
    settings: Mapping[str, Any] | None = None,
    activation: str | None = None,
) -> Layout:
    """Recognises the project of a checkpoint by its keys.

    Args:
        state: the tensors of the file by name.
        name: the file's name for error messages.
        wrapper: the field of the file that contains the tensors. Default: the file is the state dict.
        settings: content of the `open_clip_config.json` next to the file. Default: none.
        activation: overrides the activation that the file names or that is assumed.

    Raises:
        ConvertError: the layout is not supported; the message names the key and, if known, the reason.
    """
    if activation not in (None, *ACTIVATIONS):
        raise ConvertError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    _refuse_others(state, name)
    if any(key.startswith("base_model.") for key in state):
        layout = replace(_person_search(state, "base_model."), name="IRRA", resample=BILINEAR)
        if any(key.startswith("visul_emb_layer.") for key in state):
            note = "only RDE's global embedding is converted, not its second one (TSE); its published figures use both"
            layout = replace(layout, name="RDE", notes=(note,))
    elif any(key.startswith("encode_text.") for key in state):
        layout = replace(_person_search(state, "encode_text."), name="TBPS-CLIP", pixels=IMAGENET_PIXELS)
    elif "positional_embedding_res" in state:
        layout = _long_clip(state, name)
    else:
        layout = _clip(state, wrapper, settings, activation, name)
    if "logit_scale" not in layout.state:
        note = f"the file has no temperature: {PUBLISHED_TEMPERATURE}, the default of the published code, is used"
        layout.state["logit_scale"] = torch.tensor(-math.log(PUBLISHED_TEMPERATURE))
        layout.keys["logit_scale"] = "logit_scale"
        layout = replace(layout, notes=(*layout.notes, note))
    return replace(layout, activation=activation) if activation else layout


def source_grid(rows: int, name: str) -> tuple[int, int]:
    """Finds the patch grid of an image position table with 1 + rows * columns entries.

    The grid is square (CLIP), or two or three times as high as wide (IRRA, RDE: 24 x 8). No count fits two of these.

    Args:
        rows: entries of the table.
        name: the file's name for error messages.

    Returns:
        Rows and columns of the grid.

    Raises:
        ConvertError: no such grid has this number of patches.
    """
    for ratio in (1, 2, 3):
        width = math.isqrt(max(rows - 1, 0) // ratio)
        if width and ratio * width * width == rows - 1:
            return ratio * width, width
    raise ConvertError(
        f"{name}: 'visual.positional_embedding' has {rows} rows, not 1 + those of a grid that is once, "
        "twice or three times as high as wide"
    )


def _refuse_others(state: Mapping[str, torch.Tensor], name: str) -> None:
    for key in state:
        bare = key.removeprefix("base_model.")
        if bare.startswith("visual.layer"):
            raise ConvertError(f"{name}: {key!r} belongs to a ResNet; only vision transformers are supported")
        if bare.startswith("visual.trunk."):
            raise ConvertError(f"{name}: {key!r} belongs to an encoder of timm, which is not supported")
        if bare.startswith(("text_decoder.", "text.cls_emb")):
            raise ConvertError(f"{name}: {key!r} belongs to CoCa, which pools text differently from CLIP")
        if bare.startswith(("vision_model.", "text_model.")):
            raise ConvertError(f"{name}: {key!r} is in the layout of transformers; use its folder as --model")


def _person_search(state: Mapping[str, torch.Tensor], prefix: str) -> Layout:
    """A CLIP inside another model: keys with `prefix` are the encoders, the others belong to training heads."""
    encoders, keys, unused = {}, {}, {}
    for key, tensor in state.items():
        inside = key.startswith(prefix) or (prefix == "encode_text." and key.startswith(("visual.", "logit_scale")))
        if inside:
            encoders[key.removeprefix(prefix)] = tensor
            keys[key.removeprefix(prefix)] = key
        else:
            unused[key] = tensor
    return Layout("", encoders, keys, unused, for_persons=True)


def _long_clip(state: Mapping[str, torch.Tensor], name: str) -> Layout:
    """Long-CLIP reads the first 20 text positions from the old table and the later ones from the trained table."""
    encoders = {key: tensor for key, tensor in state.items() if key != "positional_embedding_res"}
    old, trained = state.get("positional_embedding"), state["positional_embedding_res"]
    if old is None or old.shape != trained.shape or old.ndim != 2:
        shape = "missing" if old is None else list(old.shape)
        raise ConvertError(f"{name}: 'positional_embedding' is {shape}, unlike 'positional_embedding_res'")
    encoders["positional_embedding"] = torch.cat([old[:UNCHANGED_TEXT_POSITIONS], trained[UNCHANGED_TEXT_POSITIONS:]])
    return Layout("Long-CLIP", encoders, {key: key for key in encoders}, {})


def _clip(
    state: Mapping[str, torch.Tensor],
    wrapper: str | None,
    settings: Mapping[str, Any] | None,
    activation: str | None,
    name: str,
) -> Layout:
    """Files of OpenAI and open_clip have the same keys; only open_clip's settings name the activation."""
    is_openai = bool(NOT_WEIGHTS & set(state))
    # A causal mask may be saved with the weights; it is computed, not trained.
    ignored = NOT_WEIGHTS | {"logit_bias", "attn_mask"}
    keys = {key.removeprefix("text."): key for key in state if key.split(".")[-1] not in ignored}
    encoders = {renamed: state[key] for renamed, key in keys.items()}
    unused = {"logit_bias": state["logit_bias"]} if "logit_bias" in state else {}
    conv = state.get("visual.conv1.weight")
    width = conv.shape[0] if conv is not None and conv.ndim else 0
    separate_text = "text.token_embedding.weight" in state
    is_open_clip = (
        separate_text or wrapper == "state_dict" or width in OPEN_CLIP_HEADS or bool(unused) or settings is not None
    )
    layout = Layout("open_clip" if is_open_clip and not is_openai else "OpenAI CLIP", encoders, keys, unused)
    layout = replace(layout, vision_head=OPEN_CLIP_HEADS.get(width, HEAD_WIDTH))
    if settings is not None:
        return _with_settings(layout, settings, width, name)
    if layout.name == "open_clip":
        notes = ("the file does not name the activation: gelu, the default of open_clip, is used",)
        return replace(layout, activation="gelu", notes=() if activation else notes)
    notes = ("assumed to be OpenAI's weights, with quick_gelu; most weights trained by open_clip have gelu",)
    return layout if is_openai or activation else replace(layout, notes=notes)


def _with_settings(layout: Layout, settings: Mapping[str, Any], width: int, name: str) -> Layout:
    """Applies `open_clip_config.json`: activation, heads, pixel statistics. A value of a wrong type is an error."""
    model, pixels = (_dict(settings, field, name) for field in ("model_cfg", "preprocess_cfg"))
    vision, text = (_dict(model, field, name) for field in ("vision_cfg", "text_cfg"))
    for tower, part in (("vision_cfg", vision), ("text_cfg", text)):
        for field, default in _CLIP_SETTINGS.items():
            if part.get(field) not in (None, False, {}, default, "argmax"):
                raise ConvertError(f"{name}: {tower} has {field} {part[field]!r} in its settings, unlike CLIP")
    heads, text_width = _count(text, "heads", name), _count(text, "width", name)
    mean, std = (
        _channels(pixels, field, default, name) for field, default in zip(("mean", "std"), CLIP_PIXELS, strict=True)
    )
    return replace(
        layout,
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        vision_head=(_count(vision, "head_width", name) or OPEN_CLIP_HEADS.get(width, HEAD_WIDTH)),
        text_head=text_width // heads if heads and text_width else HEAD_WIDTH,
        pixels=(mean, std),
        resample=BILINEAR if pixels.get("interpolation") == "bilinear" else BICUBIC,
    )


def _dict(settings: Mapping[str, Any], field: str, name: str) -> Mapping[str, Any]:
    value = settings.get(field) or {}
    if not isinstance(value, Mapping):
        raise ConvertError(f"{name}: {field!r} in its settings is not a dict")
    return value


def _count(settings: Mapping[str, Any], field: str, name: str) -> int | None:
    value = settings.get(field)
    if value is not None and (type(value) is not int or value < 1):
        raise ConvertError(f"{name}: {field!r} in its settings is {value!r}, not a positive integer")
    return value


def _channels(settings: Mapping[str, Any], field: str, default: tuple[float, ...], name: str) -> tuple[float, ...]:
    value = settings.get(field) or default
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        raise ConvertError(f"{name}: {field!r} in its settings is {value!r}, not three numbers")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        raise ConvertError(f"{name}: {field!r} in its settings is {value!r}, not three numbers")
    return tuple(map(float, value))


__all__ = ["ACTIVATIONS", "Layout", "recognise", "source_grid"]
