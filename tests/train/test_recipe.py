"""The recipe: flags, files, defaults and old files, and the folder of a run."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.configuration_rogle import HEAD_FIELDS
from modeling_rogle.processing_rogle import RogleProcessor
from tests.helpers.clip_folders import write_small_clip
from train import train
from train.recipe import MODEL_FIELDS, Recipe, claim_folder, flat_fields, read_recipe
from train.run_setup import prepare_model

ROOT = Path(__file__).parents[2]
# The other systems of the field: each recipe's own term of the loss, and the field that makes it another system.
SYSTEMS = {
    "clip_itc": ("loss_global", "global_loss", "itc"),
    "ctlg": ("loss_global", "itc_temperature", 0.02),
    "acsa": ("loss_head", "head", "acsa"),
    "parts": ("loss_head", "head", "parts"),
    "irra": ("loss_head", "head", "implicit_relations"),
    "rde": ("loss_global", "global_loss", "tal"),
    "goal": ("loss_tsl_image", "local_contrast", "crop"),
    "longclip": ("loss_short", "short_loss_weight", 1.0),
}


def test_recipe_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("epochs: 3\nlearning_rate: 0.5\n")
    recipe = read_recipe(["--config", str(tmp_path / "r.yaml"), "--epochs", "7"])
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (7, 0.5, Recipe.batch_size)


def test_a_wrong_recipe_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("epoch: 3\n")
    with pytest.raises(SystemExit, match="unknown field 'epoch'"):
        read_recipe(["--config", str(tmp_path / "r.yaml")])
    for wrong, named in (
        ("--epochs 0", "--epochs"),
        ("--flip 2", "--flip"),
        ("--config nowhere.yaml", "nowhere.yaml"),
        ("--lora-targets head", "--lora-targets"),
        ("--lora-rank 2 --head parts", "--lora-rank .* --head parts"),
        ("--mix 1.5", "--mix"),
        ("--mix 0.5 --id-loss-weight 1", "--mix .* --id-loss-weight"),
        ("--regions all", "--regions"),
    ):
        with pytest.raises(SystemExit, match=named) as error:
            read_recipe(wrong.split())
        assert "\n" not in str(error.value)


def test_help_states_what_each_flag_does(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        read_recipe(["--help"])
    shown = capsys.readouterr().out
    for name in [*Recipe.__dataclass_fields__, *MODEL_FIELDS]:
        assert ("--" + name.replace("_", "-") in shown) == (name != "model_config")
    assert "picture" not in shown and "learning_rate" not in shown


def test_every_overridden_field_belongs_to_the_model_configuration() -> None:
    assert set(MODEL_FIELDS) <= set(RogleConfig.__dataclass_fields__) | set(HEAD_FIELDS)
    assert not set(MODEL_FIELDS) & set(Recipe.__dataclass_fields__)


def test_old_flags_are_read() -> None:
    assert read_recipe(["--picture-cache", "none", "--learning_rate", "0.5"]) == read_recipe(
        ["--image-cache", "none", "--learning-rate", "0.5"]
    )


def test_keys_of_an_old_file_are_read_and_a_deleted_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "picture_cache: none\nema_decay: 0.0\ndistill_weight: null\nsoft_negatives: 0.0\nglobal_loss: sdm\nhead: null\n"
    )
    recipe = read_recipe(["--config", str(file)])
    assert recipe.image_cache == "none" and recipe.model_config == {"global_loss": "sdm"}
    file.write_text("ema_decay: 0.9\n")
    with pytest.raises(SystemExit, match="r.yaml: ema_decay = 0.9"):
        read_recipe(["--config", str(file)])


@pytest.mark.parametrize(
    "arguments", ["--ema-decay 0.9", "--lora_alpha=8", "--lora-dora", "--epochs 3 --drop-sentences 0.3"]
)
def test_a_deleted_flag_is_one_line(arguments: str) -> None:
    with pytest.raises(SystemExit, match="--(ema-decay|lora_alpha|lora-dora|drop-sentences): ") as error:
        read_recipe(arguments.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "train" / "configs").glob("*.yaml")))
def test_shipped_recipes_are_read(name: str) -> None:
    given = yaml.safe_load((ROOT / "train" / "configs" / name).read_text())
    recipe = read_recipe(["--config", str(ROOT / "train" / "configs" / name)])
    assert {key: flat_fields(recipe)[key] for key in given} == given


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_trains_is_saved_and_read_back(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    term, field, value = SYSTEMS[name]
    out = tmp_path / "run"
    given = ["--config", str(ROOT / "train" / "configs" / f"{name}.yaml"), "--dataset", "synthetic-tiny"]
    given += ["--model", str(tiny_checkpoint), "--out", str(out), "--epochs", "1", "--batch-size", "16"]
    results = train.main([*given, "--threads", "1", "--trackers", "none"])
    log = json.loads((out / "train_log.jsonl").read_text())
    assert log["step"] == 3 and log[term] > 0
    assert {"global/long/R@1", "global/short/R@1", "local/R@1"} <= set(results)
    model, info = RogleModel.from_pretrained(out / "best", output_loading_info=True)
    assert not any(info.values()) and getattr(model.config, field) == value
    saved, state = load_file(out / "best" / "model.safetensors"), model.state_dict()
    assert set(saved) == set(state) and all(torch.equal(saved[key], state[key]) for key in saved)
    trained = load_file(tiny_checkpoint / "model.safetensors")
    assert not torch.equal(saved["text_projection.weight"], trained["text_projection.weight"])


def test_systems_without_a_head_have_rogles_weights(tiny_checkpoint: Path) -> None:
    names = set(load_file(tiny_checkpoint / "model.safetensors"))
    for name in SYSTEMS:
        recipe = read_recipe(["--config", str(ROOT / "train" / "configs" / f"{name}.yaml"), "--model", "x"])
        recipe.model = str(tiny_checkpoint)
        more = {key.split(".")[0] for key in set(prepare_model(recipe, [], 4)[0].state_dict()) - names}
        expected = {"identity_classifier"} if recipe.model_config.get("id_loss_weight") else set()
        assert more == expected | ({"head"} if name in ("parts", "irra") else set()), name


def test_the_small_recipe_is_what_runs_without_arguments() -> None:
    assert read_recipe(["--config", str(ROOT / "train" / "configs" / "small.yaml")]) == read_recipe([])


def test_resume_is_a_word_or_a_checkpoint(tmp_path: Path) -> None:
    assert read_recipe([]).resume is None
    assert read_recipe(["--resume"]).resume == read_recipe(["--resume", "auto"]).resume == "auto"
    assert read_recipe(["--resume", "a/step-00000002"]).resume == "a/step-00000002"
    (tmp_path / "r.yaml").write_text("resume: true\nseeds: [1, 2]\n")
    old = read_recipe(["--config", str(tmp_path / "r.yaml")])
    assert old.resume == "auto" and old.seeds == [1, 2]


def test_only_an_equal_recipe_may_reuse_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    claim_folder(out, Recipe(out=str(out)))
    (out / "checkpoints").mkdir()
    claim_folder(out, Recipe(out=str(out), resume="auto", save_steps=9, workers=2, threads=3))  # free to change
    with pytest.raises(SystemExit, match="has erase = 0.0, this command 0.5"):
        claim_folder(out, Recipe(out=str(out), resume="auto", erase=0.5))
    with pytest.raises(SystemExit, match="has global_loss = None, this command 'sdm'"):
        claim_folder(out, Recipe(out=str(out), resume="auto", model_config={"global_loss": "sdm"}))
    saved = yaml.safe_load((out / "recipe.yaml").read_text())
    del saved["lora_rank"]  # a run from before there were adapters
    saved |= {"picture_cache": saved.pop("image_cache"), "global_loss": None, "lora_alpha": 0, "layer_decay": 1.0}
    (out / "recipe.yaml").write_text(yaml.safe_dump(saved))
    claim_folder(out, Recipe(out=str(out), resume="auto"))
    assert "picture_cache" not in yaml.safe_load((out / "recipe.yaml").read_text())
    (out / "recipe.yaml").write_text(yaml.safe_dump(saved | {"layer_decay": 0.8}))
    with pytest.raises(SystemExit, match="recipe.yaml: layer_decay = 0.8"):
        claim_folder(out, Recipe(out=str(out), resume="auto"))
    with pytest.raises(SystemExit, match="is not empty: pass --resume"):
        claim_folder(out, Recipe(out=str(out)))


@pytest.mark.parametrize(
    ("regions", "weight", "trained"), [("rows", 0.5, True), ("none", 0.5, False), ("rows", 0.0, False)]
)
def test_a_run_states_whether_it_trains_regions(
    regions: str, weight: float, trained: bool, tmp_path: Path, tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> None:
    clip = write_small_clip(tmp_path / "clip", tiny_config, tiny_processor)
    settings = {"image_size": [64, 64], "max_position_embeddings": 64, "local_loss_weight": weight}
    recipe = Recipe(model=str(clip), regions=regions, model_config=settings)
    assert prepare_model(recipe, [])[0].config.trained_regions is trained
