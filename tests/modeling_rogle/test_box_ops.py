"""Operations on boxes, compared with plain loops: IoU, shares, RoIAlign, crops and blanking."""

import math

import numpy as np
import pytest
import torch

from dataset_pvlg.features import REGION_LABELS
from modeling_rogle.box_ops import (
    TEMPLATE_LABELS,
    blank_outside,
    box_iou,
    box_patch_shares,
    crop_boxes,
    mean_patch_tokens,
    roi_align,
    template_boxes,
)


def test_iou_of_known_boxes() -> None:
    first = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    second = torch.tensor([[0, 0, 1, 0.5], [0.5, 0.5, 1, 1], [0.25, 0, 0.75, 0.5]])
    expected = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.0, 1 / 3], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(box_iou(first, second), expected)


def brute_force_shares(box: list[float], rows: int, columns: int, fine: int = 60) -> torch.Tensor:
    """Counts the sample points of a fine raster that lie inside the box, for each patch."""
    shares = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows * fine):
        for j in range(columns * fine):
            y, x = (i + 0.5) / (rows * fine), (j + 0.5) / (columns * fine)
            if box[0] <= x < box[2] and box[1] <= y < box[3]:
                shares[i // fine, j // fine] += 1
    return (shares / shares.sum()).flatten().float()


@pytest.mark.parametrize(
    "box", [[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75], [0.1, 0.2, 0.85, 0.35], [0.3, 0.3, 0.36, 0.32]]
)
def test_shares_equal_a_count_of_points(box: list[float]) -> None:
    found = box_patch_shares(torch.tensor([box]), (4, 2))[0]
    torch.testing.assert_close(found, brute_force_shares(box, 4, 2), atol=0.02, rtol=0)
    assert found.sum() == pytest.approx(1)


def test_box_on_one_patch_gives_that_token_on_a_tall_grid() -> None:
    tokens = torch.randn(2, 24 * 8, 5)
    row, column = 17, 3
    box = torch.tensor([[column / 8, row / 24, (column + 1) / 8, (row + 1) / 24]])
    found = mean_patch_tokens(tokens, box, torch.tensor([1]), (24, 8))
    torch.testing.assert_close(found[0], tokens[1, row * 8 + column])


def test_boxes_in_any_order_equal_one_by_one() -> None:
    tokens, image = torch.randn(3, 8, 5), torch.tensor([2, 0, 2, 0, 2])
    low = torch.rand(5, 2) * 0.5
    boxes = torch.cat([low, low + 0.1 + torch.rand(5, 2) * 0.4], dim=1)
    found = mean_patch_tokens(tokens, boxes, image, (4, 2))
    for row in range(5):
        alone = box_patch_shares(boxes[row : row + 1], (4, 2)) @ tokens[image[row]]
        torch.testing.assert_close(found[row], alone[0])


def test_no_boxes_give_no_features() -> None:
    none = torch.randn(2, 8, 5), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), (4, 2)
    assert mean_patch_tokens(*none).shape == (0, 5)
    assert roi_align(*none, output=(3, 2)).shape == (0, 3, 2, 5)
    assert crop_boxes(torch.randn(2, 3, 8, 4), *none[1:3]).shape == (0, 3, 8, 4)


def test_box_smaller_than_a_patch_has_a_feature() -> None:
    tokens = torch.randn(1, 8, 5)
    found = mean_patch_tokens(tokens, torch.tensor([[0.01, 0.01, 0.02, 0.02]]), torch.tensor([0]), (4, 2))
    torch.testing.assert_close(found[0], tokens[0, 0])


# --- RoIAlign ----------------------------------------------------------------------------------------------------


def brute_force_roi_align(
    tokens: torch.Tensor, box: list[float], grid: tuple[int, int], output: tuple[int, int], samples: int | None
) -> torch.Tensor:
    """The definition in Python floats, with a loop over samples and corners."""
    rows, columns = grid
    values = tokens.reshape(rows, columns, -1)
    top, left = box[1] * rows - 0.5, box[0] * columns - 0.5
    high, wide = (box[3] - box[1]) * rows / output[0], (box[2] - box[0]) * columns / output[1]
    down, across = samples or math.ceil(high), samples or math.ceil(wide)
    found = torch.zeros(*output, values.shape[-1], dtype=torch.float64)
    for i in range(output[0]):
        for j in range(output[1]):
            for k in range(down):
                for m in range(across):
                    y = min(max(top + (i + (k + 0.5) / down) * high, 0.0), rows - 1.0)
                    x = min(max(left + (j + (m + 0.5) / across) * wide, 0.0), columns - 1.0)
                    y0, x0 = int(y), int(x)
                    y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
                    upper = (1 - (x - x0)) * values[y0, x0] + (x - x0) * values[y0, x1]
                    lower = (1 - (x - x0)) * values[y1, x0] + (x - x0) * values[y1, x1]
                    found[i, j] += ((1 - (y - y0)) * upper + (y - y0) * lower) / (down * across)
    return found


@pytest.mark.parametrize("samples", [None, 1, 2, 3])
@pytest.mark.parametrize(
    ("grid", "output"), [((24, 8), (1, 1)), ((5, 3), (2, 3)), ((2, 7), (7, 7)), ((1, 1), (2, 2)), ((6, 1), (1, 1))]
)
def test_roi_align_equals_plain_loops(grid: tuple[int, int], output: tuple[int, int], samples: int | None) -> None:
    torch.manual_seed(1)
    tokens = torch.randn(3, grid[0] * grid[1], 2, dtype=torch.float64)
    low = torch.rand(6, 2, dtype=torch.float64) * 0.9
    size = torch.rand(6, 2, dtype=torch.float64) ** 2  # some of them smaller than a patch
    boxes = torch.cat([low, torch.minimum(low + size, torch.ones(()))], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    image = torch.tensor([2, 0, 2, 1, 0, 2])
    found = roi_align(tokens, boxes, image, grid, output, samples)
    assert found.shape == (6, *output, 2)
    single = roi_align(tokens.float(), boxes.float(), image, grid, output, samples or 2)
    for row in range(6):
        expected = brute_force_roi_align(tokens[image[row]], boxes[row].tolist(), grid, output, samples)
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=0)
        expected = brute_force_roi_align(tokens[image[row]], boxes[row].tolist(), grid, output, samples or 2)
        torch.testing.assert_close(single[row].double(), expected, atol=1e-4, rtol=0)


def test_roi_align_reads_a_ramp_at_the_centre_of_any_box_however_small() -> None:
    rows, columns = 24, 8
    y = ((torch.arange(rows) + 0.5) / rows)[:, None].expand(-1, columns)
    x = ((torch.arange(columns) + 0.5) / columns).expand(rows, -1)
    tokens = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    boxes = torch.tensor([[0.3, 0.3, 0.301, 0.3001], [0.1, 0.5, 0.9, 0.6], [0.4, 0.05, 0.5, 0.95]])
    found = roi_align(tokens, boxes, torch.zeros(3, dtype=torch.long), (rows, columns))[:, 0, 0]
    torch.testing.assert_close(found, (boxes[:, :2] + boxes[:, 2:]) / 2, atol=1e-5, rtol=0)


def test_roi_align_of_one_value_is_that_value_up_to_the_border_and_beyond() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.99, 0.99, 1.0, 1.0], [-0.5, 0.2, 0.1, 1.7]])
    found = roi_align(torch.full((1, 8, 3), 0.7), boxes, torch.zeros(3, dtype=torch.long), (4, 2), (2, 2))
    torch.testing.assert_close(found, torch.full((3, 2, 2, 3), 0.7))


def test_box_on_one_patch_is_mixed_with_no_other_by_one_sample() -> None:
    tokens = torch.randn(1, 24 * 8, 5)
    box = torch.tensor([[3 / 8, 17 / 24, 4 / 8, 18 / 24]])
    found = roi_align(tokens, box, torch.tensor([0]), (24, 8))[0, 0, 0]
    torch.testing.assert_close(found, tokens[0, 17 * 8 + 3], atol=1e-4, rtol=0)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.5, 0.9], [1.2, 0.1, 1.5, 0.4], [0.1, 0.2, float("nan"), 0.4]])
def test_box_without_area_is_named(box: list[float]) -> None:
    boxes, image = torch.tensor([[0.0, 0.0, 1.0, 1.0], box]), torch.zeros(2, dtype=torch.long)
    for use in (
        lambda: box_patch_shares(boxes, (4, 2)),
        lambda: roi_align(torch.zeros(1, 8, 3), boxes, image, (4, 2)),
        lambda: crop_boxes(torch.zeros(1, 3, 8, 4), boxes, image),
        lambda: blank_outside(torch.zeros(1, 3, 8, 4), boxes, image),
    ):
        with pytest.raises(ValueError, match="boxes: row 1"):
            use()


@pytest.mark.parametrize("pool", [mean_patch_tokens, roi_align])
def test_a_wrong_grid_and_a_wrong_image_are_named(pool) -> None:
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="9 patch tokens do not fit a grid of 4 x 2"):
        pool(torch.zeros(1, 9, 3), box, torch.tensor([0]), (4, 2))
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match=f"box_image names image {wrong}, there are 1"):
            pool(torch.zeros(1, 8, 3), box, torch.tensor([wrong]), (4, 2))


# --- crops and blanking ------------------------------------------------------------------------------------------


def test_crop_of_the_whole_image_is_the_image() -> None:
    pixels = torch.randn(2, 3, 32, 16)
    crops = crop_boxes(pixels, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.tensor([0, 1]))
    torch.testing.assert_close(crops, pixels)


def test_crop_of_a_quarter_holds_only_that_quarter() -> None:
    pixels = torch.zeros(1, 1, 32, 16)
    pixels[:, :, 16:, :8] = 1.0  # lower left
    crop = crop_boxes(pixels, torch.tensor([[0.0, 0.5, 0.5, 1.0]]), torch.tensor([0]))
    assert crop.shape == (1, 1, 32, 16)
    assert crop.min() == 1.0


def test_crop_is_the_cut_enlarged() -> None:
    pixels = torch.randn(1, 3, 32, 16)
    found = crop_boxes(pixels, torch.tensor([[4 / 16, 8 / 32, 10 / 16, 26 / 32]]), torch.tensor([0]))
    expected = torch.nn.functional.interpolate(pixels[:, :, 8:26, 4:10], size=(32, 16), mode="bilinear")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_blanking_keeps_the_pixels_that_the_box_touches() -> None:
    pixels = torch.ones(2, 1, 384, 128)
    boxes = torch.tensor([[13 / 128, 50 / 384, 77 / 128, 211 / 384], [0.5 / 128, 3.2 / 384, 0.6 / 128, 4.9 / 384]])
    kept = blank_outside(pixels, boxes, torch.tensor([1, 0]))
    expected = torch.zeros(2, 1, 384, 128)
    expected[0, :, 50:211, 13:77] = 1
    expected[1, :, 3:5, :1] = 1
    assert torch.equal(kept, expected)


def test_template_boxes_lie_inside_the_image_and_the_last_is_the_whole_image():
    boxes = template_boxes()
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(TEMPLATE_LABELS), 4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.1).all()
    assert boxes[-1].tolist() == [0, 0, 1, 1]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)


def test_template_labels_cover_the_regions_of_the_schema():
    assert set(TEMPLATE_LABELS[:-1]) == set(REGION_LABELS)
    assert TEMPLATE_LABELS[-1] == "whole person"


def test_templates_mirror_onto_themselves():
    mirrored = template_boxes()[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    boxes = {tuple(box) for box in template_boxes().round(4).tolist()}
    assert {tuple(box) for box in mirrored.astype(np.float32).round(4).tolist()} == boxes
