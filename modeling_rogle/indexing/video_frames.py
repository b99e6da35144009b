"""Writes frames of videos as images, with a table of their times and cameras that `rogle index` reads. Needs PyAV."""

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_rogle.image_io import MAX_PIXELS, printable_path
from modeling_rogle.indexing.file_columns import columns_of_name
from modeling_rogle.inference.errors import GalleryError

QUALITY = 92  # of the JPEG files
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "": 1.0}


@dataclass(frozen=True)
class FramesReport:
    """What [`write_frames`] did.

    Attributes:
        folder: the folder of the frames.
        frames: number of frames that were written.
        videos: number of videos that they come from.
        skipped: path and reason of each video that cannot be read to its end.
    """

    folder: Path
    frames: int
    videos: int
    skipped: list[tuple[str, str]] = field(default_factory=list)


def parse_interval(text: str) -> float:
    """Parses a time between frames, such as `1s`, `0.5s`, `200ms` or `2min`, into seconds.

    Raises:
        ValueError: the text is not a positive time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ValueError(f"not a time such as 1s, 200ms or 2min: {text!r}")
    return seconds


def write_frames(videos: Sequence[str | Path], out: str | Path, every: float = 1.0) -> FramesReport:
    """Writes one frame of each `every` seconds as a JPEG file, and `metadata.csv` with a row for each.

    Its columns are `file_name`, `camera` (the name of the video file, or `cN` if that name states it), `video`,
    `seconds` from the start, and `time`, if the video or its name states when it starts.

    Args:
        videos: video files. One that cannot be opened is skipped, and one that is damaged is read up to there.
        out: a new folder, which appears complete.
        every: time between frames in seconds. Default: 1.

    Raises:
        GalleryError: PyAV is not installed, `out` exists, two videos have one name, or no video can be read.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise GalleryError("videos need PyAV: pip install 'rogle[video]'") from error
    out, paths = Path(out), [Path(video) for video in videos]
    if out.exists():
        raise GalleryError(f"{out}: already exists; nothing is overwritten")
    names = [path.stem for path in paths]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise GalleryError(f"two videos are named {printable_path(repeated)}; their frames would have the same names")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-frames-", dir=out.parent))
    rows: list[dict[str, Any]] = []
    skipped: list[tuple[str, str]] = []
    readable = 0
    try:
        for path in paths:
            before = len(rows)
            try:
                for row, image in _frames(path, every):
                    image.save(scratch / row["file_name"], quality=QUALITY)
                    rows.append(row)
            except Exception as error:  # the errors of FFmpeg and PyAV have no common class
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                kept = f" after {len(rows) - before} frames" if len(rows) > before else ""
                skipped.append((str(path), f"{' '.join(reason.split())}{kept}"))
            readable += len(rows) > before
        if not rows:
            path_text, reason = skipped[0] if skipped else (str(paths[0]), "it has no frames")
            raise GalleryError(f"{printable_path(path_text)}: {reason}; no frames were written")
        with open(scratch / "metadata.csv", "w", encoding="utf-8", newline="") as file:
            timed = any(row["time"] for row in rows)
            columns = ["file_name", "camera", "video", "seconds", *(["time"] if timed else [])]
            table = csv.DictWriter(file, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
        os.chmod(scratch, 0o755)  # mkdtemp makes a private folder
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return FramesReport(out, len(rows), readable, skipped)


def _frames(path: Path, every: float) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Yields a row of the table and an upright RGB image for one frame of each `every` seconds."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("no video in this file")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        named = columns_of_name(path.name)
        start = _start(container.metadata) or named.get("time")
        first, wanted = None, 0.0
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            seconds = frame.time - first
            if seconds < wanted - 1e-6:
                continue
            wanted = (int((seconds + 1e-6) / every) + 1) * every
            if frame.width * frame.height > MAX_PIXELS:
                raise ValueError(f"{frame.width} x {frame.height} is over the limit of {MAX_PIXELS:,} pixels")
            image = frame.to_image()
            if frame.rotation % 360:
                image = image.rotate(frame.rotation, expand=True)
            time = start + timedelta(seconds=round(seconds, 3)) if start is not None else None
            yield (
                {
                    "file_name": f"{path.stem}_{round(seconds * 1000):09d}ms.jpg",
                    "camera": named.get("camera", path.stem),
                    "video": path.name,
                    "seconds": f"{seconds:.3f}",
                    "time": time.isoformat(timespec="milliseconds") if time else "",
                },
                image,
            )


def _start(metadata: dict[str, str]) -> datetime | None:
    """The time at which a video starts, as its file states it, in UTC and without a time zone."""
    try:
        start = datetime.fromisoformat(metadata["creation_time"])
    except (KeyError, ValueError):
        return None
    start = start.astimezone(UTC).replace(tzinfo=None) if start.tzinfo else start
    return start if start.year > 1970 else None  # cameras without a clock write the start of their epoch


__all__ = ["FramesReport", "parse_interval", "write_frames"]
