"""Tables of metadata and captions with a fault, each with what an index or a build must make of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

NFC, NFD = "caf\u00e9.png", "cafe\u0301.png"


@dataclass(frozen=True)
class FaultyTable:
    """A folder of images with a table.

    Attributes:
        images: paths of the images.
        name: file name of the table.
        content: content of the table.
        expected: metadata of the index by path.
        warned: parts of the warnings.
    """

    images: tuple[str, ...]
    name: str
    content: bytes
    expected: dict[str, dict[str, Any]]
    warned: tuple[str, ...] = ()


def write_images(folder: Path, paths: tuple[str, ...]) -> Path:
    """Writes small images of different colours."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 50), (40 * number + 20, 90, 200)).save(folder / path, "PNG")
    return folder


def respelled(path: str, written: str) -> FaultyTable:
    content = f'file_name,camera\n"{written}",east\nother.png,west\n'.encode()
    expected = {path: {"camera": "east"}, "other.png": {"camera": "west"}}
    return FaultyTable((path, "other.png"), "metadata.csv", content, expected, ("1 of 2 rows match their image by",))


def typed(*values: tuple[str, Any], name: str = "metadata.csv", column: str = "camera") -> FaultyTable:
    images = tuple(f"{number}.png" for number in range(len(values)))
    lines = [f"file_name,{column}", *(f"{path},{text}" for path, (text, _) in zip(images, values, strict=True))]
    expected = {path: {column: value} for path, (_, value) in zip(images, values, strict=True)}
    return FaultyTable(images, name, "\n".join(lines).encode(), expected)


TABLES = {
    "backslashes": respelled("a/1.png", "a\\1.png"),
    "composed letters": respelled(NFD, NFC),
    "decomposed letters": respelled(NFC, NFD),
    "another case": respelled("a/IMG_1.png", "A/img_1.PNG"),
    "no suffix": respelled("a/0001.png", "a/0001"),
    "a folder above": respelled("a/1.png", "photos/a/1.png"),
    "an absolute path": respelled("a/1.png", "/data/photos/a/1.png"),
    "percent encoding": respelled("my image.png", "my%20image.png"),
    "blanks around it": respelled("a.png", " a.png "),
    "rows without image": FaultyTable(
        ("a.png",),
        "metadata.csv",
        b"file_name,camera\na.png,east\nb.png,west\n,south\n",
        {"a.png": {"camera": "east"}},
        ("2 of 3 rows match no image, the first is b.png",),
    ),
    "ambiguous case": FaultyTable(
        ("a.png", "A.png"),
        "metadata.csv",
        b"file_name,camera\nA.PNG,east\n",
        {"a.png": {"camera": None}, "A.png": {"camera": None}},
        ("1 of 1 rows match no image",),
    ),
    "tab-separated": FaultyTable(
        ("a.png",), "metadata.tsv", b"file_name\tcamera\na.png\teast, north\n", {"a.png": {"camera": "east, north"}}
    ),
    "semicolons": FaultyTable(
        ("a.png",), "metadata.csv", b"file_name;camera\na.png;east\n", {"a.png": {"camera": "east"}}
    ),
    "a name in capitals": FaultyTable(
        ("a.png",), "Metadata.CSV", b"file_name,camera\na.png,east\n", {"a.png": {"camera": "east"}}
    ),
    "leading zeros": typed(("003", "003"), ("010", "010")),
    "numbers stay numbers": typed(("3", 3), ("-10", -10)),
    "fractions stay numbers": typed(("0.5", 0.5), ("-1e-05", -1e-05), ("0", 0.0)),
    "identifiers beyond 2^63": typed(("9223372036854775809", "9223372036854775809"), ("1", "1")),
    "identifiers like 12e4": typed(("12e4", "12e4"), ("1", "1")),
    "times stay times": FaultyTable(
        ("0.png",), "metadata.csv", b"file_name,day\n0.png,2026-05-01\n", {"0.png": {"day": "2026-05-01"}}
    ),
    "missing values": typed(("east", "east"), ("NULL", None), ("nan", None), ("None", None), ("", None), ("NA", "NA")),
    "missing numbers": typed(("1", 1), ("NULL", None), ("", None), ("None", None)),
    "an empty first line": FaultyTable(
        ("a.png",), "metadata.csv", b"\r\n\nfile_name,camera\na.png,east\n", {"a.png": {"camera": "east"}}
    ),
    "a blank before the header": FaultyTable(
        ("a.png",), "metadata.csv", b" file_name , camera\na.png,east\n", {"a.png": {"camera": "east"}}
    ),
    "an empty header": FaultyTable(
        ("a.png",),
        "metadata.csv",
        b",file_name,camera\n0,a.png,east\n",
        {"a.png": {"camera": "east"}},
        ("a column without a name ignored",),
    ),
    "cp1252": FaultyTable(
        ("a.png",),
        "metadata.csv",
        "file_name,place\na.png,Fl\u00fcgel\n".encode("cp1252"),
        {"a.png": {"place": "Fl\u00fcgel"}},
        ("not UTF-8, read as cp1252",),
    ),
    "UTF-16": FaultyTable(
        ("a.png",),
        "metadata.csv",
        "file_name,place\na.png,Fl\u00fcgel\n".encode("utf-16"),
        {"a.png": {"place": "Fl\u00fcgel"}},
    ),
    "large numbers in JSON": FaultyTable(
        ("a.png", "b.png"),
        "metadata.jsonl",
        b'{"file_name": "a.png", "track": 9223372036854775809}\n{"file_name": "b.png", "track": 7}\n',
        {"a.png": {"track": "9223372036854775809"}, "b.png": {"track": "7"}},
    ),
    "NaN in JSON": FaultyTable(
        ("a.png", "b.png"),
        "metadata.jsonl",
        b'{"file_name": "a.png", "track": NaN}\n{"file_name": "b.png", "track": 7}\n',
        {"a.png": {"track": None}, "b.png": {"track": 7}},
    ),
}  # fmt: skip
# Tables that cannot be read: name, content, and a part of the one line.
REFUSED = {
    "deep brackets": ("metadata.jsonl", b'{"file_name": "a.png", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "line 1"),
    "brackets within Python's limit": (
        "metadata.jsonl", b'{"file_name": "a.png", "x": ' + b"[" * 500 + b"]" * 500 + b"}", "line 1: nested too deeply",
    ),
    "not an object": ("metadata.jsonl", b'{"file_name": "a.png"}\n[1]\n', "line 2: not an object"),
    "a number of 5,000 digits": (
        "metadata.jsonl", b'{"file_name": "a.png", "x": ' + b"1" * 5000 + b"}", "line 1: not JSON",
    ),
    "cut off": ("metadata.jsonl", b'{"file_name": "a.png", "x"', "line 1: not JSON"),
    "two columns of one name": ("metadata.csv", b"file_name,x, x\na.png,1,2\n", "column 'x' occurs twice"),
    "binary": ("metadata.csv", b"\x00\x01\x02file_name", "not a text file"),
    "empty": ("metadata.csv", b"", "empty"),
    "rows of different length": ("metadata.csv", b"file_name,x\na.png\n", "cannot be read"),
    "one image twice": ("metadata.csv", b"file_name,x\na.png,1\n./a.png,2\n", "a.png occurs twice"),
}  # fmt: skip


@dataclass(frozen=True)
class FaultyCaptions:
    """A table of images and captions to build.

    Attributes:
        lines: rows of a CSV with the columns file_name, caption and person_id; image n is named `n.png`.
        captions: captions of each image.
        people: number of identities, those without one counting as one each.
        counts: a part of a reason in the report -> its count.
    """

    rows: tuple[tuple[str, str], ...]
    captions: tuple[tuple[str, ...], ...]
    people: int
    counts: dict[str, int] = field(default_factory=dict)


RED, BLUE = "A man in a red coat.", "A woman in a blue coat."


def missing_identity(text: str) -> FaultyCaptions:
    rows = ((RED, "7"), (RED, text), (RED, text), (BLUE, "8"))
    return FaultyCaptions(rows, ((RED,), (RED,), (RED,), (BLUE,)), 4, {"image without identity": 2})


def missing_caption(text: str) -> FaultyCaptions:
    return FaultyCaptions(((RED, "7"), (text, "8")), ((RED,), ()), 2, {"missing value": 1})


CAPTIONS = {
    "identity nan": missing_identity("nan"),
    "identity None": missing_identity("None"),
    "identity NULL": missing_identity("NULL"),
    "identity 7.0": FaultyCaptions(((RED, "7.0"), (BLUE, "7"), (BLUE, "8")), ((RED,), (BLUE,), (BLUE,)), 2),
    "identity -1.0": FaultyCaptions(((RED, "7"), (RED, "-1.0"), (BLUE, "8")), ((RED,), (BLUE,)), 2, {"marks junk": 1}),
    "caption nan": missing_caption("nan"),
    "caption None": missing_caption("None"),
    "caption null": missing_caption("null"),
    "text of a list": FaultyCaptions(
        ((f"""['{RED}', "{BLUE}"]""", "7"), (BLUE, "8")), ((RED, BLUE), (BLUE,)), 2, {"the text of a list": 1}
    ),
    "text of an array": FaultyCaptions(
        ((f"['{RED}' '{BLUE}']", "7"), (BLUE, "8")), ((RED, BLUE), (BLUE,)), 2, {"the text of a list": 1}
    ),
    "a caption in brackets": FaultyCaptions(((f"[{RED}]", "7"), (BLUE, "8")), ((f"[{RED}]",), (BLUE,)), 2),
}
