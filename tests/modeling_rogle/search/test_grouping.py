"""Exact copies are one result; near-duplicates, consecutive frames and the values of a column are, if asked for."""

import shutil
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.grouping import CONSECUTIVE, DUPLICATE, MIN_GALLERY, Grouping, Groups
from tests.helpers.image_files import QUERY, make_images


class Stored:
    """What `Groups` reads of an index: embeddings and columns."""

    def __init__(self, embeds: np.ndarray, columns: dict):
        self.embeds, self.table = embeds.astype(np.float32), pa.table(columns)

    def __len__(self) -> int:
        return len(self.embeds)

    def global_rows(self, rows: np.ndarray) -> np.ndarray:
        return self.embeds[rows]


def at_distances(distances: list[float], others: int = 400) -> np.ndarray:
    """Unit vectors: the first, others at these relative distances to it, and random ones that set the scale to 1."""
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(others, 512))
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    axes = np.linalg.qr(embeds[: len(distances) + 1].T)[0].T  # each in its own direction from the first
    first = axes[0]
    near = [(1 - d) * first + np.sqrt(1 - (1 - d) ** 2) * axis for d, axis in zip(distances, axes[1:], strict=True)]
    return np.stack([first, *near, *embeds[len(distances) + 1 :]])


def groups(embeds: np.ndarray, columns: dict, count: int, grouping: Grouping) -> list[list[int]]:
    filled = {name: [*values, *[None] * (len(embeds) - len(values))] for name, values in columns.items()}
    return Groups(Stored(embeds, filled)).groups(np.arange(count), grouping)


def test_near_duplicates_are_one_result_in_any_camera() -> None:
    embeds = at_distances([0.5 * DUPLICATE, 0.95 * DUPLICATE, 2 * CONSECUTIVE])
    assert groups(embeds, {"camera": ["a", "b", None, "a"]}, 4, Grouping(similar=True)) == [[0, 1, 2], [3]]
    assert groups(embeds, {}, 4, Grouping()) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("unit", ["frame", "seconds", "time"])
def test_consecutive_images_of_one_camera_are_one_result(unit: str) -> None:
    cameras = ["c1", "c1", "c2", "c1", "c1", "c1"]
    moments = [0, 2, 1, 60, 3.5, 1]  # seconds; 0 and 3.5 are linked by 2
    values = {
        "frame": [round(30 * moment) for moment in moments],
        "seconds": moments,
        "time": [datetime(2026, 5, 1) + timedelta(seconds=moment) for moment in moments],
    }[unit]
    columns = {"camera": cameras, "frame" if unit == "frame" else "time": values}
    near = at_distances([0.4 * CONSECUTIVE] * 5)
    found = groups(near, columns, 6, Grouping(similar=True))
    assert found == [[0, 1, 4, 5], [2], [3]]
    assert groups(near, {"camera": cameras}, 1, Grouping(similar=True)) == [[0]]


def test_a_small_gallery_groups_no_similar_images() -> None:
    embeds = at_distances([0.1 * DUPLICATE], MIN_GALLERY - 2)
    assert groups(embeds, {}, 2, Grouping(similar=True)) == [[0], [1]]


def test_a_column_groups_equal_values_and_null_is_no_value() -> None:
    embeds = at_distances([])
    assert groups(embeds, {"person": [7, None, 8, 7, None]}, 5, Grouping(column="person")) == [[0, 3], [1], [2], [4]]


@pytest.fixture(scope="module")
def copied(tiny_checkpoint, tmp_path_factory) -> tuple[Gallery, int, Gallery]:
    """A gallery of each image four times, how many images its encoder saw, and a gallery of each image once."""
    folder = tmp_path_factory.mktemp("copies")
    once = make_images(folder / "once", 12)
    for name in "abcd":
        shutil.copytree(once, folder / "four" / name)
    (folder / "four" / "metadata.csv").write_text("file_name,person\na/00.png,1\nb/01.png,1\nc/02.png,2\n")
    model, processor = load_model(tiny_checkpoint)
    seen = []
    hook = model.vision_model.register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape[0]))
    four = Gallery.build(folder / "four", model, processor, folder / "index4", 5, progress=False)
    hook.remove()
    return four, sum(seen), Gallery.build(once, model, processor, folder / "index1", progress=False)


def test_copies_are_encoded_once_and_are_one_result(copied) -> None:
    four, forwards, once = copied
    assert (len(four), forwards, four.report.copied) == (48, 12, 36)
    found, expected = four.search(QUERY, 20), once.search(QUERY, 20)
    assert [match.path.split("/")[1] for match in found] == [match.path for match in expected]
    assert [match.score for match in found] == pytest.approx([match.score for match in expected], abs=1e-6)
    for match in found:
        name = match.path.split("/")[1]
        assert sorted([match.path, *match.others]) == [f"{folder}/{name}" for folder in "abcd"]
    assert [match.path for match in four.search(QUERY, 3, reranked=0)] == [
        match.path for match in four.search(QUERY, 12, reranked=0)
    ][:3]


def test_a_later_run_encodes_no_copy_of_an_indexed_image(copied, tmp_path) -> None:
    four, _, _ = copied
    images, index = shutil.copytree(four.folder, tmp_path / "four"), tmp_path / "index"
    processor = four.encoder.processor
    first = Gallery.build(images, four.encoder.model, processor, index, progress=False)
    shutil.copy(images / "a" / "07.png", images / "new.png")
    torch.manual_seed(0)
    second = Gallery.build(images, four.encoder.model, processor, index, progress=False)
    assert (second.report.added, second.report.copied, len(first) + 1) == (1, 1, len(second))
    old, new = (np.array([second.paths.index(name)]) for name in ("a/07.png", "new.png"))
    assert np.array_equal(second.encode_gallery(old), second.encode_gallery(new))


def test_group_by_a_column(copied) -> None:
    four = copied[0]
    found = four.search(QUERY, 20, group_by="person")
    people = [match.metadata["person"] for match in found]
    assert people.count(1) <= 1 and sum(1 + len(match.others) for match in found) == 48
    with pytest.raises(ValueError, match="group by: no column 'persn'; columns are "):
        four.search(QUERY, group_by="persn")
