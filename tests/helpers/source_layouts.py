"""Small data sets in the layouts of the public sets, with drawn images, for the tests of the readers."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "white", "black", "orange")

# source -> annotation file, key of the path, image folder, first id, whether there is a validation split
LAYOUTS = {
    "cuhk_pedes": ("reid_raw.json", "file_path", "imgs", 1, True),
    "icfg_pedes": ("ICFG-PEDES.json", "file_path", "imgs", 0, False),
    "rstpreid": ("data_captions.json", "img_path", "imgs", 0, True),
    "ufine": ("annotations.json", "file_path", "images", 1, False),
    "ufine3c": ("annotations.json", "file_path", "images", 1, False),
}


def image_name(source: str, person: int, k: int) -> str:
    """A file name as in the source, relative to the image root."""
    return {
        "cuhk_pedes": f"Market/{person:04d}_c{k + 1}s1_{k:06d}_00.jpg",
        "icfg_pedes": f"test/{person:04d}/{person:04d}_{k:03d}_{k + 5:02d}_0303afternoon_{k:04d}_0.jpg",
        "rstpreid": f"{person:04d}_c{k + 9}_{k:04d}.jpg",
        "ufine": f"images/{person * 10 + k}.jpg",
        "ufine3c": f"images/{person * 10 + k}.jpg",
    }[source]


def draw_person(path: Path, person: int, k: int = 0, size: tuple[int, int] = (24, 60)) -> None:
    """Draw image `k` of a person in the person's colours, and save it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "grey")
    pen = ImageDraw.Draw(image)
    pen.rectangle((4, 12, 20, 34), fill=COLOURS[person % len(COLOURS)])
    pen.rectangle((6, 34, 18, 56), fill=COLOURS[(person // 2 + 3) % len(COLOURS)])
    pen.ellipse((8 + k, 1, 16 + k, 11), fill="pink")
    image.save(path, quality=90)


def write_source(folder: Path, source: str, people: int = 6, images: int = 2) -> tuple[Path, list[dict[str, Any]]]:
    """Write a data set. The last person is test, and the one before is validation if the source has that split.

    Returns:
        The annotation file and its records.
    """
    file, path_key, image_folder, first_id, has_validation = LAYOUTS[source]
    records = []
    for n in range(people):
        split = "test" if n == people - 1 else "val" if has_validation and n == people - 2 else "train"
        for k in range(images):
            name = image_name(source, n + first_id, k)
            root = folder if image_folder == "images" else folder / image_folder
            draw_person(root / name, n, k)
            captions = [f"A man wears a {COLOURS[n % 6]} shirt and grey pants.", f"Image {k}.He  walks. "]
            record = {"split": split, "id": n + first_id, path_key: name, "captions": captions}
            records.append(record)
            if source == "icfg_pedes":
                record["captions"] = captions[:1]
            if source == "ufine3c":
                record |= {"split": "test", "source": "UFine6926" if n % 2 else "ICFG-PEDES"}
                record["captions"] = [*captions, *[f"Style {style}." for style in range(n)]]
    write_records(folder / file, records)
    return folder / file, records


def write_textreid(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write records of CUHK-PEDES in the form of TextReID: one file per split, one row per sentence, ids from 0."""
    images = 0
    for split in ("train", "val", "test"):
        rows = []
        for record in (record for record in records if record["split"] == split):
            for sentence in record["captions"]:
                row = {"image_id": images, "id": record["id"] - 1, "file_path": record["file_path"]}
                rows.append(row | {"sentence": sentence, "onehot": [1, 2, 3]})
            images += 1
        categories = sorted({row["id"] for row in rows})
        write_records(folder / f"{split}.json", {"categories": categories, "annotations": rows})


def write_records(file: Path, records: Any) -> None:
    """Write an annotation file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records), encoding="utf-8")
