"""What a training step shows of its pairs, handed to the trackers of trust; what they make of it, for the log."""

import numpy as np
import torch

from modeling_rogle.reliability.caption_agreement import caption_agreement
from modeling_rogle.reliability.pair_reliability import PairReliability, pair_scores
from modeling_rogle.reliability.region_agreement import region_agreement
from train.data.pairs import PairDataset
from train.global_batch import GlobalBatch

BY_PLACES = ("places", "gmm_consensus")  # kinds of trust that ask whether words and place belong together


def agreement_of(pairs: PairDataset) -> torch.Tensor:
    """`[pairs.n_pairs]`: how well the words and the place of each region-sentence pair go together, as it is drawn; 1
    for numbers without a pair."""
    numbers, texts, boxes = [], [], []
    for row, mine in enumerate(pairs.pairs):
        width, height = pairs.sizes[row]
        for number, region, told, sentence in mine:
            x, y, w, h = region["bbox"]
            numbers.append(number)
            texts.append(pairs.sentence_texts[told][sentence])
            boxes.append([x / width, y / height, (x + w) / width, (y + h) / height])
    agreement = torch.ones(pairs.n_pairs)
    if numbers:
        found, _ = region_agreement(pairs.processor.tokenizer, texts, np.array(boxes, dtype=np.float32))
        # More likely wrong than right is left out: weighed by its chance, such a pair still teaches what is wrong.
        agreement[numbers] = torch.where(found > 0.5, found, 0.0)
    return agreement


def agreement_of_captions(pairs: PairDataset) -> torch.Tensor:
    """`[rows]`: how well each row's captions, as it is trained with them, go together with those of the same person."""
    texts = [" ".join([pairs.captions[told], *pairs.short[told]]) for told in pairs.caption_row]
    return caption_agreement(pairs.processor.tokenizer, texts, pairs.person_ids)[0]


def find_stand_ins(pairs: PairDataset, weights: torch.Tensor) -> str:
    """Where a row's captions weigh nothing, `pairs` draws from now on those of the person's other rows, if any do.

    Else half of the images would have nothing to learn from where half of the captions are wrong. Nor does what doubted
    captions say of regions weigh anything from now on.

    Args:
        weights: `[rows]`.

    Returns:
        What was found, in words.
    """
    trusted: dict[str, list[int]] = {}
    for row in weights.nonzero().flatten().tolist():
        trusted.setdefault(pairs.person_ids[row], []).append(row)
    those = {person: np.array(rows) for person, rows in trusted.items()}
    pairs.doubted = set((weights == 0).nonzero().flatten().tolist())
    pairs.stand_ins = {r: those[pairs.person_ids[r]] for r in pairs.doubted if pairs.person_ids[r] in those}
    without = len(pairs.doubted) - len(pairs.stand_ins)
    return (
        f"captions of {len(pairs.doubted)} of {len(pairs)} images are doubted; those of the same person's other images "
        f"stand in for {len(pairs.stand_ins)}, {without} are left without"
    )


@torch.no_grad()
def observe(
    trust: dict[str, PairReliability],
    seen: dict[str, torch.Tensor],
    rows: torch.Tensor,
    numbers: torch.Tensor,
    owner: torch.Tensor,
) -> None:
    """Two views of each pair, as different as the step has them (RDE's two embeddings; which ones is ours).

    An image-caption pair: image and caption; the image's regions together, and caption. A region-sentence pair: region
    and sentence; the region's image, and sentence. Each view is the mean of both directions but for the last: an image
    has many sentences that are all its own.

    Args:
        trust: trackers `"global"` and `"local"`.
        seen: what [`RogleModel.losses`] read, of the global batch: every process takes note of all of it.
        rows, numbers, owner: `[b]` and `[n]` name its pairs, `[n]` the image in it of each region. A negative row has
            another's caption, and nothing is noted of it.
    """
    people, images, texts = seen["person_ids"], seen["image_embeds"], seen["text_embeds"]
    regions, sentences = seen.get("region_embeds"), seen.get("sentence_embeds")
    side = trust["global"]
    if side.needs_observations:
        first = second = sum(pair_scores(side.kind, images, texts, (people,))) / 2
        if regions is not None:
            together = torch.zeros_like(images).index_add_(0, owner, regions.to(images.dtype))
            together = torch.nn.functional.normalize(together, dim=-1)
            second = sum(pair_scores(side.kind, together, texts, (people,))) / 2
            told = torch.bincount(owner, minlength=len(images)) > 0
            second = torch.where(told.to(second.device), second, first)  # of an image without regions there is one view
        own = rows >= 0
        side.observe(rows[own], first[own], second[own])
    side = trust["local"]
    if side.needs_observations and regions is not None:
        ids = (seen["sentence_ids"], seen["part_ids"])
        first = sum(pair_scores(side.kind, regions, sentences, ids)) / 2
        ids = (seen["sentence_ids"], people[owner])
        second = pair_scores(side.kind, images[owner], sentences, ids)[1]
        side.observe(numbers, first, second)


def pairs_of_all(
    gather: GlobalBatch,
    trust: dict[str, PairReliability],
    rows: torch.Tensor,
    numbers: torch.Tensor,
    batch: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What names the pairs of the global batch, as [`observe`] wants it; of this process where nobody is to observe.

    Args:
        batch: the arguments of `RogleModel.forward` in this process, `b` images in each.
    """
    if not any(each.needs_observations for each in trust.values()):
        return {"rows": rows, "numbers": numbers, "owner": rows[:0]}
    device = batch["input_ids"].device
    owner = batch["box_image"] + gather.rank * len(rows) if "box_image" in batch else rows[:0].to(device)
    return gather({"rows": rows.to(device), "numbers": numbers.to(device), "owner": owner})


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
            entry[f"trust/{side}/recall"] = right / max(float(truth[side].sum()), 1.0)
    return entry


__all__ = [
    "BY_PLACES", "agreement_of", "agreement_of_captions", "close_epoch", "find_stand_ins", "observe", "pairs_of_all",
]  # fmt: skip
