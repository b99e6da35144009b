"""Batches of long and short captions together: which short one, and that nothing else changes."""

import torch

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from train.both_captions import BothCaptions
from train.data.pairs import UNREAD, PairDataset, normalize_images


def test_a_short_caption_of_the_image_stands_beside_the_long_one(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(8))
    both, one = (kind(rows, tiny_processor, long_share=1.0, seed=3) for kind in (BothCaptions, PairDataset))
    drawn: list[set] = [set() for _ in range(8)]
    for epoch in range(6):
        both.set_epoch(epoch)
        one.set_epoch(epoch)
        batch = both.collate([both[n] for n in range(8)])
        plain = one.collate([one[n] for n in range(8)])
        assert set(batch) - set(plain) == {"short_input_ids"}
        assert all(torch.equal(batch[k], plain[k]) for k in plain if isinstance(plain[k], torch.Tensor))
        for n in range(8):
            text = tiny_processor.tokenizer.decode(batch["short_input_ids"][n], skip_special_tokens=True)
            own = [tiny_processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in both.short_ids[n]]
            assert text in own
            drawn[n].add(text)
    assert max(len(texts) for texts in drawn) > 1  # drawn anew


def test_without_short_captions_it_is_the_first_sentence(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(2))
    rows = rows.map(lambda row: {"captions": []})
    both = BothCaptions(rows, tiny_processor, max_pairs=0)
    assert both[0]["short"] == both.sentence_ids[0][0]
    both.sentence_ids[1] = []
    assert both[1]["short"] == both.long_ids[1]


def test_the_batch_is_what_the_model_reads(tiny_processor: RogleProcessor, tiny_model: RogleModel) -> None:
    both = BothCaptions(load_rows("synthetic-tiny")[0]["train"].select(range(3)), tiny_processor)
    batch = both.collate([both[n] for n in range(3)])
    batch["pixel_values"] = normalize_images(batch.pop("images"), tiny_processor)
    for name in UNREAD:
        batch.pop(name)
    tiny_model.config.short_loss_weight = 1.0
    assert tiny_model(**batch, return_loss=True).loss_short > 0
