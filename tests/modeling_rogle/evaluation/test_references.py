"""The reference lines of the local protocol on rows with known answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.local_protocol import region_relevance
from modeling_rogle.evaluation.references import fit_look_up, reference_lines, region_corners, sentences_of
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from tests.helpers.metrics import graded_by_loops
from tests.helpers.splits import HEIGHT, WIDTH, make_row, protocol_rows, rows_with_facts

BOX_OF = {"hat": (4, 0, 10, 8), "coat": (2, 10, 16, 14), "boots": (4, 38, 12, 6)}
THINGS, COLOURS = tuple(BOX_OF), ("red", "blue", "green", "white")


def large_rows(images: int, shift: int = 0) -> list[dict]:
    """Rows of three regions each; the words say where a thing is, and only the image says which colour it has."""
    rows = []
    for n in range(images):
        colours = [COLOURS[(n // 4**k + shift) % 4] for k in range(3)]
        texts = [f"The {thing} is {colour}." for thing, colour in zip(THINGS, colours, strict=True)]
        row = make_row(n, n // 2, texts, [(BOX_OF[thing], s, 1.0) for s, thing in enumerate(THINGS)], [])
        facts = [[f"kind={thing}", f"color={colour}"] for thing, colour in zip(THINGS, colours, strict=True)]
        regions = zip(row["regions"], facts, strict=True)
        row["regions"] = [region | {"attributes": fact, "origin": "synthetic"} for region, fact in regions]
        rows.append(row | {"claims": [[fact] for fact in facts]})
    return rows


@pytest.fixture(scope="module")
def split(tiny_checkpoint: Path) -> SplitEmbeddings:
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    return encode_split(model, processor, large_rows(64), progress=False)


def test_floor_and_ceiling_of_a_set_that_needs_the_image(split: SplitEmbeddings) -> None:
    rows = large_rows(64)
    look_up = fit_look_up(large_rows(120, shift=1))
    assert look_up is not None
    lines = reference_lines(split, sentences_of(rows), look_up)
    random, floor, ceiling = (lines[name].scores() for name in ("local/random", "local/look-up", "local/oracle"))
    assert ceiling["R@1"] == ceiling["R-precision"] == ceiling["within-R@1"] == 100
    assert ceiling["nDCG@10"] < 100, "equal facts do not say which region is the sentence's own"
    # The look-up knows the thing but not its colour: it finds every box, and all boxes of that thing tie.
    assert (floor["pointing"], floor["IoU@0.5"], floor["within-R@1"]) == (100, 100, 100)
    assert floor["R@1"] == 0
    chance = 100 * 16 / 192  # of 64 images, 16 show the thing in that colour
    assert random["chance"] == floor["chance"] == pytest.approx(chance)
    assert random["R@1"] == pytest.approx(chance, abs=3 * 100 * np.sqrt(chance / 100 / 192))
    assert random["within-chance"] == pytest.approx(100 / 3)


def test_reference_lines_equal_plain_loops(split: SplitEmbeddings) -> None:
    texts = sentences_of(large_rows(64))
    lines = reference_lines(split, texts)  # keywords and template boxes
    grades = {(int(s), int(r)): int(g) for s, r, g in zip(*region_relevance(split)(0, len(texts)), strict=True)}
    corners = region_corners(split)
    assert corners[0] == pytest.approx([4 / WIDTH, 0, 14 / WIDTH, 8 / HEIGHT])
    templates = {"hat": (0.28, 0, 0.72, 0.19), "coat": (0.08, 0.15, 0.92, 0.57), "boots": (0.16, 0.87, 0.84, 1)}
    overlap = np.zeros((len(texts), len(corners)), dtype=np.float32)
    for s, text in enumerate(texts):
        x0, y0, x1, y1 = templates[text.split()[1]]
        for r, (a0, b0, a1, b1) in enumerate(corners.tolist()):
            shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            overlap[s, r] = shared / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared)
    expected = graded_by_loops(overlap.round(5), grades)
    scores = lines["local/look-up"].scores()
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_without_facts_there_is_no_ceiling_and_without_regions_nothing(tiny_checkpoint: Path) -> None:
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    rows = protocol_rows()
    split = encode_split(model, processor, rows, progress=False)
    assert set(reference_lines(split, sentences_of(rows))) == {"local/random", "local/look-up"}
    bare = encode_split(model, processor, [row | {"regions": []} for row in rows], progress=False)
    assert reference_lines(bare, sentences_of(rows)) == {}
    known = encode_split(model, processor, rows_with_facts(), progress=False)
    assert "local/oracle" in reference_lines(known, sentences_of(rows))
    mixed = rows_with_facts()
    mixed[3]["regions"][0]["attributes"] = None  # a mined region
    assert not encode_split(model, processor, mixed, progress=False).facts_known


def test_the_look_up_reads_only_true_pairs() -> None:
    mined = [row | {"regions": [region | {"origin": "rsm"} for region in row["regions"]]} for row in large_rows(120)]
    assert fit_look_up(mined) is None and fit_look_up(None) is None and fit_look_up(large_rows(8)) is None
    look_up = fit_look_up(large_rows(120))
    boxes = look_up.boxes(["The boots are red.", "A word that training lacks"])
    assert boxes[0] == pytest.approx([4 / WIDTH, 38 / HEIGHT, 16 / WIDTH, 1], abs=0.05)
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] <= boxes[:, 2:]).all()


def test_an_oracle_is_wrong_where_the_facts_are(split: SplitEmbeddings) -> None:
    # Facts that no region has: only the sentence's own region counts, and the oracle cannot find it.
    wrong = replace(split, region_facts=split.region_facts + len(split.region_facts))
    scores = reference_lines(wrong, sentences_of(large_rows(64)))["local/oracle"].scores()
    assert scores["positives"] == 1 and scores["R@1"] < 10
