"""Annotations and images give the same folder as a build with images, and no other file is used."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from dataset_pvlg.build.build import Options, Source, build
from dataset_pvlg.build.join import join
from modeling_rogle.cli.main import main as rogle
from tests.helpers.source_layouts import write_source


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """`set`: a source with one grey image; `whole`: its build with images; `notes`: its build without images."""
    folder = tmp_path_factory.mktemp("built")
    _, records = write_source(folder / "set", "cuhk_pedes", people=6)
    Image.new("L", (24, 60), 90).save(folder / "set" / "imgs" / records[-1]["file_path"])
    source = [Source("cuhk_pedes", str(folder / "set"))]
    options = {"shard_rows": 5, "file_shards": 1}
    build(source, folder / "whole", Options(**options))
    build(source, folder / "notes", Options(**options, images=False))
    return folder


def parquet(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def change(notes: Path, target: Path, **values) -> Path:
    """A copy of the annotations whose first test row has other values."""
    shutil.copytree(notes, target)
    file = next((target / "data").glob("test-*"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0] |= values
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    return target


def test_joined_is_what_a_build_with_images_gives(built, tmp_path):
    report = join(built / "notes", {"cuhk_pedes": built / "set" / "imgs"}, tmp_path / "out")
    assert report.joined == report.rows > 0 and not report.left_out
    assert len(parquet(tmp_path / "out")) > 3  # several files a split
    assert parquet(tmp_path / "out") == parquet(built / "whole")
    reports = [json.loads((f / "build_report.json").read_text()) for f in (tmp_path / "out", built / "whole")]
    assert reports[0].pop("join")["joined"] == report.joined
    assert reports[0] == reports[1]
    assert (tmp_path / "out" / "README.md").read_text() == (built / "whole" / "README.md").read_text()
    assert load_dataset(str(tmp_path / "out"), split="test")[0]["image"].size == (24, 60)


def test_missing_and_other_images_are_counted_and_listed(built, tmp_path):
    images = tmp_path / "imgs"
    shutil.copytree(built / "set" / "imgs", images)
    gone, other = sorted(images.rglob("*.jpg"))[:2]
    gone.unlink()
    other.write_bytes(other.read_bytes() + b"!")
    report = join(built / "notes", {"cuhk_pedes": images}, tmp_path / "out")
    assert report.reasons == {"image missing": 1, "image has another sha256": 1}
    saved = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert {row["path"] for row in saved["join"]["left_out"]} == {f"Market/{gone.name}", f"Market/{other.name}"}
    data = load_dataset(str(tmp_path / "out"))
    assert sum(map(len, data.values())) == report.joined == report.rows - 2
    assert sum(split["rows"] for split in saved["splits"].values()) == report.joined
    assert all(row["image"] is not None for rows in data.values() for row in rows)


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "link.jpg", "C:\\x.jpg"])
def test_a_path_that_leads_out_of_the_root_is_refused(built, tmp_path, path):
    images = tmp_path / "imgs"
    shutil.copytree(built / "set" / "imgs", images)
    secret = shutil.copy(next(images.rglob("*.jpg")), tmp_path / "secret.jpg")
    (images / "link.jpg").symlink_to(secret)
    notes = change(built / "notes", tmp_path / "notes", path=path)
    report = join(notes, {"cuhk_pedes": images}, tmp_path / "out")
    assert report.reasons == {"path leads out of the image root": 1}
    assert report.left_out[0][1] == path


def test_a_source_without_a_folder_is_left_out(built, tmp_path):
    notes = change(built / "notes", tmp_path / "notes", source="ufine")
    report = join(notes, {"cuhk_pedes": built / "set" / "imgs"}, tmp_path / "out")
    assert report.reasons == {"no --images ufine=FOLDER was given": 1}


def test_nothing_is_written_without_any_image(built, tmp_path, capsys):
    (tmp_path / "imgs").mkdir()
    command = [
        "join",
        str(built / "notes"),
        "--images",
        f"cuhk_pedes={tmp_path / 'imgs'}",
        "--out",
        str(tmp_path / "out"),
    ]
    assert rogle(command) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "no row found its image; 0 of" in message
    assert [path.name for path in tmp_path.iterdir()] == ["imgs"]


@pytest.mark.parametrize(
    ("folder", "images", "message"),
    [
        ("nowhere", "cuhk_pedes=.", "is not a folder"),
        ("notes", "cuhk_pedes=nowhere", "--images cuhk_pedes=nowhere: not a folder"),
        ("notes", "cuhk_pedes", "SOURCE=FOLDER is expected"),
        ("set", "cuhk_pedes=.", "holds no P-VLG Parquet"),
    ],
)
def test_bad_input_is_one_line(built, tmp_path, capsys, folder, images, message):
    assert rogle(["join", str(built / folder), "--images", images, "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and message in line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_not_changed(built, tmp_path):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not an empty folder"):
        join(built / "notes", {"cuhk_pedes": built / "set" / "imgs"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
