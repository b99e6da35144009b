"""eval/eval.py: any checkpoint on any set, by both protocols, with what is needed to repeat the figures."""

import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from dataset_pvlg.load import load_rows
from eval import main
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.protocols import both_protocols, encode_split


def table_of(output: str) -> list[str]:
    return [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("|")][2:]


def test_both_protocols_of_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "deep/results.json"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(out), "--local-weight", "0.25"]
    assert main(argv) == 0
    found = json.loads(out.read_text())
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    rows = load_rows("synthetic-tiny")[0]["test"]
    assert found["results"] == pytest.approx(both_protocols(encode_split(model, processor, rows, progress=False), 0.25))
    assert (found["split"], found["rows"], found["local_weight"]) == ("test", len(rows), 0.25)
    assert len(found["checkpoint_sha256"]) == 64
    assert found["results"]["local/queries"] > 0 and found["results"]["local/dropped_queries"] > 0
    assert found["command"].startswith("python eval/eval.py --model")
    assert [path.name for path in out.parent.iterdir()] == ["results.json"]
    printed = capsys.readouterr().out
    assert "local" in table_of(printed) and "global+local/long" in table_of(printed)
    assert f"local: {found['results']['local/dropped_queries']} queries had no positive" in printed


def test_auto_weight_is_fitted_on_validation(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(out), "--local-weight", "auto"]
    assert main(argv) == 0
    found = json.loads(out.read_text())
    best = max(found["local_weight_table"], key=lambda entry: entry["R@1"] + entry["mAP"])
    assert found["local_weight"] == best["local_weight"]
    assert len(found["local_weight_table"]) == 11


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
    assert "global/long" in table_of(capsys.readouterr().out)


def test_a_real_layout_has_no_local_figures(
    test_data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    root = test_data / "pedestrians"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "cuhk_pedes", "--data-root"]
    assert main([*argv, str(root / "formats/cuhk_pedes"), "--image-root", str(root / "imgs")]) == 0
    printed = capsys.readouterr().out
    assert "local: not scored" in printed and "global/short" in table_of(printed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "dev"], "has no split 'dev'; it has train, validation, test"),
        (["--dataset", "pvlg"], "'pvlg' needs a data root"),
        (["--model", "no/such/folder"], "--model no/such/folder cannot be read: "),
    ],
)
def test_mistakes_end_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: list[str], message: str
) -> None:
    out = tmp_path / "results.json"
    argv = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--out", str(out), *change]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert message in said.err.splitlines()[-1]
    assert not out.exists()


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
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"eval.py: --model {folder}") and message in said


def test_a_weight_out_of_range_is_refused(tiny_checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(tiny_checkpoint), "--local-weight", "2"])
    assert "must be a number in [0, 1] or auto" in capsys.readouterr().err
