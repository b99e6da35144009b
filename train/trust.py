"""Trust in the training pairs over the course of a run, the same in every process."""

import numpy as np
import torch
from global_batch import GlobalBatch

from modeling_rogle import RogleModel
from modeling_rogle.reliability import PairReliability, pair_views


def observe(
    trust: dict[str, PairReliability],
    model: RogleModel,
    seen: dict[str, torch.Tensor],
    gather: GlobalBatch,
    rows: torch.Tensor,
    numbers: torch.Tensor,
) -> None:
    """Takes note of a step; every process does of the whole global batch.

    Args:
        trust: `"global"` of the rows, `"local"` of the region-sentence pairs.
        seen: the loss inputs of the global batch, see [`RogleModel.losses`].
        rows, numbers: `[b]` rows and `[n]` pairs of this process.
    """
    if all(pairs.kind == "none" for pairs in trust.values()):
        return
    device = seen["image_embeds"].device
    index = gather({"global": rows.to(device), "local": numbers.to(device)})
    if trust["global"].kind != "none":
        embeds, ids = (seen["image_embeds"], seen["text_embeds"]), (seen["person_ids"],)
        views = pair_views(trust["global"].kind, *embeds, model.logit_scale.exp(), ids)
        trust["global"].observe(index["global"], *views)
    if trust["local"].kind != "none" and "region_embeds" in seen:
        embeds, ids = (seen["region_embeds"], seen["sentence_embeds"]), (seen["sentence_ids"], seen["part_ids"])
        views = pair_views(trust["local"].kind, *embeds, model.region_head.scale(), ids)
        trust["local"].observe(index["local"], *views)


def close_epoch(trust: dict[str, PairReliability], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Makes the next epoch's weights of what was seen.

    Args:
        truth: for each side whether a pair is true, known where noise was made on purpose.

    Returns:
        What there is to log, with precision and recall of the trusted pairs where noise was made.
    """
    entry = {}
    for side, pairs in trust.items():
        if pairs.kind == "none":
            continue
        entry |= {f"trust/{side}/{name}": value for name, value in pairs.finish_epoch().items()}
        if not truth[side].all():
            kept = pairs.clean().numpy()
            right = float((kept & truth[side]).sum())
            entry[f"trust/{side}/precision"] = right / max(float(kept.sum()), 1.0)
            entry[f"trust/{side}/recall"] = right / float(truth[side].sum())
    return entry


__all__ = ["close_epoch", "observe"]
