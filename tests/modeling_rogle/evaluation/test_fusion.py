"""Fused similarities and the fit of the local weight, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_rogle.evaluation.fusion import caption_similarities, fit_local_weight
from modeling_rogle.late_interaction import fuse
from tests.helpers.splits import fused_by_loops, global_scores_of, random_split, scores_by_loops


def test_late_interaction_in_blocks_equals_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_rogle.evaluation.fusion.BLOCK_BYTES", 4 * 12 * 5 * 5)  # blocks of a few captions
    split = random_split(12)
    first, precision = scores_by_loops(fused_by_loops(split, 0.4), split.image_person_ids.tolist())
    scores = global_scores_of(split, weight=0.4)
    assert (scores["R@1"], scores["mAP"]) == pytest.approx((first, precision))
    first, precision = scores_by_loops(fused_by_loops(split, 0.4).T, split.image_person_ids.tolist())
    assert (scores["i2t/R@1"], scores["i2t/mAP"]) == pytest.approx((first, precision))


def test_a_caption_without_sentences_keeps_its_global_similarity() -> None:
    split = random_split(6)
    kept = split.long.sentence_caption != 2
    bare = replace(
        split.long, sentence_embeds=split.long.sentence_embeds[kept], sentence_caption=split.long.sentence_caption[kept]
    )
    only_two = replace(bare, sentence_embeds=bare.sentence_embeds[:0], sentence_caption=bare.sentence_caption[:0])
    plain = global_scores_of(split)
    fused = global_scores_of(replace(split, long=only_two), weight=0.9)
    assert {name: plain[name] for name in fused} == pytest.approx(fused)
    assert global_scores_of(replace(split, long=bare), weight=0.9)["queries"] == 6


def test_the_fused_score_of_a_caption_is_that_of_its_clauses() -> None:
    split, other = random_split(6), random_split(6, seed=1).long
    clauses = replace(split.long, clause_embeds=other.sentence_embeds[:12], clause_caption=torch.arange(12) // 2)
    plain = replace(split.long, sentence_embeds=other.sentence_embeds[:12], sentence_caption=torch.arange(12) // 2)
    assert global_scores_of(replace(split, long=clauses), 0.7) == global_scores_of(replace(split, long=plain), 0.7)
    np.testing.assert_array_equal(
        caption_similarities(split, clauses)(0, 6)[1], caption_similarities(split, plain)(0, 6)[1]
    )


def test_similarities_of_a_single_caption_equal_plain_loops() -> None:
    embeddings = random_split(5)
    similarities = caption_similarities(embeddings, embeddings.long)
    expected = fused_by_loops(embeddings, 0.3)
    for c in range(5):
        np.testing.assert_allclose(fuse(*similarities(c, c + 1), 0.3)[0], expected[c], atol=1e-6)


def test_the_weight_is_the_best_of_the_table_and_ties_go_to_the_first() -> None:
    split = random_split(40)
    weight, table = fit_local_weight(split)
    assert [entry["local_weight"] for entry in table] == pytest.approx([0.05 * n for n in range(21)])
    best = max(entry["R@1"] + entry["mAP"] for entry in table)
    assert weight == next(entry["local_weight"] for entry in table if entry["R@1"] + entry["mAP"] == best)
    for entry in table[::5]:
        scores = global_scores_of(split, weight=entry["local_weight"])
        assert (scores["R@1"], scores["mAP"]) == pytest.approx((entry["R@1"], entry["mAP"]))
    perfect = replace(split, template_embeds=torch.zeros_like(split.template_embeds))
    assert fit_local_weight(perfect, grid=(0.0, 0.2, 0.4))[0] == 0.0


def test_long_and_short_captions_count_alike_for_the_weight() -> None:
    split = replace(random_split(40), short=random_split(40, seed=1).long)
    both, (long, short) = (
        fit_local_weight(split)[1],
        (fit_local_weight(split, captions=[k])[1] for k in ("long", "short")),
    )
    for name in ("R@1", "mAP"):
        assert [entry[name] for entry in both] == pytest.approx(
            [(a[name] + b[name]) / 2 for a, b in zip(long, short, strict=True)]
        )
    none = replace(split.short, embeds=split.short.embeds[:0], image=split.short.image[:0])
    none = replace(none, sentence_embeds=none.sentence_embeds[:0], sentence_caption=none.sentence_caption[:0])
    assert fit_local_weight(replace(split, short=none))[1] == long
    with pytest.raises(ValueError, match="no short captions"):
        fit_local_weight(replace(split, short=none), captions=["short"])


@pytest.mark.parametrize("name", ["test", "Test", "test[:50%]", "train+test"])
def test_no_weight_is_fitted_on_a_test_split(name: str) -> None:
    with pytest.raises(ValueError, match="for reporting, choose on validation"):
        fit_local_weight(replace(random_split(4), split=name))
