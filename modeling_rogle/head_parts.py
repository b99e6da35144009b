"""Part-level correspondence: slots that images and captions share, and a margin that gives way where parts are common.

After "part-level cross-modal correspondence" (arXiv 2501.00318), of which the abstract alone is public to us: learnable
tokens shared by both modalities are the queries of a decoder, so that slot k of an image answers to slot k of a caption
with no supervision but identities; and a ranking loss whose margin is adapted to how common a part is. Ours, since not
public: the decoder's depth and what the modalities share of it (all but the entrance of their tokens), the number of
slots, the formula of the loss, and the test similarity, a weighted mean of coarse and part cosines.
"""

import torch
from torch import nn

from .configuration_rogle import RogleConfig
from .losses import cosines


class PartDecoder(nn.Module):
    """K slot tokens that read the patches of an image or the words of a caption: `[b, l, hidden]` -> `[b, K, d]`."""

    reads = ("patches", "words")
    masks_words = False

    def __init__(self, config: RogleConfig):
        super().__init__()
        width = config.projection_dim
        self.margin, self.commonality = config.head_config["part_margin"], config.head_config["commonality"]
        self.slots = nn.Parameter(torch.empty(config.head_config["part_slots"], width))
        self.patch_entrance = nn.Linear(config.vision_config.hidden_size, width)
        self.word_entrance = nn.Linear(config.text_config.hidden_size, width)
        heads = max(1, width // 64)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.head_config["head_layers"]))
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, width, bias=False)

    def forward(
        self,
        patches: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Unit part embeddings of what is given.

        Args:
            patches: `[b, p, vision hidden]` after the last layer norm.
            words: `[c, l, text hidden]`; kept: `[c, l]` bool, false behind the end of a text.

        Returns:
            `image_parts` `[b, K, d]`, `text_parts` `[c, K, d]`, as far as asked for.
        """
        found = {}
        if patches is not None:
            found["image_parts"] = self._decode(self.patch_entrance(patches), None)
        if words is not None:
            found["text_parts"] = self._decode(self.word_entrance(words), kept)
        return found

    def _decode(self, tokens: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        states = self.slots.to(tokens.dtype).expand(len(tokens), -1, -1)
        for block in self.blocks:
            states = block(states, tokens, kept)
        return nn.functional.normalize(self.exit(self.norm(states)), dim=-1)

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`loss_head` of `image_parts`, `text_parts` `[b, K, d]`, `person_ids` and `caption_weight` as far as given."""
        return {
            "loss_head": commonality_margin_ranking(
                inputs["image_parts"],
                inputs["text_parts"],
                inputs.get("person_ids"),
                inputs.get("caption_weight"),
                self.margin,
                self.commonality,
            )
        }


class CrossBlock(nn.Module):
    """A decoder block: attention among the queries, attention to the tokens, MLP; each normed before and added."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm, self.token_norm, self.cross = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        normed = self.own_norm(states)
        states = states + self.own(normed, normed)
        states = states + self.cross(self.cross_norm(states), self.token_norm(tokens), kept)
        return states + self.mlp(states)


class Attention(nn.Module):
    """Multi-head attention of `[b, q, width]` queries to `[b, l, width]` tokens, of which `kept` `[b, l]` are there."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.exit = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        mask = None if kept is None else kept[:, None, None]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.exit(mixed.transpose(1, 2).flatten(2))


def commonality_margin_ranking(
    image_parts: torch.Tensor,
    text_parts: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    margin: float = 0.2,
    commonality: float = 1.0,
) -> torch.Tensor:
    """Commonality-based margin ranking (the idea of arXiv 2501.00318; its formula is not public, this one is ours).

    For part k of pair i and another identity j: `[m_ij^k - s_ii^k + s_ij^k]_+` in both directions, s the cosine of an
    image's and a caption's part, and the margin `m_ij^k = margin * (1 - commonality * c_ij^k)`: two people in black
    shoes need not be told apart by them. c in [0, 1] is the (detached) mean of the two images' and the two captions'
    cosine of that part, rescaled so that the batch's mean over other identities is 0 and equality is 1; without the
    rescaling all margins would be gone at the start, when all parts are alike.

    Args:
        image_parts, text_parts: `[b, K, d]` unit vectors, row i one pair.
        person_ids: `[b]` int64, or None for one identity a row.
        weight: `[b]` trust in each image-caption pair, which weighs the terms in which it is the positive.
        margin: in units of cosine.
        commonality: in [0, 1]; 0 is the ordinary margin ranking loss.

    Returns:
        Scalar, fp32 (at least): mean over the terms that are not yet 0, so that many easy ones do not water it down.
    """
    b, parts, _ = image_parts.shape
    images, texts = image_parts.transpose(0, 1), text_parts.transpose(0, 1)
    similar = torch.stack([cosines(v, t) for v, t in zip(images, texts, strict=True)])  # [K, b, b] image, caption
    ids = torch.arange(b, device=similar.device) if person_ids is None else person_ids
    other = (ids[:, None] != ids[None, :]).expand(parts, -1, -1)
    margins = margin * (1 - commonality * part_commonality(image_parts, text_parts, ids))
    weight = similar.new_ones(b) if weight is None else weight.to(similar.dtype)
    own = similar.diagonal(dim1=1, dim2=2)
    total, count = similar.sum() * 0, similar.new_zeros(())
    for scores, by_row in ((similar, margins), (similar.mT, margins.mT)):
        hinge = (by_row - own[:, :, None] + scores).clamp(min=0) * other
        total = total + (hinge * weight[:, None]).sum()
        count = count + ((hinge > 0) * weight[:, None]).sum()
    return total / count.clamp(min=1e-6)


@torch.no_grad()
def part_commonality(image_parts: torch.Tensor, text_parts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """How alike part k of i and of j is, `[K, b, b]` in [0, 1], symmetric: 0 at the batch's mean over other identities.

    Arguments as of [`commonality_margin_ranking`].
    """
    alike = torch.stack(
        [
            (cosines(v, v) + cosines(t, t)) / 2
            for v, t in zip(image_parts.transpose(0, 1), text_parts.transpose(0, 1), strict=True)
        ]
    )
    other = ids[:, None] != ids[None, :]
    mean = (alike * other).sum((1, 2), keepdim=True) / other.sum().clamp(min=1)
    return ((alike - mean) / (1 - mean).clamp(min=1e-6)).clamp(0, 1)


__all__ = ["Attention", "CrossBlock", "PartDecoder", "commonality_margin_ranking", "part_commonality"]
