"""Which project a checkpoint comes from, told by its keys, and the same weights under OpenAI CLIP's key names.

| layout | told by | towers | beside them |
|---|---|---|---|
| OpenAI CLIP, open_clip | `visual.conv1.weight`, `token_embedding.weight` | as they are | `logit_bias` |
| open_clip, text tower apart | `text.token_embedding.weight` | `text.` left off | `logit_bias` |
| Long-CLIP | `positional_embedding_res` | text positions: 20 of one table, the rest of another | |
| IRRA | `base_model.` | `base_model.` left off, image positions 24 x 8 | MLM and identity heads |
| RDE | `base_model.`, `visul_emb_layer.` | as IRRA | token selection (TSE) |
| TBPS-CLIP | `encode_text.` | `encode_text.` left off | SimCLR, MLM and identity heads |

From the code that each project has published, read for its names and shapes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modeling_rogle.conversion.checkpoint_files import ConvertError
from modeling_rogle.positions import KEPT_TEXT_POSITIONS

ACTIVATIONS = ("quick_gelu", "gelu")
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BILINEAR, BICUBIC = 2, 3  # PIL's numbers
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers among OpenAI's tensors
HEAD_WIDTH = 64  # OpenAI's code: heads = width // 64 in both towers
OPEN_CLIP_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}  # vision width of ViT-H, g, bigG, e -> width of a head
# Settings of open_clip that change what is computed from the same keys, and the value that CLIP has.
_COMPUTED_OTHERWISE = {
    "pool_type": "tok",
    "no_causal_mask": False,
    "attentional_pool": False,
    "act_kwargs": None,
    "hf_model_name": None,
    "timm_model_name": None,
}
PUBLISHED_TEMPERATURE = 0.02  # the option's default in IRRA and RDE, whose files hold none


@dataclass(frozen=True)
class Layout:
    """A recognised checkpoint.

    Args:
        name: the project.
        state: tensors by OpenAI CLIP's key names.
        keys: OpenAI CLIP's key -> the file's.
        left_out: tensors that a RogleModel has no place for, by the file's keys.
        activation: `quick_gelu` or `gelu`.
        vision_head, text_head: width of an attention head.
        pixels: mean and standard deviation of the channels that it was trained with.
        resample: how its own evaluation resizes images, PIL's number.
        for_persons: trained for person search, and so at the image size that it is used at.
        notes: what the file does not say and was assumed.
    """

    name: str
    state: dict[str, torch.Tensor]
    keys: dict[str, str]
    left_out: dict[str, torch.Tensor]
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
    """Tells the project by its keys.

    Args:
        state: the file's tensors by name.
        name: what errors call the file.
        wrapper: the field of the file that held them.
        settings: `open_clip_config.json` from beside the file.
        activation: overrides what is told or assumed.

    Raises:
        ConvertError: no layout that is read here; names the key, and the reason where there is one.
    """
    if activation not in (None, *ACTIVATIONS):
        raise ConvertError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    _refuse_others(state, name)
    if any(key.startswith("base_model.") for key in state):
        layout = replace(_person_search(state, "base_model."), name="IRRA", resample=BILINEAR)
        if any(key.startswith("visul_emb_layer.") for key in state):
            told = "RDE's second embedding (TSE) is left out, its global one is kept: its published figures use both"
            layout = replace(layout, name="RDE", notes=(told,))
    elif any(key.startswith("encode_text.") for key in state):
        layout = replace(_person_search(state, "encode_text."), name="TBPS-CLIP", pixels=IMAGENET_PIXELS)
    elif "positional_embedding_res" in state:
        layout = _long_clip(state, name)
    else:
        layout = _clip(state, wrapper, settings, activation, name)
    if "logit_scale" not in layout.state:
        told = f"no temperature in it: {PUBLISHED_TEMPERATURE}, the published option's default, is set"
        layout.state["logit_scale"] = torch.tensor(-math.log(PUBLISHED_TEMPERATURE))
        layout.keys["logit_scale"] = "logit_scale"
        layout = replace(layout, notes=(*layout.notes, told))
    return replace(layout, activation=activation) if activation else layout


def source_grid(rows: int, name: str) -> tuple[int, int]:
    """Rows and columns of patches of an image position table of 1 + rows * columns rows.

    A square, as CLIP's, or three (IRRA, RDE: 24 x 8) or two times as high as wide; no count is two of these.

    Raises:
        ConvertError: neither.
    """
    for ratio in (1, 2, 3):
        width = math.isqrt(max(rows - 1, 0) // ratio)
        if width and ratio * width * width == rows - 1:
            return ratio * width, width
    raise ConvertError(
        f"{name}: 'visual.positional_embedding' has {rows} rows, not 1 + a grid as high, twice or three times as high "
        "as wide"
    )


def _refuse_others(state: Mapping[str, torch.Tensor], name: str) -> None:
    for key in state:
        bare = key.removeprefix("base_model.")
        if bare.startswith("visual.layer"):
            raise ConvertError(f"{name}: {key!r} belongs to a ResNet; only vision transformers are read")
        if bare.startswith("visual.trunk."):
            raise ConvertError(f"{name}: {key!r} belongs to a tower of timm; only CLIP's own transformers are read")
        if bare.startswith(("text_decoder.", "text.cls_emb")):
            raise ConvertError(f"{name}: {key!r} belongs to CoCa, whose text is not pooled as CLIP's")
        if bare.startswith(("vision_model.", "text_model.")):
            raise ConvertError(f"{name}: {key!r} is transformers' own layout; give its folder as --model, unconverted")


def _person_search(state: Mapping[str, torch.Tensor], prefix: str) -> Layout:
    """A CLIP inside another model: `prefix` and what OpenAI calls the same are the towers, the rest is for training."""
    taken, keys, rest = {}, {}, {}
    for key, tensor in state.items():
        inside = key.startswith(prefix) or (prefix == "encode_text." and key.startswith(("visual.", "logit_scale")))
        if inside:
            taken[key.removeprefix(prefix)] = tensor
            keys[key.removeprefix(prefix)] = key
        else:
            rest[key] = tensor
    return Layout("", taken, keys, rest, for_persons=True)


def _long_clip(state: Mapping[str, torch.Tensor], name: str) -> Layout:
    """Long-CLIP reads the first 20 text positions from the old table and all later ones from the trained one."""
    taken = {key: tensor for key, tensor in state.items() if key != "positional_embedding_res"}
    kept, trained = state.get("positional_embedding"), state["positional_embedding_res"]
    if kept is None or kept.shape != trained.shape or kept.ndim != 2:
        shape = "missing" if kept is None else list(kept.shape)
        raise ConvertError(f"{name}: 'positional_embedding' is {shape}, 'positional_embedding_res' is not alike")
    taken["positional_embedding"] = torch.cat([kept[:KEPT_TEXT_POSITIONS], trained[KEPT_TEXT_POSITIONS:]])
    return Layout("Long-CLIP", taken, {key: key for key in taken}, {})


def _clip(
    state: Mapping[str, torch.Tensor],
    wrapper: str | None,
    settings: Mapping[str, Any] | None,
    activation: str | None,
    name: str,
) -> Layout:
    """OpenAI's and open_clip's files have the same keys; only the second's settings tell the activation."""
    of_openai = bool(NOT_WEIGHTS & set(state))
    not_towers = NOT_WEIGHTS | {"logit_bias"}
    # A causal mask that somebody saved with the weights is computed, not learnt.
    keys = {key.removeprefix("text."): key for key in state if key.split(".")[-1] not in not_towers | {"attn_mask"}}
    taken = {ours: state[key] for ours, key in keys.items()}
    rest = {"logit_bias": state["logit_bias"]} if "logit_bias" in state else {}
    conv = state.get("visual.conv1.weight")
    width = conv.shape[0] if conv is not None and conv.ndim else 0
    text_apart = "text.token_embedding.weight" in state
    certain = text_apart or wrapper == "state_dict" or width in OPEN_CLIP_HEADS or bool(rest) or settings is not None
    layout = Layout("open_clip" if certain and not of_openai else "OpenAI CLIP", taken, keys, rest)
    layout = replace(layout, vision_head=OPEN_CLIP_HEADS.get(width, HEAD_WIDTH))
    if settings is not None:
        return _with_settings(layout, settings, width, name)
    if layout.name == "open_clip":
        notes = ("the file does not tell the activation: gelu, open_clip's default, is taken",)
        return replace(layout, activation="gelu", notes=() if activation else notes)
    notes = ("taken for OpenAI's, with quick_gelu; weights that open_clip trained mostly have gelu",)
    return layout if of_openai or activation else replace(layout, notes=notes)


def _with_settings(layout: Layout, settings: Mapping[str, Any], width: int, name: str) -> Layout:
    """What `open_clip_config.json` says: activation, heads, pixels. Raises ConvertError on a value of another kind."""
    model, pixels = (_dict(settings, field, name) for field in ("model_cfg", "preprocess_cfg"))
    vision, text = (_dict(model, field, name) for field in ("vision_cfg", "text_cfg"))
    for tower, part in (("vision_cfg", vision), ("text_cfg", text)):
        for field, plain in _COMPUTED_OTHERWISE.items():
            if part.get(field) not in (None, False, {}, plain, "argmax"):
                raise ConvertError(f"{name}: {tower} has {field} {part[field]!r} in its settings: not CLIP's towers")
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
    found = settings.get(field) or {}
    if not isinstance(found, Mapping):
        raise ConvertError(f"{name}: {field!r} in its settings is no dict")
    return found


def _count(settings: Mapping[str, Any], field: str, name: str) -> int | None:
    found = settings.get(field)
    if found is not None and (type(found) is not int or found < 1):
        raise ConvertError(f"{name}: {field!r} in its settings is {found!r}, not a number from 1")
    return found


def _channels(settings: Mapping[str, Any], field: str, default: tuple[float, ...], name: str) -> tuple[float, ...]:
    found = settings.get(field) or default
    if isinstance(found, str) or not isinstance(found, Sequence) or len(found) != 3:
        raise ConvertError(f"{name}: {field!r} in its settings is {found!r}, not three numbers")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in found):
        raise ConvertError(f"{name}: {field!r} in its settings is {found!r}, not three numbers")
    return tuple(map(float, found))


__all__ = ["ACTIVATIONS", "Layout", "recognise", "source_grid"]
