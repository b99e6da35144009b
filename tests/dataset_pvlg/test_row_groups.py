"""Jobs over row groups: resumable, atomic, and with clear errors for null values."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from dataset_pvlg.row_groups import GROUP_ROWS, GeneratedRows, Job, add_to_card, as_dataset, check_out, open_rows
from tests.helpers.processes import fresh


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """16 rows in groups of 5, the second split without a column of images."""
    root = tmp_path_factory.mktemp("rows")
    table = load_rows("synthetic-tiny")[0]["test"].with_format("arrow")[:]
    pq.write_table(table, root / "train.parquet", row_group_size=5)
    pq.write_table(table.drop(["image"]), root / "test.parquet", row_group_size=20)
    return root


def recaption(rows: Dataset) -> tuple[Dataset, dict[str, int]]:
    captions = [caption.upper() for caption in rows["caption"]]
    column = rows.remove_columns("caption").add_column("caption", captions, feature=FEATURES["caption"])
    return column.select_columns(list(FEATURES)), {"rows": len(rows)}


def work(rows, out, splits=("train",), settings=None):
    """Run a complete job and return its counts."""
    result = {}

    def run():
        with Job(rows, out, "testing", settings or {}, ["caption"]) as job:
            counts = job.counts
            if counts is None:
                job.make_file("note.txt", lambda path: path.write_text("once"))
                counts = job.process_groups(recaption, splits, progress=False)
                job.finish(counts, lambda folder: (folder / "report.json").write_text(json.dumps(counts)))
            result.update(counts)

    fresh(run)
    return result


def test_groups_have_the_schema_whatever_the_file_lacks(folder):
    rows = open_rows(folder)
    assert [(g.split, g.number) for g in rows.groups] == [("train", n) for n in range(4)] + [("test", 0)]
    expected = load_rows("synthetic-tiny")[0]["test"]
    opened = as_dataset(pa.concat_tables([rows.table(group) for group in rows.groups[:4]]))
    assert (
        opened.features == FEATURES
        and opened.remove_columns("image").to_list() == expected.remove_columns("image").to_list()
    )
    assert [a.tobytes() for a in opened["image"]] == [a.tobytes() for a in expected["image"]]
    assert as_dataset(rows.table(rows.groups[4]))["image"][:] == [None] * 16
    assert rows.table(rows.groups[0], ["caption", "regions"]).column_names == ["caption", "regions"]


def test_generated_rows_are_cut_into_groups():
    rows = open_rows("synthetic-tiny")
    assert isinstance(rows, GeneratedRows) and rows.root is None
    assert [group.split for group in rows.groups] == ["train", "validation", "test"]
    assert rows.table(rows.groups[0]).num_rows == 48 <= GROUP_ROWS


def test_the_column_changes_only_in_the_processed_splits(folder, tmp_path):
    rows = open_rows(folder)
    assert work(rows, tmp_path / "out") == {"train": {"rows": 16}}
    for split, changed in (("train", True), ("test", False)):
        old, new = (pq.read_table(root / f"{split}.parquet") for root in (folder, tmp_path / "out"))
        captions = old["caption"].to_pylist()
        assert new["caption"].to_pylist() == [c.upper() if changed else c for c in captions]
        assert new["regions"].to_pylist() == old["regions"].to_pylist()
    with pq.ParquetFile(tmp_path / "out" / "train.parquet") as file:
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [5, 5, 5, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_job_killed_during_clean_up_is_complete(folder, tmp_path, monkeypatch):
    rows, out = open_rows(folder), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Job, "_clear", lambda job: None)
        work(rows, out)
    assert (tmp_path / ".out.testing" / "note.txt").exists()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        work(rows, out, settings={"other": 1})
    before = (out / "train.parquet").stat().st_mtime_ns
    assert work(rows, out) == {"train": {"rows": 16}}
    assert (out / "train.parquet").stat().st_mtime_ns == before and not (tmp_path / ".out.testing").exists()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        work(rows, out)


def test_an_error_of_the_main_process_is_raised(folder, tmp_path):
    def refuse(path):
        raise OSError("disk full")

    def run():
        with Job(open_rows(folder), tmp_path / "out", "testing", {}, ["caption"]) as job:
            job.make_file("x", refuse)

    with pytest.raises(ValueError, match="disk full"):
        fresh(run)


def test_two_commands_at_once_are_refused_until_the_first_ends(folder, tmp_path):
    def second():
        with Job(open_rows(folder), tmp_path / "out", "testing", {}, ["caption"]):
            pass

    def first():
        with Job(open_rows(folder), tmp_path / "out", "testing", {}, ["caption"]):
            with pytest.raises(ValueError, match="another process is using it"):
                second()
        second()

    fresh(first)


def test_a_section_is_added_to_a_card(tmp_path):
    (tmp_path / "README.md").write_text("# Card\n\n")
    (tmp_path / "out").mkdir()
    add_to_card(tmp_path, tmp_path / "out", "## More\n")
    assert (tmp_path / "out" / "README.md").read_text() == "# Card\n\n## More\n"
    add_to_card(None, tmp_path / "out", "## More")
    assert (tmp_path / "out" / "README.md").read_text() == "# P-VLG rows\n\n## More\n"


def test_nulls_of_a_folder_are_named_or_become_empty_lists(folder, tmp_path):
    rows = pq.read_table(folder / "test.parquet").to_pylist()[:2]
    rows[0]["captions"] = rows[0]["regions"] = None
    schema = FEATURES.arrow_schema.remove(0)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "test.parquet")
    opened = open_rows(tmp_path)
    assert opened.table(opened.groups[0])["captions"].to_pylist() == [[], rows[1]["captions"]]
    assert opened.table(opened.groups[0], ["regions"])["regions"].to_pylist() == [[], rows[1]["regions"]]
    rows[1]["caption_origin"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "test.parquet")
    opened = open_rows(tmp_path)
    with pytest.raises(ValueError, match=f"test.parquet: image_id '{rows[1]['image_id']}': field 'caption_origin' is"):
        opened.table(opened.groups[0])


def test_out_that_is_a_link_is_followed_and_a_mount_point_is_refused(folder, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    work(open_rows(folder), tmp_path / "link")
    assert (tmp_path / "target" / "report.json").is_file()
    with pytest.raises(ValueError, match="/: is a mount point"):
        check_out("/", "testing")
