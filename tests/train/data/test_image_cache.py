"""Images cached on disk: equal pixels, shared by processes and runs, never an incomplete one."""

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleProcessor
from train.data.image_cache import ImageCache, image_cache
from train.data.pairs import PairDataset


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load_rows("synthetic-tiny")[0]["train"].select(range(6))


def with_cache(rows: Dataset, processor: RogleProcessor, folder: Path) -> PairDataset:
    return PairDataset(rows, processor, flip=0.0, cache_bytes=0, cache=image_cache(rows, processor, folder))


def test_workers_fill_it_and_the_next_epoch_opens_no_image(
    rows: Dataset, tiny_processor: RogleProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [PairDataset(rows, tiny_processor, flip=0.0)[n].image for n in range(6)]
    pairs = with_cache(rows, tiny_processor, tmp_path)
    for _ in DataLoader(pairs, batch_size=2, num_workers=2, collate_fn=pairs.collate):
        pass
    monkeypatch.setattr("train.data.pairs.read_image", lambda *given: pytest.fail("an image was read again"))
    again = with_cache(rows, tiny_processor, tmp_path)
    assert all(np.array_equal(again[n].image, wanted[n]) for n in range(6))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_half_written_image_counts_as_missing(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "some.pictures", (3, 4, 2))
    image = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    assert cache.read(0) is None
    for index in (3, 0):
        cache.write(index, image)
    assert np.array_equal(cache.read(3), image) and cache.read(1) is None and cache.read(9) is None
    os.truncate(cache.file, 3 * cache.record_bytes + 20)
    assert cache.read(3) is None and np.array_equal(cache.read(0), image)
    with open(cache.file, "r+b") as file:
        file.seek(20)
        file.write(b"\xff")
    assert cache.read(0) is None
    cache.write(0, image)
    assert np.array_equal(cache.read(0), image)


def test_other_images_or_sizes_have_another_file(rows: Dataset, tiny_processor: RogleProcessor, tmp_path: Path) -> None:
    def name(given: Dataset) -> str:
        return image_cache(given, tiny_processor, tmp_path).file.name

    changed = rows.map(lambda row, n: {"sha256": "0" * 64 if n == 2 else row["sha256"]}, with_indices=True)
    unknown = rows.map(lambda row: {"sha256": ""})
    names = [name(rows), name(rows.select(range(5))), name(changed), name(unknown)]
    size = tiny_processor.image_processor.size
    tiny_processor.image_processor.size = {"height": 48, "width": 16}
    names.append(name(rows))
    tiny_processor.image_processor.size = size
    assert len(set(names)) == 5 and name(rows) == names[0] and name(unknown) == names[3]


def test_a_full_disk_costs_the_cache_and_not_the_run(
    rows: Dataset, tiny_processor: RogleProcessor, capsys: pytest.CaptureFixture
) -> None:
    full = ImageCache(Path("/dev/full"), (3, 32, 16))
    if not full.file.exists():
        pytest.skip("this system has no /dev/full")
    pairs = PairDataset(rows, tiny_processor, flip=0.0, cache_bytes=0, cache=full)
    shapes = {pairs[n].image.shape for n in range(3)}
    assert shapes == {(3, 32, 16)}
    assert capsys.readouterr().out.count("No space left on device") == 1
