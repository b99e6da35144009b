"""The ablation: cells are shared between studies, kept when finished, and reported."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.studies.ablation import main
from benchmarks.studies.ablation_cells import EDITED_IMAGES, PRETRAINED, RELIABILITY, TERMS, cell_folder, cells
from benchmarks.studies.ablation_reports import mean_leakage
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor


def test_studies_share_their_cells_and_every_row_has_one_for_each_seed(tmp_path: Path) -> None:
    both = cells(["terms", "noise"], [0, 1])
    # From scratch, the clean cells without and with reliability of regions are rows of `terms`. From a pre-trained
    # model, both kinds of pairs share the clean cell without reliability.
    assert len(both) == 2 * (len(TERMS) + 2 * 2 + (3 * 2 + 3 * 2 - 1))
    for flags in (*TERMS.values(), [PRETRAINED, "--shuffle-captions", "0.5", *RELIABILITY["image-caption"]]):
        for seed in (0, 1):
            assert both[cell_folder(tmp_path, flags, seed).name] == [*flags, "--seed", str(seed)]
    assert len(cells(["terms", "edited-images"], [0])) == len(TERMS) + len(EDITED_IMAGES) - 1


def test_one_cell_trains_is_reported_and_is_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--out", str(tmp_path), "--dataset", "synthetic-tiny", "--epochs", "1", "--seeds", "0"]
    given += ["--studies", "terms", "noise", "--only", "regions_none"]
    main(given)
    folder = cell_folder(tmp_path, ["--regions", "none"], 0)
    results = json.loads((folder / "results.json").read_text())["results"]
    report = (tmp_path / "report.md").read_text()
    row = next(line for line in report.splitlines() if line.startswith("| global only"))
    assert f"{results['global/long/R@1']:.1f}" in row
    assert "| full | - |" in report and "1 cells" in report  # a row without cells is empty
    assert (tmp_path / "ablation.png").stat().st_size > 1000
    before = (folder / "results.json").stat().st_mtime_ns
    main(given)
    assert (folder / "results.json").stat().st_mtime_ns == before
    assert report == (tmp_path / "report.md").read_text()


def test_noise_is_added_to_a_model_trained_on_other_identities(tmp_path: Path) -> None:
    given = ["--out", str(tmp_path), "--dataset", "synthetic-tiny", "--pretrained-epochs", "1", "--seeds", "0"]
    main([*given, "--studies", "noise", "--only", "learnt_shuffle-captions_0.5_reliability-global_identity"])
    cell = cell_folder(tmp_path, [PRETRAINED, "--shuffle-captions", "0.5", *RELIABILITY["image-caption"]], 0)
    recipe = yaml.safe_load((cell / "recipe.yaml").read_text())
    assert recipe["model"] == str(tmp_path / "start" / "best") and recipe["epochs"] == 1
    halves = [load_rows("pvlg", tmp_path / "data" / f"synthetic-tiny-{name}-half")[0] for name in ("first", "second")]
    first, second = (set(half["train"]["person_id"]) for half in halves)
    assert not first & second and first | second == set(load_rows("synthetic-tiny")[0]["train"]["person_id"])
    assert halves[0]["test"]["caption"][:] == halves[1]["test"]["caption"][:]
    assert yaml.safe_load((tmp_path / "start" / "recipe.yaml").read_text())["data_root"].endswith("first-half")
    assert "| 50 % of image-caption pairs, pre-trained | 0 |" in (tmp_path / "report.md").read_text()


def test_a_failed_cell_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"regions_none_seed-0\.log"):
        main(["--out", str(tmp_path), "--dataset", "nowhere", "--studies", "terms", "--only", "regions_none_seed-0"])


def test_crops_have_no_leakage_and_patch_means_have(tiny_model: RogleModel, tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["validation"].select(range(4))
    mean, crop = (mean_leakage(tiny_model, tiny_processor, rows, feature) for feature in ("patch_mean", "crop"))
    assert mean[0] > 0.001 and mean[1] > 0.001
    assert crop[0] < mean[0] / 5  # a box that ends inside a pixel shares it with its surroundings
