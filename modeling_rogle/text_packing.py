"""Texts of unequal length through CLIP's text model without computing their padding: packed, or in length buckets.

Both rely on the text model being causal and pooled at the end-of-text token: later tokens have no influence.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPTextModel

# Cost of one more call of the text model, in tokens: an estimate from kernel launches on a GPU.
CALL_TOKENS = 2048
# Tokens of a pack without gradients: the activations then fit into a CPU's cache.
PACK_TOKENS = 1024


def text_lengths(input_ids: torch.Tensor, eos_token_id: int) -> list[int]:
    """Number of tokens of each text, up to and including its first end-of-text token.

    Args:
        input_ids: `[n, l]`, padded on the right.
        eos_token_id: of the text configuration. 2 means one of CLIP's old configurations, in which the largest id
            ends the text.

    Raises:
        ValueError: a text begins with its end token, as it does where the end token pads on the left, or has none.
    """
    if input_ids.numel() == 0:
        return []
    ids = input_ids.int()
    ends = ids.argmax(-1) if eos_token_id == 2 else (ids == eos_token_id).int().argmax(-1)
    lengths = (ends + 1).tolist()
    if min(lengths) == 1 and input_ids.shape[1] > 1:  # the shortest text is a start token and an end token
        raise ValueError("input_ids: a text begins with its end token or has none; pad texts on the right")
    return lengths


def token_mask(input_ids: torch.Tensor, eos_token_id: int) -> torch.Tensor:
    """`[n, l]` bool, False for padding; arguments as in [`text_lengths`]."""
    lengths = torch.tensor(text_lengths(input_ids, eos_token_id), device=input_ids.device)
    return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]


def stack_texts(*tables: torch.Tensor) -> torch.Tensor:
    """Concatenates tables `[n, l]` of ids to `[sum of n, longest l]`; zeros pad after the end of text."""
    longest = max(table.shape[1] for table in tables)
    return torch.cat([nn.functional.pad(table, (0, longest - table.shape[1])) for table in tables])


class PackedAttention(CLIPAttention):
    """CLIP's attention, which can also read packed texts: block-diagonal and causal.

    A dense mask would compute every text against every other one. Here each run of texts of equal length is one causal
    call without a mask, and all layers except attention see one long row.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        runs: Sequence[tuple[int, int]] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As CLIP's. With `runs`, pairs (number of texts, their length), `hidden_states` is packed:
        `[1, tokens, hidden]`."""
        if runs is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        dropout = self.dropout if self.training else 0.0
        sizes = [texts * length for texts, length in runs]
        # `split` instead of slices, because the gradient of a slice is a whole pack of zeros.
        parts = [projection(hidden_states[0]).split(sizes) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        mixed = []
        for (texts, length), *projected in zip(runs, *parts, strict=True):
            heads = [part.view(texts, length, self.num_heads, self.head_dim).transpose(1, 2) for part in projected]
            out = nn.functional.scaled_dot_product_attention(
                *heads, dropout_p=dropout, is_causal=True, scale=self.scale
            )
            mixed.append(out.transpose(1, 2).reshape(texts * length, self.embed_dim))
        return self.out_proj(torch.cat(mixed))[None], None


def encode_unpadded(
    text_model: CLIPTextModel, input_ids: torch.Tensor, limit: int, keep: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes texts in the fastest way for their device; while a graph is compiled or exported, with their padding.

    Args:
        text_model: see [`encode_packed`].
        input_ids: see [`encode_packed`].
        limit: number of text positions of the model.
        keep: see [`encode_packed`].

    Returns:
        As [`encode_packed`].

    Raises:
        ValueError: a text is longer than the limit.
    """
    if torch.compiler.is_compiling():
        return encode_padded(text_model, input_ids, keep)
    lengths = text_lengths(input_ids, text_model.eos_token_id)
    if max(lengths) > limit:
        raise ValueError(f"input_ids: a text of {max(lengths)} tokens, the model reads {limit}")
    encode = encode_packed if input_ids.device.type == "cpu" else encode_buckets
    return encode(text_model, input_ids, lengths, keep)


def encode_padded(
    text_model: CLIPTextModel, input_ids: torch.Tensor, keep: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes texts with their padding, so that no size depends on the data, as a graph needs it.

    The causal mask is explicit and hides the padding from the end token. Arguments and result are those of
    [`encode_packed`].
    """
    n, length = input_ids.shape
    states = text_model.embeddings(
        input_ids=input_ids, position_ids=torch.arange(length, device=input_ids.device)[None]
    )
    mask = torch.full((length, length), float("-inf"), dtype=states.dtype, device=states.device).triu(1)[None, None]
    for layer in text_model.encoder.layers:
        states = layer(states, mask)
    end = text_model.eos_token_id
    # 2 marks old CLIP configurations, in which the highest id is the end token.
    ends = input_ids.argmax(-1) if end == 2 else (input_ids == end).int().argmax(-1)
    states = text_model.final_layer_norm(states)
    pooled = states[torch.arange(n, device=input_ids.device), ends]
    if not keep:
        return pooled, None
    real = torch.arange(length, device=input_ids.device) <= ends[:keep, None]
    return pooled, states[:keep] * real[..., None]


def encode_packed(
    text_model: CLIPTextModel, input_ids: torch.Tensor, lengths: Sequence[int], keep: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes texts that are concatenated into packs; positions restart at each text.

    Measured with the text model of ViT-B/16 on one CPU thread (`benchmarks/speed/encode.py --packing`): 1.04 to 1.14
    times as fast as the best buckets in inference, and 1.3 to 2.5 times as fast as one dense mask. In training it is
    1.19 times as fast as buckets, each of which adds a gradient of the whole embedding table.

    Args:
        text_model: its attention modules become [`PackedAttention`], with the same parameters and names.
        input_ids: `[n, l]`.
        lengths: n lengths, from [`text_lengths`].
        keep: number of leading texts whose token states are returned; 0 by default.

    Returns:
        `[n, hidden]` pooled states, and `[keep, l, hidden]` final states, zero after each text's end, or None.
    """
    for layer in text_model.encoder.layers:
        # Changing the class keeps parameters, names and hooks; torch's fully_shard does the same.
        if type(layer.self_attn) is CLIPAttention:
            layer.self_attn.__class__ = PackedAttention
    if not all(isinstance(layer.self_attn, PackedAttention) for layer in text_model.encoder.layers):
        return encode_buckets(text_model, input_ids, lengths, keep)  # a replaced attention module does not accept runs
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    limit = sum(lengths) if torch.is_grad_enabled() else PACK_TOKENS
    pooled, kept_states = [], []
    for pack in _packs(order, lengths, limit):
        runs = [(len(list(same)), length) for length, same in groupby(lengths[text] for text in pack)]
        rows = torch.tensor(pack, device=input_ids.device)
        sizes = torch.tensor([lengths[text] for text in pack], device=input_ids.device)
        ends = sizes.cumsum(0)
        text = rows.repeat_interleave(sizes)
        position = torch.arange(len(text), device=input_ids.device) - (ends - sizes).repeat_interleave(sizes)
        # Embedded as texts of one token each: the embeddings check the length of a text, and a pack is longer.
        states = text_model.embeddings(
            input_ids=input_ids[text, position][:, None], position_ids=position[:, None]
        ).transpose(0, 1)
        for layer in text_model.encoder.layers:
            states = layer(states, None, runs=runs)
        states = states[0]
        pooled.append(text_model.final_layer_norm(states[ends - 1]))
        if keep:
            kept = text < keep
            kept_states.append((text[kept], position[kept], text_model.final_layer_norm(states[kept])))
    tokens = None
    if keep:
        row, column, states = (torch.cat(parts) for parts in zip(*kept_states, strict=True))
        tokens = states.new_zeros(keep, input_ids.shape[1], states.shape[1]).index_put((row, column), states)
    return torch.cat(pooled)[_inverse(order, input_ids.device)], tokens


def encode_buckets(
    text_model: CLIPTextModel,
    input_ids: torch.Tensor,
    lengths: Sequence[int],
    keep: int = 0,
    call_tokens: int = CALL_TOKENS,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes texts in buckets of similar length, for devices on which a call is expensive.

    Args:
        text_model: as in [`encode_packed`].
        input_ids: as in [`encode_packed`].
        lengths: as in [`encode_packed`].
        keep: as in [`encode_packed`].
        call_tokens: see [`length_buckets`]; 2048 by default.

    Returns:
        As [`encode_packed`].
    """
    buckets = length_buckets(lengths, call_tokens)
    pooled, kept_states = [], []
    for bucket in buckets:
        rows = torch.tensor(bucket, device=input_ids.device)
        longest = lengths[bucket[-1]]
        output = text_model(input_ids=input_ids[rows, :longest])
        pooled.append(output.pooler_output)
        if keep:
            sizes = torch.tensor([lengths[text] for text in bucket], device=input_ids.device)
            padding = torch.arange(longest, device=input_ids.device) >= sizes[:, None]
            states = output.last_hidden_state.masked_fill(padding[:, :, None], 0.0)
            kept = rows < keep
            states = nn.functional.pad(states[kept], (0, 0, 0, input_ids.shape[1] - longest))
            kept_states.append((rows[kept], states))
    tokens = None
    if keep:
        tokens = torch.cat([states for _, states in kept_states])
        tokens = tokens[torch.cat([rows for rows, _ in kept_states]).argsort()]
    return torch.cat(pooled)[_inverse([text for bucket in buckets for text in bucket], input_ids.device)], tokens


def length_buckets(lengths: Sequence[int], call_tokens: int) -> list[list[int]]:
    """Groups texts so that the computed tokens, including padding, plus `call_tokens` per group are the fewest.

    Args:
        lengths: tokens of each text.
        call_tokens: cost of one more group, in tokens.

    Returns:
        Indices into `lengths`, ascending in length within a bucket and from bucket to bucket.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    # A bucket never ends within texts of equal length. best[i]: the lowest cost of the first edges[i] texts.
    edges = [i for i in range(len(order)) if i == 0 or lengths[order[i]] != lengths[order[i - 1]]] + [len(order)]
    best, previous = [0], [0]
    for i in range(1, len(edges)):
        longest = lengths[order[edges[i] - 1]]
        cost, j = min((best[j] + call_tokens + (edges[i] - edges[j]) * longest, j) for j in range(i))
        best.append(cost)
        previous.append(j)
    buckets, i = [], len(edges) - 1
    while i > 0:
        buckets.append(order[edges[previous[i]] : edges[i]])
        i = previous[i]
    return buckets[::-1]


def _packs(order: Sequence[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    packs: list[list[int]] = []
    tokens = limit
    for text in order:
        if tokens + lengths[text] > limit:
            packs.append([])
            tokens = 0
        packs[-1].append(text)
        tokens += lengths[text]
    return packs


def _inverse(order: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(order, device=device).argsort()


__all__ = [
    "PackedAttention",
    "encode_buckets",
    "encode_packed",
    "length_buckets",
    "stack_texts",
    "text_lengths",
    "token_mask",
]
