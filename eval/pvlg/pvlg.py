"""P-VLG retrieval metrics as an `evaluate` module: a thin wrapper of retrieval.py, from embeddings and ids.

`evaluate` reads the import lines of this file to find the files that it must copy. It takes a comment for an address
and does not read the copied files. So each of our files needs a relative import here, one module per line and without
a comment, even if only retrieval.py uses it.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import evaluate

from .cosine import cosine
from .inputs import as_embeddings, as_ids
from .local import grounding_scores, local_scores
from .pairs import listed_pairs
from .ranks import TIES
from .relevance import FactIndex
from .retrieval import global_scores, joint_scores, local_strict_scores

PROTOCOL = 2
DESCRIPTION = """\
Text-based person retrieval on P-VLG data, protocol 2. "global": captions against images, relevance by identity (or
images against captions, with the arguments exchanged). "local": sentences against the regions of the whole gallery and
of their own image, with graded relevance, and grounding. "local-strict": only the region paired with a sentence is
relevant. "joint": captions and sentences, apart, against one gallery of images and regions. Ranks are exact, and a tied
negative ranks ahead of the positive. Queries without a positive are counted and left out.
"""

INPUTS = """
Args, all configs:
    predictions: [Q, D] query embeddings (need not be unit vectors).
    gallery_embeds: [G, D].
    ties: "pessimistic" (default), "optimistic" or "stable".
    device: torch device that multiplies and counts; by default NumPy on the CPU.
Args, "global":
    references: [Q] identities of the queries, integers.
    gallery_ids: [G] identities of the gallery.
    query_cameras, gallery_cameras (optional, together): [Q], [G]; items of the same identity and camera are ignored.
Args, "local":
    references: [Q] id of the image that each sentence describes.
    gallery_image_ids: [G] id of the image of each region.
    relevance: [P, 3] query row, gallery row, grade. 3: the region is paired with the sentence, 2: another region of
        the same identity of which it is true, 1: a region of another identity of which it is true, 0: ignored.
    pred_boxes, true_boxes (optional, together): [N, 4], [M, 4] x, y, w, h in pixels.
    box_queries (optional): [M] row of pred_boxes that each true box belongs to; by default one each.
    image_sizes (optional): [N, 2] width, height.
Args, "local-strict":
    references: [Q] id of the region paired with each sentence, -1 for none (left out and counted).
    query_person_ids, query_text_ids: [Q]. gallery_region_ids, gallery_person_ids: [G].
    gallery_text_ids: [G], or G lists where regions have several sentences.
Args, "joint":
    references: [Q] identities of the queries.
    query_kind: [Q] 0 caption, 1 sentence. gallery_kind: [G] 0 image, 1 region.
    gallery_person_ids: [G]. parent_image_ids: [G] for an image its own id, for a region the id of its image.
    relevance: [P, 3] as in "local", for the sentences; the image of a relevant region is relevant too.
Returns:
    protocol: 2. All figures but counts are in percent.
    "global", "local-strict", and "joint" as caption/...: R@1, R@5, R@10, mAP, mINP, median_rank.
    "local", and "joint" as sentence/...: R@1, R@5, R@10, R-precision, mAP, nDCG@10, chance (expected R@1 of a random
        order), positives (their median number).
    "local": also within-R@1, within-chance, within-queries; with boxes pointing, IoU@0.5, grounded.
    All: queries (scored), dropped_queries, gallery: counts.
Raises:
    ValueError: one line that names the argument.
Example:
    >>> metric = evaluate.load("eval/pvlg", "global")
    >>> metric.compute(predictions=query_embeds, references=query_person_ids, gallery_embeds=g, gallery_ids=ids)
"""

# Arguments of compute() with each config, besides predictions, references, gallery_embeds, ties and device.
REQUIRED = {
    "global": ("gallery_ids",),
    "local": ("gallery_image_ids", "relevance"),
    "local-strict": (
        "query_person_ids", "query_text_ids", "gallery_region_ids", "gallery_person_ids", "gallery_text_ids",
    ),
    "joint": ("query_kind", "gallery_kind", "gallery_person_ids", "parent_image_ids", "relevance"),
}  # fmt: skip
BOXES = ("pred_boxes", "true_boxes", "box_queries", "image_sizes")
OPTIONAL = {"global": ("query_cameras", "gallery_cameras"), "local": BOXES, "local-strict": (), "joint": ()}
SCORES = {"global": global_scores, "local": local_scores, "local-strict": local_strict_scores, "joint": joint_scores}


class Pvlg(evaluate.Metric):
    """The configs `global`, `local`, `local-strict` and `joint`; see INPUTS."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in REQUIRED:
            raise ValueError(f"eval/pvlg has the configs {tuple(REQUIRED)}, not {self.config_name!r}")
        info = evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )
        # Reading 20,000 x 512 numbers as Python lists costs more than ranking them. The format is set here because
        # the check in MetricInfo allows "numpy" for scalar columns only, although it works for lists too.
        info.format = "numpy"
        return info

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """As `evaluate.Metric.add_batch`, with one line for ids that are not integers and rows that are not numbers."""
        if predictions is not None:
            predictions = as_embeddings(predictions, "predictions")
        if references is not None:
            references = as_ids(references, "references", len(references), "references")
        kept, self._kept = getattr(self, "_kept", None), None
        if kept is not None:
            super().add_batch(predictions=kept[0], references=kept[1])
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float] | None:
        """As `evaluate.Metric.compute`. Batches that were added before stay if the figures cannot be computed."""
        self._kept, kept = None, getattr(self, "_kept", None)
        if kept is not None and predictions is None:
            super().add_batch(predictions=kept[0], references=kept[1])
        self._keeps = predictions is None
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions: Any, references: Any, **arguments: Any) -> dict[str, float]:
        try:
            return self._scores(predictions, references, **arguments)
        except ValueError as error:
            if self._keeps:
                self._kept = (predictions, references)
            queries, ids, *_ = inspect.signature(SCORES[self.config_name]).parameters
            message = re.sub(rf"\b{queries}\b", "predictions", str(error))
            raise ValueError(re.sub(rf"\b{ids}\b", "references", message)) from error

    def _scores(
        self,
        predictions: Any,
        references: Any,
        gallery_embeds: Any = None,
        ties: str = TIES[0],
        device: Any = None,
        **arguments: Any,
    ) -> dict[str, float]:
        given = {name: value for name, value in arguments.items() if value is not None}
        required, optional = REQUIRED[self.config_name], OPTIONAL[self.config_name]
        unknown = [name for name in given if name not in required + optional]
        if unknown:
            raise ValueError(f"the config {self.config_name!r} does not take {', '.join(unknown)}")
        _require(("gallery_embeds", *required), given | {"gallery_embeds": gallery_embeds})
        boxes = {name: given.pop(name) for name in BOXES if name in given}
        common = {"gallery_embeds": gallery_embeds, "ties": ties, "device": device}
        scores = SCORES[self.config_name](predictions, references, **common, **given)
        if boxes:
            _require(("pred_boxes", "true_boxes"), boxes)
            scores |= grounding_scores(**boxes)
        return {"protocol": PROTOCOL} | scores


def _require(names: Iterable[str], given: Mapping[str, Any]) -> None:
    missing = [name for name in names if given.get(name) is None]
    if missing:
        raise ValueError(f"compute() needs {', '.join(missing)}")


__all__ = ["FactIndex", "Pvlg", "as_ids", "cosine", "listed_pairs"]
