"""Frames of videos: one of each interval, upright, with times and cameras that `rogle index` reads as columns."""

import csv
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from modeling_rogle.cli.main import main
from modeling_rogle.indexing.image_sources import find_source
from modeling_rogle.indexing.video_frames import parse_interval, write_frames
from modeling_rogle.inference.errors import GalleryError

av = pytest.importorskip("av")


def write_video(path: Path, frames: int = 30, start: str | None = None, rate: int = 10) -> Path:
    """Writes a video whose frame n has the grey value 8 n; its left half is white."""
    with av.open(str(path), "w") as container:
        if start:
            container.metadata["creation_time"] = start
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.time_base = Fraction(1, rate)
        for number in range(frames):
            image = Image.new("RGB", (64, 32), (8 * number,) * 3)
            image.paste("white", (0, 0, 32, 32))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_frame_of_each_interval(tmp_path):
    video = write_video(tmp_path / "door.mp4", start="2026-01-31T10:00:00.000000Z")
    report = write_frames([video], tmp_path / "frames", 0.5)
    assert (report.frames, report.videos, report.skipped) == (6, 1, [])
    table = rows(tmp_path / "frames")
    assert [float(row["seconds"]) for row in table] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert {row["camera"] for row in table} == {"door"} and {row["video"] for row in table} == {"door.mp4"}
    assert table[3]["time"] == "2026-01-31T10:00:01.500"
    for number, row in enumerate(table):
        image = Image.open(tmp_path / "frames" / row["file_name"]).convert("RGB")
        assert image.size == (64, 32)
        assert image.getpixel((48, 16))[0] == pytest.approx(8 * 5 * number, abs=12)
        assert image.getpixel((16, 16))[0] > 230
    source = find_source(tmp_path / "frames")
    assert len(source.items) == 6 and source.metadata is not None
    assert pa.types.is_timestamp(source.metadata.schema.field("time").type)
    assert set(source.metadata.column("camera").to_pylist()) == {"door"}


def test_a_camera_and_a_date_in_the_name_of_a_video(tmp_path):
    videos = [write_video(tmp_path / name, 3) for name in ("gate_c2_0001.mp4", "20260131_235959.mp4")]
    assert write_frames(videos, tmp_path / "frames").frames == 2
    first, second = rows(tmp_path / "frames")
    assert (first["camera"], first["time"]) == ("c2", "")
    assert (second["camera"], second["time"]) == ("20260131_235959", "2026-01-31T23:59:59.000")


def test_damaged_videos_are_counted_and_nothing_is_overwritten(tmp_path, capsys):
    video, broken = write_video(tmp_path / "a.mp4", 12), tmp_path / "b.mp4"
    broken.write_bytes(video.read_bytes()[:60])
    words = ["frames", str(video), str(broken), str(tmp_path / "gone.mp4"), "--out", str(tmp_path / "frames")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == f"wrote 2 frames of 1 videos into {tmp_path / 'frames'}; 2 skipped\n"
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"skipped {broken}",
        f"skipped {tmp_path / 'gone.mp4'}",
    ]
    for more, message in (
        (words, "already exists; nothing is overwritten"),
        (["frames", str(broken), "--out", str(tmp_path / "x")], "no frames were written"),
        (["frames", str(video), str(video), "--out", str(tmp_path / "x")], "two videos are named a"),
        (["frames", str(video), "--out", str(tmp_path / "x"), "--every", "0s"], "--every: not a time such as 1s"),
    ):
        assert main(more) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "frames"]


def test_intervals():
    assert [parse_interval(text) for text in ("1s", "0.5s", "200ms", "2min", "3")] == [1, 0.5, 0.2, 120, 3]
    for text in ("", "0s", "-1s", "1h", "s"):
        with pytest.raises(ValueError, match="not a time"):
            parse_interval(text)


def test_without_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(GalleryError, match=r"videos need PyAV: pip install 'rogle\[video\]'"):
        write_frames([tmp_path / "a.mp4"], tmp_path / "frames")
