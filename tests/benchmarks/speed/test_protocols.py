"""benchmarks/speed/protocols.py at its smallest size: every part, on a split whose facts decide."""

import pytest

from benchmarks.speed.protocols import PARTS, SIZES, make_split, run_part
from modeling_rogle.evaluation.local_protocol import region_relevance, true_regions_of_images


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_measured(part: str) -> None:
    result = run_part(part, "tiny", threads=1)
    assert (result["queries"], result["gallery"]) == (96, 72)
    assert result["cpu_s"] > 0 and 0 <= result["added_bytes"] < 2**28
    if part == "evaluation":
        assert result["scores"]["oracle R@1"] == 100


def test_sentences_are_true_of_their_own_regions() -> None:
    split = make_split(*SIZES["tiny"][0])
    true = {tuple(pair) for pair in true_regions_of_images(split, region_relevance(split)).tolist()}
    own = {tuple(pair) for pair in split.own_regions.tolist()}
    assert own <= true and len(own) > len(split.sentence_region)
