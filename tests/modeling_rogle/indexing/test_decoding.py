"""Decoding in batches: order, skipped items, worker processes."""

import pytest
import torch

from modeling_rogle.indexing.decoding import ItemDecoder, decoded_batches, default_workers
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import find_source
from tests.helpers.image_files import write_colour


def item_decoder(folder, processor, detecting=False) -> ItemDecoder:
    source = find_source(folder)
    return ItemDecoder(source, processor, (32, 16), detecting, source.items)


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        write_colour(tmp_path / f"{number}.png", f"rgb({number}, 30, 60)")
    (tmp_path / "3.png").write_text("x")
    return tmp_path


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 0), (3, 0), (7, 0), (100, 0), (3, 1)])
def test_batches_keep_the_order_and_every_item(folder, tiny_processor, batch_size, workers):
    batches = list(decoded_batches(item_decoder(folder, tiny_processor), batch_size, workers))
    decoded = [item for items, _, _ in batches for item in items]
    assert [item.row["path"] for item in decoded] == [f"{n}.png" for n in range(7) if n != 3]
    assert all(item.pixels.shape == (3, 32, 16) for item in decoded)
    assert [item for _, skipped, _ in batches for item in skipped] == [
        Skipped("3.png", "not an image that Pillow can read")
    ]
    assert sum(count for _, _, count in batches) == 7 and all(count <= batch_size for _, _, count in batches)


def test_images_for_a_detector_keep_their_size(folder, tiny_processor):
    ((decoded, _, _),) = decoded_batches(item_decoder(folder, tiny_processor, detecting=True), 10, 0)
    assert decoded[0].image.size == (6, 12) and decoded[0].pixels is None


def test_a_model_on_the_cpu_gets_no_worker_processes():
    assert default_workers(torch.device("cpu")) == 0
    assert 1 <= default_workers(torch.device("cuda")) <= 8
