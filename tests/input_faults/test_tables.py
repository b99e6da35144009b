"""Tables of metadata and captions: harmless spellings are read, identifiers keep their text, the rest is counted."""

import csv
import os
import warnings

import pytest

from dataset_pvlg.readers.read import read_source
from modeling_rogle import Gallery
from modeling_rogle.cli.main import main
from modeling_rogle.indexing.image_sources import find_source
from modeling_rogle.inference.errors import GalleryError
from tests.input_faults.entry_points import Outcome, World, command
from tests.input_faults.tables import CAPTIONS, REFUSED, TABLES, FaultyTable, write_images


def metadata_of(table) -> dict[str, dict]:
    return {row.pop("path"): row for row in table.to_pylist()}


def folder_of(world: World, table: FaultyTable):
    folder = write_images(world.tmp / "images", table.images)
    (folder / table.name).write_bytes(table.content)
    return folder


@pytest.mark.parametrize("fault", TABLES)
def test_the_metadata_of_an_index(world: World, fault: str):
    table = TABLES[fault]
    folder = folder_of(world, table)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = find_source(folder)
    found = metadata_of(source.metadata)
    for path, expected in table.expected.items():
        for column, value in expected.items():
            actual = found.get(path, {}).get(column)
            assert (str(actual) if column == "day" else actual) == value and type(actual) is not bytes
    messages = " ".join(str(warning.message) for warning in caught)
    assert all(part in messages for part in table.warned), messages
    assert bool(table.warned) == bool(messages)


@pytest.mark.parametrize("fault", REFUSED)
def test_a_table_that_cannot_be_read_gives_one_line(world: World, fault: str):
    name, content, expected = REFUSED[fault]
    folder = write_images(world.tmp / "images", ("a.png",))
    (folder / name).write_bytes(content)
    with pytest.raises(GalleryError) as caught:
        find_source(folder)
    assert expected in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_the_commands_read_tables_alike_and_say_what_was_not_matched(world: World):
    table = TABLES["rows without image"]
    outcome = Outcome()
    folder = folder_of(world, table)
    command(outcome, "index", folder, "--model", world.checkpoint, "--out", world.tmp / "index")
    assert not outcome.failed and any("match no image" in line for line in outcome.messages)
    gallery = Gallery.open(world.tmp / "index", world.checkpoint)
    assert gallery.search("a man", where="camera = 'east'")[0].path == "a.png"


@pytest.mark.parametrize("written", ["A\\IMG 1.png", "a/img%201.PNG", "photos/a/img 1.png", "a/img 1"])
def test_filter_and_deletion_find_the_image_by_another_spelling(world: World, written: str, capsys):
    folder = write_images(world.tmp / "images", ("a/img 1.png", "b.png"))
    gallery = Gallery.build(folder, world.model, world.processor, world.tmp / "index", progress=False)
    for where in (f"path = '{written}'", f"path in ('{written}')"):
        assert [match.path for match in gallery.search("a man", where=where)] == ["a/img 1.png"]
    assert [match.path for match in gallery.search("a man", where=f"path != '{written}'")] == ["b.png"]
    with pytest.warns(UserWarning, match="no image has the path c.png"):
        assert not gallery.search("a man", where="path = 'c.png'")
    assert main(["delete", "--index", str(world.tmp / "index"), written]) == 0
    assert "deleted 1 of 2" in capsys.readouterr().out
    assert main(["delete", "--index", str(world.tmp / "index"), "c.png"]) == 2
    assert "c.png is not in this index" in capsys.readouterr().err


def test_links_that_form_a_cycle_are_named(world: World):
    folder = write_images(world.tmp / "images", ("a.png",))
    for name in ("b.png", "metadata.csv", "folder"):
        os.symlink(name, folder / name)
    outcome = Outcome()
    command(outcome, "index", folder, "--model", world.checkpoint, "--out", world.tmp / "index")
    assert not outcome.failed
    assert "skipped b.png: broken symbolic link" in outcome.messages
    assert any("metadata.csv" in line and "not read" in line for line in outcome.messages)


def test_a_snapshot_of_the_hub_is_refused_with_advice(world: World):
    blobs = write_images(world.tmp / "blobs", ("1.png", "2.png"))
    snapshot = world.tmp / "snapshots"
    snapshot.mkdir()
    for name in ("1.png", "2.png"):
        (snapshot / name).symlink_to(blobs / name)
    outcome = Outcome()
    command(outcome, "index", snapshot, "--model", world.checkpoint, "--out", world.tmp / "index")
    (line,) = (line for line in outcome.messages if line.startswith("rogle index: "))
    assert outcome.failed and "hf download NAME --local-dir DIR" in line


@pytest.mark.parametrize("fault", CAPTIONS)
def test_identities_and_captions_of_a_build(world: World, fault: str):
    table = CAPTIONS[fault]
    names = tuple(f"{number}.png" for number in range(len(table.rows)))
    folder = write_images(world.tmp / "images", names)
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption", "person_id", "split"])
        writer.writerows([name, *row, "train"] for name, row in zip(names, table.rows, strict=True))
    splits, report = read_source("own", folder)
    rows = splits["train"].remove_columns("image")
    assert [tuple(row["captions"]) for row in rows] == list(table.captions)
    assert len(set(rows["person_id"])) == table.people
    totals = report.skipped + report.dropped + report.repaired + report.noted
    for part, count in table.counts.items():
        assert sum(n for reason, n in totals.items() if part in reason) == count, totals
    assert sum(report.rows.values()) + sum(report.skipped.values()) == len(table.rows)


def test_a_build_finds_images_by_another_spelling(world: World):
    folder = write_images(world.tmp / "images", ("IMG_1.png", "my image.png"))
    (folder / "metadata.csv").write_text(
        "file_name,caption,split\nimg_1,A man.,train\nmy%20image.PNG,A man.,train\nno.png,A man.,train\n"
    )
    splits, report = read_source("own", folder)
    assert splits["train"]["path"][:] == ["IMG_1.png", "my image.png"]
    assert report.skipped["image missing"] == 1
    assert report.repaired["image found by another spelling of its path"] == 2
