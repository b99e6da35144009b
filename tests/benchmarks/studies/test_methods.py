"""The comparison of systems: every system is a valid recipe, and a tiny cell is trained, scored and reported."""

import json
from pathlib import Path

import pytest

from benchmarks.studies.methods import (
    BEGIN,
    CURVE,
    END,
    RATES,
    SYSTEMS,
    best_rate,
    cell_name,
    flags_of,
    introduction,
    main,
    parse,
    report,
    search_cell,
    search_introduction,
    search_report,
    write_between_marks,
)
from train.recipe import Recipe, read_recipe


def cell(**changed: float) -> dict:
    names = ("long, global", "long", "long mAP", "short, global", "short", "short mAP", "local", "pointing", "joint")
    curve = [{"minutes": m, "cpu_seconds": 60 * m, CURVE: 10.0 * m} for m in (1.0, 2.0)]
    costs = {"weight": 0.5, "steps": 10, "minutes": 2.0, "encoding": 1.0, "ranking": 1.0, "curve": curve}
    return dict.fromkeys(names, 50.0) | costs | changed


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_is_a_recipe_of_the_same_budget(name: str, tmp_path: Path) -> None:
    flags, shared = flags_of(name, 3, tmp_path, "synthetic", 4, make=False)
    recipe, plain = read_recipe([*shared, *flags]), Recipe()
    assert recipe.seed == 3 and recipe.threads == 1
    assert recipe.epochs == (2 if SYSTEMS[name].edited_images else 4)
    budget = ("batch_size", "learning_rate", "warmup_share", "weight_decay", "model", "images_per_identity", "flip")
    assert [getattr(recipe, field) for field in budget] == [getattr(plain, field) for field in budget]
    assert name.startswith("rogle") == (SYSTEMS[name].config is None)


def test_cells_have_names_of_their_own() -> None:
    assert len({cell_name(system, seed) for system in SYSTEMS for seed in range(3)}) == 3 * len(SYSTEMS)


def test_the_table_has_a_row_for_each_system_and_claims_no_lead() -> None:
    text = report({"rogle": [cell(long=70.0), cell(long=80.0)], "acsa": [cell(long=60.0, local=61.5)], "parts": []})
    assert "| ROGLE (ours) | ground-truth region-sentence pairs | 2 | 75.0 ± 7.1 |" in text
    assert f"| {SYSTEMS['parts'].title} | - | 0 | - |" in text and "lead" not in text


def test_the_page_of_results_has_the_introductions_of_the_program() -> None:
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    systems = "rogle clip_itc longclip goal irra rde ctlg ctlg_pdg acsa parts"
    words = f"--dataset synthetic-v1 --epochs 3 --systems {systems}".split()
    assert introduction(parse(words), 800) in page and search_introduction(2) in page
    assert search_report({"irra": {0.5: 3.8, 1.0: 3.3, 2.0: 1.0}}).splitlines()[-1] in page
    # The table of the page is of the first protocols, so its titles differ.
    assert report({}).split("\n\n")[1] in page


def test_the_rate_that_scored_best_is_chosen_and_only_of_a_whole_search() -> None:
    assert best_rate({0.5: 10.0, 1.0: 12.0, 2.0: 13.0}) == 2.0
    assert best_rate({0.5: 12.0, 1.0: 12.0, 2.0: 12.0}) == 1.0
    text = search_report({"acsa": {0.5: 10.0, 1.0: 12.0, 2.0: 11.0}, "parts": {0.5: 10.0}})
    assert "| ACSA | 10.0 | **12.0** | 11.0 |" in text
    assert f"| {SYSTEMS['parts'].title} | 10.0 | - | - |" in text


def test_equal_time_is_that_of_the_fastest_system() -> None:
    slow = cell(minutes=4.0, curve=[{"minutes": m, "cpu_seconds": 60 * m, CURVE: 10.0 * m} for m in (2.0, 4.0)])
    text = report({"rogle": [slow], "acsa": [cell(minutes=2.0)]})
    assert "validation long R@1 at 2.0 min" in text
    row = next(line for line in text.splitlines() if line.startswith("| ROGLE") and "| 4.0 |" in line)
    assert row.split("|")[4].strip() == "20.0"


def test_the_report_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"# a\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    for text in ("one", "two"):
        write_between_marks(page, text)
    assert page.read_text() == f"# a\n\n{BEGIN}\n\ntwo\n\n{END}\n\nrest\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no '<!-- measured"):
        write_between_marks(page, "x")


def test_one_cell_trains_is_scored_by_all_protocols_and_is_not_trained_again(tmp_path: Path) -> None:
    given = ["--out", str(tmp_path), "--dataset", "synthetic-tiny", "--epochs", "1", "--seeds", "0"]
    given += ["--search-epochs", "1"]
    given += ["--systems", "rogle", "clip_itc", "--only", "clip_itc"]
    main(given)
    folder = tmp_path / "cells" / cell_name("clip_itc", 0)
    assert all((search_cell(tmp_path, "clip_itc", rate) / "results.json").exists() for rate in RATES)
    results = json.loads((folder / "results.json").read_text())["results"]
    scores = json.loads((folder / "scores.json").read_text())
    assert {"joint/caption/mAP", "joint/sentence/nDCG@10", "encoding_ms", "ranking_ms"} <= scores.keys()
    assert {"global/long/R@1", "global/short/R@1", "local/R@10"} <= results.keys()
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| CLIP, fine-tuned | - | 1 |"))
    assert f"| {results['global/short/R@1']:.1f} |" in row and f"| {scores['joint/caption/mAP']:.1f} |" in row
    assert "| ROGLE (ours) | ground-truth region-sentence pairs | 0 | - |" in text and "1 of 2 cells" in text
    assert (tmp_path / "methods.png").stat().st_size > 1000
    before = [(folder / name).stat().st_mtime_ns for name in ("results.json", "scores.json")]
    main([*given, "--report-only"])
    main(given)
    assert before == [(folder / name).stat().st_mtime_ns for name in ("results.json", "scores.json")]
    assert text == (tmp_path / "report.md").read_text()
