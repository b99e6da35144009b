"""Embeddings of bounding boxes: from the patches of one forward pass of the image, or of the cropped boxes."""

import torch
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .box_ops import check_box_image, crop_boxes, mean_patch_tokens, roi_align
from .vision_rogle import LastBlock, maybe_checkpointed


def last_block_for(feature: str | None, last_states: bool = False) -> LastBlock:
    """What the image's forward pass has to compute and keep of the last block.

    Args:
        feature: `RogleConfig.region_feature`, or None if no region is embedded.
        last_states: the final states of all patches are needed for something else.
    """
    return LastBlock(feature == "dense_roi", class_token_only=not last_states and feature != "patch_mean")


def region_features(
    model: CLIPModel,
    pixel_values: torch.Tensor,
    states: torch.Tensor,
    last_block: LastBlock,
    boxes: torch.Tensor,
    box_image: torch.Tensor,
) -> torch.Tensor:
    """Region embeddings of the kind `config.region_feature`.

    Args:
        model: the [`RogleModel`].
        pixel_values: `[b, 3, height, width]`, normalised by the processor.
        states: `[b, 1 + patches, hidden]`, final states of these images; `"patch_mean"` reads them.
        last_block: what the forward pass kept; `"dense_roi"` reads it.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64, the image of each box.

    Returns:
        `[n, d]`, not normalised.

    Raises:
        ValueError: a box without area in its image, or a box_image that names no image.
    """
    check_box_image(box_image, len(pixel_values))
    if not len(boxes):
        return states.new_zeros(0, model.projection_dim)
    feature = model.config.region_feature
    if feature == "crop":
        crops = crop_boxes(pixel_values, boxes, box_image)
        # Without gradients a few crops at a time save memory; a training step needs all activations anyway.
        count = len(crops) if torch.is_grad_enabled() else max(len(pixel_values), 16)
        return model.visual_projection(torch.cat([_pooled_images(model, part) for part in crops.split(count)]))
    patch = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
    if feature == "patch_mean":
        pooled = mean_patch_tokens(states[:, 1:], boxes, box_image, grid)
    elif last_block.input is None:
        raise ValueError("last_block: the forward pass did not keep the input of the last block")
    else:
        tokens = value_only_block(model.vision_model.encoder.layers[-1], last_block.input[:, 1:])
        pooled = roi_align(tokens, boxes, box_image, grid)[:, 0, 0]
    return model.visual_projection(model.vision_model.post_layernorm(pooled))


def one_crop_per_image(
    model: CLIPModel,
    pixel_values: torch.Tensor,
    region_embeds: torch.Tensor,
    boxes: torch.Tensor,
    box_image: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops the first box of each image, which costs one more forward pass per step (GOAL crops the best box).

    Args:
        model: the [`RogleModel`].
        pixel_values: `[b, 3, height, width]`.
        region_embeds: `[n, d]`, returned as they are if there is no box.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64.

    Returns:
        `[k]` int64, the rows of the cropped boxes, and `[k, d]`, the embeddings of the crops, not normalised.
    """
    order = box_image.argsort(stable=True)
    first = torch.ones_like(box_image, dtype=torch.bool)
    first[1:] = box_image[order][1:] != box_image[order][:-1]
    rows = order[first]
    if not len(rows):
        return rows, region_embeds
    crops = crop_boxes(pixel_values, boxes[rows], box_image[rows])
    return rows, model.visual_projection(_pooled_images(model, crops))


def value_only_block(layer: CLIPEncoderLayer, states: torch.Tensor) -> torch.Tensor:
    """A block in which each token attends to itself only (MaskCLIP, arXiv 2112.01071).

    Queries and keys are not used. Values, output projection, both residuals and the MLP stay. The result equals the
    block with the identity as its attention matrix, so the following layers read sums of the kind they were trained on.

    Args:
        layer: one vision block.
        states: `[b, l, hidden]`, its input.

    Returns:
        `[b, l, hidden]`.
    """

    def block(states: torch.Tensor) -> torch.Tensor:
        attention = layer.self_attn
        states = states + attention.out_proj(attention.v_proj(layer.layer_norm1(states)))
        return states + layer.mlp(layer.layer_norm2(states))

    return maybe_checkpointed(layer, block, states)


def _pooled_images(model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """`[n, hidden]` class tokens of images of the model's own size or of any other."""
    last_block = LastBlock(class_token_only=True)
    vision = model.vision_model(pixel_values=pixel_values, interpolate_pos_encoding=True, last_block=last_block)
    return vision.pooler_output


__all__ = ["last_block_for", "one_crop_per_image", "region_features", "value_only_block"]
