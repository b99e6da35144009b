"""Columns that image files state themselves: time, camera and frame, from file names and from EXIF."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from modeling_rogle.image_io import FORMATS

# `0002_c1_0381.jpg`, `0002_c1s1_000451_03.jpg` (Market-1501), `0001_c2_f0046182.jpg` (DukeMTMC)
_CAMERA = re.compile(r"(?:^|_)(c\d{1,4})(?:s\d+)?_f?(\d{1,9})(?=[_.])", re.ASCII)
# `2026-01-31`, `20260131_235959`, `2026-01-31T23-59-59`, `2026-01-31 23.59.59`
_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?:[T _-]?(\d\d)([-_.:h]?)(\d\d)\6(\d\d))?(?!\d)", re.ASCII
)
_EXIF_IFD, _EXIF_TIMES = 0x8769, (0x9003, 0x9004)  # taken, digitised
_EXIF_CHANGED = 0x0132
_TYPES = {"time": pa.timestamp("us"), "camera": pa.string(), "frame": pa.int64()}


def columns_of_name(name: str) -> dict[str, Any]:
    """Reads `camera`, `frame` and `time` from a file name, as far as it states them.

    Args:
        name: the name of the file with its suffix.
    """
    found: dict[str, Any] = {}
    if camera := _CAMERA.search(name):
        found |= {"camera": camera[1], "frame": int(camera[2])}
    if time := _TIME.search(name):
        numbers = [int(time[n] or 0) for n in (1, 3, 4, 5, 7, 8)]
        try:
            found["time"] = datetime(*numbers)  # type: ignore[arg-type]
        except ValueError:  # not a date
            pass
    return found


def time_of_exif(file: Path) -> datetime | None:
    """Reads when a photograph was taken, in its camera's time; None if the file does not state it."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            exif = opened.getexif()
            taken = exif.get_ifd(_EXIF_IFD)
            text = next((taken[tag] for tag in _EXIF_TIMES if taken.get(tag)), exif.get(_EXIF_CHANGED))
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except Exception:  # decoders raise almost any exception; an image that cannot be read is skipped later
        return None


def add_file_columns(metadata: pa.Table | None, files: Mapping[str, Path]) -> tuple[pa.Table | None, tuple[str, ...]]:
    """Adds the columns that the files state to the user's metadata, which keep their own columns of these names.

    Args:
        metadata: the user's table with a column `path`; None without one.
        files: file of each path.

    Returns:
        the table, None if there is nothing in it; and the names of the added columns.
    """
    own = [] if metadata is None else metadata.column_names
    wanted = [name for name in _TYPES if name not in own]
    stated: dict[str, dict[str, Any]] = {}
    for path, file in files.items():
        found = columns_of_name(file.name)
        if "time" in wanted and "time" not in found and (time := time_of_exif(file)) is not None:
            found["time"] = time
        if found:
            stated[path] = found
    added = tuple(name for name in wanted if any(name in found for found in stated.values()))
    if not added:
        return metadata, ()
    table = pa.table({"path": pa.array(_paths(metadata, stated), pa.string())})
    if metadata is not None:
        table = pa.concat_tables([metadata, table.slice(len(metadata))], promote_options="default")
    for name in added:
        values = [stated.get(path, {}).get(name) for path in table.column("path").to_pylist()]
        table = table.append_column(name, pa.array(values, _TYPES[name]))
    return table, added


def _paths(metadata: pa.Table | None, stated: Mapping[str, Any]) -> Sequence[str]:
    """The paths of the user's table in its order, then the others."""
    own = [] if metadata is None else metadata.column("path").to_pylist()
    known = set(own)
    return [*own, *(path for path in stated if path not in known)]


__all__ = ["add_file_columns", "columns_of_name", "time_of_exif"]
