"""Both protocols over the embeddings of one split (`encode_split`): encode once, score as often as one likes.

What the figures mean is written in `eval/pvlg/README.md`; ranks come from `ranking.py`.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers.utils import logging

from .encoding import CaptionSet, SplitEmbeddings, encode_split
from .ranking import BLOCK_BYTES, Ranking, cosine, global_scores, grounding_scores, local_scores, rank, same_id

logger = logging.get_logger(__name__)

LOCAL_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(11))


def global_protocol(
    embeddings: SplitEmbeddings, captions: str = "long", local_weight: float = 0.0, ties: str = "pessimistic"
) -> dict[str, float]:
    """Caption -> images by identity; also image -> caption (`i2t/...`) while `local_weight` is 0.

    Args:
        captions: `"long"` or `"short"`.
        local_weight: w of `(1 - w) * cos(caption, image) + w * mean over sentences of max over template regions of
            cos(sentence, region)`. A caption without sentences keeps its global similarity.
        ties: see `ranking.rank`.

    Returns:
        See `ranking.global_scores`. Empty, with a warning, if the split has no caption of that kind.

    Raises:
        ValueError: another kind of caption, a weight outside [0, 1].
    """
    chosen = _captions_of(embeddings, captions)
    if not 0.0 <= local_weight <= 1.0:
        raise ValueError(f"local_weight must lie in [0, 1], not {local_weight}")
    if len(chosen.embeds) == 0:
        logger.warning_once(f"global protocol: the rows have no {captions} captions, nothing is scored")
        return {}
    query_ids, gallery_ids = embeddings.image_person_ids[chosen.image], embeddings.image_person_ids
    if local_weight > 0:
        (ranking,) = _fused_rankings(embeddings, chosen, (local_weight,), ties)
        return ranking.scores() | {"gallery": len(gallery_ids)}
    scores = global_scores(chosen.embeds, query_ids, embeddings.image_embeds, gallery_ids, ties=ties)
    reverse = global_scores(embeddings.image_embeds, gallery_ids, chosen.embeds, query_ids, ties=ties)
    return scores | {f"i2t/{name}": value for name, value in reverse.items()}


def _captions_of(embeddings: SplitEmbeddings, captions: str) -> CaptionSet:
    if captions not in ("long", "short"):
        raise ValueError(f"captions must be 'long' or 'short', not {captions!r}")
    return embeddings.long if captions == "long" else embeddings.short


def _fused_rankings(
    embeddings: SplitEmbeddings, captions: CaptionSet, weights: Sequence[float], ties: str = "pessimistic"
) -> list[Ranking]:
    """One Ranking a weight; both similarities of a block of captions are computed once for all weights."""
    n_captions, n_images = len(captions.embeds), len(embeddings.image_embeds)
    by_image = cosine(captions.embeds.numpy(), embeddings.image_embeds.numpy())
    by_template = [
        cosine(captions.sentence_embeds.numpy(), embeddings.template_embeds[:, t].numpy())
        for t in range(embeddings.template_embeds.shape[1])
    ]
    first = np.searchsorted(captions.sentence_caption.numpy(), np.arange(n_captions + 1))
    people = embeddings.image_person_ids.numpy()
    positives = same_id(people[captions.image.numpy()], people)
    step = max(1, BLOCK_BYTES // (4 * n_images * (2 + int(first[-1]) // n_captions)))
    parts: list[list[Ranking]] = [[] for _ in weights]
    for start in range(0, n_captions, step):
        stop = min(start + step, n_captions)
        whole = by_image(start, stop)
        local = whole.copy()
        if first[stop] > first[start]:
            best = by_template[0](first[start], first[stop])
            for block in by_template[1:]:
                np.maximum(best, block(first[start], first[stop]), out=best)
            counts = np.diff(first[start : stop + 1])
            kept = counts > 0
            sums = np.add.reduceat(best, first[start:stop][kept] - first[start], axis=0)
            local[kept] = sums / counts[kept, None].astype(np.float32)
        for part, weight in zip(parts, weights, strict=True):
            fused = np.float32(1 - weight) * whole + np.float32(weight) * local
            part.append(
                rank(
                    lambda a, b, block=fused: block[a:b],
                    stop - start,
                    n_images,
                    lambda a, b, offset=start: positives(offset + a, offset + b),
                    ties=ties,
                )
            )
    return [Ranking.concatenate(part) for part in parts]


def local_protocol(embeddings: SplitEmbeddings, ties: str = "pessimistic") -> dict[str, float]:
    """Sentence -> regions of the whole split, and grounding in the sentence's own image among the template boxes.

    Returns:
        See `ranking.local_scores` and `ranking.grounding_scores`. Empty, with a warning, if the rows have no regions
        or no sentence is paired with one.
    """
    chosen, target = embeddings.long, embeddings.sentence_region
    if len(embeddings.region_embeds) == 0 or not bool((target >= 0).any()):
        logger.warning_once("local protocol: the rows have no regions paired with sentences, nothing is scored")
        return {}
    image = chosen.image[chosen.sentence_caption]
    said: list[list[int]] = [[] for _ in embeddings.region_embeds]
    for region, text in embeddings.region_texts.tolist():
        said[region].append(text)
    scores = local_scores(
        chosen.sentence_embeds,
        target,
        embeddings.image_person_ids[image],
        embeddings.sentence_text_ids,
        embeddings.region_embeds,
        torch.arange(len(said)),
        embeddings.image_person_ids[embeddings.region_image],
        said,
        ties=ties,
    )
    paired = (target >= 0).nonzero()[:, 0]
    best = torch.cat(
        [
            torch.einsum("sd,std->st", chosen.sentence_embeds[part], embeddings.template_embeds[image[part]]).argmax(1)
            for part in paired.split(4096)
        ]
    )
    sizes = embeddings.image_sizes[image[paired]].float()
    corners = embeddings.template_boxes[best] * sizes.repeat(1, 2)
    pred = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    return scores | grounding_scores(pred, embeddings.region_boxes[target[paired]], sizes)


def fit_local_weight(
    embeddings: SplitEmbeddings, grid: Sequence[float] = LOCAL_WEIGHTS, captions: str = "long"
) -> tuple[float, list[dict[str, float]]]:
    """Chooses w of late interaction by R@1 + mAP of a validation split; of equals the first in `grid`.

    Returns:
        The weight, and one `{"local_weight", "R@1", "mAP"}` for each of `grid`.

    Raises:
        ValueError: the split is a test split, it has no such captions, or `grid` leaves [0, 1].
    """
    if "test" in re.split(r"\W+", (embeddings.split or "").lower()):
        raise ValueError(f"fit_local_weight: split {embeddings.split!r} is for reporting, choose on validation")
    if not grid or min(grid) < 0 or max(grid) > 1:
        raise ValueError(f"fit_local_weight: grid must be weights in [0, 1], not {list(grid)}")
    chosen = _captions_of(embeddings, captions)
    if len(chosen.embeds) == 0:
        raise ValueError(f"fit_local_weight: the rows have no {captions} captions")
    table = []
    for weight, ranking in zip(grid, _fused_rankings(embeddings, chosen, grid), strict=True):
        scores = ranking.scores()
        table.append({"local_weight": float(weight), "R@1": scores["R@1"], "mAP": scores["mAP"]})
    best = max(table, key=lambda entry: entry["R@1"] + entry["mAP"])
    return best["local_weight"], table


def both_protocols(embeddings: SplitEmbeddings, local_weight: float = 0.0) -> dict[str, float]:
    """Everything there is to say of a split, flat: `global/long/R@1`, `global/short/mAP`, `local/pointing` and so on.

    With a weight also `global+local/long/...` and `global+local/short/...`. What cannot be scored is absent.
    """
    results = {}
    for captions in ("long", "short"):
        results |= {f"global/{captions}/{k}": v for k, v in global_protocol(embeddings, captions).items()}
        if local_weight > 0:
            fused = global_protocol(embeddings, captions, local_weight)
            results |= {f"global+local/{captions}/{k}": v for k, v in fused.items()}
    return results | {f"local/{k}": v for k, v in local_protocol(embeddings).items()}


def format_table(results: Mapping[str, float]) -> str:
    """Flat results (`<protocol>/<name>`, see `both_protocols`) -> a markdown table, one line a protocol."""
    percents = ("R@1", "R@5", "R@10", "mAP", "mINP", "pointing", "IoU@0.5")
    counts = ("queries", "dropped_queries", "gallery")
    protocols: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        protocol, _, name = key.rpartition("/")
        protocols.setdefault(protocol, {})[name] = value
    titles = ("protocol", *percents, "queries", "dropped", "gallery")
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for protocol, scores in protocols.items():
        cells = [f"{scores[name]:.2f}" if name in scores else "-" for name in percents]
        cells += [f"{scores[name]:.0f}" if name in scores else "-" for name in counts]
        lines.append(f"| {protocol} | " + " | ".join(cells) + " |")
    if not any(protocol == "local" for protocol in protocols):
        lines.append("\nlocal: not scored, the rows have no regions paired with sentences")
    return "\n".join(lines)


__all__ = [
    "CaptionSet", "SplitEmbeddings", "both_protocols", "encode_split", "fit_local_weight", "format_table",
    "global_protocol", "local_protocol",
]  # fmt: skip
