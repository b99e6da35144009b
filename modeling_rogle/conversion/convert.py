"""Checkpoints of OpenAI CLIP, open_clip, Long-CLIP, IRRA, RDE and TBPS-CLIP -> RogleModel.

`convert_files.py` reads the file without running anything in it, `convert_layouts.py` tells the project by the keys and
gives the weights under OpenAI CLIP's names, and here these become a RogleModel.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from modeling_rogle.configuration_rogle import RogleConfig
from modeling_rogle.conversion.checkpoint_files import ConvertError, read_state_dict
from modeling_rogle.conversion.layouts import Layout, recognise, source_grid
from modeling_rogle.modeling_rogle import CAPTION_TOKENS, TEXT_POSITIONS, VISION_POSITIONS, RogleModel
from modeling_rogle.positions import lengthen_text_positions, resize_image_positions
from modeling_rogle.processing_rogle import RogleProcessor

PERSON_SIZE = (384, 128)  # pixels, of models that were not trained for person search
SETTINGS = "open_clip_config.json"

# Keys of openai/CLIP's `clip/model.py` and of `transformers.CLIPModel`; a trailing T is a transposed matrix.
_SINGLE = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": VISION_POSITIONS,
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight T",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": TEXT_POSITIONS,
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight T",
    "logit_scale": "logit_scale",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True)
class Converted:
    """What [`convert_checkpoint`] saved.

    Args:
        folder: where.
        parameters: of the model.
        with_processor: whether a processor is in the folder too.
        layout: the project that the file was recognised as.
        image_size: height and width in pixels.
        left_out: first part of a name -> tensors and numbers under it that were in the file and are not in the model.
        notes: what the file does not say and was assumed, a line each.
    """

    folder: Path
    parameters: int
    with_processor: bool
    layout: str
    image_size: tuple[int, int]
    left_out: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def convert_checkpoint(
    path: str | Path,
    out: str | Path,
    image_size: Sequence[int] | None = None,
    max_position_embeddings: int = CAPTION_TOKENS,
    tokenizer: str | Path | None = None,
    activation: str | None = None,
) -> Converted:
    """Converts a checkpoint of another project into a folder that `RogleModel.from_pretrained` loads, in fp32.

    Args:
        path: `.safetensors`, what `torch.save` wrote, or one of OpenAI's TorchScript archives; an
            `open_clip_config.json` beside it is read too.
        out: new folder, written in one step; or an empty one, into which `config.json` comes last.
        image_size: height and width in pixels; the position table is resized to it. By default 384 x 128, and for IRRA,
            RDE and TBPS-CLIP the size that they were trained at.
        max_position_embeddings: caption length in tokens; never less than the file's.
        tokenizer: folder of CLIP's tokenizer. The weights do not hold one: without it no processor is saved.
        activation: `quick_gelu` (OpenAI's weights and all trained from them) or `gelu`, where the file does not tell.

    Raises:
        ConvertError: a file that is damaged, needs code or has another layout; a folder that is not empty; a tokenizer
            of another vocabulary.
        FileNotFoundError: no such file or folder.
    """
    path, out = Path(path), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConvertError(f"{out}: not an empty folder; nothing is overwritten")
    state, wrapper = read_state_dict(path)
    layout = recognise(state, str(path), wrapper, _settings(path), activation)
    model = rogle_from_layout(layout, image_size, max_position_embeddings, str(path))
    processor = None if tokenizer is None else _processor(Path(tokenizer), model.config, layout)
    # On the disk of `out`, so that nothing is copied; inside it if it is there, since what holds it may be read-only.
    there = out.exists()
    home = out if there else out.parent
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-convert-", dir=home))
    part = scratch / "model"
    try:
        model.save_pretrained(part)
        if processor is not None:
            processor.save_pretrained(part)
        if there:
            for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, out / file.name)
        else:
            os.replace(part, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    left_out: dict[str, tuple[int, int]] = {}
    for key, tensor in layout.left_out.items():
        tensors, numbers = left_out.get(key.split(".")[0], (0, 0))
        left_out[key.split(".")[0]] = tensors + 1, numbers + tensor.numel()
    return Converted(
        folder=out,
        parameters=sum(p.numel() for p in model.parameters()),
        with_processor=processor is not None,
        layout=layout.name,
        image_size=tuple(model.config.image_size),
        left_out=left_out,
        notes=layout.notes,
    )


def rogle_from_layout(
    layout: Layout,
    image_size: Sequence[int] | None = None,
    max_position_embeddings: int = CAPTION_TOKENS,
    name: str = "state dict",
) -> RogleModel:
    """Builds the model that recognised weights describe; every dimension is read from the tensors' shapes.

    Args:
        layout: of [`recognise`], any floating dtype.
        image_size, max_position_embeddings: as in [`convert_checkpoint`].
        name: what errors call it.

    Returns:
        A RogleModel in fp32, in evaluation mode; its region head is new.

    Raises:
        ConvertError: a key that is missing, unknown or of a shape that does not fit the others.
    """
    renamed = _renamed(layout, name)
    config, old_grid = _config(layout, image_size, max_position_embeddings, name)
    for table, resize in (
        (VISION_POSITIONS, lambda t: resize_image_positions(t, config.patch_grid, old_grid)),
        (
            TEXT_POSITIONS,
            lambda t: lengthen_text_positions(t, config.text_config.max_position_embeddings, config.text_positions),
        ),
    ):
        source, tensor = renamed[table]
        renamed[table] = source, resize(tensor)
    model = RogleModel(config)
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.startswith("region_head.")}
    for key, (source, tensor) in renamed.items():
        if key not in expected:
            raise ConvertError(f"{name}: unexpected key {source!r}")
        if tensor.shape != expected[key]:
            raise ConvertError(f"{name}: {source!r} is {list(tensor.shape)} where {list(expected[key])} fits the rest")
    for key in expected:
        if key not in renamed:
            raise ConvertError(f"{name}: nothing in it gives {key!r}; not {layout.name}, or incomplete")
    model.load_state_dict({key: tensor for key, (_, tensor) in renamed.items()}, strict=False)
    return model.eval()


def _settings(path: Path) -> dict[str, Any] | None:
    """open_clip's settings from beside the file, None where there are none."""
    file = path.parent / SETTINGS
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConvertError(f"{file}: damaged ({error})") from error
    for field in ("model_cfg", "preprocess_cfg"):
        if not isinstance(found, dict) or not isinstance(found.get(field, {}), dict):
            raise ConvertError(f"{file}: field {field!r} is no dict of settings")
    return found


def _renamed(layout: Layout, name: str) -> dict[str, tuple[str, torch.Tensor]]:
    """CLIPModel's key -> (the file's key, fp32 tensor)."""
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for key, tensor in layout.state.items():
        told = layout.keys[key]
        if not tensor.is_floating_point():
            raise ConvertError(f"{name}: {told!r} holds {tensor.dtype}, no weights")
        tensor = tensor.float().reshape(()) if key == "logit_scale" and tensor.numel() == 1 else tensor.float()
        if key in _SINGLE:
            target, _, transposed = _SINGLE[key].partition(" ")
            found[target] = told, tensor.T.contiguous() if transposed else tensor
            continue
        block = _BLOCK.fullmatch(key)
        if block is None:
            raise ConvertError(f"{name}: unknown key {told!r}; not {layout.name}'s layout")
        tower = "vision_model" if block[1] else "text_model"
        prefix, part = f"{tower}.encoder.layers.{block[2]}", block[3]
        inner, _, kind = part.rpartition(".")
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            # One matrix for query, key and value, in this order.
            if tensor.shape[:1].numel() % 3:
                raise ConvertError(f"{name}: {told!r} is {list(tensor.shape)}, not query, key and value")
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{prefix}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"] = told, piece.clone()
        elif inner in _IN_BLOCK and kind in ("weight", "bias"):
            found[f"{prefix}.{_IN_BLOCK[inner]}.{kind}"] = told, tensor
        else:
            raise ConvertError(f"{name}: unknown key {told!r}; not {layout.name}'s layout")
    return found


def _config(
    layout: Layout, image_size: Sequence[int] | None, tokens: int, name: str
) -> tuple[RogleConfig, tuple[int, int]]:
    """The configuration, and rows and columns of the file's own grid of patches."""
    state: Mapping[str, torch.Tensor] = layout.state

    def shape(key: str, dimensions: int) -> torch.Size:
        if key not in state:
            raise ConvertError(f"{name}: no key {key!r}; not {layout.name} with a vision transformer")
        if state[key].ndim != dimensions:
            raise ConvertError(
                f"{name}: {layout.keys[key]!r} has shape {list(state[key].shape)}, not {dimensions} dimensions"
            )
        return state[key].shape

    def layers(tower: str | None) -> int:
        return 1 + max((int(m[2]) for m in map(_BLOCK.fullmatch, state) if m and m[1] == tower), default=-1)

    width, _, patch, _ = shape("visual.conv1.weight", 4)
    positions = shape("visual.positional_embedding", 2)[0]
    vocabulary, text_width = shape("token_embedding.weight", 2)
    length = shape("positional_embedding", 2)[0]
    dimension = shape("text_projection", 2)[1]
    grid = source_grid(positions, name)
    for key, value, head in (
        ("visual.conv1.weight", width, layout.vision_head),
        ("token_embedding.weight", text_width, layout.text_head),
    ):
        if value % head:
            raise ConvertError(f"{name}: {layout.keys[key]!r} is {value} wide, not a multiple of {head}")
    if image_size is None:
        image_size = (grid[0] * patch, grid[1] * patch) if layout.for_persons else PERSON_SIZE
    try:
        config = RogleConfig(
            image_size=[int(side) for side in image_size],
            projection_dim=dimension,
            vision_config={
                "hidden_size": width,
                "intermediate_size": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": layers("visual."),
                "num_attention_heads": width // layout.vision_head,
                # Not read by RogleModel; square, as CLIPConfig wants it.
                "image_size": grid[1] * patch,
                "patch_size": patch,
                "projection_dim": dimension,
                "hidden_act": layout.activation,
            },
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": text_width,
                "intermediate_size": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": layers(None),
                "num_attention_heads": text_width // layout.text_head,
                "max_position_embeddings": max(tokens, length),
                "projection_dim": dimension,
                "hidden_act": layout.activation,
                # OpenAI pools at the largest id: the last two of its vocabulary are start and end of text.
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                "pad_token_id": vocabulary - 1,
            },
        )
    except StrictDataclassError as error:
        raise ConvertError(f"{name}: {str(error.__cause__ or error).splitlines()[0]}") from error
    return config, grid


def _processor(folder: Path, config: RogleConfig, layout: Layout) -> RogleProcessor:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    text = config.text_config
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=text.max_position_embeddings)
    tokenizer.init_kwargs.pop("max_length", None)  # a limit stored by an earlier call would win over the new one
    if len(tokenizer) != text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ConvertError(
            f"{folder}: a tokenizer of {len(tokenizer)} tokens (end of text {tokenizer.eos_token_id}), the weights "
            f"have {text.vocab_size} (end of text {text.eos_token_id})"
        )
    height, width = config.image_size
    images = CLIPImageProcessorPil(
        size={"height": height, "width": width},
        do_center_crop=False,
        do_convert_rgb=True,
        resample=layout.resample,
        image_mean=list(layout.pixels[0]),
        image_std=list(layout.pixels[1]),
    )
    return RogleProcessor(images, tokenizer)


__all__ = ["ConvertError", "Converted", "convert_checkpoint", "read_state_dict", "rogle_from_layout"]
