"""RogleProcessor: images, limits of texts, boxes, and sentence spans from character offsets."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, CLIPProcessor

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.sentences import split_sentences


def image(width: int = 40, height: int = 90) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_images_and_texts_become_tensors(tiny_processor: RogleProcessor) -> None:
    batch = tiny_processor(images=[image(), image(17, 33)], text=["A man.", "A red jacket."], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 32, 16)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"][0, 0] == tiny_processor.tokenizer.bos_token_id


def test_long_text_is_cut_with_its_end_kept(tiny_processor: RogleProcessor) -> None:
    ids = tiny_processor(text=["red " * 300], return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 64)
    assert ids[0, -1] == tiny_processor.tokenizer.eos_token_id


LONG = " ".join(f"{place} shoe number {i} is red." for i, place in enumerate(["The left", "The right"] * 8))


def test_long_text_ends_with_a_whole_sentence(tiny_processor: RogleProcessor) -> None:
    tokenizer = tiny_processor.tokenizer
    ids = tiny_processor(text=LONG, return_tensors="pt")["input_ids"][0].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "").endswith("isred.") and LONG.lower().startswith(text.replace(" .", ".").strip())
    # The next sentence does not fit.
    kept = text.count("shoe")
    sentences = [part + "." for part in LONG.split(".")[:-1]]
    assert 2 < kept < len(sentences)
    longer = tokenizer("".join(sentences[: kept + 1]))["input_ids"]
    assert len(ids) <= 64 < len(longer)
    assert ids == tokenizer("".join(sentences[:kept]))["input_ids"]


def test_cuts_are_counted_and_cause_one_warning(
    tmp_path: Path, tiny_processor: RogleProcessor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "modeling_rogle.processing_rogle")  # the command line turns it off
    tiny_processor.save_pretrained(tmp_path)
    processor = RogleProcessor.from_pretrained(tmp_path)
    processor(text=["A man."], return_tensors="pt")
    assert processor.truncated_captions == 0 and not caplog.records
    processor(text=[LONG, "A man.", "red " * 300], return_tensors="pt")
    processor.caption_spans([LONG], [[]])
    assert processor.truncated_captions == 3
    messages = [record.getMessage() for record in caplog.records if "truncated_captions" in record.getMessage()]
    assert len(messages) == 1 and messages[0].startswith("2 of 3 captions are longer than 64 tokens")
    assert "truncated_captions" not in processor.to_dict()


def test_the_limit_of_a_call_and_no_limit(tiny_processor: RogleProcessor) -> None:
    short = tiny_processor(text=LONG, max_length=30, padding=False)["input_ids"]
    assert len(short) <= 30 and tiny_processor.tokenizer.decode(short).count("red .") == 1
    assert short == tiny_processor(text=LONG, text_kwargs={"max_length": 30, "padding": False})["input_ids"]
    whole = tiny_processor(text=LONG, truncation=False, padding=False)["input_ids"]
    assert whole == tiny_processor.tokenizer(LONG)["input_ids"]


def test_spans_of_a_cut_caption_are_those_of_its_whole_sentences(tiny_processor: RogleProcessor) -> None:
    sentences = [{"start": start, "end": end} for _, start, end in split_sentences(LONG)]
    ids, spans = tiny_processor.caption_spans([LONG], [sentences])
    kept = (spans[0] >= 0).all(axis=1)
    assert 2 < kept.sum() < len(sentences)
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    # Only the two special tokens lie outside of a kept sentence.
    assert spans[0][kept][0, 0] == 1 and spans[0][kept][-1, 1] == len(ids[0]) - 1


@pytest.mark.parametrize("text", ["red <|endoftext|> shoes", "<|startoftext|>", "你好 ☃ \U0001f9e5"])
def test_no_text_holds_a_special_token_inside(tiny_processor: RogleProcessor, text: str) -> None:
    ids = tiny_processor.tokenizer(text)["input_ids"]
    special = {tiny_processor.tokenizer.bos_token_id, tiny_processor.tokenizer.eos_token_id}
    assert not special & set(ids[1:-1])
    assert len(ids) > 2


def test_round_trip(tmp_path: Path, tiny_processor: RogleProcessor) -> None:
    tiny_processor.save_pretrained(tmp_path)
    for loaded in (RogleProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, RogleProcessor)
        one = tiny_processor(images=[image()], text=["His shoes are white."], return_tensors="pt")
        two = loaded(images=[image()], text=["His shoes are white."], return_tensors="pt")
        assert torch.equal(one["pixel_values"], two["pixel_values"])
        assert torch.equal(one["input_ids"], two["input_ids"])
        assert loaded.tokenizer.model_max_length == 64


@pytest.mark.parametrize(
    "images", [{}, {"do_center_crop": False, "size": {"height": 384, "width": 128}}, {"do_center_crop": False}]
)
def test_a_clip_processor_becomes_rectangular(tmp_path: Path, tiny_processor: RogleProcessor, images: dict) -> None:
    CLIPProcessor(CLIPImageProcessorPil(**images), tiny_processor.tokenizer).save_pretrained(tmp_path)
    loaded = RogleProcessor.from_pretrained(tmp_path)
    batch = loaded(images=[image()], text=["red " * 300], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 384, 128)
    assert batch["input_ids"].shape == (1, 248)


def test_a_missing_vocabulary_is_an_error(tmp_path: Path, tiny_processor: RogleProcessor) -> None:
    tiny_processor.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(OSError, match="no vocabulary: neither tokenizer.json"):
        RogleProcessor.from_pretrained(tmp_path)


def test_boxes_are_scaled_and_clipped() -> None:
    found = RogleProcessor.normalize_boxes([[10, 20, 30, 40], [-10, 90, 1000, 1000]], width=100, height=200)
    np.testing.assert_allclose(found, [[0.1, 0.1, 0.4, 0.3], [0.0, 0.45, 1.0, 1.0]])
    assert RogleProcessor.normalize_boxes([], 10, 10).shape == (0, 4)


def test_spans_hold_exactly_their_sentence(tiny_processor: RogleProcessor) -> None:
    parts = ["A man wears a red jacket.", "His shoes are white.", "He carries a blue bag."]
    caption, sentences = "", []
    for part in parts:
        start = len(caption)
        sentences.append({"start": start, "end": start + len(part)})
        caption += part + " "
    ids, spans = tiny_processor.caption_spans([caption], [sentences])
    for part, (first, last) in zip(parts, spans[0], strict=True):
        alone = tiny_processor.tokenizer(part)["input_ids"][1:-1]
        assert ids[0][first:last] == alone


def test_a_sentence_after_the_cut_has_no_span(tiny_processor: RogleProcessor) -> None:
    head, tail = "red shoes " * 60, "His bag is blue."
    sentences = [{"start": 0, "end": 9}, {"start": len(head), "end": len(head) + len(tail)}]
    ids, spans = tiny_processor.caption_spans([head + tail], [sentences])
    assert len(ids[0]) == 64
    assert spans[0][0].tolist() == [1, 3] or spans[0][0][0] == 1
    assert spans[0][1].tolist() == [-1, -1]


def test_texts_are_cleaned_like_captions(tiny_processor: RogleProcessor) -> None:
    written, plain = "A man\u2019s red\u200b jacket &amp; hat. \ud83dHe walks.", "A man's red jacket & hat. He walks."
    expected = tiny_processor(text=plain)["input_ids"]
    assert tiny_processor(text=written)["input_ids"] == tiny_processor(text=[written])["input_ids"][0] == expected
    split = [{"start": start, "end": end} for _, start, end in split_sentences(written)]
    plain_split = [{"start": start, "end": end} for _, start, end in split_sentences(plain)]
    (ids,), (spans,) = tiny_processor.caption_spans([written], [split])
    (plain_ids,), (plain_spans,) = tiny_processor.caption_spans([plain], [plain_split])
    assert ids == plain_ids == expected and spans.tolist() == plain_spans.tolist() and (spans >= 0).all()


def test_no_texts_and_no_images_are_empty_tensors(tiny_processor: RogleProcessor, tiny_model: RogleModel) -> None:
    texts = tiny_processor(text=[], return_tensors="pt")
    assert texts["input_ids"].shape == texts["attention_mask"].shape == (0, 0)
    assert tiny_model.encode_texts(**texts).shape == (0, 32)
    batch = tiny_processor(images=[], text=["A man."], return_tensors="pt")
    assert batch["pixel_values"].shape == (0, 3, 32, 16) and batch["input_ids"].shape[0] == 1
    assert tiny_model.encode_images(batch["pixel_values"])[0].shape == (0, 32)
    assert tiny_processor(text=[])["input_ids"].tolist() == []


def test_generators_are_read_once(tiny_processor: RogleProcessor) -> None:
    texts, images = ["A man.", "A red jacket."], [image(), image(17, 33)]
    expected = tiny_processor(text=texts, images=images, return_tensors="pt")
    batch = tiny_processor(text=iter(texts), images=iter(images), return_tensors="pt")
    for name in ("input_ids", "pixel_values"):
        torch.testing.assert_close(batch[name], expected[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["A man.", None]}, "text: entry 1 must be a string, not NoneType"),
        ({"text": 3}, "text: must be a string or several strings, not int"),
        ({"text": "A man.", "boxes": [[0, 0, 1, 1]]}, "boxes: not an argument"),
        ({"text": "A man.", "padding_side": "left"}, "padding_side: must be 'right'"),
    ],
)
def test_invalid_arguments_are_named(tiny_processor: RogleProcessor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_processor(**arguments)


def test_padding_is_on_the_right_whatever_the_tokenizer_was_set_to(
    tmp_path: Path, tiny_processor: RogleProcessor, tiny_model: RogleModel
) -> None:
    texts = ["A man wears a red jacket.", "A man."]
    expected = tiny_processor(text=texts, return_tensors="pt")["input_ids"]
    tiny_processor.save_pretrained(tmp_path)
    processor = RogleProcessor.from_pretrained(tmp_path)
    processor.tokenizer.padding_side = "left"
    padded_left = processor.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="pad texts on the right"):
        tiny_model.encode_texts(padded_left)
    torch.testing.assert_close(processor(text=texts, return_tensors="pt")["input_ids"], expected)
