"""Texts without padding: packed and bucketed encoding compared with one text at a time."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.clip.modeling_clip import CLIPAttention

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.text_packing import encode_buckets, encode_packed, length_buckets, stack_texts, text_lengths

CAPTION = "The woman has long brown hair. She carries a blue bag over her left shoulder."
TEXTS = ["Red.", CAPTION, "A man.", CAPTION + " " + CAPTION, *CAPTION.split(". "), "A man.", CAPTION]
WAYS = pytest.mark.parametrize("encode", [encode_packed, encode_buckets])


@pytest.fixture
def ids(tiny_processor: RogleProcessor) -> torch.Tensor:
    """Captions and sentences of six lengths, padded beyond the longest."""
    ids = tiny_processor(text=TEXTS, return_tensors="pt")["input_ids"]
    return torch.nn.functional.pad(ids, (0, 2), value=tiny_processor.tokenizer.pad_token_id)


def one_by_one(model: RogleModel, ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pooled state and token states of each text, from CLIP's text model."""
    found = []
    for row, length in zip(ids, text_lengths(ids, model.text_model.eos_token_id), strict=True):
        out = model.text_model(input_ids=row[None, :length])
        found.append((out.pooler_output[0], out.last_hidden_state[0]))
    return found


@WAYS
def test_equal_to_one_text_at_a_time(tiny_model: RogleModel, ids: torch.Tensor, encode: Callable) -> None:
    expected = one_by_one(tiny_model, ids)
    lengths = text_lengths(ids, tiny_model.text_model.eos_token_id)
    assert len(set(lengths)) > 4 and len(set(lengths)) < len(lengths)
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            pooled, tokens = encode(tiny_model.text_model, ids, lengths, keep=4)
        assert tokens.shape == (4, ids.shape[1], 32)
        for i, (state, _) in enumerate(expected):
            torch.testing.assert_close(pooled[i], state, atol=1e-5, rtol=0)
        for i, (_, states) in enumerate(expected[:4]):
            torch.testing.assert_close(tokens[i, : lengths[i]], states, atol=1e-5, rtol=0)
            assert not tokens[i, lengths[i] :].any()


@WAYS
def test_one_text(tiny_model: RogleModel, ids: torch.Tensor, encode: Callable) -> None:
    lengths = text_lengths(ids[1:2], tiny_model.text_model.eos_token_id)
    pooled, tokens = encode(tiny_model.text_model, ids[1:2], lengths)
    torch.testing.assert_close(pooled[0], one_by_one(tiny_model, ids[1:2])[0][0], atol=1e-5, rtol=0)
    assert tokens is None


def test_more_texts_than_one_pack_holds(tiny_model: RogleModel, ids: torch.Tensor) -> None:
    many = ids[torch.arange(len(ids)).repeat(20)]
    with torch.no_grad():
        embeds, tokens = tiny_model.encode_tokens(many, keep_tokens=True)
        few, few_tokens = tiny_model.encode_tokens(ids, keep_tokens=True)
    assert sum(text_lengths(many, tiny_model.text_model.eos_token_id)) > 2048
    torch.testing.assert_close(embeds, few.repeat(20, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, few_tokens.repeat(20, 1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@WAYS
def test_gradients_equal_those_of_padded_texts(
    tiny_model: RogleModel, ids: torch.Tensor, encode: Callable, checkpointing: bool
) -> None:
    encoder = tiny_model.text_model.train()
    mask = torch.arange(ids.shape[1]) < torch.tensor(text_lengths(ids, encoder.eos_token_id))[:, None]
    plain = encoder(input_ids=ids)
    (plain.pooler_output.pow(2).sum() + plain.last_hidden_state[:3][mask[:3]].sin().sum()).backward()
    expected = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}
    encoder.zero_grad()
    if checkpointing:
        tiny_model.gradient_checkpointing_enable()
    pooled, tokens = encode(encoder, ids, text_lengths(ids, encoder.eos_token_id), keep=3)
    (pooled.pow(2).sum() + tokens.sin().sum()).backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=2e-4, rtol=1e-4, msg=name)


def test_captions_and_sentences_in_one_call(tiny_model: RogleModel, ids: torch.Tensor) -> None:
    short = ids[4:, :20]
    stacked = stack_texts(ids[:3], short)
    assert stacked.shape == (3 + len(short), ids.shape[1]) and torch.equal(stacked[:3], ids[:3])
    assert text_lengths(stacked, tiny_model.text_model.eos_token_id)[3:] == text_lengths(
        short, tiny_model.text_model.eos_token_id
    )
    embeds, tokens = tiny_model.encode_tokens(stacked, keep_tokens=True, keep_first=3)
    captions, states = tiny_model.encode_tokens(ids[:3], keep_tokens=True)
    sentences, nothing = tiny_model.encode_tokens(short)
    torch.testing.assert_close(embeds, torch.cat([captions, sentences]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, states, atol=1e-5, rtol=0)
    assert len(nothing) == 0


def test_no_text(tiny_model: RogleModel) -> None:
    embeds, tokens = tiny_model.encode_tokens(torch.zeros(0, 5, dtype=torch.long), keep_tokens=True)
    assert embeds.shape == (0, 32) and tokens.shape == (0, 5, 32)


def test_the_old_end_of_text_rule(tiny_model: RogleModel, ids: torch.Tensor) -> None:
    # In configurations before 2023 the id is 2, and the largest id ends a text; padding is any smaller id.
    assert text_lengths(torch.tensor([[3, 9, 0, 0], [3, 5, 9, 9]]), 2) == [2, 3]
    assert text_lengths(torch.tensor([[3, 9, 0, 0], [3, 5, 9, 9]]), 9) == [2, 3]
    assert text_lengths(torch.zeros(3, 0, dtype=torch.long), 9) == []


def test_packing_leaves_the_model_as_it_was(tiny_model: RogleModel, ids: torch.Tensor, tmp_path: Path) -> None:
    names = list(tiny_model.state_dict())
    expected = tiny_model.text_model(input_ids=ids).last_hidden_state
    embeds = tiny_model.encode_texts(ids)
    assert list(tiny_model.state_dict()) == names
    torch.testing.assert_close(tiny_model.text_model(input_ids=ids).last_hidden_state, expected, atol=0, rtol=0)
    tiny_model.save_pretrained(tmp_path)
    torch.testing.assert_close(RogleModel.from_pretrained(tmp_path).encode_texts(ids), embeds, atol=1e-6, rtol=0)
    tiny_model.set_attn_implementation("eager")
    attentions = tiny_model.text_model(input_ids=ids, output_attentions=True).attentions
    assert len(attentions) == 2 and attentions[0].shape == (len(ids), 2, ids.shape[1], ids.shape[1])


def cost(lengths: list[int], buckets: list[list[int]], call_tokens: int) -> int:
    return sum(call_tokens + len(bucket) * max(lengths[i] for i in bucket) for bucket in buckets)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=7), st.integers(0, 15))
def test_buckets_have_the_lowest_cost_of_all_partitions(lengths: list[int], call_tokens: int) -> None:
    buckets = length_buckets(lengths, call_tokens)
    assert sorted(itertools.chain(*buckets)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    every = []
    for count in range(len(lengths)):
        for cuts in itertools.combinations(range(1, len(lengths)), count):
            edges = [0, *cuts, len(lengths)]
            every.append([order[a:b] for a, b in itertools.pairwise(edges)])
    if lengths:
        assert cost(lengths, buckets, call_tokens) == min(cost(lengths, way, call_tokens) for way in every)
    else:
        assert buckets == []


def test_the_number_of_buckets_follows_the_cost_of_a_call() -> None:
    lengths = [5, 100, 5, 20, 100]
    assert length_buckets(lengths, 10_000) == [[0, 2, 3, 1, 4]]
    assert length_buckets(lengths, 0) == [[0, 2], [3], [1, 4]]


def test_replaced_attention_is_not_packed(tiny_model: RogleModel, tiny_processor: RogleProcessor) -> None:
    ids = tiny_processor(text=["A man.", "A woman wears a red coat and black shoes."], return_tensors="pt")["input_ids"]
    whole = tiny_model.encode_texts(ids)
    for layer in tiny_model.text_model.encoder.layers:
        layer.self_attn.__class__ = type("Other", (CLIPAttention,), {})
    torch.testing.assert_close(tiny_model.encode_texts(ids), whole, rtol=0, atol=1e-5)


def test_texts_are_encoded_in_one_graph(tiny_model: RogleModel, tiny_processor: RogleProcessor) -> None:
    """`torch.compile(fullgraph=True)` and `torch.export` give the embeddings of the packed texts."""
    ids = tiny_processor(text=["A man.", *TEXTS], return_tensors="pt")["input_ids"]
    expected = tiny_model.encode_texts(ids)
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model.encode_texts, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids), expected)

    class Texts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model.encode_texts(input_ids)

    shapes = {0: torch.export.Dim("texts", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=64)}
    exported = torch.export.export(Texts(), (ids,), dynamic_shapes=(shapes,)).module()
    torch.testing.assert_close(exported(ids), expected)
    torch.testing.assert_close(exported(ids[:1, :8]), tiny_model.encode_texts(ids[:1, :8]))
