"""The regions of a split and what the rows say about them: pairs with sentences, facts, and words where facts lack."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modeling_rogle.metrics.relevance import MAX_GROUPS
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import PART_OF

_COLOURS = set(
    """black white red blue green yellow brown gray pink purple orange beige tan khaki navy cream maroon teal gold
    silver violet turquoise olive burgundy blonde""".split()
)
# Spellings, plurals and synonyms of colours and of the nouns of `PART_OF`.
_SAME_WORD = {"grey": "gray", "blond": "blonde", "golden": "gold", "tee": "tshirt", "purse": "handbag"}
_SAME_WORD |= dict.fromkeys(("trousers", "slacks", "khakis"), "pants")
_SAME_WORD |= dict.fromkeys(("rucksack", "knapsack", "schoolbag"), "backpack")
_SAME_WORD |= dict.fromkeys(("sneaker", "trainers"), "sneakers")
_SAME_WORD |= {"shoe": "shoes", "boot": "boots", "hats": "hat", "bags": "bag", "haired": "hair", "books": "book"}
_WORD = re.compile(r"[a-z]+(?:-shirt)?")


def named_facts(text: str) -> list[str]:
    """The colours and garments that a sentence names, for data without facts.

    Args:
        text: a sentence.

    Returns:
        Words in one spelling, sorted; `["gray", "pants"]` for "Grey trousers.". Empty if the sentence does not name
        both a colour and a garment or another item.
    """
    words = {word.replace("-", "") for word in _WORD.findall(text.lower())}
    words = {_SAME_WORD.get(word, word) for word in words}
    colours, items = words & _COLOURS, words & PART_OF.keys()
    return sorted(colours | items) if colours and items else []


@dataclass(frozen=True)
class RegionTables:
    """R distinct regions and K sentences of long captions. int64 unless stated otherwise."""

    sentence_region: torch.Tensor  # [K] the region paired with each sentence; of several the best scored; -1: none
    own_regions: torch.Tensor  # [P, 2] sentence and region of every pair
    region_image: torch.Tensor  # [R] ascending
    region_boxes: torch.Tensor  # [R, 4] float32, x, y, w, h in pixels
    region_corners: torch.Tensor  # [R, 4] float32, x0, y0, x1, y1 in [0, 1]
    region_texts: torch.Tensor  # [T, 2] region and text id of every sentence that describes a region
    region_labels: torch.Tensor  # [R] equal ids mean equal part labels; -1: none
    claims: torch.Tensor  # [N, 3] sentence, group and fact
    region_facts: torch.Tensor  # [M, 2] region and fact
    facts_known: torch.Tensor  # bool []: facts are those of the rows; else they are words of the sentences


@dataclass
class RegionReader:
    """Collects the regions of rows one after the other.

    Args:
        processor: normalises boxes.
    """

    processor: RogleProcessor
    _sentence_region: list[int] = field(default_factory=list)
    _own: list[tuple[int, int]] = field(default_factory=list)
    _image: list[int] = field(default_factory=list)
    _boxes: list[list[float]] = field(default_factory=list)
    _corners: list[torch.Tensor] = field(default_factory=list)
    _texts: list[tuple[int, int]] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _claims: list[tuple[int, int, int]] = field(default_factory=list)
    _facts: list[tuple[int, int]] = field(default_factory=list)
    _label_ids: dict[str, int] = field(default_factory=dict)
    _fact_ids: dict[str, int] = field(default_factory=dict)
    _facts_known: bool = True

    def add(self, row: Mapping[str, Any], image: int, texts: Sequence[int], regions: bool = True) -> None:
        """Adds a row.

        Args:
            row: a P-VLG row. `claims`, and `attributes` of its regions, may be missing or null.
            image: number of the image.
            texts: text id of each sentence; empty for a row without a caption.
            regions: read the regions of the row, the default, or leave its sentences without regions.

        Raises:
            ValueError: a region without area in its image, or with a sentence or score that does not exist; claims that
                do not belong to the sentences. The message names image_id and field.
        """
        first_sentence, first_region = len(self._sentence_region), len(self._boxes)
        if not regions:
            self._sentence_region += [-1] * len(texts)
            return
        boxes, paired, described = distinct_regions(row, len(texts))
        self._sentence_region += [first_region + slot if slot >= 0 else -1 for slot in paired]
        self._own += [(first_sentence + sentence, first_region + slot) for slot, sentence in described]
        self._texts += [(first_region + slot, texts[sentence]) for slot, sentence in described]
        self._image += [image] * len(boxes)
        self._boxes += [list(box) for box in boxes]
        self._corners.append(self._corners_of(row, boxes))
        labels = dict.fromkeys(boxes, -1)
        for region in row["regions"]:
            box, label = tuple(region["bbox"]), (region.get("label") or "").strip().lower().replace("_", " ")
            if label and label != "whole person" and labels[box] < 0:
                labels[box] = self._label_ids.setdefault(label, len(self._label_ids))
        self._labels += labels.values()
        self._add_facts(row, boxes, first_sentence, first_region, len(texts))

    def _add_facts(
        self, row: Mapping[str, Any], boxes: Mapping[tuple, int], first_sentence: int, first_region: int, count: int
    ) -> None:
        claims, regions = row.get("claims"), row["regions"]
        if claims is None or any(region.get("attributes") is None for region in regions):
            self._facts_known = self._facts_known and not (count or regions)
            return
        if count and len(claims) != count:
            raise ValueError(f"{row['image_id']}: field 'claims' has {len(claims)} entries for {count} sentences")
        for sentence, groups in enumerate(claims[:count]):
            if len(groups) > MAX_GROUPS or not all(groups):
                wrong = f"{len(groups)} groups, at most {MAX_GROUPS}" if all(groups) else "a group without facts"
                raise ValueError(f"{row['image_id']}: claims[{sentence}] has {wrong}")
            for number, group in enumerate(groups):
                self._claims += [(first_sentence + sentence, number, self._fact(fact)) for fact in group]
        for region in regions:
            number = first_region + boxes[tuple(region["bbox"])]
            self._facts += [(number, self._fact(fact)) for fact in region["attributes"]]

    def _fact(self, fact: str) -> int:
        return self._fact_ids.setdefault(fact, len(self._fact_ids))

    def _corners_of(self, row: Mapping[str, Any], boxes: Iterable[tuple[float, ...]]) -> torch.Tensor:
        lists = [list(box) for box in boxes]
        corners = torch.from_numpy(self.processor.normalize_boxes(lists, row["width"], row["height"]))
        empty = (corners[:, 2:] <= corners[:, :2]).any(dim=1)
        if empty.any():
            box = lists[int(empty.nonzero()[0])]
            raise ValueError(
                f"{row['image_id']}: regions.bbox {box} has no area in {row['width']} x {row['height']} px"
            )
        return corners

    def tables(self, texts: Mapping[str, int], sentence_texts: Sequence[int]) -> RegionTables:
        """The tables of all rows.

        Args:
            texts: every distinct text -> its id.
            sentence_texts: text id of each of the K sentences.
        """
        claims, facts = self._claims, self._facts
        if not self._facts_known:
            words = {number: [self._fact(word) for word in named_facts(text)] for text, number in texts.items()}
            claims = [(n, 0, fact) for n, text in enumerate(sentence_texts) for fact in words[text]]
            facts = [(region, fact) for region, text in self._texts for fact in words[text]]
        return RegionTables(
            sentence_region=torch.tensor(self._sentence_region).long(),
            own_regions=torch.tensor(self._own).long().reshape(-1, 2),
            region_image=torch.tensor(self._image).long(),
            region_boxes=torch.tensor(self._boxes).float().reshape(-1, 4),
            region_corners=torch.cat(self._corners) if self._corners else torch.zeros(0, 4),
            region_texts=torch.tensor(self._texts).long().reshape(-1, 2),
            region_labels=torch.tensor(self._labels).long(),
            claims=torch.tensor(claims).long().reshape(-1, 3),
            region_facts=torch.tensor(facts).long().reshape(-1, 2),
            facts_known=torch.tensor(self._facts_known),
        )


def distinct_regions(
    row: Mapping[str, Any], n_sentences: int
) -> tuple[dict[tuple[float, ...], int], list[int], list[tuple[int, int]]]:
    """The distinct regions of a row.

    A box that two sentences describe is in the row twice. In a gallery it is one region; two would tie with each other.

    Returns:
        boxes: the distinct boxes, numbered from 0.
        paired: for each sentence the box paired with it, the one with the highest score of several; -1: none.
        described: every pair of a box and a sentence that describes it.

    Raises:
        ValueError: a sentence that does not exist, or a score that is no number.
    """
    boxes: dict[tuple[float, ...], int] = {}
    described: dict[tuple[int, int], None] = {}  # used as an ordered set
    paired, score = [-1] * n_sentences, [-np.inf] * n_sentences
    for number, region in enumerate(row["regions"]):
        slot = boxes.setdefault(tuple(region["bbox"]), len(boxes))
        sentence = region["sentence"]
        if sentence >= n_sentences:
            raise ValueError(f"{row['image_id']}: regions[{number}].sentence is {sentence} of {n_sentences} sentences")
        if sentence < 0:
            continue
        if region["score"] is None or not np.isfinite(region["score"]):
            raise ValueError(f"{row['image_id']}: regions[{number}].score is {region['score']}, not a number")
        described[slot, sentence] = None
        if region["score"] > score[sentence]:
            paired[sentence], score[sentence] = slot, region["score"]
    return boxes, paired, list(described)


__all__ = ["RegionReader", "RegionTables", "distinct_regions", "named_facts"]
