"""Random inputs: regions, captions and sentences fit together."""

import torch

from benchmarks.common.random_models import END, SIZES, configurations, random_batch, random_processor
from modeling_rogle import RogleModel


def test_the_sentences_of_a_batch_make_up_its_captions():
    config, _ = configurations("tiny")
    batch = random_batch(config, 10)
    assert (batch["boxes"][:, 2:] > batch["boxes"][:, :2]).all()
    lengths = (batch["input_ids"] == END).int().argmax(1) + 1
    assert lengths.min() >= 85 and lengths.max() <= 155
    counts = batch["box_image"].bincount()
    assert counts.min() >= 6 and counts.max() <= 9
    # The sentences, laid end to end, are the caption.
    ends = (batch["sentence_input_ids"] == END).int().argmax(1)
    for image in range(10):
        rows = (batch["box_image"] == image).nonzero()[:, 0].tolist()
        words = torch.cat([batch["sentence_input_ids"][row, 1 : ends[row]] for row in rows])
        assert torch.equal(words, batch["input_ids"][image, 1 : lengths[image] - 1])
        start, stop = batch["sentence_spans"][rows[1]].tolist()
        assert torch.equal(
            batch["input_ids"][image, start:stop], batch["sentence_input_ids"][rows[1], 1 : ends[rows[1]]]
        )
    torch.manual_seed(0)
    output = RogleModel(config)(**batch, return_loss=True)
    assert output.loss_local > 0 and output.loss_tsl_text > 0
    again = random_batch(config, 10)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert random_batch(config, 10, 3)["boxes"].shape == (30, 4)


def test_a_processor_fits_the_images_of_its_size() -> None:
    assert random_processor("tiny").image_processor.size == {
        "height": SIZES["tiny"][0][0],
        "width": SIZES["tiny"][0][1],
    }
