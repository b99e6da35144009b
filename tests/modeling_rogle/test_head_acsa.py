"""ACSA's stripes and phrases: attention compared with plain loops, padding, gradients, and the head in a step."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.head_acsa import (
    MAX_PHRASES,
    StripePhraseAttention,
    attended_cosine,
    attention,
    every_pair,
    local_similarity,
)

torch.manual_seed(5)
REGIONS = normalize(torch.randn(3, 5, 6, dtype=torch.float64), dim=-1)
PHRASES = normalize(torch.randn(4, 3, 6, dtype=torch.float64), dim=-1)
KEPT = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [False, True, True]])


def one_way_by_loops(queries: list, keys: list) -> float:
    """SCAN's mean over queries of the cosine of a query with the mean of the keys that it attends to."""
    liked = [[max(float(q @ k), 0.1 * float(q @ k)) for k in keys] for q in queries]
    for n in range(len(keys)):
        length = math.sqrt(sum(row[n] ** 2 for row in liked))
        for row in liked:
            row[n] /= length
    total = 0.0
    for q, row in zip(queries, liked, strict=True):
        shares = [math.exp(20 * x) / sum(math.exp(20 * y) for y in row) for x in row]
        mean = sum(share * k for share, k in zip(shares, keys, strict=True))
        total += float(q @ mean) / math.sqrt(float(mean @ mean))
    return total / len(queries)


def test_similarity_equals_loops_over_the_kept_phrases() -> None:
    found = every_pair(REGIONS, PHRASES, KEPT)
    for i in range(3):
        for j in range(4):
            phrases = [PHRASES[j, n] for n in range(3) if KEPT[j, n]]
            expected = (one_way_by_loops(phrases, list(REGIONS[i])) + one_way_by_loops(list(REGIONS[i]), phrases)) / 2
            assert found[i, j].item() == pytest.approx(expected)
    torch.testing.assert_close(local_similarity(REGIONS[0][None], PHRASES, KEPT), found[0])
    torch.testing.assert_close(local_similarity(REGIONS, PHRASES[1:2], KEPT[1:2]), found[:, 1])


def test_attention_rows_sum_to_one_over_kept_keys() -> None:
    cosine = torch.einsum("cpd,brd->bcpr", PHRASES, REGIONS)
    by_phrase = attention(cosine, KEPT[None, :, :, None])
    torch.testing.assert_close(by_phrase.sum(-1), KEPT[None].expand(3, -1, -1).double())
    by_region = attention(cosine.mT, KEPT[None, :, None])
    torch.testing.assert_close(by_region.sum(-1), torch.ones(3, 4, 5, dtype=torch.float64))
    assert bool((by_region.mT[~KEPT[None].expand(3, -1, -1)] == 0).all())
    torch.testing.assert_close(attention(cosine).sum(-1), torch.ones(3, 4, 3, dtype=torch.float64))


def test_a_phrase_attends_to_the_region_that_it_names() -> None:
    keys = torch.eye(4)[:3]
    cosine = torch.tensor([[0.9, 0.1, -0.2], [0.2, 0.1, 0.8]])
    weights = attention(cosine)
    assert weights.argmax(-1).tolist() == [0, 2] and bool((weights.max(-1).values > 0.9).all())
    assert bool((attended_cosine(cosine, keys @ keys.T) > cosine.mean(-1)).all())


def test_gradients() -> None:
    regions, phrases = REGIONS[:, :3].clone().requires_grad_(), PHRASES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r, p: every_pair(r, p, KEPT), (regions, phrases))
    head = StripePhraseAttention(RogleConfig(vision_config={"patch_size": 16}, head="acsa", head_temperature=0.1))
    ids = torch.tensor([4, 5, 4])

    def loss(r: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        rows = {"head_regions": r, "head_phrases": p[:3], "head_phrase_kept": KEPT[:3], "person_ids": ids}
        return head.loss(rows)

    assert torch.autograd.gradcheck(loss, (regions, phrases))


def test_phrases_are_the_sentences_of_an_image_or_its_caption() -> None:
    head = StripePhraseAttention(RogleConfig(vision_config={"patch_size": 16}, head="acsa"))
    text, image = torch.eye(6)[:3], torch.eye(6)[3:]
    sentences = torch.randn(MAX_PHRASES + 3, 6)
    owner = torch.tensor([2, 0] + [2] * (MAX_PHRASES + 1))
    rows = head(torch.zeros(3, 4, 6), image, text, sentences, owner)
    assert rows["head_phrase_kept"].sum(1).tolist() == [1, 1, MAX_PHRASES]
    assert torch.equal(rows["head_phrases"][0, 0], sentences[1])
    assert torch.equal(rows["head_phrases"][1, 0], text[1])  # no sentence
    assert torch.equal(rows["head_phrases"][2], sentences[owner == 2][:MAX_PHRASES])
    assert torch.equal(rows["head_regions"][:, 4], image)
    alone = head(torch.zeros(3, 4, 6), image, text, None, None)
    assert torch.equal(alone["head_phrases"][:, 0], text) and alone["head_phrase_kept"].sum() == 3


def test_the_head_is_a_term_of_the_step_and_encodes_parts(tiny_config: RogleConfig) -> None:
    fields = {"head": "acsa", "head_loss_weight": 0.5, "global_loss": "cmpm", "id_loss": "cmpc", "id_loss_weight": 4.0}
    model = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | fields | {"num_identities": 3}))
    ids = torch.tensor([[0, 5, 1], [0, 6, 1]])
    given = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 16), "identities": torch.tensor([0, 2])}
    pairs = {"boxes": torch.tensor([[0.0, 0, 1, 1]]), "box_image": torch.tensor([1]), "sentence_input_ids": ids[:1]}
    for more in ({}, pairs):
        out = model(**given, **more, return_loss=True)
        total = out.loss_global + 4 * out.loss_id + 0.5 * out.loss_head
        torch.testing.assert_close(out.loss, total + (0.5 * out.loss_local if more else 0))
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    parts = model.eval().encode_image_parts(given["pixel_values"])
    assert parts.shape == (2, 5, 32) and model.part_counts == (5, 0)
    images, regions = model.encode_images(given["pixel_values"], torch.tensor([[0, 1 / 6, 1, 0.5]]), torch.tensor([1]))
    torch.testing.assert_close(parts[:, 4], images)
    torch.testing.assert_close(parts[1, 1], regions[0])
