"""P-VLG retrieval metrics as an `evaluate` module: a thin wrapper of ranking.py, fed embeddings and ids.

One module an import line, and `ranking` by a relative one: `evaluate` reads these lines to know what to copy.
"""

import datasets
import evaluate

from .ranking import TIES, global_scores, grounding_scores, local_scores

DESCRIPTION = """\
Text-based person retrieval on P-VLG-shaped data. "global": captions against images, relevance by identity (or images
against captions, with the arguments exchanged). "local": sentences against the regions of the whole gallery, and
grounding in the image. Ranks are exact, a tied negative ranks ahead of the positive, queries without a positive are
counted and left out.
"""

INPUTS = """
Args, both configs:
    predictions: [Q, D] query embeddings (need not be unit vectors).
    gallery_embeds: [G, D].
    ties: "pessimistic" (default), "optimistic" or "stable".
Args, "global":
    references: [Q] identities of the queries. gallery_ids: [G] identities of the gallery.
Args, "local":
    references: [Q] id of the region paired with each sentence, -1 for none (left out and counted).
    query_person_ids, query_text_ids: [Q]. gallery_region_ids, gallery_person_ids: [G].
    gallery_text_ids: [G], or G lists where regions have several sentences.
    pred_boxes, true_boxes (optional, together): [N, 4] x, y, w, h in pixels. image_sizes (optional): [N, 2].
Returns:
    R@1, R@5, R@10, mAP, mINP in percent; queries (scored), dropped_queries, gallery: counts.
    "local" with boxes: also pointing and IoU@0.5 in percent, grounded: count.
Raises:
    ValueError: one line naming the argument.
Example:
    >>> metric = evaluate.load("eval/pvlg", "global")
    >>> metric.compute(predictions=query_embeds, references=query_person_ids, gallery_embeds=g, gallery_ids=ids)
"""

CONFIGS = ("global", "local")


class Pvlg(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONFIGS:
            raise ValueError(f"eval/pvlg has the configs {CONFIGS}, not {self.config_name!r}")
        info = evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )
        # As Python lists, 20,000 x 512 numbers cost more than ranking them. Set here because MetricInfo's own check
        # admits "numpy" for scalar columns only, although reading a list column that way works.
        info.format = "numpy"
        return info

    def _compute(
        self,
        predictions,
        references,
        gallery_embeds,
        gallery_ids=None,
        query_person_ids=None,
        query_text_ids=None,
        gallery_region_ids=None,
        gallery_person_ids=None,
        gallery_text_ids=None,
        pred_boxes=None,
        true_boxes=None,
        image_sizes=None,
        ties=TIES[0],
    ) -> dict[str, float]:
        local_only = {
            "query_person_ids": query_person_ids,
            "query_text_ids": query_text_ids,
            "gallery_region_ids": gallery_region_ids,
            "gallery_person_ids": gallery_person_ids,
            "gallery_text_ids": gallery_text_ids,
        }
        boxes = {"pred_boxes": pred_boxes, "true_boxes": true_boxes, "image_sizes": image_sizes}
        if self.config_name == "global":
            _refuse("global", **local_only, **boxes)
            _require(gallery_ids=gallery_ids)
            return global_scores(predictions, references, gallery_embeds, gallery_ids, ties=ties)
        _refuse("local", gallery_ids=gallery_ids)
        _require(**local_only)
        scores = local_scores(predictions, references, gallery_embeds=gallery_embeds, ties=ties, **local_only)
        if any(value is not None for value in boxes.values()):
            _require(pred_boxes=pred_boxes, true_boxes=true_boxes)
            scores |= grounding_scores(pred_boxes, true_boxes, image_sizes)
        return scores


def _refuse(config, **arguments) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"the config {config!r} does not take {', '.join(given)}")


def _require(**arguments) -> None:
    missing = [name for name, value in arguments.items() if value is None]
    if missing:
        raise ValueError(f"compute() needs {', '.join(missing)}")
