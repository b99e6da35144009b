"""The worst queries, against a loop over the same embeddings, and the image of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.failures import SHOWN, draw_failures, worst_queries
from modeling_rogle.display.drawing import RIGHT, WRONG
from modeling_rogle.evaluation.protocols import ranked_queries
from tests.helpers.splits import fused_by_loops, random_split


@pytest.mark.parametrize(("line", "weight"), [("global/long", 0.0), ("global+local/long", 0.4)])
def test_the_worst_queries_come_first_with_their_results(line: str, weight: float) -> None:
    split = random_split(16)
    ranked = ranked_queries(split, weight, ["global"])[line]
    texts = [f"caption {n}" for n in range(16)]
    failures = worst_queries(split, ranked, texts, 6, weight)
    ranks = [failure.rank for failure in failures]
    assert ranks == sorted(ranked.ranking.first_rank.tolist(), reverse=True)[:6]
    similarity, people = fused_by_loops(split, weight), split.image_person_ids.numpy()
    for failure in failures:
        scores = similarity[failure.image]
        assert failure.text == f"caption {failure.image}"
        assert failure.top == sorted(range(16), key=lambda i: -scores[i])[:SHOWN]
        assert failure.correct == [bool(people[i] == people[failure.image]) for i in failure.top]
        assert people[failure.first_correct] == people[failure.image]
        assert failure.rank == 1 + int((scores > scores[failure.first_correct]).sum())


def test_ties_are_shown_as_they_are_ranked() -> None:
    split = random_split(8)
    one = torch.nn.functional.normalize(torch.ones(16), dim=0).expand(8, 16).contiguous()
    collapsed = replace(split, image_embeds=one, long=replace(split.long, embeds=one))
    failure = worst_queries(collapsed, ranked_queries(collapsed, 0, ["global"])["global/long"], ["x"] * 8, 1)[0]
    assert failure.rank == 7 and not any(failure.correct)


def test_queries_without_a_correct_image_are_no_failures() -> None:
    split = random_split(6)
    ranked = ranked_queries(split, 0, ["global"])["global/long"]
    none = replace(ranked, ranking=replace(ranked.ranking, n_positives=np.zeros(6, dtype=np.int64)))
    assert worst_queries(split, none, ["x"] * 6, 3) == []
    with pytest.raises(ValueError, match="no failures to draw"):
        draw_failures([], [], Path("x.png"), "")
    with pytest.raises(ValueError, match="kind 'sentence'"):
        worst_queries(split, ranked_queries(split, 0, ["local"])["local"], [], 3)


def test_the_image_frames_correct_and_wrong_results(tmp_path: Path) -> None:
    split = random_split(10)
    rows = [{"image": Image.new("RGB", (20 + n, 44), (0, 0, 20 * n))} for n in range(10)]
    ranked = ranked_queries(split, 0, ["global"])["global/long"]
    failures = worst_queries(split, ranked, ["A man in a red coat. " * 30] * 10, 3)
    some = replace(failures[0], correct=[True] + [False] * (SHOWN - 1))
    path = draw_failures([some, *failures[1:]], rows, tmp_path / "deep/failures.png", "Worst 3 of 10 queries")
    with Image.open(path) as image:
        assert image.height > image.width / 2
        colours = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.convert("RGB").getcolors(1 << 24)}
    assert {RIGHT, WRONG} <= colours
    assert [p.name for p in path.parent.iterdir()] == ["failures.png"]
