"""What a training step shows of its pairs, handed to the trackers of trust; what they make of it, for the log."""

import numpy as np
import torch

from modeling_rogle import RogleModel, RogleOutput
from modeling_rogle.reliability import PairReliability, pair_views


@torch.no_grad()
def observe(
    trust: dict[str, PairReliability],
    model: RogleModel,
    output: RogleOutput,
    batch: dict[str, torch.Tensor],
    rows: torch.Tensor,
    numbers: torch.Tensor,
) -> None:
    """Two views of each pair, as different as the step has them (RDE's two embeddings; which ones is ours).

    An image-caption pair: image and caption; the image's regions together, and caption. A region-sentence pair: region
    and sentence; the region's image, and sentence. Each view is the mean of both directions but for the last: an image
    has many sentences that are all its own.

    Args:
        trust: trackers `"global"` and `"local"`.
        batch: the arguments of `RogleModel.forward`; rows `[b]` and numbers `[n]` name its pairs.
    """
    people, owner = batch["person_ids"], batch.get("box_image")
    side, scale = trust["global"], model.logit_scale.exp()
    if side.kind != "none":
        first = second = sum(pair_views(side.kind, output.image_embeds, output.text_embeds, scale, (people,))) / 2
        if output.region_embeds is not None:
            together = torch.zeros_like(output.image_embeds).index_add_(
                0, owner, output.region_embeds.to(output.image_embeds.dtype)
            )
            together = torch.nn.functional.normalize(together, dim=-1)
            second = sum(pair_views(side.kind, together, output.text_embeds, scale, (people,))) / 2
        side.observe(rows, first, second)
    side, scale = trust["local"], model.region_head()
    if side.kind != "none" and output.region_embeds is not None:
        ids = (batch["sentence_ids"], batch["part_ids"])
        first = sum(pair_views(side.kind, output.region_embeds, output.sentence_embeds, scale, ids)) / 2
        ids = (batch["sentence_ids"], people[owner])
        second = pair_views(side.kind, output.image_embeds[owner], output.sentence_embeds, scale, ids)[1]
        side.observe(numbers, first, second)


def close_epoch(trust: dict[str, PairReliability], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Refreshes the weights of the pairs.

    Returns:
        What there is to log, with precision and recall of "this pair is clean" where noise was made on purpose
        (`truth`, see noise.py).
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
