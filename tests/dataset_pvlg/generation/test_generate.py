"""Generated rows: what an edit does not change, their parents, and resuming an interrupted run."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict, load_dataset

from dataset_pvlg.generation import generate as module
from dataset_pvlg.generation.generate import Options, generate
from dataset_pvlg.loading import load_rows
from dataset_pvlg.synthetic.dataset import SyntheticConfig, edited_row, parse_image_id
from tests.helpers.commands import one_line, run_data_command


@pytest.fixture(scope="module")
def generated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pdg") / "data"
    report = generate("synthetic-tiny", out)
    assert report["counts"]["parents"] == 48 and report["rows"]["validation"] == 16
    return out


@pytest.fixture(scope="module")
def rows(generated_folder: Path) -> DatasetDict:
    return load_rows("pvlg", generated_folder)[0]


def test_generated_rows_are_added_to_train_only(rows: DatasetDict) -> None:
    before = load_rows("synthetic-tiny")[0]
    for split in ("validation", "test"):
        assert rows[split].remove_columns("image")[:] == before[split].remove_columns("image")[:]
    own = rows["train"].select(range(48))
    assert own.remove_columns("image")[:] == before["train"].remove_columns("image")[:]
    assert np.array_equal(np.asarray(own[5]["image"]), np.asarray(before["train"][5]["image"]))
    new = rows["train"].select(range(48, len(rows["train"])))
    assert len(new) > 40 and set(new["source"]) == {"generated"}
    assert set(new["parent"]) <= set(own["image_id"]) and len(set(new["image_id"])) == len(new)


def test_each_edit_of_a_person_is_one_new_identity(rows: DatasetDict) -> None:
    text = rows["train"].remove_columns("image")
    old = {person for split in rows.values() for person, source in zip(split["person_id"], split["source"], strict=True)
           if source == "synthetic"}  # fmt: skip
    parents = dict(zip(text["image_id"], text["person_id"], strict=True))
    edits: dict[int, set] = {}
    for row in text:
        if row["source"] == "generated":
            assert row["person_id"] > max(old)
            edits.setdefault(row["person_id"], set()).add((parents[row["parent"]], row["image_id"].rpartition("_")[2]))
    keys = [key for keys in edits.values() for key in keys]
    assert all(len(keys) == 1 for keys in edits.values()) and len(set(keys)) == len(keys)


def test_half_of_the_captions_are_approximate_and_offsets_stay_correct(
    rows: DatasetDict, generated_folder: Path
) -> None:
    generated = [row for row in rows["train"].remove_columns("image") if row["source"] == "generated"]
    for row in generated:
        assert all(row["caption"][s["start"] : s["end"]] == s["text"] for s in row["sentences"])
        assert all(-1 <= region["sentence"] < len(row["sentences"]) for region in row["regions"])
    counts = json.loads((generated_folder / "generate_report.json").read_text())["counts"]
    assert 0.25 * len(generated) < counts["approximate long captions"] < 0.75 * len(generated)
    few = generated[:12]
    same = sum(row["caption"] == edited_row(*parse_image_id(row["parent"]), _tiny())[1]["caption"] for row in few)
    assert 2 <= same <= 10


def _tiny() -> SyntheticConfig:
    return SyntheticConfig(24, 8, 8, 2)


def test_an_interrupted_run_resumes_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Options(share=0.3)
    uninterrupted = generate("synthetic-tiny", tmp_path / "uninterrupted", few)
    monkeypatch.setattr(module, "SHARD_SIZE", 4)
    edit_rows, calls = module._edit_rows, []

    def failing(rows, edit, options):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return edit_rows(rows, edit, options)

    monkeypatch.setattr(module, "_edit_rows", failing)
    with pytest.raises(KeyboardInterrupt):
        generate("synthetic-tiny", tmp_path / "again", few)
    assert not (tmp_path / "again").exists()
    with pytest.raises(ValueError, match="settings.json: share is 0.3"):
        generate("synthetic-tiny", tmp_path / "again", Options(share=0.5))
    assert generate("synthetic-tiny", tmp_path / "again", few) == uninterrupted
    assert sum(calls) - calls[2] == uninterrupted["counts"]["parents"] > 8 and not (tmp_path / "again.part").exists()
    name = "data/train-00001-of-00002.parquet"
    whole, again = (load_dataset("parquet", data_files=str(folder / name), split="train", cache_dir=str(tmp_path / "c"))
                    for folder in (tmp_path / "uninterrupted", tmp_path / "again"))  # fmt: skip
    assert whole.remove_columns("image")[:] == again.remove_columns("image")[:]


def test_a_share_of_the_images_and_no_approximate_text(tmp_path: Path) -> None:
    report = generate("synthetic-tiny", tmp_path / "some", Options(share=0.15, approximate=0.0))
    assert 2 <= report["counts"]["parents"] <= 20 and "approximate long captions" not in report["counts"]
    row = load_rows("pvlg", tmp_path / "some")[0]["train"].remove_columns("image")[-1]
    assert row["caption"] == edited_row(*parse_image_id(row["parent"]), _tiny())[1]["caption"]


def test_a_diffusion_model_edits_a_folder(generated_folder: Path, pipeline: Path, tmp_path: Path) -> None:
    few = tmp_path / "few" / "data"
    few.mkdir(parents=True)
    load_rows("synthetic-tiny")[0]["train"].select(range(4)).to_parquet(few / "train-00000-of-00001.parquet")
    report = generate(str(tmp_path / "few"), tmp_path / "out", Options(str(pipeline), steps=2, approximate=0.0))
    train = load_rows("pvlg", tmp_path / "out")[0]["train"]
    assert report["counts"]["generated"] == len(train) - 4 >= 2
    assert str(tmp_path) not in "".join(
        (tmp_path / "out" / n).read_text() for n in ("README.md", "generate_report.json")
    )
    assert report["options"]["editor"] == pipeline.name
    parents = {row["image_id"]: row for row in train if row["source"] == "synthetic"}
    for row in train.select(range(4, len(train))):
        parent, colour = parents[row["parent"]], row["image_id"].rpartition("-")[2]
        assert row["source"] == "generated" and row["image"].size == parent["image"].size
        assert colour in row["caption"] and colour not in parent["caption"]
        assert row["person_id"] > max(p["person_id"] for p in parents.values())
        assert [r["bbox"] for r in row["regions"]] == [r["bbox"] for r in parent["regions"]]
        at = {r["sentence"]: r["bbox"] for r in row["regions"]}
        named = [n for n, s in enumerate(row["sentences"]) if colour in s["text"] and n in at]
        if named:  # outside the boxes of these sentences only JPEG compression changes the image
            there = np.abs(np.asarray(row["image"]).astype(int) - np.asarray(parent["image"])).max(axis=2)
            for n in named:
                x, y, w, h = at[n]
                there[max(0, int(y) - 16) : int(y + h) + 16, max(0, int(x) - 16) : int(x + w) + 16] = 0
            assert there.mean() < 6


def test_images_that_do_not_decode_are_counted() -> None:
    contents = (b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1")
    rows = [{"image": {"bytes": content, "path": None}, "image_id": "a"} for content in contents]
    generated, counts = module._edit_rows(rows, lambda row: pytest.fail("a broken image was edited"), Options())
    assert generated == [] and counts == {"broken image": 3}


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for argv, words in (
        (["synthetic-tiny", "--out", str(tmp_path / "full")], "is not an empty folder"),
        (["synthetic-tiny", "--out", "/"], "is a mount point"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "o")], "is not a folder"),
        (["synthetic-tiny", "--out", str(tmp_path / "o"), "--share", "2"], "--share must lie in"),
        (["synthetic-tiny", "--out", str(tmp_path / "o"), "--editor", str(tmp_path / "no")], "--editor"),
    ):
        with pytest.raises(ValueError) as caught:
            run_data_command(module, argv)
        assert words in one_line(caught.value)
    assert not (tmp_path / "o").exists()


def test_the_renderer_edits_synthetic_images_only(generated_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--editor renderer"):
        generate(str(generated_folder), tmp_path / "o")
