"""Training objectives: embeddings, ids and weights in, one scalar out.

Cosines, logits and sums of exponentials are computed in float32 (float64 stays) with autocast off, whatever type the
embeddings have: bfloat16 rounds a cosine near 0.5 by up to 0.001, a tenth of a logit at the scale of 100. Every loss is
a weighted mean over its pairs, and 0 if there is no pair or no weight.

The weight of an image-caption pair is the reliability in [0, 1] that the caption describes the person of its image,
whose identity is assumed to be correct (ours). A caption of weight 0 attracts no image, and images of its own identity
do not repel it. For other identities it stays a negative, and its image stays a candidate for every other caption.
"""

import torch
from torch import nn

SDM_TEMPERATURE = 0.02  # IRRA's
TAL_TEMPERATURE, TAL_MARGIN = 0.015, 0.1  # RDE's, in units of cosine


def multi_positive_itc(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor | float,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    exclude_same: bool = False,
) -> torch.Tensor:
    """Symmetric image-text contrastive loss in which every pair of one identity is a positive.

    The target of a row is uniform over its positives; with one image per identity this is CLIP's InfoNCE. With weights,
    a caption counts in the rows of its own identity as that many captions, see [`_positives`].

    With a small fixed temperature this is CTLG's hardness-aware contrast (arXiv 2311.09084): the gradient of a negative
    is its share `softmax(s / temperature)`, so the hardest negatives receive nearly all of it.

    Args:
        image_embeds: `[b, d]` unit vectors.
        text_embeds: `[b, d]` unit vectors, row i describing image i.
        logit_scale: scalar, already exponentiated.
        person_ids: `[b]` int64, or None for one identity per row.
        weight: `[b]` in [0, 1], or None for 1.
        exclude_same: the only positive of a row is its own pair, and others of its identity are left out of its sum.

    Returns:
        Scalar, float32 or float64: the mean of both directions.
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
    temperature: float = SDM_TEMPERATURE,
) -> torch.Tensor:
    """SDM (IRRA, arXiv 2303.12501): KL(p || q + 1e-8) of similarities p to identity labels q, both normalised by row.

    IRRA adds the two directions. Here they are averaged, so that the loss has the same scale as the others.

    Args:
        image_embeds: as in [`multi_positive_itc`].
        text_embeds: as in [`multi_positive_itc`].
        person_ids: as in [`multi_positive_itc`].
        weight: as in [`multi_positive_itc`].
        temperature: of the softmax p over cosines, 0.02 by default; the model's logit scale is not read.

    Returns:
        Scalar, float32 or float64.
    """
    return label_divergence(cosines(image_embeds, text_embeds), person_ids, weight, temperature)


def label_divergence(
    similarity: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    temperature: float = SDM_TEMPERATURE,
) -> torch.Tensor:
    """SDM's divergence for any similarity: KL(softmax(s / temperature) || labels), averaged over both directions.

    Args:
        similarity: `[b, b]`, image i and caption j.
        person_ids: as in [`multi_positive_itc`].
        weight: as in [`multi_positive_itc`].
        temperature: of the softmax, 0.02 by default.

    Returns:
        Scalar, float32 or float64.
    """
    similarity = at_least_float32(similarity)
    if len(similarity) == 0:
        return similarity.sum()
    losses = [_divergence(*direction) for direction in _directions(similarity, 1 / temperature, person_ids, weight)]
    return (losses[0] + losses[1]) / 2


def projection_matching(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """CMPM (Zhang and Lu, ECCV 2018), ACSA's global loss: SDM of features projected on the other side's directions.

    Row i of a direction is `softmax_j(x_i . z_j / |z_j|)`. Its sharpness is the length of its own feature, which is
    learnt, instead of a temperature. The paper adds the two directions; here they are averaged.

    Args:
        image_features: `[b, d]`, not normalised.
        text_features: `[b, d]`, not normalised, row i describing image i.
        person_ids: as in [`multi_positive_itc`].
        weight: as in [`multi_positive_itc`].

    Returns:
        Scalar, float32 or float64.
    """
    image, text = at_least_float32(image_features), at_least_float32(text_features)
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
    """CMPC (Zhang and Lu, ECCV 2018): classifies the identity from each feature projected on its partner's direction.

    The projection of x on z is `(x . z / |z|) z / |z|`. The class vectors are normalised, so that none is favoured by
    its length. The paper adds the two sides; here they are averaged, as in [`identity_loss`].

    Args:
        image_features: `[b, d]`, not normalised.
        text_features: `[b, d]`, not normalised, row i describing image i.
        classes: `[num_identities, d]`, one direction per identity for both modalities.
        identities: `[b]` int64 in [0, num_identities).
        weight: `[b]` reliability of each pair, or None for 1. It weighs both sides, since both read the whole pair.

    Returns:
        Scalar, float32 or float64.
    """
    image, text = at_least_float32(image_features), at_least_float32(text_features)
    directions = nn.functional.normalize(at_least_float32(classes).to(image.dtype), dim=-1)
    losses = []
    for features, partners in ((image, text), (text, image)):
        unit = nn.functional.normalize(partners, dim=-1)
        projected = (features * unit).sum(-1, keepdim=True) * unit
        with torch.autocast(features.device.type, enabled=False):
            logits = projected @ directions.T
        losses.append(_weighted_mean(nn.functional.cross_entropy(logits, identities, reduction="none"), weight))
    return (losses[0] + losses[1]) / 2


def primary_components(features: torch.Tensor, count: int) -> torch.Tensor:
    """Features reduced to the batch's `count` first principal components (Long-CLIP, arXiv 2403.15378).

    Short captions are compared with these: an image without the details that only its long caption describes. The
    directions are computed without gradient (ours: the gradient of an eigenvector is unbounded as two variances
    approach each other).

    Args:
        features: `[b, d]`.
        count: number of components; from min(b - 1, d) on the features are unchanged.

    Returns:
        `[b, d]`, float32 or float64: the mean plus the projected deviation from it.
    """
    features = at_least_float32(features)
    if len(features) == 0 or count >= min(len(features) - 1, features.shape[1]):
        return features
    mean = features.mean(0, keepdim=True)
    with torch.no_grad():
        directions = torch.linalg.svd(features - mean, full_matrices=False).Vh[:count]
    with torch.autocast(features.device.type, enabled=False):
        return mean + (features - mean) @ directions.T @ directions


def triplet_alignment(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    temperature: float = TAL_TEMPERATURE,
    margin: float = TAL_MARGIN,
) -> torch.Tensor:
    """TAL (RDE, arXiv 2308.09911): a triplet loss whose hardest negative is softened to a log-sum-exp.

    For each row `[margin - s+ + temperature * log sum_negatives exp(s / temperature)]_+`, where s+ is the mean cosine
    of the positives, weighted by their detached softmax. RDE sums over the batch and both directions. Here both are
    means, and the loss is divided by the temperature. So the gradient does not grow with the batch and has the size of
    an InfoNCE loss of that temperature. (RDE's sum over 64 rows differs by a factor of 64 * 0.015 only.)

    Args:
        image_embeds: as in [`multi_positive_itc`].
        text_embeds: as in [`multi_positive_itc`].
        person_ids: as in [`multi_positive_itc`].
        weight: as in [`multi_positive_itc`].
        temperature: in units of cosine, 0.015 by default.
        margin: in units of cosine, 0.1 by default.

    Returns:
        Scalar, float32 or float64. A row without negatives costs nothing.
    """
    cosine = cosines(image_embeds, text_embeds)
    if len(cosine) == 0:
        return cosine.sum()
    losses = []
    for logits, target, log_count, row_weight in _directions(cosine, 1 / temperature, person_ids, weight):
        share = (logits.detach() + log_count).masked_fill(target == 0, float("-inf")).softmax(1)
        # A caption of the same identity with weight 0 has no target either, but is not a negative.
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
    sentence_numbers: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric contrastive loss over region-sentence pairs with identity masking (ours; the paper's is not public).

    Row n of both is one pair. Two kinds of pairs are likely to be true and are left out of the negatives. They are
    pairs with an equal sentence ("She has black shoes."), and pairs that name the same part of the same person.
    A pair of weight 0 has no loss in its own row and column, and stays a negative of the others.

    A sentence about several regions has one pair with each of them. All of these regions are its positives: in the
    direction from sentence to region its target is spread over them in proportion to their weights, and the loss is the
    divergence from this target. With one region for each sentence this is the cross-entropy.

    Args:
        region_embeds: `[n, d]` unit vectors.
        sentence_embeds: `[n, d]` unit vectors.
        logit_scale: scalar, already exponentiated.
        sentence_ids: `[n]` int64, equal for equal text, or None.
        part_ids: `[n]` int64, equal for the same part of the same person (his shoes in two images), or None.
            Different parts of one person stay negatives of each other: his shoes are not his jacket.
        weight: `[n]` reliability of each pair in [0, 1], or None for 1.
        sentence_numbers: `[n]` int64, equal for the pairs of one sentence of one image, or None: each pair has a
            sentence of its own.

    Returns:
        Scalar, float32 or float64: the mean of both directions.
    """
    cosine = cosines(region_embeds, sentence_embeds)
    if len(cosine) == 0:
        return cosine.sum()
    logits = at_least_float32(logit_scale).to(cosine.dtype) * cosine
    pair = torch.arange(len(logits), device=logits.device)
    target = _targets_of_sentences(sentence_numbers, weight, logits)
    ignored = same_by_any((sentence_ids, part_ids, sentence_numbers), len(logits), logits.device)
    ignored[pair, pair] = False
    logits = logits.masked_fill(ignored & (target.T == 0), float("-inf"))
    by_region = nn.functional.cross_entropy(logits.masked_fill(ignored, float("-inf")), pair, reduction="none")
    log_p = logits.T.log_softmax(1).masked_fill(target == 0, 0.0)
    by_sentence = (torch.xlogy(target, target) - target * log_p).sum(1)
    return _weighted_mean((by_region + by_sentence) / 2, weight)


def _targets_of_sentences(
    sentence_numbers: torch.Tensor | None, weight: torch.Tensor | None, logits: torch.Tensor
) -> torch.Tensor:
    """`[n, n]`: how the target of each sentence is spread over the regions of its pairs; rows sum to 1."""
    own = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    if sentence_numbers is None:
        return own
    same = same_by_any((sentence_numbers,), len(logits), logits.device).to(logits.dtype)
    shares = same if weight is None else same * weight.to(logits.dtype)
    total = shares.sum(1, keepdim=True)
    # A sentence whose pairs all have weight 0 has no loss; its own region keeps the row finite.
    return torch.where(total > 0, shares / total.clamp(min=torch.finfo(logits.dtype).tiny), own)


def token_similarity(
    pooled_tokens: torch.Tensor,
    target_embeds: torch.Tensor,
    weight: torch.Tensor | None = None,
    detach_target: bool = True,
) -> torch.Tensor:
    """Token-similarity loss (TSL, GOAL, arXiv 2503.17782): the mean of (cos - 1)^2 over pairs.

    It attracts the pooled tokens of a part, encoded within the whole image or caption, to the embedding of that part
    encoded alone.

    Args:
        pooled_tokens: `[n, d]` of any length.
        target_embeds: `[n, d]` of any length.
        weight: `[n]` in [0, 1], or None for 1.
        detach_target: no gradient to the target; True by default.

    Returns:
        Scalar, float32 or float64.
    """
    if detach_target:
        target_embeds = target_embeds.detach()
    cosine = nn.functional.cosine_similarity(at_least_float32(pooled_tokens), at_least_float32(target_embeds), dim=-1)
    return _weighted_mean((cosine - 1) ** 2, weight)


def identity_loss(
    image_logits: torch.Tensor,
    text_logits: torch.Tensor,
    identities: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the identity under one classifier for both modalities, their mean (IRRA, arXiv 2303.12501).

    Args:
        image_logits: `[b, num_identities]`, the classifier's output for image embeddings.
        text_logits: `[b, num_identities]`, the same classifier's output for caption embeddings.
        identities: `[b]` int64 in [0, num_identities).
        weight: `[b]` reliability of each image-caption pair, or None for 1; it weighs the captions only.

    Returns:
        Scalar, float32 or float64.
    """
    by_image = nn.functional.cross_entropy(at_least_float32(image_logits), identities, reduction="none")
    by_text = nn.functional.cross_entropy(at_least_float32(text_logits), identities, reduction="none")
    return (_weighted_mean(by_image, None) + _weighted_mean(by_text, weight)) / 2


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`[n, d]` and `[m, d]` unit vectors -> `[n, m]`, float32 or float64."""
    # Under autocast the product would be cast down again.
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).T


def same_by_any(ids: tuple[torch.Tensor | None, ...], count: int, device: torch.device) -> torch.Tensor:
    """`[count, count]` bool: two rows agree in at least one of the `[count]` ids; without any ids, all False."""
    same = torch.zeros(count, count, dtype=torch.bool, device=device)
    for values in ids:
        if values is not None:
            same |= values[:, None] == values[None, :]
    return same


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """The values in float32, or in float64 if they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def _weighted_mean(losses: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if len(losses) == 0:
        return losses.sum()
    if weight is None:
        return losses.mean()
    weight = weight.to(losses.dtype)
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


def _directions(
    cosine: torch.Tensor,
    scale: torch.Tensor | float,
    person_ids: torch.Tensor | None,
    weight: torch.Tensor | None,
    exclude_same: bool = False,
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Image-to-text and text-to-image: logits, target, log count (see [`_positives`]) and weight of each row."""
    scale = at_least_float32(scale).to(cosine.dtype) if isinstance(scale, torch.Tensor) else scale
    b = len(cosine)
    if person_ids is None:
        same = torch.eye(b, dtype=torch.bool, device=cosine.device)
    else:
        same = same_by_any((person_ids,), b, cosine.device)
    weight = cosine.new_ones(b) if weight is None else weight.to(cosine.dtype)
    excluded = torch.zeros_like(same)
    if exclude_same:
        own = torch.eye(b, dtype=torch.bool, device=cosine.device)
        same, excluded = own, same & ~own
    target, log_count, row_weight = _positives(same, weight)
    by_image = scale * cosine, target, log_count.masked_fill(excluded, float("-inf")), row_weight
    uniform = same.to(cosine.dtype) / same.sum(1, keepdim=True)
    by_text = scale * cosine.T, uniform, torch.zeros_like(cosine).masked_fill(excluded, float("-inf")), weight
    return by_image, by_text


def _divergence(
    logits: torch.Tensor, target: torch.Tensor, log_count: torch.Tensor, row_weight: torch.Tensor
) -> torch.Tensor:
    """KL(softmax(logits) || target + 1e-8) of each row, their weighted mean."""
    log_p = (logits + log_count).log_softmax(1)
    # An excluded entry has p = 0 and log p = -inf: their product is 0 here.
    gap = (log_p - (target + 1e-8).log()).masked_fill(log_count.isinf(), 0.0)
    return _weighted_mean((log_p.exp() * gap).sum(1), row_weight)


def _positives(same: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image-to-text rows whose captions of the same identity have unequal weights (ours).

    A caption of weight w counts as w captions, in the target and in the sum of the softmax. At the optimum all
    positives are then equally similar, and only their gradients differ. Counts are relative to the row's caption of
    the highest weight. So a row with a single positive is plain InfoNCE, and the row's weight is that of this caption.

    Args:
        same: `[b, b]` bool, image i and caption j have the same identity.
        weight: `[b]` of the captions.

    Returns:
        Target `[b, b]` (rows sum to 1), log of the counts `[b, b]` (0 for other identities, -inf for captions of the
        same identity with weight 0), weight of each row `[b]`.
    """
    weights = same * weight
    best = weights.amax(1)
    # A row in which all weights are 0 has weight 0; its counts are set to 1 only to keep it finite.
    count = torch.where(best[:, None] > 0, weights / best.clamp(min=torch.finfo(best.dtype).tiny)[:, None], same * 1.0)
    target = count / count.sum(1, keepdim=True)
    return target, count.log().masked_fill(~same, 0.0), best


__all__ = [
    "at_least_float32",
    "cosines",
    "identity_loss",
    "label_divergence",
    "multi_positive_itc",
    "primary_components",
    "projection_classification",
    "projection_matching",
    "region_sentence_contrastive",
    "same_by_any",
    "similarity_distribution_matching",
    "token_similarity",
    "triplet_alignment",
]
