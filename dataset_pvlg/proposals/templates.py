"""Template boxes: where the parts of an upright pedestrian usually are. They do not depend on the image."""

from dataset_pvlg.proposals.base import MAX_BOXES, Proposals, select_boxes

_Box = tuple[float, float, float, float]


def _both_sides(*boxes: _Box) -> list[_Box]:
    """Each box and its mirror image, because either hand may hold a thing."""
    return [side for x0, y0, x1, y1 in boxes for side in ((x0, y0, x1, y1), (1 - x1, y0, 1 - x0, y1))]


# Fractions x0, y0, x1, y1 of a pedestrian crop. A head is 1/7.5 of the height plus hair and hat, the trunk ends in the
# middle, the feet end at the bottom. Each part has several boxes, because crops are tighter or looser, a person seen
# from the side is half as wide, and a stride is twice as wide as a stance. Verified on synthetic boxes only.
_TEMPLATES = {
    "head": [
        (0.30, 0.03, 0.70, 0.24),
        (0.25, 0.08, 0.75, 0.30),
        (0.35, 0.02, 0.65, 0.16),
        *_both_sides((0.15, 0.03, 0.55, 0.26)),
    ],
    "upper body": [
        (0.15, 0.18, 0.85, 0.56),
        (0.28, 0.18, 0.72, 0.55),
        (0.08, 0.15, 0.92, 0.75),  # a coat or a long dress
    ],
    "lower body": [
        (0.22, 0.52, 0.78, 0.90),
        (0.35, 0.55, 0.65, 0.85),
        (0.05, 0.50, 0.95, 0.88),
        (0.25, 0.68, 0.75, 0.92),  # below a coat
        (0.20, 0.45, 0.80, 0.95),
    ],
    "feet": [
        (0.25, 0.86, 0.75, 0.96),
        (0.28, 0.91, 0.72, 1.00),
        (0.05, 0.86, 0.95, 0.97),
        (0.28, 0.80, 0.72, 0.94),
        (0.08, 0.77, 0.92, 0.92),
        (0.35, 0.85, 0.65, 0.98),
        *_both_sides((0.15, 0.86, 0.50, 0.98)),
    ],
    "bag": [
        (0.20, 0.20, 0.80, 0.50),  # on the back
        (0.30, 0.30, 0.70, 0.60),
        (0.30, 0.48, 0.70, 0.70),
        *_both_sides((0.03, 0.50, 0.40, 0.66), (0.00, 0.50, 0.45, 0.85), (0.00, 0.30, 0.42, 0.68)),
    ],
    "carried item": _both_sides((0.03, 0.42, 0.30, 0.60), (0.05, 0.25, 0.35, 0.40), (0.00, 0.42, 0.25, 0.87)),
}


def propose_templates(max_boxes: int = MAX_BOXES) -> Proposals:
    """The template boxes.

    Args:
        max_boxes: maximum number of candidates, including the whole image. Default: 120.

    Returns:
        36 boxes and the whole image, or the first `max_boxes - 1` of them and the whole image.
    """
    boxes = [(label, box) for label, part in _TEMPLATES.items() for box in part]
    return select_boxes([box for _, box in boxes], [label for label, _ in boxes], max_boxes)


__all__ = ["propose_templates"]
