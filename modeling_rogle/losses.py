"""Training objectives: embeddings, ids and weights in, one scalar out.

Cosines, logits and sums of exponentials are taken in fp32 (fp64 stays) with autocast off, whatever type the embeddings
have: bf16 rounds a cosine near 0.5 by up to 0.001, a tenth of a logit at the scale of 100. Every loss is a weighted
mean over its pairs and 0 where there is no pair or no weight.

The weight of an image-caption pair is the trust in [0, 1] that the caption describes the person of its image, whose
identity is taken as certain (ours). So a caption of weight 0 pulls no image, and images of its own identity do not push
it away; to other people it stays a negative, and its image stays a candidate for every other caption.
"""

import torch
from torch import nn


def multi_positive_itc(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    exclude_same: bool = False,
) -> torch.Tensor:
    """Symmetric image-text contrastive loss in which every pair of one identity is a positive.

    The target of a row is uniform over its positives; with one image an identity this is CLIP's InfoNCE. With weights
    a caption counts in the rows of its own identity as that many captions, see [`_positives`].

    With a small fixed temperature this is CTLG's hardness-aware contrast (arXiv 2311.09084): a negative's gradient is
    its share `softmax(s / temperature)`, so the hardest get nearly all of it.

    Args:
        image_embeds: `[b, d]` unit vectors; text_embeds: `[b, d]` unit vectors, row i describing image i.
        logit_scale: scalar, already exponentiated.
        person_ids: `[b]` int64, or None for one identity a row.
        weight: `[b]` in [0, 1], or None for 1.
        exclude_same: a row's own pair is its only positive, and others of its identity are left out of its sum.

    Returns:
        Scalar, fp32 (at least): the mean of both directions.
    """
    cosine = cosines(image_embeds, text_embeds)
    if len(cosine) == 0:
        return cosine.sum()
    losses = []
    for logits, target, log_count, row_weight in _directions(cosine, logit_scale, person_ids, weight, exclude_same):
        log_p = (logits + log_count).log_softmax(1).masked_fill(log_count.isinf(), 0.0)
        losses.append(_weighted_mean(-(target * log_p).sum(1), row_weight))
    return (losses[0] + losses[1]) / 2


def similarity_distribution_matching(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    temperature: float = 0.02,
) -> torch.Tensor:
    """SDM (IRRA, arXiv 2303.12501): KL(p || q + 1e-8) of similarities p to identity labels q, both normalised by row.

    IRRA adds the two directions; here they are averaged, so that the loss weighs like the others.

    Args:
        image_embeds, text_embeds, person_ids, weight: as in [`multi_positive_itc`].
        temperature: of the softmax p over cosines; fixed, the model's logit scale is not read.

    Returns:
        Scalar, fp32 (at least).
    """
    return label_divergence(cosines(image_embeds, text_embeds), person_ids, weight, temperature)


def label_divergence(
    similarity: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    temperature: float = 0.02,
) -> torch.Tensor:
    """SDM's divergence of any similarity of images and captions: KL(softmax(s / temperature) || labels), both ways.

    Args:
        similarity: `[b, b]`, image i and caption j.
        person_ids, weight: as in [`multi_positive_itc`].
        temperature: of the softmax.

    Returns:
        Scalar, fp32 (at least).
    """
    similarity = _wide(similarity)
    if len(similarity) == 0:
        return similarity.sum()
    losses = [_divergence(*each) for each in _directions(similarity, 1 / temperature, person_ids, weight)]
    return (losses[0] + losses[1]) / 2


def projection_matching(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """CMPM (Zhang and Lu, ECCV 2018), ACSA's global loss: SDM of the projections of one side on the other's directions.

    Row i of a direction is `softmax_j(x_i . z_j / |z_j|)`: its sharpness is the length of its own feature, which is
    learnt, in place of a temperature. The paper adds the two directions; here they are averaged.

    Args:
        image_features, text_features: `[b, d]`, not normalised.
        person_ids, weight: as in [`multi_positive_itc`].

    Returns:
        Scalar, fp32 (at least).
    """
    image, text = _wide(image_features), _wide(text_features)
    normalize = nn.functional.normalize
    cosine = cosines(normalize(image, dim=-1), normalize(text, dim=-1))
    if len(cosine) == 0:
        return cosine.sum()
    lengths = image.norm(dim=-1, keepdim=True), text.norm(dim=-1, keepdim=True)
    losses = [
        _divergence(length * logits, *rest)
        for length, (logits, *rest) in zip(lengths, _directions(cosine, 1.0, person_ids, weight), strict=True)
    ]
    return (losses[0] + losses[1]) / 2


def projection_classification(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    classes: torch.Tensor,
    identities: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """CMPC (Zhang and Lu, ECCV 2018): the identity, told from each feature's projection on its partner's direction.

    The projection of x on z is `(x . z / |z|) z / |z|`; the classes have unit length, so that none wins by its own.
    The paper adds the two sides; here they are averaged, as in [`identity_loss`].

    Args:
        image_features, text_features: `[b, d]`, not normalised, row i one pair.
        classes: `[num_identities, d]`, one direction an identity for both modalities.
        identities: `[b]` int64 in [0, num_identities).
        weight: `[b]` trust in each image-caption pair. Both projections need both, so both are weighed by it.

    Returns:
        Scalar, fp32 (at least).
    """
    image, text = _wide(image_features), _wide(text_features)
    directions = nn.functional.normalize(_wide(classes).to(image.dtype), dim=-1)
    losses = []
    for one, other in ((image, text), (text, image)):
        unit = nn.functional.normalize(other, dim=-1)
        projected = (one * unit).sum(-1, keepdim=True) * unit
        with torch.autocast(one.device.type, enabled=False):
            logits = projected @ directions.T
        losses.append(_weighted_mean(nn.functional.cross_entropy(logits, identities, reduction="none"), weight))
    return (losses[0] + losses[1]) / 2


def primary_components(features: torch.Tensor, count: int) -> torch.Tensor:
    """Features reduced to the batch's `count` first principal components (Long-CLIP, arXiv 2403.15378).

    What a short caption is compared with: an image without the details that only the long one tells. The directions are
    taken without gradient (ours: the gradient of an eigenvector grows without bound as two variances meet).

    Args:
        features: `[b, d]`.
        count: of components; from min(b - 1, d) on all that there is.

    Returns:
        `[b, d]`, fp32 (at least): the mean plus the projection of what differs from it.
    """
    features = _wide(features)
    if len(features) == 0 or count >= min(len(features) - 1, features.shape[1]):
        return features
    mean = features.mean(0, keepdim=True)
    with torch.no_grad():
        kept = torch.linalg.svd(features - mean, full_matrices=False).Vh[:count]
    with torch.autocast(features.device.type, enabled=False):
        return mean + (features - mean) @ kept.T @ kept


def triplet_alignment(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    temperature: float = 0.015,
    margin: float = 0.1,
) -> torch.Tensor:
    """TAL (RDE, arXiv 2308.09911): a triplet loss whose hardest negative is softened to a log-sum-exp.

    For each row `[margin - s+ + temperature * log sum_negatives exp(s / temperature)]_+`, where s+ is the mean cosine
    of the positives weighted by their own, detached, softmax. RDE sums over the batch and both directions; here both
    are means, and the loss is divided by the temperature: so its gradient does not grow with the batch and is of the
    size of an InfoNCE loss of that temperature. (RDE's sum over 64 rows is the same but for a factor of 64 * 0.015.)

    Args:
        image_embeds, text_embeds, person_ids, weight: as in [`multi_positive_itc`].
        temperature, margin: in units of cosine.

    Returns:
        Scalar, fp32 (at least); a row without negatives costs nothing.
    """
    cosine = cosines(image_embeds, text_embeds)
    if len(cosine) == 0:
        return cosine.sum()
    losses = []
    for logits, target, log_count, row_weight in _directions(cosine, 1 / temperature, person_ids, weight):
        share = (logits.detach() + log_count).masked_fill(target == 0, float("-inf")).softmax(1)
        # A same-identity caption of weight 0 has no target either, but is no negative.
        positive = (target > 0) | log_count.isinf()
        negatives = logits.masked_fill(positive, float("-inf")).logsumexp(1)
        hinge = (margin / temperature - (share * logits).sum(1) + negatives).clamp(min=0)
        losses.append(_weighted_mean(hinge, row_weight))
    return (losses[0] + losses[1]) / 2


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
    equal ("She has black shoes."), and a pair of the same person in another image that names the same part. A pair
    of weight 0 neither pulls nor pushes in its own row and column, and stays a negative to the others.

    Args:
        region_embeds: `[n, d]` unit vectors; sentence_embeds: `[n, d]` unit vectors.
        logit_scale: scalar, already exponentiated.
        sentence_ids: `[n]` int64, equal for equal text, or None.
        part_ids: `[n]` int64, equal for the same part of the same person (his shoes in two images), or None.
            Different parts of one person stay negatives of each other: his shoes are not his jacket.
        weight: `[n]` reliability of each pair in [0, 1], or None for 1.

    Returns:
        Scalar, fp32 (at least): the mean of both directions.
    """
    cosine = cosines(region_embeds, sentence_embeds)
    if len(cosine) == 0:
        return cosine.sum()
    logits = _wide(logit_scale).to(cosine.dtype) * cosine
    pair = torch.arange(len(logits), device=logits.device)
    ignored = same_by_any((sentence_ids, part_ids), len(logits), logits.device)
    ignored[pair, pair] = False
    logits = logits.masked_fill(ignored, float("-inf"))
    each = (
        nn.functional.cross_entropy(logits, pair, reduction="none")
        + nn.functional.cross_entropy(logits.T, pair, reduction="none")
    ) / 2
    return _weighted_mean(each, weight)


def token_similarity(
    pooled_tokens: torch.Tensor,
    target_embeds: torch.Tensor,
    weight: torch.Tensor | None = None,
    detach_target: bool = True,
) -> torch.Tensor:
    """Token-similarity loss (TSL, GOAL, arXiv 2503.17782): mean of (cos - 1)^2 over pairs.

    Pulls the pooled tokens of a part, taken in its whole image or caption, towards the embedding of the part alone.

    Args:
        pooled_tokens: `[n, d]`; target_embeds: `[n, d]`; neither needs unit length.
        weight: `[n]` in [0, 1], or None for 1.
        detach_target: no gradient to the target.

    Returns:
        Scalar, fp32 (at least).
    """
    if detach_target:
        target_embeds = target_embeds.detach()
    cosine = nn.functional.cosine_similarity(_wide(pooled_tokens), _wide(target_embeds), dim=-1)
    return _weighted_mean((cosine - 1) ** 2, weight)


def identity_loss(
    image_logits: torch.Tensor,
    text_logits: torch.Tensor,
    identities: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the identity under one classifier for both modalities, their mean (IRRA, arXiv 2303.12501).

    Args:
        image_logits, text_logits: `[b, num_identities]`, the same linear layer on image and caption embeddings.
        identities: `[b]` int64 in [0, num_identities).
        weight: `[b]` trust in each image-caption pair; weighs the captions only.

    Returns:
        Scalar, fp32 (at least).
    """
    by_image = nn.functional.cross_entropy(_wide(image_logits), identities, reduction="none")
    by_text = nn.functional.cross_entropy(_wide(text_logits), identities, reduction="none")
    return (_weighted_mean(by_image, None) + _weighted_mean(by_text, weight)) / 2


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`[n, d]` and `[m, d]` unit vectors -> `[n, m]`, fp32 (at least)."""
    # Under autocast the product would be cast down again.
    with torch.autocast(a.device.type, enabled=False):
        return _wide(a) @ _wide(b).T


def same_by_any(ids: tuple[torch.Tensor | None, ...], count: int, device: torch.device) -> torch.Tensor:
    """`[n, n]` bool: two rows agree in at least one of the `[n]` ids (the diagonal always does if there are any)."""
    same = torch.zeros(count, count, dtype=torch.bool, device=device)
    for each in ids:
        if each is not None:
            same |= each[:, None] == each[None, :]
    return same


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _weighted_mean(each: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if len(each) == 0:
        return each.sum()
    if weight is None:
        return each.mean()
    weight = weight.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def _directions(
    cosine: torch.Tensor,
    scale: torch.Tensor | float,
    person_ids: torch.Tensor | None,
    weight: torch.Tensor | None,
    exclude_same: bool = False,
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Image-to-text and text-to-image: logits, target, log count (see [`_positives`]) and weight of each row."""
    scale = _wide(scale).to(cosine.dtype) if isinstance(scale, torch.Tensor) else scale
    b = len(cosine)
    if person_ids is None:
        same = torch.eye(b, dtype=torch.bool, device=cosine.device)
    else:
        same = same_by_any((person_ids,), b, cosine.device)
    weight = cosine.new_ones(b) if weight is None else weight.to(cosine.dtype)
    left_out = torch.zeros_like(same)
    if exclude_same:
        own = torch.eye(b, dtype=torch.bool, device=cosine.device)
        same, left_out = own, same & ~own
    target, log_count, row_weight = _positives(same, weight)
    by_image = scale * cosine, target, log_count.masked_fill(left_out, float("-inf")), row_weight
    uniform = same.to(cosine.dtype) / same.sum(1, keepdim=True)
    by_text = scale * cosine.T, uniform, torch.zeros_like(cosine).masked_fill(left_out, float("-inf")), weight
    return by_image, by_text


def _divergence(
    logits: torch.Tensor, target: torch.Tensor, log_count: torch.Tensor, row_weight: torch.Tensor
) -> torch.Tensor:
    """KL(softmax(logits) || target + 1e-8) of each row, their weighted mean."""
    log_p = (logits + log_count).log_softmax(1)
    # What counts nothing has p = 0 and log p = -inf: their product is 0 here.
    gap = (log_p - (target + 1e-8).log()).masked_fill(log_count.isinf(), 0.0)
    return _weighted_mean((log_p.exp() * gap).sum(1), row_weight)


def _positives(same: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image-to-text rows whose captions of the same identity are trusted unequally (ours).

    A caption of weight w counts as w captions, in the target as in the softmax's sum: at the optimum all positives are
    still equally similar, only their pull differs. Counts are relative to the row's most trusted caption, so a row with
    a single positive is plain InfoNCE, and the row weighs as much as that caption is trusted.

    Returns:
        Target `[b, b]` (rows sum to 1), log of the counts `[b, b]` (0 for other identities, -inf for captions of the
        same identity without weight), weight of each row `[b]`.
    """
    trust = same * weight
    best = trust.amax(1)
    # A row without any trust has weight 0; its counts are set to 1 only to keep it finite.
    count = torch.where(best[:, None] > 0, trust / best.clamp(min=torch.finfo(best.dtype).tiny)[:, None], same * 1.0)
    target = count / count.sum(1, keepdim=True)
    return target, count.log().masked_fill(~same, 0.0), best


__all__ = [
    "identity_loss",
    "label_divergence",
    "multi_positive_itc",
    "primary_components",
    "projection_classification",
    "projection_matching",
    "region_sentence_contrastive",
    "similarity_distribution_matching",
    "token_similarity",
    "triplet_alignment",
]
