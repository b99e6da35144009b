"""eval/eval.py: checkpoints, data sets and protocols, one process or several, and errors in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from dataset_pvlg.loading import load_rows
from eval.eval import main
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.references import REFERENCES
from modeling_rogle.evaluation.split_embeddings import encode_split

ROOT = Path(__file__).parents[2]
FILES = {"results.json", "results.csv", "results.md", "queries.parquet", "failures.webp"}


def table_of(output: str) -> list[str]:
    return [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("|")][2:]


def evaluate(checkpoint: Path, out: Path, *more: str) -> dict:
    argv = ["--model", str(checkpoint), "--dataset", "synthetic-tiny", "--out", str(out), "--failures", "0", *more]
    assert main(argv) == 0
    return json.loads((out / "results.json").read_text())


def test_all_protocols_of_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "deep/out"
    report = evaluate(tiny_checkpoint, out, "--local-weight", "0.25", "--failures", "3")
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    rows = load_rows("synthetic-tiny")[0]["test"]
    split = encode_split(model, processor, rows, progress=False)
    references = {name: value for name, value in report["results"].items() if name.startswith(REFERENCES)}
    assert references and report["results"] == pytest.approx(all_protocols(split, 0.25) | references)
    assert report["protocol"] == 2
    assert (report["split"], report["rows"], report["identities"]) == ("test", len(rows), 8)
    assert (report["local_weight"], report["weight_from"], report["ties"]) == (0.25, "given", "pessimistic")
    assert len(report["checkpoint_sha256"]) == len(report["dataset_fingerprint"]) == 64
    assert report["code"] and report["command"].startswith("python eval/eval.py --model")
    assert report["dropped"]["local"]["queries"] == report["results"]["local/dropped_queries"] > 0
    assert set(report["intervals"]["joint/caption"]) == {"R@1", "mAP", "mINP"}
    assert set(report["intervals"]["local"]) == {"R@1", "mAP", "R-precision", "nDCG@10"}
    for line, by_name in report["intervals"].items():
        for name, (low, high) in by_name.items():
            assert low <= report["results"][f"{line}/{name}"] <= high
    assert {"caption words", "upper body colour", "feet kind"} <= {entry["attribute"] for entry in report["breakdown"]}
    assert {path.name for path in out.iterdir()} == FILES
    with Image.open(out / "failures.webp") as image:
        assert image.height > 500
    queries = pq.read_table(out / "queries.parquet")
    line = [row for row in queries.to_pylist() if row["protocol"] == "global+local/long"]
    assert report["results"]["global+local/long/mAP"] == pytest.approx(
        100 * sum(row["average_precision"] for row in line) / len(line)
    )
    printed = capsys.readouterr().out
    assert {"local", "local-strict", "local/look-up", "joint/sentence", "global+local/long"} <= set(table_of(printed))
    assert f"local: {report['dropped']['local']['queries']} queries are true of no region" in printed
    assert "local/look-up reads no image" in printed
    assert not [row for row in queries.to_pylist() if row["protocol"] == "local/random"]


def test_only_the_requested_protocols_are_scored(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "failures.webp").write_bytes(b"of an earlier run")
    report = evaluate(tiny_checkpoint, tmp_path, "--protocols", "local,global", "--bootstrap", "0")
    assert not (tmp_path / "failures.webp").exists()
    assert {key.split("/")[0] for key in report["results"]} == {"global", "local"}
    assert (report["protocols"], report["intervals"]) == (["global", "local"], {})
    report = evaluate(tiny_checkpoint, tmp_path, "--protocols", "global", "--ties", "optimistic")
    assert (report["protocols"], report["ties"]) == (["global"], "optimistic")
    assert "not scored" not in capsys.readouterr().out


def test_auto_weight_is_fitted_on_validation(tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = evaluate(tiny_checkpoint, tmp_path, "--local-weight", "auto", "--protocols", "global")
    best = max(report["local_weight_table"], key=lambda entry: entry["R@1"] + entry["mAP"])
    assert report["local_weight"] == best["local_weight"]
    assert len(report["local_weight_table"]) == 21
    assert report["weight_from"] == "fitted on validation"


def test_a_weight_is_not_fitted_on_people_of_the_split(tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    data, _ = load_rows("synthetic-tiny")
    for split, rows in (("validation", data["validation"]), ("test", data["test"])):
        shared = [dict(row, person_id=7) if n == 0 else row for n, row in enumerate(rows.select(range(4)))]
        table = rows.from_list(shared, features=rows.features)
        table.to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    argv = ["--model", str(tiny_checkpoint), "--dataset", "pvlg", "--data-root", str(tmp_path / "data")]
    assert main([*argv, "--local-weight", "auto"]) == 1
    assert "share" in capsys.readouterr().err.splitlines()[-1]


def launched(processes: int, checkpoint: Path, out: Path, *more: str) -> dict:
    """The command of the docstring, on as many CPU processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--main_process_port", "0", "eval/eval.py", "--model", str(checkpoint), "--dataset", "synthetic-tiny"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(out), "--failures", "0", *more],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_bit_for_bit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    more = ("--batch-size", "3", "--local-weight", "0.3")  # 16 images: batches of 3, 3, 3, 3, 3, 1 on two processes
    two = launched(2, tiny_checkpoint, tmp_path / "two", *more)
    one = evaluate(tiny_checkpoint, tmp_path / "one", *more)
    assert (two["processes"], two["images_by_process"]) == (2, [9, 7])
    assert (one["processes"], one["images_by_process"]) == (1, [16])
    assert two["results"] == one["results"] and two["intervals"] == one["intervals"]
    assert two["breakdown"] == one["breakdown"]
    tables = [pq.read_table(tmp_path / name / "queries.parquet") for name in ("one", "two")]
    assert tables[0].equals(tables[1])
    assert two["command"].startswith("ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 eval/")


def test_embeddings_are_reused_only_for_the_same_checkpoint(tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    cache = ("--cache", str(tmp_path / "cache"))
    first = evaluate(checkpoint, tmp_path / "out", *cache)
    again = evaluate(checkpoint, tmp_path / "out", *cache)
    assert first["embeddings"] == "computed" and again["embeddings"].startswith("cache ")
    assert again["results"] == first["results"] and again["images_by_process"] == []
    assert evaluate(checkpoint, tmp_path / "out", *cache, "--split", "validation")["embeddings"] == "computed"
    assert evaluate(checkpoint, tmp_path / "out", *cache, "--batch-size", "5")["embeddings"] == "computed"
    weights = load_file(checkpoint / "model.safetensors")
    weights["visual_projection.weight"] = weights["visual_projection.weight"] + torch.eye(32)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    other = evaluate(checkpoint, tmp_path / "out", *cache)
    assert other["embeddings"] == "computed" and other["results"] != first["results"]
    assert other["checkpoint_sha256"] != first["checkpoint_sha256"]
    Path(again["embeddings"].removeprefix("cache ")).write_bytes(b"damaged")
    capsys.readouterr()
    back = evaluate(tiny_checkpoint, tmp_path / "out", *cache)
    assert back["embeddings"] == "computed" and back["results"] == first["results"]
    assert "is damaged" in capsys.readouterr().err


def test_scores_go_into_the_card_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for _ in range(2):
        report = evaluate(tiny_checkpoint, tmp_path / "out", "--card", str(tmp_path))
    names = [entry.metric_type for entry in ModelCard.load(tmp_path / "README.md").data.eval_results]
    assert len(names) == len(set(names))
    assert {"global/long/R@1", "global/short/mAP", "local/R@10", "joint/caption/mAP"} <= set(names)
    assert not any(re.search(r"queries|gallery|median", name) for name in names) and len(names) < len(report["results"])


@pytest.fixture
def clip_folder(tmp_path: Path, tiny_processor: RogleProcessor) -> Path:
    """A plain CLIP checkpoint: square images, its own processor."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = tiny_processor.tokenizer
    config = CLIPConfig(
        projection_dim=16,
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_plain_clip_folder_is_scored_too(clip_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--model", str(clip_folder), "--dataset", "synthetic-tiny", "--split", "validation"]) == 0
    assert {"global/long", "joint/caption"} <= set(table_of(capsys.readouterr().out))


def test_a_real_layout_has_no_local_figures(
    test_data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = test_data / "pedestrians"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "cuhk_pedes", "--out", str(tmp_path), "--data-root"]
    assert main([*argv, str(root / "formats/cuhk_pedes"), "--image-root", str(root / "imgs")]) == 0
    printed = capsys.readouterr().out
    assert "local, joint: not scored" in printed and "global/short" in table_of(printed)
    assert (tmp_path / "failures.webp").exists()
    report = json.loads((tmp_path / "results.json").read_text())
    assert "caption words" in {entry["attribute"] for entry in report["breakdown"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "dev"], "has no split 'dev'; it has train, validation, test"),
        (["--dataset", "pvlg"], "'pvlg' needs a data root"),
        (["--model", "no/such/folder"], "--model no/such/folder cannot be read: there is no such folder"),
        (["--model", "nobody/nothing"], "--model nobody/nothing cannot be read: "),
        (["--cache", __file__], "test_eval.py is a file; it must be a folder"),
        (["--cache", f"{__file__}/deep/er"], "test_eval.py/deep/er: nothing can be written in "),
        (["--card", "no/such/card"], "--card no/such/card: no folder"),
        (["--device", "abacus"], "--device 'abacus': "),
    ],
)
def test_mistakes_end_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: list[str], message: str
) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(out), *change]
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert not out.exists()


def test_a_folder_that_is_no_checkpoint_and_an_out_that_is_a_file(tmp_path: Path, capsys, tiny_checkpoint) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["--model", str(tmp_path / "empty"), "--dataset", "synthetic-tiny"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"eval.py: --model {tmp_path / 'empty'} cannot be read: it is no checkpoint folder")
    (tmp_path / "results.json").write_text("{}")
    argv = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(tmp_path / "results.json")]
    assert main(argv) == 1
    assert "results.json is a file; it must be a folder" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "bert"}, "model_type 'bert' in config.json"),
        ("config.json", {"local_weight": 5.0}, "config.json: local_weight must lie in [0, 1], not 5.0"),
        ("model.safetensors", None, "weights cannot be read"),
        ("tokenizer.json", None, "no vocabulary"),
    ],
)
def test_models_that_cannot_be_scored_end_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, file: str, content: dict | None, message: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    if content is not None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | content))
    elif file == "tokenizer.json":
        (folder / file).unlink()
    else:
        os.truncate(folder / file, 5000)
    assert main(["--model", str(folder), "--dataset", "synthetic-tiny"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"eval.py: --model {folder}") and message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--local-weight", "2"], "must be a number in [0, 1] or auto"),
        (["--protocols", "global,lokal"], "protocol lokal is not known; known are global, local, local-strict, joint"),
        (["--protocols", ","], "protocol ',' is not known"),
        (["--batch-size", "0"], "must be at least 1"),
        (["--bootstrap", "-5"], "must be a whole number"),
        (["--failures", "31"], "must be at most 30"),
    ],
)
def test_values_out_of_range_are_refused(tiny_checkpoint: Path, capsys, change: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(tiny_checkpoint), *change])
    assert message in capsys.readouterr().err
