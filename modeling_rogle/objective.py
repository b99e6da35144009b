"""The objective of a training step: which embeddings the losses read, the terms, and their weighted sum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_rogle import RogleConfig
from .losses import (
    identity_loss,
    multi_positive_itc,
    primary_components,
    projection_classification,
    projection_matching,
    region_sentence_contrastive,
    similarity_distribution_matching,
    token_similarity,
    triplet_alignment,
)
from .region_features import one_crop_per_image, region_features
from .vision_rogle import LastBlock


@dataclass
class Step:
    """One forward pass of [`RogleModel`], as the losses and a head read it.

    Attributes:
        model: the model.
        batch: the tensors that `forward` was given, by argument name; absent ones are None.
        vision: output of the vision model; `pooler_output` `[b, d]` is already projected.
        last_block: what the vision model kept of its last block.
        text: output of the text model for the captions; `pooler_output` `[b, d]` is already projected.
        text_features: projected text embeddings, not normalised: `caption` `[b, d]`, and as far as encoded `sentence`
            `[n, d]`, `short` `[b, d]` and `masked` `[b, d]`.
        text_states: `[b, l, hidden]` final states of the tokens of `caption` and `masked`, as far as they are needed.
        masked_targets: `[b, l]` int64, the second result of [`Head.mask_words`], or None.
        image_embeds: `[b, d]` unit vectors.
        text_embeds: `[b, d]` unit vectors.
        region_embeds: `[n, d]` unit vectors, or None.
        sentence_embeds: `[n, d]` unit vectors, or None.
    """

    model: CLIPModel
    batch: Mapping[str, torch.Tensor | None]
    vision: BaseModelOutputWithPooling
    last_block: LastBlock
    text: BaseModelOutputWithPooling
    text_features: Mapping[str, torch.Tensor]
    text_states: Mapping[str, torch.Tensor]
    masked_targets: torch.Tensor | None
    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    region_embeds: torch.Tensor | None = None
    sentence_embeds: torch.Tensor | None = None

    def embed_regions(self, boxes: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
        """`[m, d]` unit vectors of boxes `[m, 4]` of the batch's images; box_image `[m]` int64."""
        pixels, states = self.batch["pixel_values"], self.vision.last_hidden_state
        regions = region_features(self.model, pixels, states, self.last_block, boxes, box_image)
        return nn.functional.normalize(regions, dim=-1)


class Head(nn.Module):
    """Base class of the additional modules of baselines, see `RogleConfig.head`.

    A subclass states what it reads of a forward pass, computes its inputs of the loss in `loss_inputs` and its loss
    from them in `loss`. Modules with parameters are called from there through their `forward`, as FSDP requires.

    Attributes:
        reads: which of `"patches"` (final states of all patches), `"words"` (final states of the caption's tokens) and
            `"regions"` ([`Step.embed_regions`]) it needs in a training step.
        part_counts: numbers of vectors per image and per text that [`Head.encode_image_parts`] and
            [`Head.encode_text_parts`] return.
    """

    reads: frozenset[str] = frozenset()
    part_counts: tuple[int, int] = (0, 0)

    def init_weights(self, std: float) -> None:
        """Initialises parameters that are not in a submodule."""

    def mask_words(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Captions with masked words to be encoded too, `[b, l]`, and their targets `[b, l]`; None by default."""
        return None

    def loss_inputs(self, step: Step) -> dict[str, torch.Tensor]:
        """Tensors that [`Head.loss`] reads, each with one row per image, caption, pair or word."""
        raise NotImplementedError

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The scalar loss of the gathered rows of `loss_inputs`, of `person_ids` and of `caption_weight`."""
        raise NotImplementedError

    def encode_image_parts(self, model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[b, K, d]` unit vectors of images `[b, 3, height, width]` that the head compares at inference."""
        return torch.zeros(len(pixel_values), 0, model.projection_dim, device=pixel_values.device)

    def encode_text_parts(self, model: CLIPModel, input_ids: torch.Tensor) -> torch.Tensor:
        """`[n, K, d]` unit vectors of texts `[n, l]` that the head compares at inference."""
        return torch.zeros(len(input_ids), 0, model.projection_dim, device=input_ids.device)


def check_batch(config: RogleConfig, batch: Mapping[str, Any], training: bool) -> None:
    """Checks the tensors that `forward` was given, by argument name.

    Raises:
        ValueError: an argument is missing, or its number of rows is wrong.
    """
    if batch["input_ids"] is None or batch["pixel_values"] is None:
        raise ValueError("RogleModel.forward needs input_ids and pixel_values; see encode_images and encode_texts")
    captions, boxes = len(batch["input_ids"]), 0 if batch["boxes"] is None else len(batch["boxes"])
    names = ("box_image", "sentence_input_ids", "sentence_spans", "sentence_ids", "sentence_numbers", "part_ids")
    for name in (*names, "pair_weight"):
        if batch[name] is not None and (batch["boxes"] is None or len(batch[name]) != boxes):
            raise ValueError(f"{name} must have one row for each of {boxes} boxes")
    if batch["boxes"] is not None and batch["box_image"] is None:
        raise ValueError(f"box_image must have one row for each of {boxes} boxes")
    for name in ("person_ids", "caption_weight", "identities", "short_input_ids"):
        if batch[name] is not None and len(batch[name]) != captions:
            raise ValueError(f"{name} must have one row for each of {captions} captions")
    for weight, name in (("short_loss_weight", "short_input_ids"), ("id_loss_weight", "identities")):
        if training and getattr(config, weight) > 0 and batch[name] is None:
            raise ValueError(f"{weight} is set: RogleModel.forward needs {name}")


def needs_spans(config: RogleConfig, batch: Mapping[str, torch.Tensor | None]) -> bool:
    """Whether the token-similarity loss of texts reads the token states of the captions."""
    return config.tsl_text_weight > 0 and batch["sentence_spans"] is not None and batch["boxes"] is not None


def collect_loss_inputs(step: Step, head: Head | None) -> dict[str, torch.Tensor]:
    """The tensors that [`weighted_terms`] reads, of one forward pass.

    Args:
        step: the forward pass.
        head: the model's head, or None.
    """
    config, batch = step.model.config, step.batch
    inputs: dict[str, torch.Tensor | None] = {
        "image_embeds": step.image_embeds,
        "text_embeds": step.text_embeds,
        "person_ids": batch["person_ids"],
        "caption_weight": batch["caption_weight"],
    }
    if step.region_embeds is not None and step.sentence_embeds is not None:
        inputs |= _pair_inputs(step, step.region_embeds, step.sentence_embeds)
    if config.id_loss_weight > 0:
        inputs["identities"] = batch["identities"]
    if config.id_loss_weight > 0 or config.global_loss == "cmpm":
        inputs |= {"image_features": step.vision.pooler_output, "text_features": step.text_features["caption"]}
    if "short" in step.text_features:
        inputs["short_embeds"] = nn.functional.normalize(step.text_features["short"], dim=-1)
    if head is not None:
        inputs |= head.loss_inputs(step)
    return {name: value for name, value in inputs.items() if value is not None}


def _pair_inputs(step: Step, regions: torch.Tensor, sentences: torch.Tensor) -> dict[str, torch.Tensor | None]:
    config, batch = step.model.config, step.batch
    pairs = {name: batch[name] for name in ("sentence_ids", "part_ids", "pair_weight", "sentence_numbers")}
    inputs = {"region_embeds": regions, "sentence_embeds": sentences, **pairs}
    spans = batch["sentence_spans"]
    if needs_spans(config, batch) and spans is not None:
        first = first_pairs(batch["sentence_numbers"], len(spans), spans.device)
        pooled, rows = _pool_spans(step.text_states["caption"], spans, batch["box_image"], first)
        inputs["span_embeds"], inputs["span_targets"] = step.model.text_projection(pooled), sentences[rows]
    if _contrasts_crops(config) or config.tsl_image_weight > 0:
        rows, inputs["crop_embeds"] = one_crop_per_image(
            step.model, batch["pixel_values"], regions, batch["boxes"], batch["box_image"]
        )
        crops = {"cropped_regions": regions, "crop_weight": pairs["pair_weight"]}
        if _contrasts_crops(config):
            crops |= {"crop_sentences": sentences}
            crops |= {"crop_sentence_ids": pairs["sentence_ids"], "crop_part_ids": pairs["part_ids"]}
        inputs |= {name: value[rows] for name, value in crops.items() if value is not None}
    return inputs


def first_pairs(sentence_numbers: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    """`[count]` bool: whether a pair is the first one of its sentence.

    A sentence about several regions has several pairs. What concerns the sentence only is computed for the first.

    Args:
        sentence_numbers: `[count]` int64, equal for the pairs of one sentence of one image, or None: all differ.
        count: number of pairs.
        device: device of the result.
    """
    first = torch.ones(count, dtype=torch.bool, device=device)
    if sentence_numbers is not None:
        order = sentence_numbers.argsort(stable=True)
        first[order[1:]] = sentence_numbers[order[1:]] != sentence_numbers[order[:-1]]
    return first


def _pool_spans(
    states: torch.Tensor, spans: torch.Tensor, caption: torch.Tensor, first: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[m, hidden]` mean token states of the sentences that lie in their captions, and the rows `[m]` of these.

    Each sentence is taken once: `first` `[n]` is the result of [`first_pairs`].
    """
    rows = ((spans[:, 1] > spans[:, 0]) & first).nonzero()[:, 0]
    position = torch.arange(states.shape[1], device=states.device)
    inside = (position >= spans[rows, :1]) & (position < spans[rows, 1:])
    share = inside.to(states.dtype) / inside.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("nl,nlh->nh", share, states[caption[rows]]), rows


def weighted_terms(
    config: RogleConfig,
    inputs: Mapping[str, torch.Tensor],
    log_scale: torch.Tensor,
    region_scale: torch.Tensor,
    classifier: nn.Linear | None = None,
    head: Head | None = None,
) -> dict[str, torch.Tensor]:
    """The loss and its terms, of one batch or of several batches concatenated.

    Every term is a mean over images, pairs or words. The rows of several processes or calls may therefore be
    concatenated name by name, whatever their numbers.

    Args:
        config: weights and kinds of the terms.
        inputs: the result of [`collect_loss_inputs`]. A term is computed if its inputs are there.
            Of b images: `image_embeds`, `text_embeds` `[b, d]` unit vectors; `person_ids`, `caption_weight`,
            `identities` `[b]`; `image_features`, `text_features` `[b, d]`, not normalised; `short_embeds` `[b, d]`.
            Of n pairs: `region_embeds`, `sentence_embeds` `[n, d]`; `sentence_ids`, `part_ids`, `pair_weight`,
            `sentence_numbers` `[n]`.
            Of m sentences that lie in their captions: `span_embeds` `[m, d]`, their pooled tokens, and `span_targets`
            `[m, d]`, the sentences' embeddings.
            Of k crops: `cropped_regions`, `crop_embeds`, `crop_sentences` `[k, d]`; `crop_sentence_ids`,
            `crop_part_ids`, `crop_weight` `[k]`.
            Of the head: see its `loss_inputs`.
        log_scale: CLIP's logit scale, before the exponential.
        region_scale: the scale of region-sentence cosines, after the exponential.
        classifier: the identity classifier, or None.
        head: the model's head, or None.

    Returns:
        Scalars: `loss`, and those of `loss_global`, `loss_local`, `loss_tsl_text`, `loss_tsl_image`, `loss_id`,
        `loss_short` and `loss_head` that are switched on and have their inputs, as in [`RogleOutput`].
    """
    terms = {"loss_global": _global_loss(config, inputs, log_scale)}
    loss = terms["loss_global"]
    if config.local_loss_weight > 0 and ("crop_embeds" if _contrasts_crops(config) else "region_embeds") in inputs:
        terms["loss_local"] = _local_loss(config, inputs, region_scale)
        loss = loss + config.local_loss_weight * terms["loss_local"]
    if "span_embeds" in inputs:
        # Not weighted by the pairs' reliability: a sentence is part of its caption whatever its region is.
        terms["loss_tsl_text"] = token_similarity(
            inputs["span_embeds"], inputs["span_targets"], None, config.tsl_detach_target
        )
        loss = loss + config.tsl_text_weight * terms["loss_tsl_text"]
    if "crop_embeds" in inputs and config.tsl_image_weight > 0:
        terms["loss_tsl_image"] = token_similarity(
            inputs["cropped_regions"], inputs["crop_embeds"], inputs.get("crop_weight"), config.tsl_detach_target
        )
        loss = loss + config.tsl_image_weight * terms["loss_tsl_image"]
    if "identities" in inputs:
        terms["loss_id"] = _identity_loss(config, inputs, classifier)
        loss = loss + config.id_loss_weight * terms["loss_id"]
    if "short_embeds" in inputs:
        terms["loss_short"] = _short_loss(config, inputs, log_scale)
        loss = loss + config.short_loss_weight * terms["loss_short"]
    if head is not None:
        terms["loss_head"] = head.loss(inputs)
        loss = loss + config.head_config["head_loss_weight"] * terms["loss_head"]

    # Data-parallel training needs a gradient for every parameter in every step.
    loss = loss + 0.0 * (region_scale.sum() + log_scale.sum())  # under FSDP a vector of one
    if "loss_id" not in terms and classifier is not None:
        loss = loss + 0.0 * classifier.weight.sum()
    return {"loss": loss, **terms}


def _contrasts_crops(config: RogleConfig) -> bool:
    return config.local_contrast == "crop" and config.local_loss_weight > 0


def _scale(config: RogleConfig, log_scale: torch.Tensor) -> torch.Tensor | float:
    return 1 / config.itc_temperature if config.itc_temperature > 0 else log_scale.clamp(max=math.log(100)).exp()


def _global_loss(config: RogleConfig, inputs: Mapping[str, torch.Tensor], log_scale: torch.Tensor) -> torch.Tensor:
    images, texts = inputs["image_embeds"], inputs["text_embeds"]
    rest = inputs.get("person_ids"), inputs.get("caption_weight")
    if config.global_loss == "sdm":
        return similarity_distribution_matching(images, texts, *rest)
    if config.global_loss == "tal":
        return triplet_alignment(images, texts, *rest)
    if config.global_loss == "cmpm":
        return projection_matching(inputs["image_features"], inputs["text_features"], *rest)
    return multi_positive_itc(images, texts, _scale(config, log_scale), *rest, config.same_identity == "excluded")


def _local_loss(config: RogleConfig, inputs: Mapping[str, torch.Tensor], region_scale: torch.Tensor) -> torch.Tensor:
    if _contrasts_crops(config):
        # One crop an image: no two crops share a sentence.
        names: tuple[str, ...] = ("crop_sentences", "crop_sentence_ids", "crop_part_ids", "crop_weight")
        regions = nn.functional.normalize(inputs["crop_embeds"], dim=-1)
    else:
        names = ("sentence_embeds", "sentence_ids", "part_ids", "pair_weight", "sentence_numbers")
        regions = inputs["region_embeds"]
    sentences, *rest = (inputs.get(name) for name in names)
    return region_sentence_contrastive(regions, sentences, region_scale, *rest)


def _identity_loss(config: RogleConfig, inputs: Mapping[str, torch.Tensor], classifier: nn.Linear) -> torch.Tensor:
    images, texts = inputs["image_features"], inputs["text_features"]
    identities, weight = inputs["identities"], inputs.get("caption_weight")
    if config.id_loss == "cmpc":
        return projection_classification(images, texts, classifier.weight, identities, weight)
    return identity_loss(classifier(images), classifier(texts), identities, weight)


def _short_loss(config: RogleConfig, inputs: Mapping[str, torch.Tensor], log_scale: torch.Tensor) -> torch.Tensor:
    coarse = primary_components(inputs["image_embeds"], config.short_components)
    return multi_positive_itc(
        nn.functional.normalize(coarse, dim=-1),
        inputs["short_embeds"],
        _scale(config, log_scale),
        inputs.get("person_ids"),
        inputs.get("caption_weight"),
        config.same_identity == "excluded",
    )


__all__ = ["Head", "Step", "check_batch", "collect_loss_inputs", "first_pairs", "needs_spans", "weighted_terms"]
