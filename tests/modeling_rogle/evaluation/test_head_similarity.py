"""Re-ranking by a model's head: what moves and what stays, from both sides, and the whole way from rows to scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.evaluation.head_similarity import HeadSimilarity, rerank
from modeling_rogle.evaluation.protocols import all_protocols, caption_similarities, fit_local_weight
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from modeling_rogle.head_acsa import local_similarity
from modeling_rogle.late_interaction import fuse


def embeddings_of(head: str, tiny_config: RogleConfig, processor: RogleProcessor) -> SplitEmbeddings:
    torch.manual_seed(0)
    model = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | {"head": head, "part_slots": 3}))
    rows = load_rows("synthetic-tiny")[0]["validation"].select(range(6))
    return encode_split(model, processor, rows, batch_size=4, progress=False, split="validation")


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.6, 1.0])
def test_only_the_top_changes_its_order(weight: float) -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4, 30)).astype(np.float32)
    asked = []

    def local(row: int, best: torch.Tensor) -> torch.Tensor:
        asked.append(best.tolist())
        return torch.from_numpy(rng.normal(size=len(best)))

    fused = fuse(whole, rerank(whole, 7, local), weight)
    for row in range(4):
        before, after = np.argsort(-whole[row]), np.argsort(-fused[row])
        assert asked[row] == before[:7].tolist()
        assert set(after[:7]) == set(before[:7]) and (after[7:] == before[7:]).all()
        assert weight < 1 or (after[:7] != before[:7]).any()


def test_stripes_and_sentences_are_compared_for_the_top_alone(
    tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> None:
    split = embeddings_of("acsa", tiny_config, tiny_processor)
    assert split.image_parts.shape == (6, 5, 32) and split.long.parts.shape[1] == 0
    chosen = split.short
    # One caption without sentences, which is its own phrase.
    bare = chosen.sentence_caption != 1
    chosen = replace(
        chosen, sentence_embeds=chosen.sentence_embeds[bare], sentence_caption=chosen.sentence_caption[bare]
    )
    whole = (chosen.embeds @ split.image_embeds.T).numpy()
    found = HeadSimilarity(split, chosen, top=2).by_caption(0, len(whole), whole)
    back = HeadSimilarity(split, chosen, top=2).by_image(0, 6, np.ascontiguousarray(whole.T))

    def expected(caption: int, image: int) -> float:
        phrases = chosen.sentence_embeds[chosen.sentence_caption == caption]
        phrases = phrases if len(phrases) else chosen.embeds[caption][None]
        kept = torch.ones(len(phrases), dtype=torch.bool)
        return float(local_similarity(split.image_parts[image], phrases, kept))

    for caption in range(len(whole)):
        for image in np.argsort(-whole[caption])[:2]:
            assert found[caption, image] == pytest.approx(expected(caption, image), abs=1e-5)
    for image in range(6):
        for caption in np.argsort(-whole[:, image])[:2]:
            assert back[image, caption] == pytest.approx(expected(caption, image), abs=1e-5)


def test_slots_are_compared_with_every_image(tiny_config: RogleConfig, tiny_processor: RogleProcessor) -> None:
    split = embeddings_of("parts", tiny_config, tiny_processor)
    assert split.image_parts.shape == (6, 3, 32) and split.short.parts.shape[1:] == (3, 32)
    whole, local = caption_similarities(split, split.short)(1, 5)
    expected = torch.einsum("ckd,ikd->ci", split.short.parts[1:5], split.image_parts) / 3
    np.testing.assert_allclose(local, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(whole, (split.short.embeds[1:5] @ split.image_embeds.T).numpy(), atol=1e-5)
    back = HeadSimilarity(split, split.short).by_image(0, 6, whole)
    np.testing.assert_allclose(back[:, 1:5], expected.numpy().T, atol=1e-5)


@pytest.mark.parametrize("head", ["acsa", "parts"])
def test_protocols_fuse_the_heads_similarity(
    head: str, tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> None:
    split = embeddings_of(head, tiny_config, tiny_processor)
    weight, table = fit_local_weight(split, (0.0, 0.5))
    assert weight in (0.0, 0.5) and len(table) == 2
    # A head that knows the answer finds it.
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
