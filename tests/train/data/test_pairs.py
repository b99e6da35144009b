"""Training pairs: boxes and words stay true, draws depend on seed, epoch and row alone."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from dataset_pvlg.features import FEATURES
from modeling_rogle import RogleModel, RogleProcessor
from train.data.pairs import PairDataset, normalize_images, pad_rows

LONG = ("A man wears a red jacket.", "His shoes are white.", "He is walking.")


def row(number: int, person: int, sentences: tuple[str, ...] = LONG, mark: bool = False) -> dict:
    """40 x 80 px; with `mark` the left half is white, and the first region is exactly that half."""
    pixels = np.random.default_rng(number).integers(0, 60, (80, 40, 3), dtype=np.uint8)
    if mark:
        pixels[:, :20] = 255
    spans, start = [], 0
    for text in sentences:
        spans.append({"text": text, "start": start, "end": start + len(text)})
        start += len(text) + 1
    region = {"score": 1.0, "origin": "human"}
    return {
        "image": Image.fromarray(pixels),
        "path": f"{number}.png",
        "sha256": "",
        "image_id": f"image-{number}",
        "width": 40,
        "height": 80,
        "person_id": person,
        "source": "own",
        "camera": None,
        "parent": None,
        "captions": ["A man in red.", "A man in a jacket with white shoes."],
        "caption": " ".join(sentences),
        "caption_origin": "human",
        "sentences": spans,
        "regions": [
            {"bbox": [0, 0, 20, 80], "label": "upper body", "sentence": 0, "reliability": 1.0, **region},
            {"bbox": [10, 60, 20, 20], "label": "feet", "sentence": 1, "reliability": 0.5, **region},
            {"bbox": [0, 0, 5, 5], "label": "bag", "sentence": -1, "reliability": 1.0, **region},
            {"bbox": [0, 0, 5, 5], "label": "bag", "sentence": 2, "reliability": 0.0, **region},
        ],
    }


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_list([row(0, 7, mark=True), row(1, 7), row(2, 8)], features=FEATURES)


def test_a_batch_trains_the_model(rows: Dataset, tiny_processor: RogleProcessor, tiny_model: RogleModel) -> None:
    pairs = PairDataset(rows, tiny_processor, long_share=1.0, flip=0.0)
    batch = pairs.collate([pairs[i] for i in range(3)])
    assert batch.pop("image_ids") == ["image-0", "image-1", "image-2"] and batch.pop("faults") == {}
    assert batch["box_image"].tolist() == [0, 0, 1, 1, 2, 2]  # unpaired and untrusted regions are left out
    assert batch["pair_weight"].tolist() == [1.0, 0.5] * 3
    assert batch["sentence_ids"].tolist() == [0, 1] * 3
    assert batch["part_ids"][0] == batch["part_ids"][2] != batch["part_ids"][4]  # the same part of the same person
    assert batch.pop("row_numbers").tolist() == batch.pop("caption_rows").tolist() == [0, 1, 2]
    assert batch.pop("pair_numbers").tolist() == list(range(6))
    batch["pixel_values"] = normalize_images(batch.pop("images"), tiny_processor)
    output = tiny_model(**batch, return_loss=True)
    assert torch.isfinite(output.loss) and output.loss_local > 0 and output.loss_tsl_text > 0


def test_images_equal_the_processors(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    pairs = PairDataset(rows, tiny_processor, flip=0.0)
    ours = normalize_images(pairs.collate([pairs[0]])["images"], tiny_processor)
    theirs = tiny_processor(images=[rows[0]["image"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_mirror_image_takes_its_boxes_along(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    item = PairDataset(rows, tiny_processor, flip=1.0)[0]
    half = item["image"].shape[2] // 2
    assert item["image"][:, :, half + 1 :].min() > 200  # the white half is on the right now
    np.testing.assert_allclose(item["boxes"][0], [0.5, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("word", ["left", "Right"])
def test_words_of_side_forbid_the_mirror(tiny_processor: RogleProcessor, word: str) -> None:
    said = Dataset.from_list([row(0, 1, (f"{word} of him is a red bag.", *LONG[1:]), mark=True)], features=FEATURES)
    item = PairDataset(said, tiny_processor, long_share=1.0, flip=1.0)[0]
    np.testing.assert_allclose(item["boxes"][0], [0.0, 0.0, 0.5, 1.0])


def test_a_jacket_left_open_has_no_side(tiny_processor: RogleProcessor) -> None:
    said = Dataset.from_list([row(0, 1, ("His jacket is left open.", *LONG[1:]), mark=True)], features=FEATURES)
    item = PairDataset(said, tiny_processor, long_share=1.0, flip=1.0)[0]
    np.testing.assert_allclose(item["boxes"][0], [0.5, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sentence": 99}, r"image-0: regions\[1\].sentence is 99 of 3"),
        ({"bbox": [40, 0, 9, 9]}, r"image-0: regions\[1\].bbox .* lies outside its image"),
        ({"bbox": [5, 5, 0, 9]}, r"image-0: regions\[1\].bbox .* lies outside its image"),
    ],
)
def test_a_wrong_region_is_named(tiny_processor: RogleProcessor, change: dict, said: str) -> None:
    broken = row(0, 1)
    broken["regions"][1].update(change)
    with pytest.raises(ValueError, match=said):
        PairDataset(Dataset.from_list([broken], features=FEATURES), tiny_processor)


def test_short_captions_have_no_spans(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    short = PairDataset(rows, tiny_processor, long_share=0.0)[0]
    assert short["spans"] == [(-1, -1), (-1, -1)]
    assert short["caption"] in [tiny_processor.tokenizer(c)["input_ids"] for c in rows[0]["captions"]]
    long = PairDataset(rows, tiny_processor, long_share=1.0)[0]
    first, last = long["spans"][1]
    assert long["caption"][first:last] == tiny_processor.tokenizer(LONG[1])["input_ids"][1:-1]


def test_draws_depend_on_seed_epoch_and_row_alone(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    one, two = (PairDataset(rows, tiny_processor, max_pairs=1, seed=5) for _ in range(2))
    for epoch in range(6):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        _ = two[2]  # another order of reading
        assert one[0]["caption"] == two[0]["caption"]
        assert np.array_equal(one[0]["boxes"], two[0]["boxes"])
    drawn = set()
    for epoch in range(20):
        one.set_epoch(epoch)
        drawn.add(tuple(one[0]["text_numbers"]))
    assert drawn == {(0,), (1,)}


def test_no_pairs_leave_the_local_branch_out(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    pairs = PairDataset(rows, tiny_processor, max_pairs=0)
    assert "boxes" not in pairs.collate([pairs[0], pairs[1]])


def test_annotations_without_images_are_named(rows: Dataset, tiny_processor: RogleProcessor) -> None:
    bare = Dataset.from_list([{**row(0, 1), "image": None}], features=FEATURES)
    with pytest.raises(ValueError, match="image-0: image is null"):
        PairDataset(bare, tiny_processor)[0]


def test_pad_rows() -> None:
    assert pad_rows([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
