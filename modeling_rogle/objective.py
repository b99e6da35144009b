"""What a training step minimises: the terms that a configuration asks for, from embeddings alone, and their sum."""

import math
from collections.abc import Mapping

import torch
from torch import nn

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


def weighted_terms(
    config: RogleConfig,
    inputs: Mapping[str, torch.Tensor],
    log_scale: torch.Tensor,
    region_scale: torch.Tensor,
    classifier: nn.Linear | None = None,
    head: nn.Module | None = None,
) -> dict[str, torch.Tensor]:
    """The loss and its terms, of a batch or of several put together.

    Every term is a mean over images, pairs or words, so rows of several processes or calls may be put end to end, name
    by name, whatever their numbers.

    Args:
        inputs: of b images `image_embeds`, `text_embeds` `[b, d]`, and as far as given to [`RogleModel.forward`]
            `person_ids`, `caption_weight`, `identities` `[b]`; `image_features`, `text_features` `[b, d]`, not
            normalised, where a term reads them; `short_embeds` `[b, d]` of the short captions. Of n pairs
            `region_embeds`, `sentence_embeds` `[n, d]`, `sentence_ids`, `part_ids`, `pair_weight` `[n]`;
            `span_embeds`, `span_targets` `[m, d]`, the pooled tokens of the sentences found in their captions, and the
            sentences; one region an image, and its crop: `cropped_regions`, `crop_embeds`, `crop_sentences` `[k, d]`,
            `crop_sentence_ids`, `crop_part_ids`, `crop_weight` `[k]`. Rows of the head: `head_...`, see its room.
        log_scale: CLIP's logit scale, before the exponential; region_scale: that of regions, after it.
        classifier: of identities; head: see `RogleConfig.head`.

    Returns:
        Scalars `loss` and those of `loss_global`, `loss_local`, `loss_tsl_text`, `loss_tsl_image`,
        `loss_id`, `loss_short`, `loss_head` that are switched on and have their inputs, as in [`RogleOutput`].
    """
    given = inputs.get
    terms = {"loss_global": _global_loss(config, inputs, log_scale)}
    loss = terms["loss_global"]
    of_crops = config.local_contrast == "crop"
    if config.local_loss_weight > 0 and ("crop_embeds" if of_crops else "region_embeds") in inputs:
        names = ("crop_sentences", "crop_sentence_ids", "crop_part_ids", "crop_weight") if of_crops else (
            "sentence_embeds", "sentence_ids", "part_ids", "pair_weight"
        )  # fmt: skip
        sentences, *rest = (given(name) for name in names)
        regions = nn.functional.normalize(inputs["crop_embeds"], dim=-1) if of_crops else inputs["region_embeds"]
        terms["loss_local"] = region_sentence_contrastive(regions, sentences, region_scale, *rest)
        loss = loss + config.local_loss_weight * terms["loss_local"]
    if "span_embeds" in inputs:
        # Not weighted by the pairs' reliability: a sentence is part of its caption whatever its region is.
        terms["loss_tsl_text"] = token_similarity(
            inputs["span_embeds"], inputs["span_targets"], None, config.tsl_detach_target
        )
        loss = loss + config.tsl_text_weight * terms["loss_tsl_text"]
    if "crop_embeds" in inputs:
        pairs = inputs["cropped_regions"], inputs["crop_embeds"], given("crop_weight")
        if config.tsl_image_weight > 0:
            terms["loss_tsl_image"] = token_similarity(*pairs, config.tsl_detach_target)
            loss = loss + config.tsl_image_weight * terms["loss_tsl_image"]
    if "identities" in inputs:
        terms["loss_id"] = _identity_loss(config, inputs, classifier)
        loss = loss + config.id_loss_weight * terms["loss_id"]
    if "short_embeds" in inputs:
        coarse = primary_components(inputs["image_embeds"], config.short_components)
        terms["loss_short"] = multi_positive_itc(
            nn.functional.normalize(coarse, dim=-1), inputs["short_embeds"], _scale(config, log_scale),
            given("person_ids"), given("caption_weight"), config.same_identity == "excluded",
        )  # fmt: skip
        loss = loss + config.short_loss_weight * terms["loss_short"]
    if head is not None:
        terms |= head.losses(inputs)
        loss = loss + config.head_config["head_loss_weight"] * terms["loss_head"]

    # Data-parallel training wants a gradient for every parameter in every step.
    loss = loss + 0.0 * (region_scale.sum() + log_scale.sum())  # under FSDP a vector of one
    if "loss_id" not in terms and classifier is not None:
        loss = loss + 0.0 * classifier.weight.sum()
    return {"loss": loss, **terms}


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


def _identity_loss(config: RogleConfig, inputs: Mapping[str, torch.Tensor], classifier: nn.Linear) -> torch.Tensor:
    images, texts = inputs["image_features"], inputs["text_features"]
    identities, weight = inputs["identities"], inputs.get("caption_weight")
    if config.id_loss == "cmpc":
        return projection_classification(images, texts, classifier.weight, identities, weight)
    return identity_loss(classifier(images), classifier(texts), identities, weight)


__all__ = ["weighted_terms"]
