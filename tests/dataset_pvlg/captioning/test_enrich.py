import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate import PartialState
from datasets import Dataset
from PIL import Image

from dataset_pvlg.captioning.caption_filter import reject_reason
from dataset_pvlg.captioning.captioner import Captioner, CaptionOptions
from dataset_pvlg.captioning.enrich import enrich_folder, enrich_rows
from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from modeling_rogle.cli.main import main as rogle
from modeling_rogle.sentences import split_sentences
from tests.helpers.processes import Run, fresh, in_processes
from tests.helpers.tiny_captioner import save_tiny_captioner

OPTIONS = CaptionOptions(max_new_tokens=4, temperature=1.0, min_words=20)
FACTS = ("A man on a street.", "A man in a red shirt.", "The man wears blue jeans.", "A woman walks.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_captioner(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def captioner(folder):
    return Captioner(str(folder), options=OPTIONS)


def make_row(n, **fields):
    captions = [FACTS[n % 4], "There is a wall."]
    caption = " ".join(captions)
    file = io.BytesIO()
    Image.new("RGB", (24 + n, 60), (20 * n % 255, 90, 200)).save(file, "PNG")
    return {
        "image": {"bytes": file.getvalue(), "path": f"{n}.png"},
        "path": f"{n}.png",
        "claims": None,
        "sha256": "",
        "image_id": f"own/{n}",
        "width": 24 + n,
        "height": 60,
        "person_id": n,
        "source": "own",
        "camera": None,
        "parent": None,
        "captions": captions,
        "caption": caption,
        "caption_origin": "human_joined",
        "sentences": [{"text": t, "start": start, "end": end} for t, start, end in split_sentences(caption)],
        "regions": [],
        **fields,
    }


def region(sentence, origin):
    box = {"bbox": [1.0, 2.0, 10.0, 20.0], "label": "head", "sentence": sentence, "score": 1.0, "reliability": 1.0}
    return box | {"origin": origin}


def as_dataset(rows):
    return Dataset.from_list(rows, features=FEATURES)


def without_images(rows):
    return rows.remove_columns("image").to_list()


def write_folder(root, count=12, group=3):
    """P-VLG with two splits, `group` rows per row group."""
    (root / "data").mkdir(parents=True)
    schema = FEATURES.arrow_schema
    rows = [make_row(n) for n in range(count)]
    for split, part in (("train", rows[: count - group]), ("test", rows[count - group :])):
        table = pa.Table.from_pylist(part, schema=schema)
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet", row_group_size=group)
    return root


def checksums(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_accepted_captions_replace_human_ones_and_rejected_ones_do_not(captioner):
    rows = as_dataset([make_row(n) for n in range(16)])
    before = without_images(rows)
    enriched, counts = enrich_rows(captioner, rows, batch_size=4, progress=False)
    assert enriched.features == FEATURES and len(enriched) == 16
    assert counts["rows"] == 16 == counts["kept"] + counts["vlm"] + counts["fallback"]
    assert counts["fallback"] == sum(n for key, n in counts.items() if key.startswith("rejected: "))
    assert counts["vlm"] >= 3 and counts["fallback"] >= 4
    assert counts["rejected: contradicts the gender"] >= 1
    for old, new in zip(before, without_images(enriched), strict=True):
        if new["caption_origin"] == "vlm:tiny":
            assert reject_reason(new["caption"], old["caption"], 20) is None
            assert new["caption"] != old["caption"]
        else:
            assert new == old
        assert [new["caption"][s["start"] : s["end"]] for s in new["sentences"]] == [
            s["text"] for s in new["sentences"]
        ]
        assert len(new["sentences"]) == len(split_sentences(new["caption"]))
        changed = ("caption", "caption_origin", "sentences", "regions")
        assert {k: v for k, v in new.items() if k not in changed} == {k: v for k, v in old.items() if k not in changed}
    assert sum(row["caption_origin"] == "vlm:tiny" for row in enriched) == counts["vlm"]
    assert [row["image"].size for row in enriched] == [(24 + n, 60) for n in range(16)]
    again, same = enrich_rows(captioner, rows, batch_size=3, progress=False)
    assert same == counts and without_images(again) == without_images(enriched)


def test_without_a_model_the_human_caption_is_restored(captioner):
    rows = as_dataset([make_row(n) for n in range(4)])
    plain, counts = enrich_rows(None, rows, progress=False)
    assert counts == {"rows": 4, "kept": 0, "vlm": 0, "fallback": 4}
    assert without_images(plain) == without_images(rows)
    enriched, _ = enrich_rows(captioner, rows, progress=False)
    back, _ = enrich_rows(None, enriched, progress=False)
    assert without_images(back) == without_images(rows)


def test_pairs_made_by_people_stay_and_mined_ones_go_with_their_caption(captioner):
    rows = [make_row(0, regions=[region(1, "human")]), make_row(0, regions=[region(0, "rsm"), region(-1, "human")])]
    rows += [make_row(0, image_id=f"own/x{n}", regions=[region(0, "rsm")]) for n in range(6)]
    enriched, counts = enrich_rows(captioner, as_dataset(rows), progress=False)
    assert counts["kept"] == 1 and counts["vlm"] >= 1
    found = without_images(enriched)
    assert found[0] == without_images(as_dataset(rows[:1]))[0]
    for row, old in zip(found[1:], rows[1:], strict=True):
        same = row["caption_origin"] != "vlm:tiny"
        kept = [each["origin"] for each in old["regions"] if same or each["origin"] != "rsm"]
        assert [each["origin"] for each in row["regions"]] == kept


def test_rows_without_a_readable_image_keep_their_caption(captioner):
    broken = make_row(1)
    broken["image"] = {"bytes": broken["image"]["bytes"][:60], "path": "1.png"}
    bomb = make_row(2, image={"bytes": huge_gif(), "path": "2.gif"})
    rows = as_dataset([make_row(0, image=None), broken, bomb])
    enriched, counts = enrich_rows(captioner, rows, progress=False)
    assert counts["rejected: no image"] == 1 and counts["rejected: image cannot be read"] == 2
    assert without_images(enriched) == without_images(rows)


def test_rows_without_human_captions_are_captioned(captioner):
    rows = [make_row(n, captions=[], caption="", sentences=[], caption_origin="human") for n in range(6)]
    enriched, counts = enrich_rows(captioner, as_dataset(rows), progress=False)
    assert counts["vlm"] >= 1
    for row in without_images(enriched):
        assert (row["caption"] == "") == (row["caption_origin"] == "human")


def huge_gif():
    """An image of a few bytes with 65535 x 65535 pixels in its header."""
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    content = bytearray(file.getvalue())
    content[6:10] = b"\xff" * 4
    return bytes(content)


def run(data, out, folder, batch_size=2):
    fresh(enrich_folder, data, out, Captioner(str(folder), options=OPTIONS), batch_size, False)


def test_the_command_writes_a_loadable_folder_and_prints_a_summary(tmp_path, folder, capsys):
    data = write_folder(tmp_path / "in")
    (data / "README.md").write_text("# Card\n")
    (data / "build_report.json").write_text('{"sources": []}')
    command = ["data", "enrich", str(data), "--captioner", str(folder), "--max-new-tokens", "4", "--temperature", "1"]
    command += ["--min-words", "20", "--batch-size", "2"]
    fresh(lambda: rogle([*command, "--out", str(tmp_path / "out")]))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("train: 9 rows, 0 kept, ") and shown[-1] == str(tmp_path / "out")
    rows, _ = load_rows("pvlg", tmp_path / "out")
    source, _ = load_rows("pvlg", data)
    expected = {s: enrich_rows(Captioner(str(folder), options=OPTIONS), r, 2, False) for s, r in source.items()}
    report = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert report["sources"] == []
    assert report["enrichment"]["captioner"] == "tiny" and report["enrichment"]["min_words"] == 20
    for split, (enriched, counts) in expected.items():
        assert without_images(rows[split]) == without_images(enriched)
        assert [image.tobytes() for image in rows[split]["image"]] == [i.tobytes() for i in source[split]["image"]]
        assert report["enrichment"]["splits"][split] == counts
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# Card\n") and "vlm:tiny" in card
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for path in (tmp_path / "out").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes()

    run(data, tmp_path / "again", folder)
    assert checksums(tmp_path / "again") == checksums(tmp_path / "out")
    fresh(lambda: rogle([*command, "--out", str(tmp_path / "out")]))
    assert f"{tmp_path / 'out'}: " in capsys.readouterr().err


def test_two_processes_write_the_same_bytes_as_one(tmp_path, folder):
    data = write_folder(tmp_path / "in")
    run(data, tmp_path / "one", folder)

    def shared():
        enrich_folder(data, tmp_path / "two", Captioner(str(folder), options=OPTIONS), 2, False)
        assert PartialState().num_processes == 2

    in_processes(2, shared)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert len(checksums(tmp_path / "two")) == 4


@pytest.mark.slow
def test_groups_finished_before_a_kill_are_not_computed_again(tmp_path, folder):
    data = write_folder(tmp_path / "in", count=30, group=2)
    run(data, tmp_path / "whole", folder)
    parts = tmp_path / ".out.enriching"
    first = Run(tmp_path / "log", run, data, tmp_path / "out", folder)
    first.wait_for(lambda: len(list(parts.glob("*.parquet"))) >= 2)
    first.kill()
    assert parts.is_dir() and not (tmp_path / "out").exists()
    other = Captioner(str(folder), options=CaptionOptions(max_new_tokens=5))
    with pytest.raises(ValueError, match="begun with other settings"):
        fresh(enrich_folder, data, tmp_path / "out", other, 2, False)

    # a mark in a finished part comes out at the end: the part was taken as it is
    marked = sorted(parts.glob("*.parquet"))[0]
    table = pq.read_table(marked)
    pq.write_table(table.set_column(1, "caption_origin", pa.array(["marked"] * len(table))), marked)
    run(data, tmp_path / "out", folder)
    assert not parts.exists()
    whole, out = (
        [row for file in sorted((tmp_path / name).rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
        for name in ("whole", "out")
    )
    assert [a["caption_origin"] for a in out].count("marked") == len(table) == 2
    for a, b in zip(whole, out, strict=True):
        assert a == b | ({"caption_origin": a["caption_origin"]} if b["caption_origin"] == "marked" else {})


def test_a_folder_that_is_no_pvlg_is_one_line(tmp_path, folder, capsys):
    (tmp_path / "empty").mkdir()
    fresh(
        lambda: rogle(
            ["data", "enrich", str(tmp_path / "empty"), "--captioner", str(folder), "--out", str(tmp_path / "out")]
        )
    )
    error = capsys.readouterr().err
    assert "pvlg: " in error and error.count("\n") == 1
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"image_id": ["x"]}), tmp_path / "bad" / "train.parquet")
    fresh(
        lambda: rogle(
            ["data", "enrich", str(tmp_path / "bad"), "--captioner", str(folder), "--out", str(tmp_path / "out")]
        )
    )
    assert "lacks the column(s) path, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
