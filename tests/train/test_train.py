"""train/train.py from the outside: what a run leaves, resume after a kill, real layouts, guards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.cli.main import main as rogle
from tests.helpers.source_layouts import write_source
from train.train import main

ROOT = Path(__file__).parents[2]


def flags(model: Path, out: Path, *more: str) -> list[str]:
    given = ["--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out)]
    return [*given, "--epochs", "2", "--batch-size", "16", "--threads", "1", *more]


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


@pytest.mark.slow
def test_a_run_leaves_weights_log_curves_results_and_card(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = main(flags(tiny_checkpoint, out, "--trackers", "none"))
    assert {p.name for p in out.iterdir()} == {
        "best", "checkpoints", "recipe.yaml", "environment.json", "results.json", "train_log.jsonl", "curves.png",
    }  # fmt: skip
    model, processor = RogleModel.from_pretrained(out / "best"), RogleProcessor.from_pretrained(out / "best")
    assert model.config.image_size == [32, 16] and processor.tokenizer.model_max_length == 64
    written = json.loads((out / "results.json").read_text())
    assert written["results"] == results
    assert written["split"] == "test" and "validation" in written["chosen_on"]
    assert {"global/long/R@1", "global/short/mAP", "local/R@1"} <= set(results)
    log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert log[0]["loss_local"] > 0 and 0 <= log[0]["data_wait_share"] <= 1 and "validation/global/long/R@1" in log[0]
    with Image.open(out / "curves.png") as image:
        assert image.width > 600
    card = (out / "best" / "README.md").read_text()
    assert "independent implementation" in card and f"{results['global/long/R@1']:.2f}" in card
    assert "model-index" in card


@pytest.mark.slow
def test_without_a_model_a_small_one_is_built_and_the_seed_decides(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        given = ["--dataset", "synthetic-tiny", "--epochs", "1", "--batch-size", "24", "--threads", "1"]
        main([*given, "--seed", seed, "--out", str(tmp_path / name)])
        weights.append(load_file(tmp_path / name / "best" / "model.safetensors"))
    one, two, three = weights
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["visual_projection.weight"], three["visual_projection.weight"])
    processor = RogleProcessor.from_pretrained(tmp_path / "one" / "best")
    assert len(processor.tokenizer("black shoes")["input_ids"]) == 4  # words of the captions are tokens


@pytest.mark.slow
def test_the_best_epoch_on_validation_is_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, scores, splits = {}, iter([10.0, 50.0, 20.0, 0.0]), []

    def scripted(embeddings, local_weight=0.0):
        splits.append(embeddings.split)
        return {"global/long/R@1": next(scores)}

    def remember(model, folder, *args, **kwargs):
        saved[len(saved)] = {k: v.clone() for k, v in model.state_dict().items()}
        return save(model, folder, *args, **kwargs)

    save = RogleModel.save_pretrained
    monkeypatch.setattr("train.trainer.both_protocols", scripted)
    monkeypatch.setattr("train.train.both_protocols", scripted)
    monkeypatch.setattr(RogleModel, "save_pretrained", remember)
    main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "3"))
    assert splits == ["validation"] * 3 + ["test"]
    best = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert len(saved) == 3  # after epochs 1 and 2, and once more with the fitted weight
    assert all(torch.equal(best[key], saved[1][key]) for key in best)
    assert "epoch 2 of 3" in json.loads((tmp_path / "run" / "results.json").read_text())["chosen_on"]


@pytest.mark.slow
def test_a_run_killed_between_two_renames_keeps_its_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(flags(tiny_checkpoint, run))
    results = json.loads((run / "results.json").read_text())["results"]
    (run / "best").rename(run / "best.old")
    assert main(flags(tiny_checkpoint, run, "--resume")) == results


@pytest.mark.slow
def test_training_lowers_the_loss_and_moves_both_branches(tiny_checkpoint: Path, tmp_path: Path) -> None:
    main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "5", "--learning-rate", "3e-3"))
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert log[-1]["loss_global"] < log[0]["loss_global"]
    assert log[-1]["loss_local"] < log[0]["loss_local"]


@pytest.mark.slow
def test_noise_is_added_and_reliability_is_logged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    noise = ["--shuffle-sentences", "0.5", "--shuffle-captions", "0.5"]
    reliability = ["--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    main(flags(tiny_checkpoint, tmp_path / "run", *noise, *reliability))
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    for side in ("local", "global"):
        assert log[-1][f"trust/{side}/observed"] > 0
        assert all(0 <= log[-1][f"trust/{side}/{name}"] <= 1 for name in ("precision", "recall", "mean_weight"))
    assert 0 < log[-1]["trust/local/mean_weight"] < 1  # words and positions disagree in some pairs
    weights = last_weights(tmp_path / "run")
    main(flags(tiny_checkpoint, tmp_path / "none", *noise))
    none = last_weights(tmp_path / "none")
    assert not torch.equal(weights["visual_projection.weight"], none["visual_projection.weight"])


@pytest.mark.slow
def test_several_seeds_give_mean_and_spread(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mean = main(flags(tiny_checkpoint, tmp_path / "runs", "--epochs", "1", "--seeds", "3", "4"))
    each = [json.loads((tmp_path / "runs" / f"seed-{seed}" / "results.json").read_text())["results"] for seed in (3, 4)]
    written = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    one, two = (scores["global/long/mAP"] for scores in each)
    assert one != two and mean["global/long/mAP"] == written["mean"]["global/long/mAP"] == pytest.approx(
        (one + two) / 2
    )
    assert written["deviation"]["global/long/mAP"] == pytest.approx(abs(one - two) / 2**0.5)
    assert "±" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_recipe_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    more = ["--crop", "0.5", "--erase", "0.5", "--approximate", "0.3", "--mix", "0.1"]
    more += ["--images-per-identity", "2", "--micro-batches", "2", "--workers", "1"]
    main(flags(tiny_checkpoint, tmp_path / "run", *more))
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert log[1]["loss"] < log[0]["loss"]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["processes"] == 1 and environment["device"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--id-loss-weight", "0.5"], ["--global-loss", "tal"]])
def test_every_objective_can_be_selected(tiny_checkpoint: Path, tmp_path: Path, more: list[str]) -> None:
    main(flags(tiny_checkpoint, tmp_path / "run", *more))
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    name = {"--id-loss-weight": "loss_id", "--global-loss": "loss_global"}[more[0]]
    assert log[1][name] < log[0][name]


def test_local_branch_off(tiny_checkpoint: Path, tmp_path: Path) -> None:
    main(flags(tiny_checkpoint, tmp_path / "run", "--regions", "none", "--epochs", "1"))
    entry = json.loads((tmp_path / "run" / "train_log.jsonl").read_text())
    assert "loss_local" not in entry and entry["loss"] == entry["loss_global"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        main(flags(tiny_checkpoint, tmp_path / name, "--epochs", "1"))
    one, two = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # The reliability of pairs is learnt over the epochs and must be resumed too.
    arguments = ["--epochs", "4", "--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    main(flags(tiny_checkpoint, tmp_path / "whole", *arguments))
    arguments = flags(tiny_checkpoint, tmp_path / "killed", *arguments)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w") as output:
        child = subprocess.Popen(
            [sys.executable, str(ROOT / "train" / "train.py"), *arguments],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        until = time.monotonic() + 240
        while not list((tmp_path / "killed" / "checkpoints").glob("step-*")):
            assert child.poll() is None and time.monotonic() < until, (tmp_path / "output").read_text()[-2000:]
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    results = main([*arguments, "--resume"])
    assert results == json.loads((tmp_path / "whole" / "results.json").read_text())["results"]
    one, two = (last_weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_another_run_is_never_overwritten(tiny_checkpoint: Path, tmp_path: Path) -> None:
    main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1"))
    before = (tmp_path / "run" / "results.json").read_bytes()
    with pytest.raises(SystemExit, match="is not empty: pass --resume"):
        main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1"))
    with pytest.raises(SystemExit, match="has learning_rate = 0.001, this command 0.5"):
        main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1", "--resume", "--learning-rate", "0.5"))
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    assert main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1", "--resume"))  # finished: scored again


@pytest.mark.slow
def test_a_run_killed_before_its_first_epoch_starts_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 3\n")
    assert main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1"))


def test_a_nan_loss_stops_the_run_and_names_the_images(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = RogleModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        broken.visual_projection.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    RogleProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "broken")
    with pytest.raises(SystemExit, match="loss is nan in 2 steps: .*bad_steps.json"):
        main(flags(tmp_path / "broken", tmp_path / "run", "--max-bad-steps", "2"))
    named = json.loads((tmp_path / "run" / "bad_steps.json").read_text())["image_ids"]
    assert len(named) == 32 and named[0].startswith("synthetic")


@pytest.mark.slow
def test_a_set_without_boxes_trains_the_local_branch_by_mining(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_source(tmp_path / "set", "cuhk_pedes")[0].parent
    main([
        "--dataset", "cuhk_pedes", "--data-root", str(root), "--model", str(tiny_checkpoint),
        "--out", str(tmp_path / "run"), "--epochs", "2", "--mine-epoch", "1", "--batch-size", "4", "--threads", "1",
    ])  # fmt: skip
    output = capsys.readouterr().out
    assert "no paired regions in the data: they will be mined (RSM)" in output and "mined after 1 epochs" in output
    first, second = map(json.loads, (tmp_path / "run" / "train_log.jsonl").read_text().splitlines())
    assert first["loss_local"] == 0 and second["loss_local"] > 0
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "cuhk_pedes" in card and "license: other" in card


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--model", "nowhere/at-all"], "train.py: .*nowhere/at-all"),
        (["--dataset", "cuhk_pedes"], "train.py: .*cuhk_pedes.*data root"),
        (["--dataset", "cuhk_pedes", "--data-root", "nowhere"], "train.py: .*nowhere"),
        (["--dataset", "market"], "train.py: .*market"),
    ],
)
def test_a_wrong_source_is_one_line(tiny_checkpoint: Path, tmp_path: Path, given: list[str], named: str) -> None:
    with pytest.raises(SystemExit, match=named) as error:
        main([*flags(tiny_checkpoint, tmp_path / "run"), *given])
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cuhk_pedes", "icfg_pedes", "rstpreid", "ufine"])
def test_real_people_train_evaluate_and_leave_a_card(
    tiny_checkpoint: Path, tmp_path: Path, test_data: Path, layout: str
) -> None:
    people = test_data / "pedestrians"
    results = main([
        "--dataset", layout, "--data-root", str(people / "formats" / layout), "--image-root", str(people / "imgs"),
        "--model", str(tiny_checkpoint), "--out", str(tmp_path / "run"), "--epochs", "1", "--threads", "1",
    ])  # fmt: skip
    assert results["global/long/queries"] == 31
    best, index = tmp_path / "run" / "best", tmp_path / "index"
    assert "independent implementation" in (best / "README.md").read_text()
    assert rogle(["index", str(people / "imgs"), "--model", str(best), "--out", str(index)]) == 0
    query = "A woman with long hair. She wears a grey cardigan and black boots."
    assert rogle(["search", query, "--index", str(index), "--save", str(tmp_path / "found.png")]) == 0
    with Image.open(tmp_path / "found.png") as image:
        assert image.width > 400
