"""benchmarks/quality/grounding.py: hand-placed boxes become pairs, and all ways to predict a box are scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.grounding import annotated_rows, hits, interval, main, paired_sentences
from modeling_rogle import RogleProcessor
from modeling_rogle.evaluation.box_lookup import keyword_boxes
from modeling_rogle.evaluation.split_embeddings import plan_split
from modeling_rogle.metrics.relevance import label_relevance

TEXTS = ["He has a black hat.", "His trousers are blue.", "He is walking."]
SIZE = (40, 100)
BOXES = {0: [11, 0, 29, 19], 1: [6, 52, 34, 93]}


@pytest.fixture
def made_folder(tmp_path: Path) -> Path:
    """Four images of two people in the layout of the real ones; only the first of each has boxes, at their keywords."""
    rows = []
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        regions = [
            {"label": "lower_body" if s else "head", "bbox": box, "sentence_index": s} for s, box in BOXES.items()
        ]
        rows.append(
            {
                "file_path": f"{n}.png",
                "width": SIZE[0],
                "height": SIZE[1],
                "id": n // 2 + 1,
                "long_caption": " ".join(TEXTS),
                "sentences": TEXTS,
                "regions": regions if n % 2 == 0 else [],
            }
        )
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.slow
def test_every_row_of_the_table_is_measured(made_folder: Path, tiny_checkpoint: Path, capsys) -> None:
    out = made_folder / "result.json"
    results = main(
        [str(made_folder), "--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(out)]
    )
    assert json.loads(out.read_text())["pairs"] == results["pairs"] == 4
    rows = results["grounding"]
    assert list(rows) == ["keyword look-up (no image)", "fitted look-up (no image)", "templates", "RSM"]
    assert rows["keyword look-up (no image)"]["IoU@0.5"] == {"value": 100, "interval": (100, 100)}
    # Both people are dressed alike: the other one's regions are ignored, so that chance is one of three.
    assert results["local"]["local/chance"] == pytest.approx(100 / 3)
    assert results["local"]["local/within-chance"] == 50
    printed = capsys.readouterr().out
    assert "4 pairs, 2 images, 2 identities" in printed and "| local/look-up |" in printed


def test_a_prediction_without_a_box_is_a_miss() -> None:
    true = np.array([[0, 0, 0.5, 0.5]] * 3)
    found = hits(np.array([[0, 0, 0.5, 0.25], [0.4, 0.4, 1, 1], [np.nan] * 4]), true)
    assert {name: hit.tolist() for name, hit in found.items()} == {
        "pointing": [True, False, False],
        "IoU@0.5": [True, False, False],
    }
    assert interval(np.array([True, True, False]), np.array([1, 1, 2])) == (0, 100)


def test_the_hand_placed_boxes_of_real_people(test_data: Path, tiny_processor: RogleProcessor) -> None:
    rows = annotated_rows(test_data / "pedestrians")
    texts, boxes, people, at = paired_sentences(rows)
    assert (len(rows), len(texts), len(set(people.tolist()))) == (90, 47, 12)
    # Without any image or fitted box, keywords find half of them; a model has to do better.
    look_up = hits(keyword_boxes(texts).astype(np.float64), boxes)
    assert 0.4 <= look_up["IoU@0.5"].mean() <= 0.6 and 0.7 <= look_up["pointing"].mean() <= 0.95
    plan = plan_split(tiny_processor, rows.select(np.unique(at[:, 0])))
    tables, image = plan.regions, plan.long.image
    sentence_person = plan.person_ids[[image[caption] for caption in plan.long.sentence_caption]].numpy()
    relevance = label_relevance(
        tables.own_regions.numpy(), tables.region_labels.numpy(), np.array(plan.long.sentences),
        tables.region_texts.numpy(), sentence_person, plan.person_ids[tables.region_image].numpy(),
        tables.claims.numpy(), tables.region_facts.numpy(),
    )  # fmt: skip
    rows_of, columns, grades = relevance(0, len(sentence_person))
    assert (grades == 3).sum() == 47 and not tables.facts_known
    text_of = {number: text for text, number in plan.texts.items()}
    pants = [n for n, text in enumerate(plan.long.sentences) if text_of[text] == "She wears tight black pants."]
    others = columns[(rows_of == pants[0]) & (grades == 0)]
    described = {text_of[text] for region, text in tables.region_texts.tolist() if region in others}
    assert described and all("black" in text and "pants" in text for text in described)
