"""eval/pvlg: loads offline, prints what its README works out by hand, and equals the published definition."""

import json
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "eval/pvlg/README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n(.*?)\n\n", README, flags=re.S)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=["global", "local"])
def test_the_readme_examples_give_what_the_readme_says(code: str, printed: str) -> None:
    said = {name: float(value) for name, value in re.findall(r"(\S+) = ([\d.]+)", printed)}
    names = {"evaluate": evaluate}
    exec(code, names)
    assert set(said) == set(names["scores"])
    assert names["scores"] == pytest.approx(said, abs=0.005)


def test_the_readme_has_both_examples() -> None:
    assert len(EXAMPLES) == 2


def test_reproduces_the_published_definition(test_data: Path) -> None:
    data = np.load(test_data / "metrics/scenario_a.npz")
    scores = evaluate.load("eval/pvlg", "global").compute(
        predictions=data["query_embeds"],
        references=data["query_ids"],
        gallery_embeds=data["gallery_embeds"],
        gallery_ids=data["gallery_ids"],
    )
    said = json.loads((test_data / "metrics/scenario_a.json").read_text())["percent"]
    for name, value in said.items():
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
        ({"gallery_text_ids": [1, [2]]}, "gallery_text_ids mixes"),
    ],
)
def test_bad_arguments_of_local_are_named(change: dict, message: str) -> None:
    arguments = {
        "gallery_embeds": [[1.0, 0.0], [0.0, 1.0]],
        "gallery_region_ids": [0, 1],
        "gallery_person_ids": [1, 2],
        "gallery_text_ids": [1, 2],
        "query_person_ids": [1],
        "query_text_ids": [1],
    }
    with pytest.raises(ValueError, match=message):
        evaluate.load("eval/pvlg", "local").compute(predictions=[[1.0, 0.0]], references=[0], **(arguments | change))


def test_an_unknown_config_is_refused() -> None:
    with pytest.raises(ValueError, match="'joint'.*not 'mixed'"):
        evaluate.load("eval/pvlg", "mixed")


def test_the_engine_is_the_models_own_file() -> None:
    link = ROOT / "eval/pvlg/ranking.py"
    assert link.resolve() == (ROOT / "modeling_rogle/ranking.py").resolve()
    assert [path.relative_to(ROOT) for path in ROOT.glob("*/*/pvlg.py")] == [Path("eval/pvlg/pvlg.py")]
