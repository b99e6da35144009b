"""A heat map shows the cosine of each patch and covers the image exactly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rogle.display import heatmap
from modeling_rogle.display.heatmap import draw_maps, overlay, patch_similarity
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery

QUERY = "A man wears a red jacket. His shoes are white."


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def matches(loaded, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60, 20 + i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    Gallery.build(folder, *loaded, folder.parent / "heat-index", progress=False)
    return Gallery.open(folder.parent / "heat-index", *loaded).search(QUERY, 3)


def test_each_value_is_a_patch_s_cosine(loaded):
    model, processor = loaded
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)) for _ in range(2)]
    cosines = patch_similarity(model, processor, images, ["His shoes are white.", "A red jacket."])
    rows, columns = model.config.patch_grid
    assert cosines.shape == (2, 2, rows, columns) and np.abs(cosines).max() <= 1 + 1e-5
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    texts = model.encode_texts(**processor(text=["A red jacket."], return_tensors="pt"))
    for image, row, column in ((0, 0, 0), (1, rows - 1, 0), (1, 1, columns - 1)):
        box = torch.tensor([[column / columns, row / rows, (column + 1) / columns, (row + 1) / rows]])
        _, patch = model.encode_images(pixels, box, torch.tensor([image]))
        assert cosines[1, image, row, column] == pytest.approx(float((texts @ patch.T).squeeze()), abs=1e-5)


def test_the_overlay_is_bright_where_the_cosine_is_high():
    similarity = np.zeros((6, 2), dtype=np.float32)
    similarity[4:, 1] = 1.0  # below, on the right
    image = np.asarray(overlay(Image.new("RGB", (40, 120), "grey"), similarity, 0.0, 1.0).convert("L")).astype(float)
    height, width = image.shape
    assert width / height == pytest.approx(1 / 3, rel=0.02)
    bright = image[int(height * 0.75) :, int(width * 0.7) :].mean()
    assert bright > image[: height // 2].mean() + 80 and bright > image[int(height * 0.75) :, : width // 4].mean() + 80


def test_one_row_per_sentence_or_one_sentence_only(loaded, matches, tmp_path):
    both = Image.open(draw_maps(*loaded, matches, tmp_path / "both.png"))
    one = Image.open(draw_maps(*loaded, matches, tmp_path / "one.png", sentence=2))
    assert both.width == one.width > 3 * 200 and both.height > 1.8 * one.height


def test_a_large_image_keeps_its_proportions(loaded, matches, tmp_path, monkeypatch):
    Image.new("RGB", (2000, 500), "red").save(tmp_path / "wide.png")  # is decoded with its sides nearer to each other
    wide = type(matches[0])(**{**vars(matches[0]), "file": tmp_path / "wide.png"})
    drawn, draw = [], overlay
    monkeypatch.setattr(heatmap, "overlay", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    draw_maps(*loaded, [wide], tmp_path / "map.png", sentence=1)
    assert drawn[0].width / drawn[0].height == pytest.approx(4, rel=0.05)


def test_missing_images_are_left_out(loaded, matches, tmp_path):
    gone = [type(match)(**{**vars(match), "file": tmp_path / "gone.png"}) for match in matches]
    with pytest.raises(ValueError, match="none of the image files"):
        draw_maps(*loaded, gone, tmp_path / "map.png")
    drawn = Image.open(draw_maps(*loaded, [gone[0], *matches[1:]], tmp_path / "map.png"))
    assert drawn.width < Image.open(draw_maps(*loaded, matches, tmp_path / "all.png")).width


def test_bad_input(loaded, matches, tmp_path):
    for arguments, message in (
        ((matches, tmp_path / "x.tiff"), "save the image as"),
        (([], tmp_path / "x.png"), "no results with sentences"),
        ((matches, tmp_path / "x.png", 3), "no sentence 3, the query has 2"),
        ((matches, tmp_path / "x.png", 0), "no sentence 0"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_maps(*loaded, *arguments)
    crops = SimpleNamespace(config=SimpleNamespace(region_feature="crop"))
    with pytest.raises(ValueError, match="no patch features"):
        patch_similarity(crops, loaded[1], [], [])
