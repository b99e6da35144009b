"""load_dataset("pvlg") works from any folder, gives the same rows in every way, and never falls back silently."""

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image, get_dataset_config_names, load_dataset
from datasets.exceptions import DatasetGenerationError

import dataset_pvlg
from dataset_pvlg import builder
from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from dataset_pvlg.row_groups import FolderRows
from tests.helpers.training_rows import training_row

SMALL = {"train_identities": 6, "validation_identities": 2, "test_identities": 3, "images_per_identity": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("pvlg_cache"))


@pytest.fixture
def small(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load_dataset("pvlg", "synthetic-tiny", cache_dir=cache, **SMALL)


def test_sizes_and_features(small):
    assert small.num_rows == {"train": 12, "validation": 4, "test": 6}
    assert all(split.features == FEATURES for split in small.values())
    row = small["train"][0]
    assert row["image"].size == (row["width"], row["height"]) and row["image"].mode == "RGB"


def test_tiny_sizes_are_those_of_the_contract(cache):
    tiny = load_dataset("pvlg", "synthetic-tiny", cache_dir=cache)
    assert tiny.num_rows == {"train": 48, "validation": 16, "test": 16}
    assert set(get_dataset_config_names("pvlg")) == {"synthetic", "synthetic-tiny", "synthetic-v1"}


def test_an_empty_split_is_left_out_and_no_rows_at_all_is_an_error(cache):
    data = load_dataset("pvlg", "synthetic-tiny", cache_dir=cache, **{**SMALL, "validation_identities": 0})
    assert set(data) == {"train", "test"}
    with pytest.raises(ValueError, match="0 identities"):
        none = {"train_identities": 0, "validation_identities": 0, "test_identities": 0}
        load_dataset("pvlg", "synthetic-tiny", cache_dir=cache, **none)


def test_streaming_equals_non_streaming(small):
    streamed = load_dataset("pvlg", "synthetic-tiny", split="train", streaming=True, **SMALL)
    assert streamed.num_shards > 1
    for stored, live in zip(small["train"], streamed, strict=True):
        assert stored["image"].tobytes() == live["image"].tobytes()
        assert {k: v for k, v in stored.items() if k != "image"} == {k: v for k, v in live.items() if k != "image"}


def test_two_processes_make_the_same_rows(small, tmp_path):
    # In a fresh process: load_dataset forks, and a fork of a process with the threads of torch may wait for ever.
    code = (
        "import json, dataset_pvlg, datasets; "
        f"d = datasets.load_dataset('pvlg', 'synthetic-tiny', split='train', num_proc=2, **{SMALL!r}); "
        "print(json.dumps([d['sha256'][:], d['caption'][:]]))"
    )
    root = Path(dataset_pvlg.__file__).resolve().parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [small["train"]["sha256"][:], small["train"]["caption"][:]]


def test_test_split_does_not_depend_on_the_size_of_training(small, cache):
    more = load_dataset("pvlg", "synthetic-tiny", split="test", cache_dir=cache, **{**SMALL, "train_identities": 9})
    assert more["sha256"] == small["test"]["sha256"] and more["caption"] == small["test"]["caption"]


def test_a_crowded_working_directory_is_not_scanned(tmp_path, cache, monkeypatch):
    (tmp_path / "train.json").write_text("{broken")
    (tmp_path / "pvlg.csv").write_text("a,b\n1")
    monkeypatch.chdir(tmp_path)
    assert load_dataset("pvlg", "synthetic-tiny", cache_dir=cache, **SMALL).num_rows["train"] == 12


def test_works_in_a_fresh_process_from_an_empty_directory(tmp_path):
    root = Path(dataset_pvlg.__file__).resolve().parents[1]
    code = (
        "import dataset_pvlg, datasets; "
        "d = datasets.load_dataset('pvlg', 'synthetic-tiny', split='test', train_identities=1, test_identities=2); "
        "print(d.num_rows)"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(root), "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=empty, env=env, capture_output=True, text=True)
    assert done.stdout.strip().endswith("4"), done.stderr
    assert not list(empty.iterdir())


def test_data_dir_reads_its_parquet(small, tmp_path, cache):
    for where in (tmp_path / "flat", tmp_path / "nested" / "data"):
        where.mkdir(parents=True)
        small["test"].to_parquet(where / "test-00000-of-00001.parquet")
    for folder in ("flat", "nested"):
        loaded = load_dataset("pvlg", data_dir=str(tmp_path / folder), cache_dir=cache)
        assert set(loaded) == {"test"} and loaded["test"].features == FEATURES
        assert loaded["test"][:] == small["test"][:]


def test_attributes_and_claims_survive_and_may_be_absent(small, tmp_path, cache):
    rows = [row | {"image": None} for row in small["test"].select(range(2)).cast_column("image", Image(decode=False))]
    rows[0]["claims"] = [[["kind=jacket", "color=red"], ["kind=shoes"]], []]
    rows[0]["regions"] = [region | {"attributes": ["kind=jacket", "color=red"]} for region in rows[0]["regions"]]
    file = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), file)
    loaded = load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["test"]
    assert loaded[0]["claims"] == rows[0]["claims"] and loaded[0]["regions"] == rows[0]["regions"]

    regions = [
        [{key: value for key, value in region.items() if key != "attributes"} for region in row["regions"]]
        for row in rows
    ]
    table = pq.read_table(file).drop_columns(["claims", "regions"]).append_column("regions", pa.array(regions))
    pq.write_table(table.replace_schema_metadata(None), file)
    for data in (load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["test"], FolderRows(tmp_path)):
        table = data.table(data.groups[0]) if isinstance(data, FolderRows) else data.data.table
        assert table["claims"].to_pylist() == [None, None]
        assert table["regions"].to_pylist() == [[region | {"attributes": None} for region in row] for row in regions]


def test_changed_parquet_is_noticed(small, tmp_path, cache):
    file = tmp_path / "train-00000-of-00001.parquet"
    small["test"].to_parquet(file)
    assert load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["train"].num_rows == 6
    small["validation"].to_parquet(file)
    os.utime(file, (1, 1))
    assert load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["train"].num_rows == 4


def test_annotations_only_parquet_has_null_images(small, tmp_path, cache):
    small["test"].remove_columns("image").to_parquet(tmp_path / "test.parquet")
    assert load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["test"][0]["image"] is None


def test_a_missing_shard_is_named(small, tmp_path, cache):
    for n in range(3):
        small["test"].select(range(2 * n, 2 * n + 2)).to_parquet(tmp_path / f"test-{n:05d}-of-00003.parquet")
    assert load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)["test"][:] == small["test"][:]
    (tmp_path / "test-00001-of-00003.parquet").rename(tmp_path / "elsewhere.parquet")
    with pytest.raises(ValueError, match="lacks test-00001-of-00003.parquet"):
        load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "test-00001-of-00003.parquet")
    small["test"].to_parquet(tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"several builds of test \(of 00001, of 00003\)"):
        load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)


def test_unknown_layout_lists_the_content_of_the_folder(tmp_path, cache):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(ValueError, match=r"imgs/, reid_raw.json"):
        load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)
    with pytest.raises(ValueError, match="not a folder"):
        load_dataset("pvlg", "synthetic", data_dir=str(tmp_path / "absent"), cache_dir=cache)


def test_parquet_without_a_column_names_it(small, tmp_path, cache):
    small["test"].remove_columns(["caption"]).to_parquet(tmp_path / "test-0.parquet")
    with pytest.raises(DatasetGenerationError) as caught:  # datasets wraps what a builder raises
        load_dataset("pvlg", data_dir=str(tmp_path), cache_dir=cache)
    assert "test-0.parquet lacks the column(s) caption" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match=r"test-0.parquet lacks the column\(s\) caption"):
        load_rows("pvlg", tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 2000, -40])
def test_broken_parquet_is_named(small, tmp_path, cache, kept):
    file = tmp_path / "test-0.parquet"
    small["test"].to_parquet(file)
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    with pytest.raises(builder.LayoutError, match="test-0.parquet is not readable as Parquet") as caught:
        list(load_dataset("pvlg", data_dir=str(tmp_path), split="test", streaming=True))
    assert "\n" not in str(caught.value)
    file.write_bytes(content[:4] + bytes(len(content) - 4000) + content[-3996:])  # whole footer, no pages
    with pytest.raises(ValueError, match="test-0.parquet is not readable as Parquet"):
        load_rows("pvlg", tmp_path)


def write_with_regions(rows, path, **changes) -> dict:
    """Writes rows whose second one has other values in its first region; returns that row."""
    table = pa.Table.from_pylist(rows.remove_columns("image").to_list())
    changed = table.to_pylist()
    changed[1]["regions"][0] |= changes
    pq.write_table(pa.Table.from_pylist(changed, schema=table.schema), path)
    return changed[1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sentence": 99}, "sentence' is 99"),
        ({"sentence": -2}, "sentence' is -2"),
        ({"sentence": None}, "sentence' is None"),
        ({"bbox": [500.0, 0.0, 9.0, 9.0]}, r"bbox' \[500.0, 0.0, 9.0, 9.0\] lies outside its image of \d+ x \d+"),
        ({"bbox": [0.0, -20.0, 9.0, 20.0]}, "bbox' .* lies outside"),
        ({"bbox": [0.0, float("nan"), 9.0, 9.0]}, "bbox' .* lies outside"),
        ({"bbox": [0.0, 0.0, 9.0]}, "bbox' is .*, not x, y, w, h"),
    ],
)
def test_row_that_contradicts_itself_is_named(small, tmp_path, changes, field):
    row = write_with_regions(small["test"], tmp_path / "test-0.parquet", **changes)
    with pytest.raises(
        ValueError, match=f"test-0.parquet: image_id '{row['image_id']}': field 'regions.0..{field}"
    ) as it:
        load_rows("pvlg", tmp_path)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize(
    ("box", "kept", "logged"),
    [
        ([-5.0, 10.0, 25.0, 30.0], [0.0, 10.0, 20.0, 30.0], "1 boxes clipped to their image, 0 dropped"),
        ([-5.0, 10.0, 5.5, 30.0], None, "0 boxes clipped to their image, 1 dropped"),
    ],
)
def test_box_that_leaves_its_image_is_clipped_and_counted(small, tmp_path, caplog, box, kept, logged):
    write_with_regions(small["test"], tmp_path / "test-0.parquet", bbox=box)
    regions = load_rows("pvlg", tmp_path)[0]["test"]["regions"][:]
    assert f"test-0.parquet: {logged}" in caplog.text
    before = small["test"]["regions"][:]
    assert regions[1] == ([before[1][0] | {"bbox": kept}] if kept else []) + before[1][1:]
    assert regions[0] == before[0] and regions[2:] == before[2:]


def test_a_sentence_may_have_several_regions_and_a_repeated_entry_is_dropped_and_counted(small, tmp_path, caplog):
    rows = small["test"].to_list()
    first, second = rows[1]["regions"][0], rows[1]["regions"][0] | {"bbox": [0.0, 1.0, 9.0, 9.0]}
    rows[1]["regions"] = [first, second, first, first | {"sentence": (first["sentence"] + 1) % 4}]
    Dataset.from_list(rows, features=FEATURES).to_parquet(tmp_path / "test-0.parquet")
    assert load_rows("pvlg", tmp_path)[0]["test"]["regions"][1] == [rows[1]["regions"][n] for n in (0, 1, 3)]
    assert "1 dropped because the same box with the same sentence came before" in caplog.text


def test_correct_rows_are_read_without_a_message(small, tmp_path, caplog):
    write_with_regions(small["test"], tmp_path / "test-0.parquet")
    load_rows("pvlg", tmp_path)
    assert "dataset_pvlg" not in {record.name.split(".")[0] for record in caplog.records}


def test_unknown_noise_is_refused(cache):
    with pytest.raises(ValueError, match="unknown noise"):
        load_dataset("pvlg", "synthetic-tiny", noise={"gluedd": 1.0}, cache_dir=cache)


def test_noise_reaches_the_rows(cache):
    loaded = load_dataset("pvlg", "synthetic-tiny", split="test", noise={"glued": 1.0}, cache_dir=cache, **SMALL)
    assert all(". " not in caption for caption in loaded["caption"])


def test_cache_key_follows_every_source_file(tmp_path, monkeypatch):
    copy = tmp_path / "dataset_pvlg"
    shutil.copytree(Path(builder.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = builder.code_hash()
    monkeypatch.setattr(builder, "__file__", str(copy / "builder.py"))
    assert builder.code_hash() == before
    with open(copy / "synthetic" / "caption_words.py", "a") as file:
        file.write("\n# a change\n")
    assert builder.code_hash() != before


def test_key_of_unfinished_work_follows_the_prompts_too(tmp_path, monkeypatch):
    copy = tmp_path / "dataset_pvlg"
    shutil.copytree(Path(builder.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(builder, "__file__", str(copy / "builder.py"))
    cache, before = builder.code_hash(), builder.pipeline_hash()
    with open(next((copy / "captioning" / "prompts").glob("*.txt")), "a") as file:
        file.write("More.")
    after = builder.pipeline_hash()
    assert after != before and builder.code_hash() == cache
    monkeypatch.setattr(builder, "_MODEL_FILES", builder._MODEL_FILES[1:])
    assert builder.pipeline_hash() != after


def test_every_pattern_of_model_files_matches_a_file():
    root = Path(str(files("modeling_rogle")))
    assert all(list(root.glob(pattern)) for pattern in builder._MODEL_FILES)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda row: row.update(caption=None), "caption"),
        (lambda row: row.update(caption_origin=None), "caption_origin"),
        (lambda row: row["captions"].append(None), r"captions\[\d+\]"),
        (lambda row: row["sentences"][0].update(text=None), r"sentences\[0\].text"),
        (lambda row: row["regions"][0].update(score=None), r"regions\[0\].score"),
        (lambda row: row["regions"][0].update(reliability=None), r"regions\[0\].reliability"),
    ],
)
def test_null_in_a_required_field_is_named(small, tmp_path, change, field):
    rows = small["test"].remove_columns("image").to_list()
    change(rows[1])
    schema = small["test"].remove_columns("image").features.arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "test-0.parquet")
    with pytest.raises(ValueError, match=f"test-0.parquet: image_id '{rows[1]['image_id']}': field '{field}' is null"):
        load_rows("pvlg", tmp_path)


def test_lists_may_be_null(small, tmp_path):
    rows = small["test"].remove_columns("image").to_list()
    rows[0] |= {"captions": None, "sentences": None, "regions": None}
    schema = small["test"].remove_columns("image").features.arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "test-0.parquet")
    row = load_rows("pvlg", tmp_path)[0]["test"][0]
    assert row["captions"] == row["sentences"] == row["regions"] == [] and row["caption"]


def test_other_packaged_builders_still_work(tmp_path, cache):
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": 2}]')
    loaded = load_dataset("json", data_files=str(tmp_path / "rows.json"), split="train", cache_dir=cache)
    assert list(loaded["a"]) == [1, 2]
    builder.register()  # twice is once
    assert load_dataset("pvlg", "synthetic-tiny", cache_dir=cache, **SMALL).num_rows["test"] == 6


def test_new_content_with_old_file_times_gives_the_new_rows(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "train-00000-of-00001.parquet"

    def load_captions(caption: str) -> list[str]:
        row = training_row(0, 1) | {"captions": [caption]}
        Dataset.from_list([row], features=FEATURES).to_parquet(file)
        os.utime(file, ns=(10**18, 10**18))
        return load_dataset("pvlg", data_dir=str(folder), split="train")[0]["captions"]

    assert load_captions("A man in red.") == ["A man in red."]
    size = file.stat().st_size
    assert load_captions("A man in tan.") == ["A man in tan."]
    assert file.stat().st_size == size, "the test needs files of equal size"


def test_captions_that_name_a_missing_value_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = training_row(0, 1) | {"captions": ["A man in red.", "nan", " None ", "Null hypothesis."]}
    Dataset.from_list([row], features=FEATURES).to_parquet(tmp_path / "train.parquet")
    loaded = load_dataset("pvlg", data_dir=str(tmp_path), split="train", streaming=True)
    assert next(iter(loaded))["captions"] == ["A man in red.", "Null hypothesis."]
    list(loaded)
    assert "2 captions dropped" in caplog.text
