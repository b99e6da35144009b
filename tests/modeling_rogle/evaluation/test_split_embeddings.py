"""Encoding of a split in parts, with equal bits for any number of processes; bad rows are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.evaluation.split_embeddings import (
    assemble,
    encode_part,
    encode_split,
    plan_split,
)
from tests.helpers.splits import numbered_row, tensors_of


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [numbered_row(n) for n in range(11)]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> RogleModel:
    return RogleModel.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("processes", [2, 3, 8])  # 11 rows in batches of 3: four batches, some processes have none
def test_parts_of_any_number_of_processes_equal_the_whole_bit_for_bit(model, tiny_processor, rows, processes) -> None:
    whole = encode_split(model, tiny_processor, rows, batch_size=3, progress=False)
    plan = plan_split(tiny_processor, rows)
    parts = [encode_part(model, tiny_processor, rows, plan, 3, n, processes, progress=False) for n in range(processes)]
    assert sum(len(part["image_at"]) for part in parts) == len(rows)
    assert len({int(n) for part in parts for n in part["text_at"]}) == len(plan.texts)
    joined = tensors_of(assemble(plan, reversed(parts)))
    assert all(torch.equal(joined[name], value) for name, value in tensors_of(whole).items())


def test_a_process_decodes_only_its_own_images(model, tiny_processor, rows) -> None:
    broken = [row | {"image": None} if 3 <= n < 6 else row for n, row in enumerate(rows)]
    plan = plan_split(tiny_processor, broken)
    part = encode_part(model, tiny_processor, broken, plan, 3, process=0, processes=2, progress=False)
    assert part["image_at"].tolist() == [0, 1, 2, 6, 7, 8]
    with pytest.raises(ValueError, match="made/3: field 'image' is null"):
        encode_part(model, tiny_processor, broken, plan, 3, process=1, processes=2, progress=False)


def test_a_missing_or_repeated_part_is_an_error(model, tiny_processor, rows) -> None:
    plan = plan_split(tiny_processor, rows)
    parts = [encode_part(model, tiny_processor, rows, plan, 3, n, 2, progress=False) for n in range(2)]
    with pytest.raises(ValueError, match="image 3 was encoded 0 times"):
        assemble(plan, parts[:1])
    with pytest.raises(ValueError, match="image 0 was encoded 2 times"):
        assemble(plan, [*parts, parts[0]])


@pytest.mark.parametrize("feature", ["crop", "dense_roi"])
def test_every_kind_of_region_feature_is_encoded(tiny_config: RogleConfig, tiny_processor, rows, feature: str) -> None:
    torch.manual_seed(0)
    model = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | {"region_feature": feature})).eval()
    split = encode_split(model, tiny_processor, rows, batch_size=8, progress=False)
    one = encode_split(model, tiny_processor, rows[:1], batch_size=1, progress=False)
    norms = torch.linalg.norm(split.region_embeds, dim=-1)
    torch.testing.assert_close(norms, torch.ones(len(split.region_boxes)), rtol=0, atol=1e-5)
    torch.testing.assert_close(split.template_embeds[0], one.template_embeds[0], rtol=0, atol=1e-5)


def test_sizes_follow_the_rows(model, tiny_processor: RogleProcessor, rows) -> None:
    split = encode_split(model, tiny_processor, rows, progress=False)
    assert len(split.long.embeds) == sum(bool(row["caption"]) for row in rows)
    assert len(split.short.embeds) == sum(len(row["captions"]) for row in rows)
    assert len(split.region_embeds) == sum(len(row["regions"]) for row in rows)
    assert split.image_person_ids.tolist() == [row["person_id"] for row in rows]


def test_a_short_caption_is_split_into_clauses(tiny_processor, rows) -> None:
    row = rows[0] | {"captions": ["A man wears a red shirt, black pants and white shoes."]}
    assert {"A man wears a red shirt", "black pants", "and white shoes."} <= plan_split(
        tiny_processor, [row]
    ).texts.keys()


def test_late_interaction_scores_the_clauses_of_every_sentence(model, tiny_processor, rows) -> None:
    texts = ["She wears a red jacket.", "Her skirt is blue and she carries a black bag.", "She walks."]
    caption = " ".join(texts)
    starts = [caption.index(text) for text in texts]
    sentences = [{"text": t, "start": n, "end": n + len(t)} for t, n in zip(texts, starts, strict=True)]
    made = [
        row | {"caption": caption, "captions": [caption], "sentences": sentences, "regions": []} for row in rows[:2]
    ]
    split = encode_split(model, tiny_processor, made, progress=False)
    assert split.long.sentence_caption.tolist() == [0, 0, 0, 1, 1, 1]  # the queries of the local protocol stay whole
    (clauses, owner), short = split.long.clauses, split.short.clauses
    assert owner.tolist() == short[1].tolist() == [0] * 4 + [1] * 4
    expected = [texts[0], "Her skirt is blue", "and she carries a black bag.", texts[2]]
    encoded = model.encode_texts(**tiny_processor(text=expected, return_tensors="pt"))
    torch.testing.assert_close(clauses[:4], encoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(short[0], clauses)  # a row's sentences are scored like a query of the same text


def test_rows_without_regions_or_texts_are_still_a_gallery(model, tiny_processor, rows) -> None:
    bare = [row | {"regions": [], "caption": "", "sentences": [], "captions": []} for row in rows]
    split = encode_split(model, tiny_processor, bare, progress=False)
    assert (len(split.image_embeds), len(split.long.embeds), len(split.region_embeds)) == (11, 0, 0)


def without(name: str) -> Callable[[dict], dict]:
    return lambda row: {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("captions"), "made/0: field 'captions' is missing"),
        (without("image"), "made/0: field 'image' is missing"),
        (without("image_id"), "row 0: field 'image_id' is missing"),
    ],
)
def test_a_missing_field_is_named(model, tiny_processor, rows, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_split(model, tiny_processor, [change(rows[0])], progress=False)


def test_an_image_that_cannot_be_read_is_named(model, tiny_processor, rows, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    listed = [row | {"image": {"bytes": None, "path": str(tmp_path / "broken.jpg")}} for row in rows[:2]]
    data = Dataset.from_list(listed).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match="made/0: field 'image' cannot be read"):
        encode_split(model, tiny_processor, data, progress=False)


def test_the_plan_for_templates_has_no_regions_of_the_rows(tiny_processor, rows) -> None:
    plan = plan_split(tiny_processor, rows, regions="templates", split="train")
    assert len(plan.regions.region_boxes) == 0 and bool((plan.regions.sentence_region == -1).all())
    assert replace(plan, split=None).split is None and plan.split == "train"
