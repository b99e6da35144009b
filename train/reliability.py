"""Reliability of the training pairs: how a run tracks it, and where it enters batches, draws and captions."""

from collections.abc import Callable

import numpy as np
import torch

from modeling_rogle import RogleConfig
from modeling_rogle.reliability.caption_agreement import caption_agreement
from modeling_rogle.reliability.pair_reliability import PairReliability, pair_scores
from modeling_rogle.reliability.region_agreement import region_agreement
from train.data.batch import Batch
from train.data.pairs import PairDataset
from train.global_batch import GlobalBatch

USES_REGION_AGREEMENT = ("places", "gmm_consensus")  # kinds that compare a sentence's words with its region's position


class RunReliability:
    """The two trackers of a run: `"global"` for image-caption pairs, `"local"` for region-sentence pairs.

    Args:
        config: its `reliability_global` and `reliability_local` are read.
        pairs: training pairs, with their noise if there is any.
        truth: for each tracker, bool for each pair: whether it is clean. Not used in training; precision and recall
            are logged if noise was made on purpose (see `data/noise.py`).
    """

    def __init__(self, config: RogleConfig, pairs: PairDataset, truth: dict[str, np.ndarray]):
        self.pairs, self.truth = pairs, truth
        of_captions, of_regions = config.reliability_global, config.reliability_local
        self.uses_region_agreement = of_regions in USES_REGION_AGREEMENT
        self.trackers = {
            "global": PairReliability(
                of_captions, len(pairs), agreement=agreement_of_captions(pairs) if of_captions == "identity" else None
            ),
            "local": PairReliability(
                of_regions, pairs.n_pairs, agreement=agreement_of_regions(pairs) if self.uses_region_agreement else None
            ),
        }

    def pairs_changed(self) -> None:
        """Updates the state after pairs were mined again."""
        if self.uses_region_agreement:
            self.trackers["local"].agreement = agreement_of_regions(self.pairs)

    def begin_epoch(self, log: Callable[[str], None]) -> None:
        """Replaces unreliable captions, and lets reliable region-sentence pairs be drawn more often."""
        if self.trackers["global"].kind == "identity":
            log(replace_unreliable_captions(self.pairs, self.trackers["global"].weights()))
        if self.trackers["local"].kind != "none":
            self.pairs.pair_reliability = self.trackers["local"].weights().numpy()

    def weigh(self, batch: Batch, device: torch.device) -> None:
        """Sets the weights of a batch, whose tensors are on `device`."""
        if self.trackers["global"].kind != "none":
            batch.caption_weight = self.trackers["global"].weights(batch.source_rows).to(device)
        if self.trackers["local"].kind != "none" and batch.pair_weight is not None:
            batch.pair_weight = batch.pair_weight * self.trackers["local"].weights(batch.pair_numbers).to(device)

    def observe(self, loss_inputs: dict[str, torch.Tensor], batch: Batch, gather: GlobalBatch) -> None:
        """Updates the trackers from a step, in every process with all pairs of the global batch.

        Args:
            loss_inputs: embeddings of the global batch, which the losses were computed from.
            batch: this process's part of it.
            gather: collects the pairs' numbers from all processes.
        """
        if not any(tracker.needs_observations for tracker in self.trackers.values()):
            return
        # Replaced and mixed captions carry no information about the row's own caption.
        own_caption = (batch.source_rows == batch.rows) & (batch.person_ids.cpu() >= 0)
        device = batch.caption_input_ids.device
        box_image = torch.zeros(0, dtype=torch.long) if batch.box_image is None else batch.box_image
        numbers = {
            "rows": torch.where(own_caption, batch.rows, -1).to(device),
            "pair_numbers": batch.pair_numbers.to(device),
            "box_image": box_image.to(device) + gather.rank * len(batch.rows),
        }
        observe(self.trackers, loss_inputs, **gather(numbers))

    def finish_epoch(self) -> dict[str, float]:
        """Updates the weights of all pairs; returns entries for the log."""
        entry = {}
        for side, tracker in self.trackers.items():
            if tracker.kind == "none":
                continue
            entry |= {f"trust/{side}/{name}": value for name, value in tracker.finish_epoch().items()}
            truth = self.truth[side]
            if not truth.all():
                clean = tracker.clean().numpy()
                correct = float((clean & truth).sum())
                entry[f"trust/{side}/precision"] = correct / max(float(clean.sum()), 1.0)
                entry[f"trust/{side}/recall"] = correct / max(float(truth.sum()), 1.0)
        return entry


def agreement_of_regions(pairs: PairDataset) -> torch.Tensor:
    """How well the words and the position of each region-sentence pair agree.

    Returns:
        `[pairs.n_pairs]` in [0, 1]: 1 for numbers without a pair, 0 for a pair that is more likely wrong than correct.
        A weight as low as its probability would still train on what is wrong.
    """
    numbers, texts, boxes = [], [], []
    for (width, height), row_pairs in zip(pairs.sizes, pairs.pairs, strict=True):
        for pair in row_pairs:
            x, y, w, h = pair.region["bbox"]
            numbers.append(pair.number)
            texts.append(pairs.sentence_texts[pair.text_row][pair.sentence])
            boxes.append([x / width, y / height, (x + w) / width, (y + h) / height])
    agreement = torch.ones(pairs.n_pairs)
    if numbers:
        probability, _ = region_agreement(pairs.processor.tokenizer, texts, np.array(boxes, dtype=np.float32))
        agreement[numbers] = torch.where(probability > 0.5, probability, 0.0)
    return agreement


def agreement_of_captions(pairs: PairDataset) -> torch.Tensor:
    """`[rows]` in [0, 1]: how well the captions a row is trained with agree with those of the same person."""
    texts = [" ".join([pairs.captions[row], *pairs.short[row]]) for row in pairs.caption_rows]
    return caption_agreement(pairs.processor.tokenizer, texts, pairs.person_ids)[0]


def replace_unreliable_captions(pairs: PairDataset, weights: torch.Tensor) -> str:
    """Replaces captions of weight 0 by captions of the same person's other rows, if any of these is reliable.

    Otherwise half of the images would have nothing to learn from if half of the captions are wrong. Region-sentence
    pairs whose sentence comes from an unreliable caption get weight 0.

    Args:
        pairs: changed in place.
        weights: `[rows]` reliability of the captions.

    Returns:
        A message with the counts.
    """
    reliable: dict[int, list[int]] = {}
    for row in weights.nonzero().flatten().tolist():
        reliable.setdefault(pairs.person_ids[row], []).append(row)
    rows_of = {person: np.array(rows) for person, rows in reliable.items()}
    pairs.unreliable_rows = set((weights == 0).nonzero().flatten().tolist())
    pairs.replacement_rows = {
        row: rows_of[pairs.person_ids[row]] for row in pairs.unreliable_rows if pairs.person_ids[row] in rows_of
    }
    count, replaced = len(pairs.unreliable_rows), len(pairs.replacement_rows)
    return (
        f"captions of {count} of {len(pairs)} images are unreliable; {replaced} are replaced by captions of the same "
        f"person's other images, {count - replaced} have no replacement"
    )


@torch.no_grad()
def observe(
    trackers: dict[str, PairReliability],
    loss_inputs: dict[str, torch.Tensor],
    rows: torch.Tensor,
    pair_numbers: torch.Tensor,
    box_image: torch.Tensor,
) -> None:
    """Gives the trackers two scores of each pair, as different as a step has them (after RDE's two embeddings; ours).

    - Image-caption pair: image and caption; mean of the image's regions, and caption.
    - Region-sentence pair: region and sentence; the region's image, and sentence.

    Each score is the mean of both directions, except the last: many sentences of an image are all correct for it.

    Args:
        trackers: `"global"` and `"local"`.
        loss_inputs: what [`RogleModel.losses`] read, of the global batch.
        rows: `[b]` int64, row of the training split of each pair; -1 for a pair without the row's own caption, which
            is not observed.
        pair_numbers: `[n]` int64, number of each region-sentence pair.
        box_image: `[n]` int64, position in the global batch of each region's image.
    """
    person_ids, images, texts = loss_inputs["person_ids"], loss_inputs["image_embeds"], loss_inputs["text_embeds"]
    regions, sentences = loss_inputs.get("region_embeds"), loss_inputs.get("sentence_embeds")
    tracker = trackers["global"]
    if tracker.needs_observations:
        first = second = sum(pair_scores(tracker.kind, images, texts, (person_ids,))) / 2
        if regions is not None:
            means = torch.zeros_like(images).index_add_(0, box_image, regions.to(images.dtype))
            means = torch.nn.functional.normalize(means, dim=-1)
            second = sum(pair_scores(tracker.kind, means, texts, (person_ids,))) / 2
            has_regions = torch.bincount(box_image, minlength=len(images)) > 0
            second = torch.where(has_regions.to(second.device), second, first)  # without regions there is one score
        observed = rows >= 0
        tracker.observe(rows[observed], first[observed], second[observed])
    tracker = trackers["local"]
    if tracker.needs_observations and regions is not None:
        groups = (loss_inputs["sentence_ids"], loss_inputs["part_ids"])
        first = sum(pair_scores(tracker.kind, regions, sentences, groups)) / 2
        groups = (loss_inputs["sentence_ids"], person_ids[box_image])
        second = pair_scores(tracker.kind, images[box_image], sentences, groups)[1]
        tracker.observe(pair_numbers, first, second)


__all__ = [
    "RunReliability", "agreement_of_captions", "agreement_of_regions", "observe", "replace_unreliable_captions",
]  # fmt: skip
