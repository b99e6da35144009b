"""Region features against plain loops over pixels."""

import pytest
import torch

from modeling_rogle.regions import box_patch_shares, crop_boxes, mean_patch_tokens


def brute_force_shares(box: list[float], rows: int, columns: int, fine: int = 60) -> torch.Tensor:
    """Counts sample points of a fine raster inside the box, patch by patch."""
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
    none = mean_patch_tokens(torch.randn(2, 8, 5), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), (4, 2))
    assert none.shape == (0, 5)


def test_box_smaller_than_a_patch_has_a_feature() -> None:
    tokens = torch.randn(1, 8, 5)
    found = mean_patch_tokens(tokens, torch.tensor([[0.01, 0.01, 0.02, 0.02]]), torch.tensor([0]), (4, 2))
    torch.testing.assert_close(found[0], tokens[0, 0])


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.5, 0.9], [1.2, 0.1, 1.5, 0.4]])
def test_box_without_area_is_named(box: list[float]) -> None:
    with pytest.raises(ValueError, match="boxes: row 1"):
        box_patch_shares(torch.tensor([[0.0, 0.0, 1.0, 1.0], box]), (4, 2))


def test_wrong_grid_is_said() -> None:
    with pytest.raises(ValueError, match="9 patch tokens do not fit a grid of 4 x 2"):
        mean_patch_tokens(torch.zeros(1, 9, 3), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]), (4, 2))


def test_crop_of_the_whole_image_is_the_image() -> None:
    pixels = torch.randn(2, 3, 32, 16)
    crops = crop_boxes(pixels, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.tensor([0, 1]))
    torch.testing.assert_close(crops, pixels)


def test_crop_of_a_quarter_holds_only_that_quarter() -> None:
    pixels = torch.zeros(1, 1, 32, 16)
    pixels[:, :, 16:, :8] = 1.0  # lower left
    crop = crop_boxes(pixels, torch.tensor([[0.0, 0.5, 0.5, 1.0]]), torch.tensor([0]))
    assert crop.shape == (1, 1, 32, 16)
    assert crop[:, :, 2:, :-2].min() == 1.0
