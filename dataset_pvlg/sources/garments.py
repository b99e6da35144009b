"""Paint and cloth of the synthetic pedestrians: what each colour word looks like, and the patterns."""

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

# Chosen to stay apart under every camera of scene.py.
PAINT: dict[str, Colour] = {
    "black": (26, 26, 30),
    "white": (243, 243, 240),
    "grey": (138, 140, 144),
    "blue": (42, 82, 190),
    "red": (205, 32, 40),
    "green": (34, 138, 58),
    "yellow": (240, 208, 48),
    "pink": (244, 150, 190),
    "purple": (122, 54, 156),
    "brown": (108, 68, 38),
    "orange": (242, 126, 28),
    "khaki": (196, 176, 120),
}
HAIR: dict[str, Colour] = {
    "black": (22, 20, 22),
    "brown": (104, 64, 34),
    "blonde": (226, 192, 104),
    "grey": (172, 172, 176),
    "red": (176, 72, 30),
}


def darker(colour: Colour, share: float = 0.78) -> Colour:
    """The same hue with `share` of the light."""
    return tuple(int(c * share) for c in colour)


def lighter(colour: Colour, share: float) -> Colour:
    """`share` of the way to white."""
    return tuple(int(c + (255 - c) * share) for c in colour)


def accent(name: str) -> Colour:
    """A colour that shows on the named one: white on dark cloth, dark blue on light."""
    return (38, 46, 110) if sum(PAINT[name]) > 480 else (246, 246, 242)


def paint_pattern(size: tuple[int, int], fill: Colour, pattern: str, unit: float) -> Image.Image:
    """A piece of patterned cloth.

    Args:
        size: width and height in pixels of the canvas.
        fill: ground colour, which stays the larger part.
        pattern: striped, plaid or dotted.
        unit: the person's height in pixels, which sets the pattern's scale.
    """
    width, height = size
    cloth = Image.new("RGB", size, fill)
    draw = ImageDraw.Draw(cloth)
    mark = (38, 46, 110) if sum(fill) > 480 else (246, 246, 242)
    if pattern == "striped":
        step = max(8, round(unit * 0.050))
        for y in range(step // 2, height, step):
            draw.rectangle((0, y, width, y + step * 0.36), fill=mark)
    elif pattern == "plaid":
        step, thin = max(10, round(unit * 0.062)), max(2, round(unit * 0.012))
        shade = tuple((f + m) // 2 for f, m in zip(fill, mark, strict=True))
        for x in range(step // 3, width, step):
            draw.rectangle((x, 0, x + thin * 2, height), fill=shade)
        for y in range(step // 3, height, step):
            draw.rectangle((0, y, width, y + thin * 2), fill=shade)
        for x in range(step // 3, width, step):
            for y in range(step // 3, height, step):
                draw.rectangle((x, y, x + thin * 2, y + thin * 2), fill=mark)
    else:
        step, radius = max(10, round(unit * 0.058)), max(3, round(unit * 0.014))
        for row, y in enumerate(range(step // 2, height + step, step)):
            for x in range(step // 2 - (row % 2) * step // 2, width + step, step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mark)
    return cloth
