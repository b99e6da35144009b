"""Mining of a whole folder: result, resuming, several processes, and wrong options."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from benchmarks.robustness.kill_build import checksums
from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_dataset import MineOptions, check_mining, mine_folder
from modeling_rogle.inference.loading import load_model
from modeling_rogle.matching.region_matcher import RegionMatcher
from tests.helpers.processes import Run, fresh, in_processes


@pytest.fixture(scope="module")
def rows():
    return load_dataset("pvlg", "synthetic-tiny", split="train")


def write_folder(root, rows, group=4):
    """Two splits, some with pairs, `group` rows per row group."""
    (root / "data").mkdir(parents=True)
    table = rows.with_format("arrow")[:]
    for split, part in (("train", table.slice(0, 24)), ("validation", table.slice(24, 8))):
        pq.write_table(part, root / "data" / f"{split}-00000-of-00001.parquet", row_group_size=group)
    (root / "build_report.json").write_text('{"sources": [], "files": {"x": "y"}}')
    (root / "README.md").write_text("# Card\n")
    return root


OPTIONS = MineOptions(splits=("train",), sample=8, ignore_pairs=True, batch_size=2)


def mine(checkpoint, data, out, options=OPTIONS):
    fresh(mine_folder, *load_model(checkpoint), data, out, options, False)


@pytest.fixture(scope="module")
def mined(rows, tiny_checkpoint, tmp_path_factory):
    """A folder, and what mining makes of it without interruption."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("folder")
    write_folder(root / "in", rows)
    mine(tiny_checkpoint, root / "in", root / "out")
    return root / "in", root / "out"


def test_a_folder_is_mined_without_its_pairs_and_can_be_loaded(mined):
    data, out = mined
    old, new = load_rows("pvlg", data)[0], load_rows("pvlg", out)[0]
    report = json.loads((out / "mine_report.json").read_text())
    assert report["splits"].keys() == {"train"} and report["judge_fitted_on"] == "train" and report["ignore_pairs"]
    counts = report["splits"]["train"]
    assert counts["images"] == 24 and counts["kept"] == 0 and counts["assigned"] > 0
    assert counts["assigned"] + counts["unassigned"] == counts["sentences"]
    mined_regions = [region for regions in new["train"]["regions"] for region in regions]
    assert len(mined_regions) == counts["assigned"] and {region["origin"] for region in mined_regions} == {"rsm"}
    assert new["validation"]["regions"][:] == old["validation"]["regions"][:]  # copied, because the split is not mined
    other = [name for name in old["train"].column_names if name not in ("image", "regions")]
    assert new["train"].select_columns(other).to_list() == old["train"].select_columns(other).to_list()
    assert [a.tobytes() for a in new["train"]["image"]] == [a.tobytes() for a in old["train"]["image"]]
    assert RegionMatcher.load(out / "judge.safetensors").threshold > 0
    build = json.loads((out / "build_report.json").read_text())
    assert build["mining"] == report and "files" not in build
    assert (out / "README.md").read_text().startswith("# Card\n\n## Regions found by a model")
    for path in out.rglob("*.*"):
        assert str(out.parent).encode() not in path.read_bytes()


@pytest.mark.slow
def test_two_processes_mine_the_same_bytes_as_one(mined, tmp_path, tiny_checkpoint):
    data, out = mined
    in_processes(2, mine_folder, *load_model(tiny_checkpoint), data, tmp_path / "two", OPTIONS, False)
    assert checksums(tmp_path / "two") == checksums(out)


@pytest.mark.slow
def test_killed_mining_resumes_to_the_same_bytes(mined, tmp_path, tiny_checkpoint):
    data, out = mined
    parts = tmp_path / ".again.mining"
    first = Run(tmp_path / "log", mine, tiny_checkpoint, data, tmp_path / "again")
    first.wait_for(lambda: len(list(parts.glob("*.parquet"))) >= 2)
    first.kill()
    assert (parts / "judge.safetensors").exists() and not (tmp_path / "again").exists()
    shutil.copytree(parts, tmp_path / ".marked.mining")
    with pytest.raises(ValueError, match="other settings"):
        mine(tiny_checkpoint, data, tmp_path / "again", replace(OPTIONS, threshold=0.9))
    mine(tiny_checkpoint, data, tmp_path / "again")
    assert checksums(tmp_path / "again") == checksums(out) and not parts.exists()

    # Changes of the scorer and of a finished group are in the result, so neither was computed again.
    scorer = RegionMatcher.load(tmp_path / ".marked.mining" / "judge.safetensors")
    scorer.bias.add_(0.5)
    scorer.save(tmp_path / ".marked.mining" / "judge.safetensors")
    marked = sorted((tmp_path / ".marked.mining").glob("*.parquet"))[0]
    table = pq.read_table(marked)
    pq.write_table(table.set_column(0, "regions", pa.array([[]] * len(table), table["regions"].type)), marked)
    mine(tiny_checkpoint, data, tmp_path / "marked")
    assert torch.equal(RegionMatcher.load(tmp_path / "marked" / "judge.safetensors").bias, scorer.bias)
    assert not any(load_rows("pvlg", tmp_path / "marked")[0]["train"]["regions"][: len(table)])


def test_wrong_options_are_reported_before_a_model_is_loaded(mined, tmp_path):
    data, out = mined
    for options, where, message in (
        (MineOptions(splits=("test",)), tmp_path, "--split test: .* has train, validation"),
        (MineOptions(proposer="x"), tmp_path, "proposer 'x' is not known; known are .*anchors"),
        (MineOptions(proposer="sam"), tmp_path, "proposer 'sam'"),
        (MineOptions(sample=0), tmp_path, "--sample must be at least 1"),
        (MineOptions(threshold=2.0), tmp_path, "--threshold must lie in"),
        (MineOptions(), out, "exists and is not an empty folder"),
    ):
        with pytest.raises(ValueError, match=message):
            check_mining(data, where, options)
