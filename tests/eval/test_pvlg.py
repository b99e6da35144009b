"""eval/pvlg: loads offline, gives the figures of its README, and equals the published definition."""

import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "eval/pvlg/README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n(.*?)\n\n", README, flags=re.S)
TABLES = re.findall(r"### Worked example.*?\n((?:\|[^\n]*\n)+)", README, flags=re.S)
CONFIGS = ("global", "local", "local-strict", "joint")
CELL = re.compile(r"(\*\*|~~)?([\d.]+)(?:\*\*|~~)?(?: \(([123])\))?$")


def printed_figures(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\S+) = ([\d.]+)", printed)}


def cell_values(cells: list[str]) -> list[tuple[float, int]]:
    """Similarity and grade of table cells: **relevant** with its grade in brackets or 1, ~~ignored~~ 0, wrong -1."""
    values = []
    for cell in cells:
        mark, value, grade = CELL.match(cell).groups()
        values.append((float(value), {"**": int(grade or 1), "~~": 0}.get(mark, -1)))
    return values


def by_hand(rows: list[list[str]], graded: bool) -> dict[str, float]:
    """The figures of table rows."""
    each = []
    for cells in rows:
        values = [entry for entry in cell_values(cells) if entry[1]]
        order = [max(grade, 0) for _, grade in sorted(values, key=lambda entry: (-entry[0], entry[1]))]
        ranks = [rank for rank, grade in enumerate(order, 1) if grade]
        if not ranks:
            continue
        gains, best = (
            sum(grade / math.log2(1 + rank) for rank, grade in enumerate(grades, 1))
            for grades in (order, sorted(order, reverse=True))
        )
        each.append(
            {
                "R@1": ranks[0] <= 1,
                "R@5": ranks[0] <= 5,
                "R@10": ranks[0] <= 10,
                "mAP": sum(nth / rank for nth, rank in enumerate(ranks, 1)) / len(ranks),
                "mINP": len(ranks) / ranks[-1],
                "R-precision": sum(rank <= len(ranks) for rank in ranks) / len(ranks),
                "nDCG@10": gains / best,
                "chance": len(ranks) / len(order),
                "median_rank": ranks[0],
                "positives": len(ranks),
            }
        )
    n = len(each)
    medians = {name: statistics.median(figures[name] for figures in each) for name in ("median_rank", "positives")}
    means = {name: 100 * sum(figures[name] for figures in each) / n for name in each[0] if name not in medians}
    left_out = ("mINP", "median_rank") if graded else ("R-precision", "nDCG@10", "chance", "positives")
    figures = {name: value for name, value in (means | medians).items() if name not in left_out}
    return figures | {"queries": n, "dropped_queries": len(rows) - n}


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=CONFIGS)
def test_the_readme_examples_give_the_figures_of_the_readme(code: str, printed: str) -> None:
    expected = printed_figures(printed)
    names = {"evaluate": evaluate}
    exec(code, names)
    assert set(expected) == set(names["scores"])
    assert names["scores"] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("table", "example"), list(zip(TABLES, EXAMPLES, strict=True)), ids=CONFIGS)
def test_the_readme_tables_give_the_figures_of_the_readme(table: str, example: tuple[str, str]) -> None:
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]
    vectors = eval(re.search(r"predictions=(\[.*\]),\n", example[0])[1])
    rows = [line[1 : 1 + len(vectors[0])] for line in lines]
    expected = printed_figures(example[1])
    for prefix, starts in (("", ""), ("caption/", "caption"), ("sentence/", "sentence")):
        if prefix + "mAP" not in expected:
            continue
        chosen = [row for row, line in zip(rows, lines, strict=True) if line[0].startswith(starts)]
        graded = prefix + "nDCG@10" in expected
        figures = {prefix + name: value for name, value in by_hand(chosen, graded).items()}
        assert figures == pytest.approx({name: expected[name] for name in figures}, abs=0.005)
    # The similarities of the code are those of the table.
    assert vectors == [[value for value, _ in cell_values(row)] for row in rows]


def test_the_readme_has_all_examples() -> None:
    assert len(EXAMPLES) == len(TABLES) == 4
    assert all(printed_figures(printed)["protocol"] == 2 for _, printed in EXAMPLES)


def test_reproduces_the_published_definition(test_data: Path) -> None:
    data = np.load(test_data / "metrics/scenario_a.npz")
    scores = evaluate.load("eval/pvlg", "global").compute(
        predictions=data["query_embeds"],
        references=data["query_ids"],
        gallery_embeds=data["gallery_embeds"],
        gallery_ids=data["gallery_ids"],
    )
    expected = json.loads((test_data / "metrics/scenario_a.json").read_text())["percent"]
    for name, value in expected.items():
        assert scores[name.replace("R", "R@") if name[1:].isdigit() else name] == pytest.approx(value, abs=1e-4)


def test_takes_tensors_in_half_precision_and_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(n, 16, generator=generator).bfloat16() for n in (30, 20))
    ids = torch.arange(30) % 7
    arguments = {"gallery_embeds": gallery, "gallery_ids": torch.arange(20) % 7}
    metric = evaluate.load("eval/pvlg", "global")
    whole = metric.compute(predictions=query, references=ids, **arguments)
    for start in (0, 11):
        part = slice(start, 11 if start == 0 else None)
        metric.add_batch(predictions=query[part].float(), references=ids[part])
    arguments["gallery_embeds"] = gallery.float()
    assert metric.compute(**arguments) == whole
    assert whole["queries"] == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_ids": None}, "gallery_ids"),
        ({"gallery_ids": [1]}, "gallery_ids has 1 rows, gallery_embeds has 2"),
        ({"gallery_embeds": [], "gallery_ids": []}, "gallery_embeds is empty"),
        ({"gallery_embeds": [[1.0, float("nan")], [0.0, 1.0]]}, "gallery_embeds holds a value that is not finite"),
        ({"ties": "lucky"}, "ties must be one of"),
        ({"query_text_ids": [1], "image_sizes": [[1, 2]]}, "'global' does not take query_text_ids, image_sizes"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"gallery_embeds": [[1.0, 0.0], [0.0, 1.0]], "gallery_ids": [1, 2]} | change
    with pytest.raises(ValueError, match=message):
        evaluate.load("eval/pvlg", "global").compute(predictions=[[1.0, 0.0]], references=[1], **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_ids": [1, 2]}, "'local' does not take gallery_ids"),
        ({"image_sizes": [[9, 9]]}, "needs pred_boxes, true_boxes"),
        ({"relevance": None}, "needs relevance"),
        ({"relevance": [[0, 2, 3]]}, r"relevance names a gallery row outside 0\.\.1"),
        ({"gallery_image_ids": [1]}, "gallery_image_ids has 1 rows, gallery_embeds has 2"),
    ],
)
def test_bad_arguments_of_local_are_named(change: dict, message: str) -> None:
    metric, query = evaluate.load("eval/pvlg", "local"), {"predictions": [[1.0, 0.0]], "references": [7]}
    arguments = {"gallery_embeds": [[1.0, 0.0], [0.0, 1.0]], "gallery_image_ids": [7, 8], "relevance": [[0, 0, 3]]}
    assert metric.compute(**query, **arguments)["nDCG@10"] == 100
    with pytest.raises(ValueError, match=message):
        metric.compute(**query, **(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_ids": [1, 2]}, "'local-strict' does not take gallery_ids"),
        ({"pred_boxes": [[0, 0, 1, 1]]}, "'local-strict' does not take pred_boxes"),
        ({"gallery_text_ids": [1, [2]]}, "gallery_text_ids mixes"),
    ],
)
def test_bad_arguments_of_strict_local_are_named(change: dict, message: str) -> None:
    arguments = {
        "gallery_embeds": [[1.0, 0.0], [0.0, 1.0]],
        "gallery_region_ids": [0, 1],
        "gallery_person_ids": [1, 2],
        "gallery_text_ids": [1, 2],
        "query_person_ids": [1],
        "query_text_ids": [1],
    } | change
    with pytest.raises(ValueError, match=message):
        evaluate.load("eval/pvlg", "local-strict").compute(predictions=[[1.0, 0.0]], references=[0], **arguments)


def joint_arguments() -> dict:
    return {
        "query_kind": [0],
        "gallery_embeds": [[1.0, 0.0], [0.0, 1.0]],
        "gallery_person_ids": [1, 1],
        "gallery_kind": [0, 1],
        "parent_image_ids": [7, 7],
        "relevance": [],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent_image_ids": [7, 8]}, r"parent_image_ids\[1\] is 8, which is no image of the gallery"),
        ({"gallery_person_ids": [1, 2]}, r"parent_image_ids\[1\] is 7, an image of another identity"),
        ({"gallery_kind": [1, 1]}, "gallery_kind names no image"),
        ({"gallery_kind": [0, 2]}, "gallery_kind must be 0"),
        ({"query_kind": None}, "needs query_kind"),
        ({"image_sizes": [[9, 9]]}, "'joint' does not take image_sizes"),
    ],
)
def test_bad_arguments_of_joint_are_named(change: dict, message: str) -> None:
    metric = evaluate.load("eval/pvlg", "joint")
    query = {"predictions": [[1.0, 0.0]], "references": [1]}
    assert metric.compute(**query, **joint_arguments())["caption/mAP"] == 100
    with pytest.raises(ValueError, match=message):
        metric.compute(**query, **(joint_arguments() | change))


def test_an_unknown_config_is_refused() -> None:
    with pytest.raises(ValueError, match="'joint'.*not 'mixed'"):
        evaluate.load("eval/pvlg", "mixed")


def test_the_engine_is_the_models_own_files() -> None:
    for name in ("retrieval.py", "local.py", "relevance.py", "pairs.py", "ranks.py", "cosine.py", "inputs.py"):
        assert (ROOT / "eval/pvlg" / name).resolve() == (ROOT / "modeling_rogle" / "metrics" / name).resolve()
    assert [path.relative_to(ROOT) for path in ROOT.glob("*/*/pvlg.py")] == [Path("eval/pvlg/pvlg.py")]


@pytest.mark.slow
def test_a_copy_of_the_folder_loads_alone_offline_and_as_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "space" / "pvlg"
    shutil.copytree(ROOT / "eval/pvlg", folder, symlinks=False, ignore=shutil.ignore_patterns("__pycache__"))
    assert not any(path.is_symlink() for path in folder.iterdir())
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
import app
texts = app.examples(open(sys.argv[1] + "/README.md", encoding="utf-8").read())
scores = {config: app.score(config, json.dumps(values)) for config, values in texts.items()}
scores["bad"] = app.score("global", json.dumps(texts["local"])), app.score("global", "[1]"), app.score("global", "{")
scores["ours"] = [name for name in sys.modules if name.startswith("modeling_rogle")]
print(json.dumps(scores))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    environment.pop("HF_DATASETS_CACHE", None)
    command = [sys.executable, "-I", "-c", program, str(folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["ours"] == []
    assert [set(answer) for answer in scores["bad"]] == [{"error"}] * 3
    for config, (_, printed) in zip(CONFIGS, EXAMPLES, strict=True):
        assert scores[config] == pytest.approx(printed_figures(printed), abs=0.005)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="gradio is installed: it would serve")
def test_without_gradio_the_space_names_it() -> None:
    done = subprocess.run([sys.executable, "eval/pvlg/app.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip().splitlines()[-1][:19]) == (1, "app.py needs gradio")


def test_the_space_card_is_readable_yaml() -> None:
    from huggingface_hub import RepoCard

    data = RepoCard(README, ignore_metadata_errors=False).data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "apache-2.0")


def test_wrong_arguments_are_named_as_compute_names_them_and_added_batches_stay():
    metric = evaluate.load("eval/pvlg", "global")
    rows, gallery = np.eye(3).tolist(), {"gallery_embeds": np.eye(3), "gallery_ids": [0, 1, 2]}
    for references in (["a", "b", "c"], [0, 1, 2**64]):
        with pytest.raises(ValueError, match="^references must be a list of integers, it holds"):
            metric.compute(predictions=rows, references=references, **gallery)
    with pytest.raises(ValueError, match="^gallery_ids must be a list of integers, it holds integers beyond 2\\^63"):
        metric.compute(predictions=rows, references=[0, 1, 2], **gallery | {"gallery_ids": [0, 1, 2**63]})
    with pytest.raises(ValueError, match="^predictions has 2 dimensions, gallery_embeds has 3"):
        metric.compute(predictions=[[1.0, 0.0]], references=[0], **gallery)
    metric.add_batch(predictions=rows[:2], references=[0, 1])
    with pytest.raises(ValueError, match="needs gallery_embeds"):
        metric.compute()
    metric.add_batch(predictions=rows[2:], references=[2])
    assert metric.compute(**gallery)["queries"] == 3
    metric.add_batch(predictions=rows[:1], references=[0])
    assert metric.compute(**gallery)["queries"] == 1
