"""Training pairs: boxes and texts stay correct, draws depend on seed, epoch and row alone."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from tests.helpers.training_rows import LONG, training_row
from train.data.pairs import PairDataset, normalize_images


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_list([training_row(0, 7, mark=True), training_row(1, 7), training_row(2, 8)], features=FEATURES)


def test_a_batch_trains_the_model(rows: Dataset, tiny_processor: RogleProcessor, tiny_model: RogleModel) -> None:
    pairs = PairDataset(rows, tiny_processor, long_share=1.0, flip=0.0)
    batch = pairs.collate([pairs[i] for i in range(3)])
    assert batch.image_ids == ["image-0", "image-1", "image-2"] and batch.faults == {}
    assert batch.box_image.tolist() == [0, 0, 1, 1, 2, 2]  # regions without sentence or reliability are left out
    assert batch.pair_weight.tolist() == [1.0, 0.5] * 3
    assert batch.sentence_groups.tolist() == [0, 1] * 3
    assert batch.part_groups[0] == batch.part_groups[2] != batch.part_groups[4]  # the same part of the same person
    assert batch.rows.tolist() == batch.source_rows.tolist() == [0, 1, 2]
    assert batch.pair_numbers.tolist() == list(range(6))
    output = tiny_model(**batch.model_inputs(normalize_images(batch.images, tiny_processor)), return_loss=True)
    assert torch.isfinite(output.loss) and output.loss_local > 0 and output.loss_tsl_text > 0


def test_images_equal_the_processors(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    pairs = PairDataset(rows, tiny_processor, flip=0.0)
    ours = normalize_images(pairs.collate([pairs[0]]).images, tiny_processor)
    theirs = tiny_processor(images=[rows[0]["image"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_boxes_are_mirrored_with_the_image(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    sample = PairDataset(rows, tiny_processor, flip=1.0)[0]
    half = sample.image.shape[2] // 2
    assert sample.image[:, :, half + 1 :].min() > 200  # the white half is on the right now
    np.testing.assert_allclose(sample.boxes[0], [0.5, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("sentence", "box"),
    [
        ("left of him is a red bag.", [0.0, 0.0, 0.5, 1.0]),
        ("Right of him is a red bag.", [0.0, 0.0, 0.5, 1.0]),
        ("His jacket is left open.", [0.5, 0.0, 1.0, 1.0]),  # names no side
    ],
)
def test_a_caption_with_left_or_right_is_never_mirrored(
    tiny_processor: RogleProcessor, sentence: str, box: list[float]
) -> None:
    rows = Dataset.from_list([training_row(0, 1, (sentence, *LONG[1:]), mark=True)], features=FEATURES)
    sample = PairDataset(rows, tiny_processor, long_share=1.0, flip=1.0)[0]
    np.testing.assert_allclose(sample.boxes[0], box)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence": 99}, r"image-0: regions\[1\].sentence is 99 of 3"),
        ({"bbox": [40, 0, 9, 9]}, r"image-0: regions\[1\].bbox"),
        ({"bbox": [5, 5, 0, 9]}, r"image-0: regions\[1\].bbox"),
    ],
)
def test_a_wrong_region_is_named(tiny_processor: RogleProcessor, change: dict, message: str) -> None:
    broken = training_row(0, 1)
    broken["regions"][1].update(change)
    with pytest.raises(ValueError, match=message):
        PairDataset(Dataset.from_list([broken], features=FEATURES), tiny_processor)


def test_short_captions_have_no_spans(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    short = PairDataset(rows, tiny_processor, long_share=0.0)[0]
    assert short.spans == [(-1, -1), (-1, -1)]
    assert short.caption in [tiny_processor.tokenizer(c)["input_ids"] for c in rows[0]["captions"]]
    long = PairDataset(rows, tiny_processor, long_share=1.0)[0]
    first, last = long.spans[1]
    assert long.caption[first:last] == tiny_processor.tokenizer(LONG[1])["input_ids"][1:-1]


def test_draws_depend_on_seed_epoch_and_row_alone(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    one, two = (PairDataset(rows, tiny_processor, max_pairs=1, seed=5) for _ in range(2))
    for epoch in range(6):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        _ = two[2]  # another reading order
        assert one[0].caption == two[0].caption
        assert np.array_equal(one[0].boxes, two[0].boxes)
    drawn = set()
    for epoch in range(20):
        one.set_epoch(epoch)
        drawn.add(tuple(one[0].sentence_groups))
    assert drawn == {(0,), (1,)}


def several_regions(number: int = 0) -> Dataset:
    """One row: sentence 0 describes two regions, sentence 1 another one, and the last region has both sentences."""
    row = training_row(number, 7)
    region = {"label": "bag", "score": 1.0, "origin": "human", "reliability": 1.0}
    boxes = [([0, 0, 9, 9], 0), ([20, 0, 9, 9], 0), ([0, 40, 9, 9], 1), ([0, 40, 9, 9], 0)]
    row["regions"] = [{"bbox": box, "sentence": sentence, **region} for box, sentence in boxes]
    return Dataset.from_list([row], features=FEATURES)


def test_all_regions_of_a_drawn_sentence_come_with_it(tiny_processor: RogleProcessor) -> None:
    pairs, drawn = PairDataset(several_regions(), tiny_processor, max_pairs=3, flip=0.0, seed=2), []
    for epoch in range(30):
        pairs.set_epoch(epoch)
        sample = pairs[0]
        drawn.append(tuple(sample.pair_numbers))
        assert sample.sentence_numbers == [pairs[0].sentence_groups[n] for n in range(3)]
    # Sentence 0 fills the three slots, or sentence 1 was drawn first and two of the three regions fit.
    assert set(drawn) == {(0, 1, 3), (0, 1, 2), (0, 2, 3), (1, 2, 3)}
    assert 5 < drawn.count((0, 1, 3)) < 25


def test_a_sentence_about_several_regions_is_drawn_as_often_as_others(tiny_processor: RogleProcessor) -> None:
    pairs, drawn = PairDataset(several_regions(), tiny_processor, max_pairs=1, seed=1), []
    for epoch in range(200):
        pairs.set_epoch(epoch)
        drawn += pairs[0].pair_numbers
    assert 75 < drawn.count(2) < 125 and set(drawn) == {0, 1, 2, 3}
    pairs.pair_reliability = np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32)  # sentence 0 has one reliable pair
    drawn = []
    for epoch in range(200):
        pairs.set_epoch(epoch)
        drawn += pairs[0].pair_numbers
    assert drawn.count(2) < 25


def test_a_batch_with_several_regions_a_sentence_trains_the_model(
    tiny_processor: RogleProcessor, tiny_model: RogleModel
) -> None:
    rows = Dataset.from_list([*several_regions(), *several_regions(1)], features=FEATURES)
    pairs = PairDataset(rows, tiny_processor, long_share=1.0, flip=0.0)
    batch = pairs.collate([pairs[0], pairs[1]])
    assert batch.sentence_numbers.unique(return_inverse=True)[1].tolist() == [0, 0, 1, 0, 2, 2, 3, 2]
    inputs = batch.model_inputs(normalize_images(batch.images, tiny_processor))
    output = tiny_model(**inputs, return_loss=True)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.loss_local > 0
    without = {name: value for name, value in inputs.items() if name != "sentence_numbers"}
    assert tiny_model(**without, return_loss=True).loss_local != output.loss_local


def test_pairs_numbered_by_sentence_need_one_region_a_sentence(tiny_processor: RogleProcessor) -> None:
    pairs = PairDataset(several_regions(), tiny_processor)
    with pytest.raises(ValueError, match="image-0: regions: mining gives a sentence one region"):
        pairs.set_regions(pairs.regions, number_by_sentence=True)


def test_no_pairs_leave_the_local_branch_out(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    pairs = PairDataset(rows, tiny_processor, max_pairs=0)
    batch = pairs.collate([pairs[0], pairs[1]])
    assert batch.boxes is None and "boxes" not in batch.model_inputs(torch.zeros(2, 3, 32, 16))


def test_annotations_without_images_are_named(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    without = Dataset.from_list([{**training_row(0, 1), "image": None}], features=FEATURES)
    with pytest.raises(ValueError, match="image-0: image is null"):
        PairDataset(without, tiny_processor)[0]


def test_a_short_caption_is_added_and_all_other_draws_stay(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(8))
    both, one = (PairDataset(rows, tiny_processor, long_share=1.0, seed=3, short_captions=s) for s in (True, False))
    drawn: list[set] = [set() for _ in range(8)]
    for epoch in range(6):
        both.set_epoch(epoch)
        one.set_epoch(epoch)
        batch = both.collate([both[n] for n in range(8)])
        plain = one.collate([one[n] for n in range(8)])
        inputs, plain_inputs = batch.model_inputs(batch.images), plain.model_inputs(plain.images)
        assert set(inputs) - set(plain_inputs) == {"short_input_ids"}
        assert all(torch.equal(inputs[name], value) for name, value in plain_inputs.items())
        for n in range(8):
            text = tiny_processor.tokenizer.decode(batch.short_input_ids[n], skip_special_tokens=True)
            own = [tiny_processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in both.short_ids[n]]
            assert text in own
            drawn[n].add(text)
    assert max(len(texts) for texts in drawn) > 1  # drawn again in each epoch


def test_without_short_captions_the_first_sentence_is_used(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(2))
    rows = rows.map(lambda row: {"captions": []})
    both = PairDataset(rows, tiny_processor, max_pairs=0, short_captions=True)
    assert both[0].short_caption == both.sentence_ids[0][0]
    both.sentence_ids[1] = []
    assert both[1].short_caption == both.long_ids[1]


def test_the_model_reads_short_captions(tiny_processor: RogleProcessor, tiny_model: RogleModel) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(3))
    both = PairDataset(rows, tiny_processor, short_captions=True)
    batch = both.collate([both[n] for n in range(3)])
    tiny_model.config.short_loss_weight = 1.0
    inputs = batch.model_inputs(normalize_images(batch.images, tiny_processor))
    assert tiny_model(**inputs, return_loss=True).loss_short > 0
