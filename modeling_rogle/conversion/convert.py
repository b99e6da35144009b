"""Converts checkpoints of OpenAI CLIP, open_clip, Long-CLIP, IRRA, RDE and TBPS-CLIP into a RogleModel.

`checkpoint_files.py` reads a file without executing its code. `layouts.py` recognises the project by the keys and
renames the weights to OpenAI CLIP's keys. This module turns those into a RogleModel.
"""

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

from modeling_rogle.clip_weights import (
    CAPTION_TOKENS,
    TEXT_POSITIONS,
    VISION_POSITIONS,
    lengthen_text_positions,
    resize_image_positions,
)
from modeling_rogle.configuration_rogle import RogleConfig
from modeling_rogle.conversion.checkpoint_files import ConvertError, read_state_dict
from modeling_rogle.conversion.layouts import Layout, recognise, source_grid
from modeling_rogle.inference.untrusted import parse_json
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor

PERSON_SIZE = (384, 128)  # pixels; for models that were not trained for person search
SETTINGS = "open_clip_config.json"

# Keys of `clip/model.py` in openai/CLIP -> keys of `transformers.CLIPModel`; a trailing T transposes the matrix.
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
    """The result of [`convert_checkpoint`].

    Args:
        folder: the model folder.
        parameters: number of parameters of the model.
        with_processor: whether the folder contains a processor.
        layout: the recognised project.
        image_size: height and width in pixels.
        unused: what the model does not use of the file: first part of a key -> number of tensors and of values.
        notes: assumptions about what the file does not contain, one line each.
    """

    folder: Path
    parameters: int
    with_processor: bool
    layout: str
    image_size: tuple[int, int]
    unused: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def convert_checkpoint(
    path: str | Path,
    out: str | Path,
    image_size: Sequence[int] | None = None,
    max_position_embeddings: int = CAPTION_TOKENS,
    tokenizer: str | Path | None = None,
    activation: str | None = None,
) -> Converted:
    """Converts a checkpoint of another project into an fp32 model folder for `RogleModel.from_pretrained`.

    Args:
        path: a `.safetensors` file, a file of `torch.save`, or a TorchScript archive of OpenAI. An
            `open_clip_config.json` in the same folder is read too.
        out: a new folder, which appears complete; or an empty folder, into which `config.json` is moved last.
        image_size: height and width in pixels; the image position table is resized to it. Default: 384 x 128, and for
            IRRA, RDE and TBPS-CLIP their training size.
        max_position_embeddings: caption length in tokens; the file's own length if that is larger. Default: 248.
        tokenizer: folder of CLIP's tokenizer, which the weights do not contain. Default: save no processor.
        activation: `quick_gelu` (OpenAI's weights and models trained from them) or `gelu`. Default: the file's, or
            assumed with a note.

    Returns:
        A summary of the conversion.

    Raises:
        ConvertError: the file is damaged, needs code or has an unsupported layout; `out` is not empty; or the
            tokenizer has another vocabulary.
        FileNotFoundError: there is no such file or folder.
    """
    path, out = Path(path), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConvertError(f"{out}: not an empty folder; choose another --out")
    state, wrapper = read_state_dict(path)
    layout = recognise(state, str(path), wrapper, _settings(path), activation)
    model = rogle_from_layout(layout, image_size, max_position_embeddings, str(path))
    processor = None if tokenizer is None else _processor(Path(tokenizer), model.config, layout)
    # On the disk of `out`, so that files are moved and not copied; inside an existing `out`, because its parent may be
    # read-only.
    exists = out.exists()
    parent = out if exists else out.parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-convert-", dir=parent))
    part = scratch / "model"
    try:
        model.save_pretrained(part)
        if processor is not None:
            processor.save_pretrained(part)
        if exists:
            for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, out / file.name)
        else:
            os.replace(part, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    unused: dict[str, tuple[int, int]] = {}
    for key, tensor in layout.unused.items():
        tensors, values = unused.get(key.split(".")[0], (0, 0))
        unused[key.split(".")[0]] = tensors + 1, values + tensor.numel()
    return Converted(
        folder=out,
        parameters=sum(p.numel() for p in model.parameters()),
        with_processor=processor is not None,
        layout=layout.name,
        image_size=(model.config.image_size[0], model.config.image_size[1]),
        unused=unused,
        notes=layout.notes,
    )


def rogle_from_layout(
    layout: Layout,
    image_size: Sequence[int] | None = None,
    max_position_embeddings: int = CAPTION_TOKENS,
    name: str = "state dict",
) -> RogleModel:
    """Builds a model from recognised weights. All dimensions are read from the shapes of the tensors.

    Args:
        layout: the result of [`recognise`]; tensors of any floating dtype.
        image_size: see [`convert_checkpoint`].
        max_position_embeddings: see [`convert_checkpoint`].
        name: the file's name for error messages.

    Returns:
        A RogleModel in fp32 and evaluation mode, with a new region head.

    Raises:
        ConvertError: a key is missing or unknown, or its shape does not fit the others.
    """
    renamed = _renamed(layout, name)
    config, old_grid = _config(layout, image_size, max_position_embeddings, name)
    for table, resize in (
        (VISION_POSITIONS, lambda t: resize_image_positions(t, config.patch_grid, old_grid)),
        (
            TEXT_POSITIONS,
            lambda t: lengthen_text_positions(t, config.text_config.max_position_embeddings),
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
            raise ConvertError(f"{name}: {source!r} has shape {list(tensor.shape)}, not {list(expected[key])}")
    for key in expected:
        if key not in renamed:
            raise ConvertError(f"{name}: no weights for {key!r}; incomplete, or not {layout.name}")
    model.load_state_dict({key: tensor for key, (_, tensor) in renamed.items()}, strict=False)
    return model.eval()


def _settings(path: Path) -> dict[str, Any] | None:
    """The open_clip settings in the folder of the checkpoint, or None."""
    file = path.parent / SETTINGS
    if not file.is_file():
        return None
    try:
        settings = parse_json(file.read_bytes())
    except ValueError as error:
        raise ConvertError(f"{file}: damaged ({error})") from error
    for field in ("model_cfg", "preprocess_cfg"):
        if not isinstance(settings, dict) or not isinstance(settings.get(field, {}), dict):
            raise ConvertError(f"{file}: field {field!r} is not a dict of settings")
    return settings


def _renamed(layout: Layout, name: str) -> dict[str, tuple[str, torch.Tensor]]:
    """Key of CLIPModel -> (key in the file, fp32 tensor)."""
    renamed: dict[str, tuple[str, torch.Tensor]] = {}
    for key, tensor in layout.state.items():
        source = layout.keys[key]
        if not tensor.is_floating_point():
            raise ConvertError(f"{name}: {source!r} has dtype {tensor.dtype}, so it is not a weight")
        tensor = tensor.float().reshape(()) if key == "logit_scale" and tensor.numel() == 1 else tensor.float()
        if key in _SINGLE:
            target, _, transposed = _SINGLE[key].partition(" ")
            renamed[target] = source, tensor.T.contiguous() if transposed else tensor
            continue
        block = _BLOCK.fullmatch(key)
        if block is None:
            raise ConvertError(f"{name}: unknown key {source!r}; not the layout of {layout.name}")
        tower = "vision_model" if block[1] else "text_model"
        prefix, part = f"{tower}.encoder.layers.{block[2]}", block[3]
        inner, _, kind = part.rpartition(".")
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            # One matrix holds query, key and value, in this order.
            if tensor.shape[:1].numel() % 3:
                raise ConvertError(f"{name}: {source!r} has shape {list(tensor.shape)}, not 3 x width")
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                target = f"{prefix}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"
                renamed[target] = source, piece.clone()
        elif inner in _IN_BLOCK and kind in ("weight", "bias"):
            renamed[f"{prefix}.{_IN_BLOCK[inner]}.{kind}"] = source, tensor
        else:
            raise ConvertError(f"{name}: unknown key {source!r}; not the layout of {layout.name}")
    return renamed


def _config(
    layout: Layout, image_size: Sequence[int] | None, tokens: int, name: str
) -> tuple[RogleConfig, tuple[int, int]]:
    """The configuration, and rows and columns of the patch grid in the file."""
    state: Mapping[str, torch.Tensor] = layout.state

    def shape(key: str, dimensions: int) -> torch.Size:
        if key not in state:
            raise ConvertError(f"{name}: no key {key!r}; not a vision transformer of {layout.name}")
        if state[key].ndim != dimensions:
            raise ConvertError(
                f"{name}: {layout.keys[key]!r} has shape {list(state[key].shape)}, not {dimensions} dimensions"
            )
        return state[key].shape

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
            raise ConvertError(f"{name}: {layout.keys[key]!r} has width {value}, not a multiple of {head}")
    if image_size is None:
        image_size = (grid[0] * patch, grid[1] * patch) if layout.for_persons else PERSON_SIZE
    try:
        config = RogleConfig(
            image_size=[int(side) for side in image_size],
            projection_dim=dimension,
            trained_regions=False,
            vision_config={
                "hidden_size": width,
                "intermediate_size": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": _count_blocks(state, "visual.", name),
                "num_attention_heads": width // layout.vision_head,
                # RogleModel does not read it; CLIPConfig requires a square.
                "image_size": grid[1] * patch,
                "patch_size": patch,
                "projection_dim": dimension,
                "hidden_act": layout.activation,
            },
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": text_width,
                "intermediate_size": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": _count_blocks(state, None, name),
                "num_attention_heads": text_width // layout.text_head,
                "max_position_embeddings": max(tokens, length),
                "projection_dim": dimension,
                "hidden_act": layout.activation,
                # OpenAI pools at the largest id: the last two ids of its vocabulary are start and end of text.
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                "pad_token_id": vocabulary - 1,
            },
        )
    except StrictDataclassError as error:
        raise ConvertError(f"{name}: {str(error.__cause__ or error).splitlines()[0]}") from error
    return config, grid


def _count_blocks(state: Mapping[str, torch.Tensor], tower: str | None, name: str) -> int:
    """Number of blocks of an encoder. Their numbers must be complete: a model of 99,999,999 blocks fills the memory."""
    numbers = {m[2] for m in map(_BLOCK.fullmatch, state) if m and m[1] == tower}
    if numbers != {str(number) for number in range(len(numbers))}:
        last = max(numbers, key=lambda number: (len(number), number))
        raise ConvertError(f"{name}: {tower or ''}transformer has {len(numbers)} blocks, but a block {last}")
    return len(numbers)


def _processor(folder: Path, config: RogleConfig, layout: Layout) -> RogleProcessor:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    text = config.text_config
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=text.max_position_embeddings)
    tokenizer.init_kwargs.pop("max_length", None)  # a stored limit would override the new one
    if len(tokenizer) != text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ConvertError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens (end of text {tokenizer.eos_token_id}), the weights "
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
