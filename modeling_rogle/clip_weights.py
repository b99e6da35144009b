"""Weights of plain CLIP for RogleModel: position tables of rectangular images and of long captions."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPModel
from transformers.utils import logging

from .configuration_rogle import RogleConfig

logger = logging.get_logger(__name__)

VISION_POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
CAPTION_TOKENS = 248  # default caption length of a model that starts from plain CLIP: Long-CLIP's 20 + 57 * 4
UNCHANGED_TEXT_POSITIONS = 20
# Configurations of old CLIP checkpoints have an end token of 2, which means the largest id. Added tokens are larger.
LEGACY_END_TOKEN, END_TOKEN = 2, 49407


def rogle_weights(
    name: str, clip: CLIPModel, fields: dict[str, Any], tokens: int | None = None
) -> tuple[RogleConfig, dict[str, torch.Tensor]]:
    """Configuration and weights of a [`RogleModel`] that starts from CLIP. One log line reports the changes.

    Args:
        name: name of the checkpoint, for messages.
        clip: the model whose weights are used.
        fields: fields of [`RogleConfig`] to set.
        tokens: caption length; 248, or the checkpoint's if that is longer, by default.

    Returns:
        The configuration, and all weights except those of `config.head`, which is newly initialised.

    Raises:
        ValueError: `tokens` is less than the number of the checkpoint's text positions.
    """
    state, source = clip.state_dict(), clip.config.to_dict()
    for key in ("model_type", "architectures", "transformers_version", "auto_map"):
        source.pop(key, None)
    old_tokens, old_side = source["text_config"]["max_position_embeddings"], source["vision_config"]["image_size"]
    if tokens is not None and tokens < old_tokens:
        raise ValueError(f"max_position_embeddings={tokens}: {name} has {old_tokens} text positions, none are dropped")
    source["text_config"]["max_position_embeddings"] = tokens or max(CAPTION_TOKENS, old_tokens)
    if (
        source["text_config"]["eos_token_id"] == LEGACY_END_TOKEN
        and source["text_config"]["vocab_size"] > END_TOKEN + 1
    ):
        source["text_config"]["eos_token_id"] = END_TOKEN
    config = RogleConfig(**(source | {"trained_regions": False} | fields))
    patch = config.vision_config.patch_size
    state[VISION_POSITIONS] = resize_image_positions(
        state[VISION_POSITIONS], config.patch_grid, (old_side // patch, old_side // patch)
    )
    state[TEXT_POSITIONS] = lengthen_text_positions(state[TEXT_POSITIONS], config.text_config.max_position_embeddings)
    # Set here as well, so that the loader reports no missing weights.
    state["region_head.logit_scale"] = torch.tensor([config.region_logit_scale_init_value])
    if config.num_identities:
        shape = (config.num_identities, config.projection_dim)
        state["identity_classifier.weight"] = torch.randn(shape) * config.initializer_range
    logger.warning_once(
        f"{name}: CLIP weights loaded into RogleModel: image positions {old_side} x {old_side} -> "
        f"{config.image_size[0]} x {config.image_size[1]} px (bicubic), text positions {old_tokens} -> "
        f"{config.text_config.max_position_embeddings} (stretched); new: region_head.logit_scale"
    )
    return config, state


def lengthen_text_positions(table: torch.Tensor, length: int) -> torch.Tensor:
    """Lengthens a text position table by knowledge-preserved stretching (Long-CLIP, arXiv 2403.15378).

    The first 20 rows are kept, so that a caption of at most 20 tokens embeds exactly as before. The other `n - 20` rows
    are stretched linearly over the rest: 77 -> 20 + 57 * 4 = 248. The last few rows are extrapolated.

    Args:
        table: `[n, d]` learnt positions (77 in CLIP).
        length: the new number of positions, at least n.

    Returns:
        `[length, d]` in the dtype of `table`.

    Raises:
        ValueError: `length` is shorter than the table, or the table has fewer than 22 rows.
    """
    n = table.shape[0]
    if length == n:
        return table.clone()
    if length < n:
        raise ValueError(f"cannot shorten a table of {n} text positions to {length}")
    kept = UNCHANGED_TEXT_POSITIONS
    tail = n - kept
    if tail < 2:
        raise ValueError(f"stretching keeps {kept} positions and needs 2 more, the table has {n}")
    wide = table.float()
    # New row 20 + k lies at old row 20 + k / ratio; past the last old row the last difference continues.
    ratio = (length - kept) / tail
    position = torch.arange(length - kept, dtype=torch.float64) / ratio
    low = position.floor().long().clamp(max=tail - 2)
    share = (position - low).to(wide.dtype)[:, None]
    old = wide[kept:]
    rows = torch.cat([wide[:kept], old[low] + share * (old[low + 1] - old[low])])
    return rows.to(table.dtype)


def resize_image_positions(table: torch.Tensor, grid: tuple[int, int], old_grid: tuple[int, int]) -> torch.Tensor:
    """Resizes an image position table to another grid by bicubic interpolation; the class token's row is kept.

    It is the interpolation of `CLIPModel(interpolate_pos_encoding=True)`.

    Args:
        table: `[1 + old_rows * old_columns, d]`, the class token first.
        grid: new (rows, columns).
        old_grid: (rows, columns) of the table.

    Returns:
        `[1 + rows * columns, d]` in the dtype of `table`.

    Raises:
        ValueError: the table does not have `1 + old_rows * old_columns` rows.
    """
    if table.shape[0] != 1 + old_grid[0] * old_grid[1]:
        raise ValueError(f"{table.shape[0]} image positions do not fit a grid of {old_grid[0]} x {old_grid[1]} + 1")
    if tuple(grid) == tuple(old_grid):
        return table.clone()
    patches = table[1:].float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    patches = nn.functional.interpolate(patches, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches[0].permute(1, 2, 0).reshape(grid[0] * grid[1], -1).to(table.dtype)])


__all__ = [
    "CAPTION_TOKENS",
    "TEXT_POSITIONS",
    "UNCHANGED_TEXT_POSITIONS",
    "VISION_POSITIONS",
    "lengthen_text_positions",
    "resize_image_positions",
    "rogle_weights",
]
