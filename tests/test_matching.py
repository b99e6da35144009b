import numpy as np
import pytest
import torch
from PIL import Image

from dataset_pvlg.features import REGION_LABELS
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.matching import TEMPLATE_LABELS, match_rows, match_sentences, template_boxes


def test_templates_are_boxes_inside_the_image_and_the_last_is_the_image():
    boxes = template_boxes()
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(TEMPLATE_LABELS), 4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.1).all()
    assert boxes[-1].tolist() == [0, 0, 1, 1]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)


def test_template_labels_cover_the_regions_of_the_schema():
    assert set(TEMPLATE_LABELS[:-1]) == set(REGION_LABELS)
    assert TEMPLATE_LABELS[-1] == "whole person"


def test_templates_mirror_onto_themselves():
    mirrored = template_boxes()[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    boxes = {tuple(box) for box in template_boxes().round(4).tolist()}
    assert {tuple(box) for box in mirrored.astype(np.float32).round(4).tolist()} == boxes


REGIONS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the last is the whole image


def test_each_sentence_takes_its_best_region():
    matches = match_sentences(REGIONS, torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.96, 0.28], [0.0, 0.6, 0.8]]))
    assert matches.region.tolist() == [0, 1, -1]  # the third is best explained by the whole image
    assert matches.score.tolist() == pytest.approx([0.8, 0.96, 0.8])
    assert matches.margin.tolist() == pytest.approx([0.2, 0.68, 0.2])


def test_threshold_and_ties_give_no_region():
    tie = torch.tensor([[0.0, 0.5**0.5, 0.5**0.5]])
    assert match_sentences(REGIONS, tie).region.tolist() == [-1]
    assert match_sentences(REGIONS, torch.tensor([[0.8, 0.6, 0.0]]), threshold=0.9).region.tolist() == [-1]
    assert match_sentences(REGIONS, torch.tensor([[-1.0, -0.2, -0.4]])).region.tolist() == [-1]


def test_matching_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    regions = torch.nn.functional.normalize(torch.randn(7, 16, generator=generator), dim=-1)
    sentences = torch.nn.functional.normalize(torch.randn(50, 16, generator=generator), dim=-1)
    matches = match_sentences(regions, sentences, threshold=0.1)
    for s, sentence in enumerate(sentences):
        scores = [float(sentence @ region) for region in regions]
        best = max(range(7), key=scores.__getitem__)
        assert matches.region[s] == (best if best != 6 and scores[best] >= 0.1 else -1)
        assert float(matches.margin[s]) == pytest.approx(scores[best] - sorted(scores)[-2], abs=1e-5)


def test_no_sentence_gives_no_match():
    assert match_sentences(REGIONS, torch.zeros(0, 3)).region.shape == (0,)


@pytest.mark.parametrize(
    ("regions", "sentences"),
    [
        (REGIONS[:1], REGIONS),
        (REGIONS, torch.zeros(2, 4)),
        (REGIONS, torch.zeros(3)),
        (REGIONS, torch.full((1, 3), float("nan"))),
    ],
)
def test_bad_embeddings_are_refused(regions, sentences):
    with pytest.raises(ValueError):
        match_sentences(regions, sentences)


class FixedModel:
    """Embeds each template as an axis and each sentence as the axis that its text names; needs no weights."""

    def __init__(self):
        self.image_calls, self.texts = 0, []

    def encode_images(self, pixel_values, boxes, box_image):
        self.image_calls += 1
        assert boxes.shape == (len(pixel_values) * len(TEMPLATE_LABELS), 4)
        assert box_image.tolist() == sorted(box_image.tolist())
        return pixel_values, torch.eye(len(TEMPLATE_LABELS)).repeat(len(pixel_values), 1)

    def encode_texts(self, input_ids, attention_mask):
        return torch.eye(len(TEMPLATE_LABELS))[input_ids[:, 0]]

    def __call__(self, images=None, text=None, return_tensors=None):
        if images is not None:
            return {"pixel_values": torch.zeros(len(images), 3, 4, 2)}
        self.texts += text
        ids = torch.tensor([[TEMPLATE_LABELS.index(t)] for t in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def row(*sentences: str, size: tuple[int, int] = (50, 120)) -> dict:
    return {
        "image": Image.new("RGB", size),
        "image_id": "own/1",
        "width": size[0],
        "height": size[1],
        "sentences": [{"text": text, "start": 0, "end": len(text)} for text in sentences],
    }


def test_rows_get_regions_in_pixels_with_every_sentence_accounted_for():
    fixed = FixedModel()
    rows = [row("head", "whole person", "feet"), row(), row("feet", "feet", size=(100, 300))]
    regions, counts = match_rows(fixed, fixed, rows, batch_size=2, progress=False)
    assert counts == {"images": 3, "sentences": 5, "assigned": 4, "unassigned": 1}
    assert [[(r["sentence"], r["label"]) for r in found] for found in regions] == [
        [(0, "head"), (2, "feet")],
        [],
        [(0, "feet"), (1, "feet")],
    ]
    x0, y0, x1, y1 = template_boxes()[TEMPLATE_LABELS.index("feet")]
    assert regions[2][0]["bbox"] == pytest.approx([x0 * 100, y0 * 300, (x1 - x0) * 100, (y1 - y0) * 300], rel=1e-5)
    assert regions[0][0] | {"bbox": None} == {
        "bbox": None,
        "label": "head",
        "sentence": 0,
        "score": 1.0,
        "reliability": 1.0,
        "origin": "rsm",
    }
    assert fixed.image_calls == 2  # one forward a batch, whatever the number of regions
    assert sorted(fixed.texts) == ["feet", "head", "whole person"]  # each different sentence once


def test_row_without_picture_is_named():
    with pytest.raises(ValueError, match="own/1: field 'image'"):
        match_rows(FixedModel(), FixedModel(), [row("head") | {"image": None}], progress=False)


def test_a_real_model_gives_the_same_regions_for_any_batch_size(tiny_checkpoint):
    model = RogleModel.from_pretrained(tiny_checkpoint).eval()
    processor = RogleProcessor.from_pretrained(tiny_checkpoint)
    rng = np.random.default_rng(0)
    rows = [row("A man wears a red jacket.", "His shoes are white.", "She has long hair.") for _ in range(5)]
    for each in rows:
        each["image"] = Image.fromarray(rng.integers(0, 255, (120, 50, 3), dtype=np.uint8)).convert("P")
    regions, counts = match_rows(model, processor, rows, batch_size=2, threshold=-1.0, progress=False)
    alone, _ = match_rows(model, processor, rows, batch_size=5, threshold=-1.0, progress=False)
    assert counts["assigned"] + counts["unassigned"] == counts["sentences"] == 15
    assert counts["assigned"] > 0
    for mine, other in zip(regions, alone, strict=True):
        assert [r["label"] for r in mine] == [r["label"] for r in other]
        for region in mine:
            assert 0 <= region["reliability"] <= 1
            assert -1 <= region["score"] <= 1
