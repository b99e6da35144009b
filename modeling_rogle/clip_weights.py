"""Plain CLIP's weights and configuration -> a Rogle's: position tables of the rectangle and of long captions."""

from typing import Any

import torch
from transformers import CLIPModel
from transformers.utils import logging

from .configuration_rogle import RogleConfig
from .positions import lengthen_text_positions, resize_image_positions

logger = logging.get_logger(__name__)

VISION_POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
# Read when plain CLIP weights are loaded: the caption length of the release (Long-CLIP's 20 + 57 * 4).
CAPTION_TOKENS = 248


def rogle_weights(
    name: str, clip: CLIPModel, fields: dict[str, Any], tokens: int | None = None
) -> tuple[RogleConfig, dict[str, torch.Tensor]]:
    """Configuration and weights of a [`RogleModel`] that starts from CLIP; says in one log line what it did.

    Args:
        name: of the checkpoint, for messages.
        fields: of [`RogleConfig`] to set.
        tokens: caption length; None for `CAPTION_TOKENS`, or the checkpoint's if that is more.

    Returns:
        Configuration, and every weight but those of `config.head`, which starts anew.

    Raises:
        ValueError: fewer text positions than the checkpoint has.
    """
    state, source = clip.state_dict(), clip.config.to_dict()
    for key in ("model_type", "architectures", "transformers_version", "auto_map"):
        source.pop(key, None)
    old_tokens, old_side = source["text_config"]["max_position_embeddings"], source["vision_config"]["image_size"]
    if tokens is not None and tokens < old_tokens:
        raise ValueError(f"max_position_embeddings={tokens}: {name} has {old_tokens} text positions, none are dropped")
    source["text_config"]["max_position_embeddings"] = tokens or max(CAPTION_TOKENS, old_tokens)
    config = RogleConfig(**(source | fields))
    patch = config.vision_config.patch_size
    state[VISION_POSITIONS] = resize_image_positions(
        state[VISION_POSITIONS], config.patch_grid, (old_side // patch, old_side // patch)
    )
    state[TEXT_POSITIONS] = lengthen_text_positions(state[TEXT_POSITIONS], config.text_config.max_position_embeddings)
    # What every Rogle has is filled here as well: nothing is left for the loader to report missing.
    state["region_head.logit_scale"] = torch.tensor([config.region_logit_scale_init_value])
    if config.num_identities:
        shape = (config.num_identities, config.projection_dim)
        state["identity_classifier.weight"] = torch.randn(shape) * config.initializer_range
    logger.warning_once(
        f"{name}: CLIP weights read into RogleModel: image positions {old_side} x {old_side} -> "
        f"{config.image_size[0]} x {config.image_size[1]} px (bicubic), text positions {old_tokens} -> "
        f"{config.text_config.max_position_embeddings} (stretched); new: region_head.logit_scale"
    )
    return config, state


__all__ = ["CAPTION_TOKENS", "TEXT_POSITIONS", "VISION_POSITIONS", "rogle_weights"]
