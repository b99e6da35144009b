"""Training objectives: embeddings, ids and weights in, one scalar out. Sums of exponentials are taken in fp32."""

import torch
from torch import nn


def multi_positive_itc(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    person_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric image-text contrastive loss in which every pair of one identity is a positive.

    The target of a row is uniform over its positives; with one image an identity this is CLIP's InfoNCE.

    Args:
        image_embeds: `[b, d]` unit vectors; text_embeds: `[b, d]` unit vectors, row i describing image i.
        logit_scale: scalar, already exponentiated.
        person_ids: `[b]` int64, or None for one identity a row.

    Returns:
        Scalar, fp32 (at least).
    """
    logits = logit_scale.to(image_embeds.dtype) * image_embeds @ text_embeds.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if person_ids is None:
        person_ids = torch.arange(len(logits), device=logits.device)
    same = (person_ids[:, None] == person_ids[None, :]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)
    by_image = -(target * logits.log_softmax(1)).sum(1).mean()
    by_text = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (by_image + by_text) / 2


def region_sentence_contrastive(
    region_embeds: torch.Tensor,
    sentence_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    sentence_ids: torch.Tensor | None = None,
    part_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric contrastive loss over region-sentence pairs with identity masking (ours; the paper's is not public).

    Row n of both is one pair. Left out of the negatives, since they may well be true: any pair whose sentence is
    equal ("She has black shoes."), and a pair of the same person in another picture that names the same part.

    Args:
        region_embeds: `[n, d]` unit vectors; sentence_embeds: `[n, d]` unit vectors.
        logit_scale: scalar, already exponentiated.
        sentence_ids: `[n]` int64, equal for equal text, or None.
        part_ids: `[n]` int64, equal for the same part of the same person (his shoes in two pictures), or None.
            Different parts of one person stay negatives of each other: his shoes are not his jacket.
        weight: `[n]` reliability of each pair in [0, 1], or None for 1.

    Returns:
        Scalar, fp32 (at least): the weighted mean of both directions; 0 when there is no pair or no weight.
    """
    if len(region_embeds) == 0:
        return region_embeds.sum() + sentence_embeds.sum()
    logits = logit_scale.to(region_embeds.dtype) * region_embeds @ sentence_embeds.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    n = len(logits)
    pair = torch.arange(n, device=logits.device)
    ignored = torch.zeros(n, n, dtype=torch.bool, device=logits.device)
    for ids in (sentence_ids, part_ids):
        if ids is not None:
            ignored |= ids[:, None] == ids[None, :]
    ignored[pair, pair] = False
    logits = logits.masked_fill(ignored, float("-inf"))
    each = (
        nn.functional.cross_entropy(logits, pair, reduction="none")
        + nn.functional.cross_entropy(logits.T, pair, reduction="none")
    ) / 2
    if weight is None:
        return each.mean()
    weight = weight.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def token_similarity(
    pooled_tokens: torch.Tensor,
    target_embeds: torch.Tensor,
    weight: torch.Tensor | None = None,
    detach_target: bool = True,
) -> torch.Tensor:
    """Token-similarity loss (TSL, GOAL, arXiv 2503.17782): mean of (cos - 1)^2 over pairs.

    Pulls the pooled tokens of a part, taken in its whole picture or caption, towards the embedding of the part alone.

    Args:
        pooled_tokens: `[n, d]`; target_embeds: `[n, d]`; neither needs unit length.
        weight: `[n]` in [0, 1], or None for 1.
        detach_target: no gradient to the target.

    Returns:
        Scalar, fp32 (at least); 0 when there is no pair.
    """
    if len(pooled_tokens) == 0:
        return pooled_tokens.sum()
    if detach_target:
        target_embeds = target_embeds.detach()
    if pooled_tokens.dtype != torch.float64:
        pooled_tokens, target_embeds = pooled_tokens.float(), target_embeds.float()
    each = (nn.functional.cosine_similarity(pooled_tokens, target_embeds, dim=-1) - 1) ** 2
    if weight is None:
        return each.mean()
    weight = weight.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)
