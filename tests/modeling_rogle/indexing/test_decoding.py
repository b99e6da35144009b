"""Decoding in batches: order, losses, worker processes."""

import pytest
import torch

from modeling_rogle.indexing.decoding import Preparer, default_workers, prepared_batches
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import find_source
from tests.modeling_rogle.indexing.test_image_sources import image


def preparer(folder, processor, detecting=False) -> Preparer:
    source = find_source(folder)
    return Preparer(source, processor, (32, 16), detecting, source.items)


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        image(tmp_path / f"{number}.png", f"rgb({number}, 30, 60)")
    (tmp_path / "3.png").write_text("x")
    return tmp_path


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 0), (3, 0), (7, 0), (100, 0), (3, 1)])
def test_batches_keep_order_and_lose_nothing(folder, tiny_processor, batch_size, workers):
    batches = list(prepared_batches(preparer(folder, tiny_processor), batch_size, workers))
    good = [ready for ready, _, _ in batches for ready in ready]
    assert [ready.facts["path"] for ready in good] == [f"{n}.png" for n in range(7) if n != 3]
    assert all(ready.pixels.shape == (3, 32, 16) for ready in good)
    assert [item for _, bad, _ in batches for item in bad] == [Skipped("3.png", "not an image that Pillow can read")]
    assert sum(count for _, _, count in batches) == 7 and all(count <= batch_size for _, _, count in batches)


def test_for_a_detector_images_stay_whole(folder, tiny_processor):
    ((ready, _, _),) = prepared_batches(preparer(folder, tiny_processor, detecting=True), 10, 0)
    assert ready[0].image.size == (6, 12) and ready[0].pixels is None


def test_a_model_on_the_cpu_keeps_its_cores():
    assert default_workers(torch.device("cpu")) == 0
    assert 1 <= default_workers(torch.device("cuda")) <= 8
