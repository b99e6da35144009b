"""Rows as a Hub data set: the round trip, withheld images, and rows that may not be released."""

import functools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import SOURCE_NAMES
from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows
from hub.data_files import TERMS, assemble_data, unsafe
from modeling_rogle.release.upload import ReleaseError

CONFIG = SyntheticConfig(train_identities=2, validation_identities=1, test_identities=2, images_per_identity=2)


@functools.cache
def drawn(split: str) -> list[dict]:
    return list(rows(split, 0, CONFIG.identities(split), CONFIG))


def write_rows(folder: Path, change=lambda row: row) -> Path:
    """A P-VLG folder of drawn pedestrians; `change` edits each row for a test."""
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [change(dict(row) | {"split": split}) for row in drawn(split)]
        rows = [{name: row[name] for name in FEATURES} for row in rows]
        table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def load(folder: Path, split: str | None = None):
    """An empty cache: datasets caches a folder with a card by its name."""
    return load_dataset(str(folder), split=split, cache_dir=str(folder.parent / "cache"))


def test_drawn_rows_load_back_with_images_and_types(tmp_path: Path):
    source = write_rows(tmp_path / "built")
    release = assemble_data(source, "me/pvlg", tmp_path / "out")
    assert (release.rows, release.identities) == (
        {"train": 4, "validation": 2, "test": 4}, {"train": 2, "validation": 1, "test": 2},
    )  # fmt: skip
    assert not release.restricted and not release.withheld
    before = load(source, "test")
    after = load(tmp_path / "out", "test")
    assert after.features == FEATURES
    for one, two in zip(before, after, strict=True):
        assert one.pop("image").tobytes() == two.pop("image").tobytes() and one == two


def test_the_card_has_the_metadata_of_the_viewer(tmp_path: Path):
    assemble_data(write_rows(tmp_path / "built"), "me/pvlg", tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.language == ["en"] and card.data.pretty_name
    assert card.data.to_dict()["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in ("train", "validation", "test")],
        }
    ]
    assert 'load_dataset("me/pvlg", split="test")' in card.text and "| test | 4 | 2 |" in card.text
    assert "no real person" in card.text and "rogle join" not in card.text


def test_images_of_other_sources_are_withheld_but_not_their_hashes(tmp_path: Path):
    def mixed(row: dict) -> dict:
        return row | ({"source": "cuhk_pedes", "path": "CUHK03/1.jpg"} if row["split"] == "test" else {})

    source = write_rows(tmp_path / "built", mixed)
    (source / "build_report.json").write_text('{"curation": null, "files": {"data/x.parquet": "0"}}')
    release = assemble_data(source, "me/pvlg", tmp_path / "out")
    assert release.restricted == ["cuhk_pedes"] and dict(release.withheld) == {"cuhk_pedes": 4}
    loaded = load(tmp_path / "out")
    assert all(image is None for image in loaded["test"]["image"]) and loaded["train"][0]["image"] is not None
    assert loaded["test"].features == FEATURES
    assert loaded["test"][0]["path"] == "CUHK03/1.jpg" and len(loaded["test"][0]["sha256"]) == 64
    assert loaded["test"][0]["regions"] and loaded["test"][0]["sentences"]
    content = b"".join(file.read_bytes() for file in (tmp_path / "out" / "data").glob("test*"))
    assert b"JFIF" not in content, "no image hides in the file"
    report = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert report == {"curation": None, "files": {}}, "as built, but for files that are others now"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in card and "forbid distributing" in card and "--images cuhk_pedes=IMAGE_ROOT" in card
    assert "| cuhk_pedes | 4 | 4 |" in card and "| synthetic | 6 | 0 |" in card


def test_images_are_included_with_permission(tmp_path: Path):
    source = write_rows(tmp_path / "built", lambda row: row | {"source": "own"})
    assert assemble_data(source, "me/pvlg", tmp_path / "held").withheld.total() == 10
    release = assemble_data(source, "me/pvlg", tmp_path / "out", images_of=["own"])
    assert not release.withheld and release.restricted == ["own"], "still not for the public"
    assert load(tmp_path / "out", "test")[0]["image"] is not None
    with pytest.raises(ReleaseError, match="--images-of coco: no such source"):
        assemble_data(source, "me/pvlg", tmp_path / "no", images_of=["coco"])
    with pytest.raises(ReleaseError, match="--images-of ufine: "):
        assemble_data(source, "me/pvlg", tmp_path / "no", images_of=["ufine"])


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "imgs/../../x.jpg",
    "C:\\x.jpg",
    "..\\x.jpg",
    "~/x.jpg",
    "file:///x",
    "a\x00b",
    " ",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_leads_out_of_its_folder_is_named(tmp_path: Path, path: str):
    def hostile(row: dict) -> dict:
        return row | ({"path": path} if row["split"] == "validation" else {})

    with pytest.raises(
        ReleaseError, match=r"validation, row 0 \(image_id .*\): field 'path' is .* leads out"
    ) as caught:
        assemble_data(write_rows(tmp_path / "built", hostile), "me/pvlg", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_paths_of_the_public_sets_are_accepted():
    for path in ("CUHK01/0363004.png", "Market/1488_c3s3_071419_00.jpg.jpg", "a..b/c d.jpg", "imgs/é.jpg", None):
        assert not unsafe(path)


def test_unknown_sources_and_shared_identities_are_refused(tmp_path: Path):
    with pytest.raises(ReleaseError, match="field 'source' is 'coco'"):
        assemble_data(write_rows(tmp_path / "a", lambda row: row | {"source": "coco"}), "me/pvlg", tmp_path / "out")
    with pytest.raises(ReleaseError, match="person_id 7 is in train and in validation"):
        assemble_data(write_rows(tmp_path / "b", lambda row: row | {"person_id": 7}), "me/pvlg", tmp_path / "out2")


def test_every_readable_source_has_terms():
    assert set(SOURCE_NAMES) | {"synthetic", "own", "generated"} <= set(TERMS)
    assert [name for name, terms in TERMS.items() if terms.images] == ["synthetic"]


def test_a_large_split_is_split_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hub.data_files.ROWS_PER_BATCH", 2)
    monkeypatch.setattr("hub.data_files.SHARD_BYTES", 1)
    assemble_data(write_rows(tmp_path / "built"), "me/pvlg", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out" / "data").glob("t*")) == [
        "test-00000-of-00002.parquet", "test-00001-of-00002.parquet",
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
    ]  # fmt: skip
    assert len(load(tmp_path / "out", "test")) == 4
