"""The `rogle` command: its output, its files, and one line for every error."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dataset_pvlg.inspection.export_images import export_images
from modeling_rogle import RogleModel
from modeling_rogle.cli.main import main

ROOT = Path(__file__).parents[3]

QUERY = "A man wears a red jacket. His shoes are white."


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, colour in enumerate(("red", "green", "blue", "white", "black")):
        Image.new("RGB", (20, 50 + i), colour).save(folder / f"{colour}.png")
    return folder


@pytest.fixture(scope="module")
def index(images, tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "index"
    assert main(["index", str(images), "--model", str(tiny_checkpoint), "--out", str(out)]) == 0
    return out


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_index_search_draw_delete(images, tiny_checkpoint, tmp_path, capsys):
    index, image = tmp_path / "index", tmp_path / "results.png"
    (images / "notes.txt").write_text("x")
    code, out, err = run(capsys, "index", images, "--model", tiny_checkpoint, "--out", index, "--batch-size", "2")
    assert code == 0 and err == ""
    assert out.startswith(f"indexed 5 images into {index} in ") and out.endswith("; 0 skipped, 1 other files\n")

    code, out, err = run(capsys, "search", QUERY, "--index", index, "--top-k", "3", "--save", image)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[:3] == ["[1] A man wears a red jacket.", "[2] His shoes are white.", ""]
    assert lines[3].split()[:4] == ["rank", "score", "global", "image"]
    assert [line.split()[0] for line in lines[4:7]] == ["1", "2", "3"]
    assert all("[1] " in line and "[2] " in line for line in lines[4:7])
    assert lines[7] == f"image: {image}" and len(lines) == 8
    with Image.open(image) as drawn:
        assert drawn.width > 500

    best = lines[4].split()[3]
    code, out, _ = run(capsys, "delete", "--index", index, best)
    assert (code, out) == (0, f"deleted 1 of 5 images from {index}; the image files were not changed\n")
    _, out, _ = run(capsys, "search", QUERY, "--index", index)
    assert best not in out and len(out.splitlines()) == 8


def test_json_holds_what_the_table_shows(index, images, capsys):
    code, out, err = run(capsys, "search", QUERY, "--index", index, "--top-k", "2", "--json", "--local-weight", "0.5")
    assert code == 0 and err == ""
    answer = json.loads(out)
    assert answer["query"] == QUERY and len(answer["results"]) == 2
    first = answer["results"][0]
    assert first["rank"] == 1 and first["file"] == str(images / first["path"])
    assert first["score"] >= answer["results"][1]["score"]
    assert [item["sentence"] for item in first["sentences"]] == ["A man wears a red jacket.", "His shoes are white."]


def test_filter_image_and_maps(index, images, tmp_path, capsys):
    code, out, err = run(capsys, "search", QUERY, "--index", index, "--where", "path in ('red.png', 'blue.png')")
    assert code == 0 and err == "" and len(out.splitlines()) == 6 and "green.png" not in out
    code, out, err = run(
        capsys, "search", QUERY, "--index", index, "--where", "height > 900", "--save", tmp_path / "x.png"
    )
    assert (code, out, err) == (0, "No image passes the filter.\n", "") and not (tmp_path / "x.png").exists()
    code, out, _ = run(capsys, "search", "--image", images / "red.png", "--index", index, "--top-k", "1", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["image"] == str(images / "red.png") and answer["results"][0]["path"] == "red.png"
    code, out, _ = run(capsys, "search", "--image", images / "red.png", "--index", index, "--top-k", "1")
    assert code == 0 and out.splitlines()[0].split()[0] == "rank" and "red.png" in out
    sizes = []
    for number in ((), ("--heatmap", 2)):
        arguments = ("--save-map", tmp_path / "map.png", *number)
        code, out, err = run(capsys, "search", QUERY, "--index", index, *arguments)
        assert code == 0 and out.splitlines()[-1] == f"heat map: {tmp_path / 'map.png'}"
        with Image.open(tmp_path / "map.png") as drawn:
            sizes.append(drawn.height)
    assert sizes[0] > 1.8 * sizes[1]


def test_words_that_the_model_cannot_read_give_one_warning_line(index, capsys):
    for query, warning in (
        ("A man without a hat.", 'warning: query: "without a hat": the model does not understand negation'),
        ("穿红色夹克和黑色裤子的男人", "warning: query: "),
        ("Мужчина в красной куртке и чёрных брюках", "the tokenizer was not trained on these words"),
    ):
        code, out, err = run(capsys, "search", query, "--index", index, "--top-k", "1")
        assert code == 0 and out and warning in err and all(line.startswith("warning: ") for line in err.splitlines())


def test_calibrate_then_search_with_probabilities(tiny_checkpoint, tmp_path, capsys):
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    folder, index = tmp_path / "images", tmp_path / "index"
    for split in ("validation", "test"):
        export_images("synthetic-tiny", split, folder / split)
    assert run(capsys, "index", folder, "--model", model, "--out", index)[0] == 0
    code, out, _ = run(
        capsys, "calibrate", "--dataset", "synthetic-tiny", "--model", model, "--false-alarm-rate", "0.3"
    )
    assert code == 0 and out.splitlines()[0].startswith("evaluated on ") and "expected calibration error" in out
    assert out.splitlines()[-2].startswith("target 30.0%: ")
    assert out.splitlines()[-1] == f"calibration: {model / 'calibration.json'}"
    code, out, err = run(capsys, "search", QUERY, "--index", index, "--model", model, "--json")
    answer = json.loads(out)
    assert code == 0 and isinstance(answer["no_match"], bool) and err == ""
    low, high = answer["false_alarm_interval"]
    assert low < answer["false_alarm_rate"] < high
    assert all(0 < item["probability"] < 1 for item in answer["results"])
    # The weight that the scores were fitted with, or no probabilities.
    _, out, err = run(capsys, "search", QUERY, "--index", index, "--model", model, "--json", "--local-weight", "0.9")
    assert json.loads(out)["no_match"] is None and "not 0.9; no probabilities" in err
    saved = json.loads((model / "calibration.json").read_text())
    saved["images"]["mean"] = [-value for value in saved["images"]["mean"]]
    (model / "calibration.json").write_text(json.dumps(saved))
    _, out, err = run(capsys, "search", QUERY, "--index", index, "--model", model, "--json")
    assert json.loads(out)["no_match"] is None and "not calibrated for these images" in err
    (model / "calibration.json").write_text("{")
    code, out, err = run(capsys, "search", QUERY, "--index", index, "--model", model)
    assert (code, out) == (2, "") and "calibration.json: damaged" in err and err.count("\n") == 1


def test_skipped_images_are_listed(tiny_checkpoint, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 50), "red").save(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:-100])
    (folder / "text.jpg").write_text("no image")
    (folder / "out.jpg").symlink_to(Path(sys.executable).resolve())
    code, out, err = run(capsys, "index", folder, "--model", tiny_checkpoint, "--out", tmp_path / "index")
    assert code == 0 and "indexed 1 images" in out and "3 skipped" in out
    reasons = (
        "out.jpg: symbolic link out of the folder",
        "cut.jpg: truncated or damaged",
        "text.jpg: not an image that",
    )
    assert len(err.splitlines()) == 3
    assert all(any(line.startswith(f"skipped {reason}") for line in err.splitlines()) for reason in reasons)


def test_bad_input_is_one_line_and_exit_2(index, images, tiny_checkpoint, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    gone = tmp_path / "gone"
    model = ("--model", tiny_checkpoint)
    for arguments, message in (
        (("index", empty, *model, "--out", gone), f"rogle index: {empty}: no images in this folder"),
        (("index", gone, *model, "--out", gone), f"rogle index: {gone}: no such folder"),
        (("index", images, "--model", gone, "--out", gone), f"rogle index: --model {gone}: no such folder"),
        (
            ("index", images, "--model", empty, "--out", gone),
            f"rogle index: --model {empty}: no config.json in",
        ),
        (("index", images, *model, "--out", images), f"rogle index: {images}: holds "),
        (("index", images, *model, "--out", gone, "--batch-size", "0"), "rogle index: batch size must be at least 1"),
        (("search", QUERY, "--index", gone), f"rogle search: {gone}: no such index"),
        (("search", QUERY, "--index", empty), f"rogle search: {empty}: not an index"),
        (("search", " ", "--index", index), "rogle search: query: no words in it"),
        (("search", QUERY, "--index", index, "--top-k", "0"), "rogle search: top-k must be at least 1, not 0"),
        (("search", QUERY, "--index", index, "--local-weight", "2"), "rogle search: local weight must lie in [0, 1]"),
        (("search", QUERY, "--index", index, "--save", "x.tiff"), "rogle search: x.tiff: save the image as .png"),
        (("search", QUERY, "--index", index, "--model", gone), f"rogle search: --model {gone}: no such folder"),
        (("delete", "gone.png", "--index", index), f"rogle delete: {index}: gone.png is not in this index"),
        (("search", QUERY, "--index", index, "--where", "widht > 3"), "rogle search: where, character 1: no column "),
        (("search", QUERY, "--index", index, "--image", gone), "rogle search: query image "),
        (("search", QUERY, "--index", index, "--heatmap", "1"), "rogle search: --heatmap: needs --save-map"),
        (
            ("search", QUERY, "--index", index, "--save-map", gone, "--heatmap", "7"),
            "rogle search: --heatmap: no sentence 7, the query has 2",
        ),
        (("search", QUERY, "--index", index, "--save-map", "x.bmp"), "rogle search: x.bmp: save the image as .png"),
        (("calibrate", "--dataset", "synthetic-tiny"), "rogle calibrate: --dataset: needs --model too"),
        (("calibrate", "--index", index), "rogle calibrate: --index: needs --pairs too"),
        (("calibrate", "--index", index, "--pairs", gone), f"rogle calibrate: {gone}: No such file"),
        (
            ("calibrate", "--dataset", "no-set", *model, "--out", empty),
            "rogle calibrate: dataset 'no-set' is not known",
        ),
        (
            ("calibrate", "--dataset", "synthetic-tiny", *model, "--false-alarm-rate", "2"),
            "rogle calibrate: --false-al",
        ),
        (
            ("calibrate", "--dataset", "synthetic-tiny", *model, "--out", gone),
            f"rogle calibrate: --out {gone}: no such",
        ),
        (("demo", "--index", gone), f"rogle demo: {gone}: no such index"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith(message) and err.count("\n") == 1 and "Traceback" not in err
    assert not gone.exists()


def test_a_configuration_out_of_range_is_one_line(index, images, tiny_checkpoint, tmp_path, capsys, monkeypatch):
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text()) | {"local_weight": 5.0}
    (model / "config.json").write_text(json.dumps(config))
    commands = (("index", images, "--out", tmp_path / "new"), ("search", QUERY, "--index", index))
    for command in commands:
        code, out, err = run(capsys, *command, "--model", model)
        assert (code, out) == (2, "")
        assert err == f"rogle {command[0]}: {model}: config.json: local_weight must lie in [0, 1], not 5.0\n"
    # The same for an error of the configuration class itself.
    monkeypatch.setattr("modeling_rogle.load_model", RogleModel.from_pretrained)
    code, out, err = run(capsys, *commands[0], "--model", model)
    assert (code, out) == (2, "") and err == "rogle index: local_weight must lie in [0, 1], not 5.0\n"


def test_names_of_skipped_images_are_deleted_and_counted(tiny_checkpoint, tmp_path, capsys):
    folder, index = tmp_path / "images", tmp_path / "index"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 50), "red").save(folder / name)
    (folder / "text.jpg").write_text("no image")
    assert run(capsys, "index", folder, "--model", tiny_checkpoint, "--out", index)[0] == 0
    code, out, _ = run(capsys, "delete", "--index", index, "a.png", folder / "text.jpg")
    assert code == 0 and out.startswith(f"deleted 1 of 2 images and 1 names of skipped files from {index};")
    assert "text.jpg" not in (index / "index.json").read_text()


def test_an_over_long_query_is_one_warning_line(index, capsys):
    code, out, err = run(capsys, "search", "He wears grey shorts. " * 60, "--index", index, "--top-k", "1")
    assert code == 0 and out
    assert err.startswith("warning: query: ") and "the model reads 64" in err and err.count("\n") == 1


def test_help_lists_every_command_and_flags_use_dashes(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for command in (
        "index",
        "search",
        "delete",
        "calibrate",
        "demo",
        "convert",
        "export",
        "mine",
        "join",
        "push",
        "data",
    ):
        assert command in out
        with pytest.raises(SystemExit):
            main([command, "--help"])
        flags = [word for word in capsys.readouterr().out.split() if word.startswith("--")]
        assert not any("_" in flag for flag in flags)


def test_the_module_runs_as_a_program_from_anywhere(index, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "modeling_rogle.cli.main", "search", QUERY, "--index", index, "--top-k", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("[1] A man wears a red jacket.")


def test_real_pedestrians(test_data, tiny_checkpoint, tmp_path, capsys):
    index, folder = tmp_path / "index", test_data / "pedestrians" / "imgs"
    code, out, err = run(capsys, "index", folder, "--model", tiny_checkpoint, "--out", index)
    assert code == 0 and out.startswith("indexed 90 images") and err == ""
    image = tmp_path / "results.png"
    assert run(capsys, "search", QUERY, "--index", index, "--save", image)[0] == 0
    assert image.is_file()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "--help"], ["delete", "--help"], ["search", "--wrong"], ["data", "no-command"]]
)
def test_help_and_wrong_flags_do_not_load_torch(arguments) -> None:
    code = (
        f"import sys; sys.argv = ['rogle', *{arguments!r}]\n"
        "from modeling_rogle.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'transformers', 'torch', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage: rogle" in done.stdout + done.stderr


def test_the_classes_are_registered_after_the_command_was_imported() -> None:
    code = (
        "import sys; sys.argv = ['rogle', '--help']\n"
        "import modeling_rogle.cli.main\n"
        "from transformers import AutoConfig\nfrom modeling_rogle import RogleModel\n"
        "assert AutoConfig.for_model('rogle').model_type == 'rogle'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
