"""Similarity by a model's head: reranking in both directions, and scores from rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.evaluation.fusion import caption_similarities, fit_local_weight
from modeling_rogle.evaluation.head_similarity import HeadSimilarity, rerank_top
from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from modeling_rogle.head_acsa import local_similarity
from modeling_rogle.late_interaction import fuse


def embeddings_of(head: str, tiny_config: RogleConfig, processor: RogleProcessor) -> SplitEmbeddings:
    torch.manual_seed(0)
    model = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | {"head": head, "part_slots": 3}))
    rows = load_rows("synthetic-tiny")[0]["validation"].select(range(6))
    return encode_split(model, processor, rows, batch_size=4, progress=False, split="validation")


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.6, 1.0])
def test_only_the_order_of_the_top_changes(weight: float) -> None:
    rng = np.random.default_rng(0)
    global_scores = rng.normal(size=(4, 30)).astype(np.float32)
    compared = []

    def local(row: int, best: torch.Tensor) -> torch.Tensor:
        compared.append(best.tolist())
        return torch.from_numpy(rng.normal(size=len(best)))

    fused = fuse(global_scores, rerank_top(global_scores, 7, local), weight)
    for row in range(4):
        before, after = np.argsort(-global_scores[row]), np.argsort(-fused[row])
        assert compared[row] == before[:7].tolist()
        assert set(after[:7]) == set(before[:7]) and (after[7:] == before[7:]).all()
        assert weight < 1 or (after[:7] != before[:7]).any()


def test_stripes_and_sentences_are_compared_for_the_top_only(
    tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> None:
    split = embeddings_of("acsa", tiny_config, tiny_processor)
    assert split.image_parts.shape == (6, 5, 32) and split.long.parts.shape[1] == 0
    chosen = split.short
    # One caption has no sentences, so it is its own phrase.
    others = chosen.sentence_caption != 1
    chosen = replace(
        chosen, sentence_embeds=chosen.sentence_embeds[others], sentence_caption=chosen.sentence_caption[others]
    )
    global_scores = (chosen.embeds @ split.image_embeds.T).numpy()
    to_images = HeadSimilarity(split, chosen, top=2).by_caption(0, len(global_scores), global_scores)
    to_captions = HeadSimilarity(split, chosen, top=2).by_image(0, 6, np.ascontiguousarray(global_scores.T))

    def expected(caption: int, image: int) -> float:
        phrases = chosen.sentence_embeds[chosen.sentence_caption == caption]
        phrases = phrases if len(phrases) else chosen.embeds[caption][None]
        mask = torch.ones(len(phrases), dtype=torch.bool)
        return float(local_similarity(split.image_parts[image], phrases, mask))

    for caption in range(len(global_scores)):
        for image in np.argsort(-global_scores[caption])[:2]:
            assert to_images[caption, image] == pytest.approx(expected(caption, image), abs=1e-5)
    for image in range(6):
        for caption in np.argsort(-global_scores[:, image])[:2]:
            assert to_captions[image, caption] == pytest.approx(expected(caption, image), abs=1e-5)


def test_slots_are_compared_with_every_image(tiny_config: RogleConfig, tiny_processor: RogleProcessor) -> None:
    split = embeddings_of("parts", tiny_config, tiny_processor)
    assert split.image_parts.shape == (6, 3, 32) and split.short.parts.shape[1:] == (3, 32)
    global_scores, local = caption_similarities(split, split.short)(1, 5)
    expected = torch.einsum("ckd,ikd->ci", split.short.parts[1:5], split.image_parts) / 3
    np.testing.assert_allclose(local, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(global_scores, (split.short.embeds[1:5] @ split.image_embeds.T).numpy(), atol=1e-5)
    to_captions = HeadSimilarity(split, split.short).by_image(0, 6, global_scores)
    np.testing.assert_allclose(to_captions[:, 1:5], expected.numpy().T, atol=1e-5)


@pytest.mark.parametrize("head", ["acsa", "parts"])
def test_protocols_fuse_the_heads_similarity(
    head: str, tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> None:
    split = embeddings_of(head, tiny_config, tiny_processor)
    weight, table = fit_local_weight(split, (0.0, 0.5))
    assert weight in (0.0, 0.5) and len(table) == 2
    # Parts that equal the identity give perfect scores.
    if head == "parts":
        truth = normalize(torch.randn(6, 3, 32), dim=-1)
        people = split.image_person_ids
        truth = torch.stack([truth[(people == p).nonzero()[0, 0]] for p in people])
        sets = {name: getattr(split, name) for name in ("long", "short")}
        sets = {name: replace(each, parts=truth[each.image]) for name, each in sets.items()}
        split = replace(split, image_parts=truth, **sets)
        scores = all_protocols(split, 1.0, ("global",))
        assert scores["global+local/long/R@1"] == scores["global+local/short/i2t/mAP"] == 100
    else:
        assert "global+local/long/R@1" in all_protocols(split, 0.1, ("global",))


def test_without_a_head_late_interaction_stays(tiny_config: RogleConfig, tiny_processor: RogleProcessor) -> None:
    split = embeddings_of("none", tiny_config, tiny_processor)
    assert split.image_parts.shape == (6, 0, 32) and HeadSimilarity.of(split, split.long) is None
