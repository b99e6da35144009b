"""ACSA's local similarity: cross-attention between an image's stripes and a caption's phrases, without weights.

After ACSA (IEEE Transactions on Multimedia, 2022): its abstract and its public code's facts are all that this rests
on; the attention is that of SCAN (arXiv 1803.08024), from which ACSA takes it. The rest of ACSA is `global_loss="cmpm"`
with `id_loss="cmpc"`. Known gaps: ACSA reads Swin and BERT where this reads the two towers of CLIP; it cuts phrases
with a noun-phrase chunker, here a phrase is a sentence; its windows and stage features are left out, only body stripes
and the whole image stay; the temperature of its local loss is not known to us, and its neighbour re-ranking is left
out.
"""

import torch
from torch import nn

from .box_ops import slots
from .configuration_rogle import RogleConfig
from .losses import label_divergence

# Head, upper body, lower body and feet in sixths of the height, and the whole image behind them.
STRIPES = ((0.0, 0.0, 1.0, 1 / 6), (0.0, 1 / 6, 1.0, 3 / 6), (0.0, 3 / 6, 1.0, 5 / 6), (0.0, 5 / 6, 1.0, 1.0))
TEMPERATURE = 20.0  # ACSA's and SCAN's: similarities are multiplied by it
MOST_PHRASES = 10  # of a caption in training, ACSA's


class StripePhraseAttention(nn.Module):
    """The local branch of ACSA. No weights: it reads the embeddings of stripes, image and sentences.

    Training: KL divergence of the batch's local similarities to its identities. Test: a re-ranker, see `reranking.py`.
    """

    # What it wants to be given of a training step, see `RogleModel.forward`.
    reads = ("stripes", "phrases")
    masks_words = False

    def __init__(self, config: RogleConfig):
        super().__init__()
        self.temperature = config.head_config["head_temperature"]

    def forward(
        self,
        stripe_embeds: torch.Tensor,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        sentence_embeds: torch.Tensor | None,
        sentence_image: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Rows of [`RogleModel.losses`].

        Args:
            stripe_embeds: `[b, 4, d]`; image_embeds, text_embeds: `[b, d]`, unit vectors.
            sentence_embeds: `[n, d]`; sentence_image: `[n]` int64, the image of each; or None.

        Returns:
            `head_regions` `[b, 5, d]`, the whole image last; `head_phrases` `[b, MOST_PHRASES, d]` and
            `head_phrase_kept` `[b, MOST_PHRASES]` bool. A caption without sentences is its own only phrase.
        """
        table = text_embeds.new_zeros(len(text_embeds), MOST_PHRASES, text_embeds.shape[1])
        kept = torch.zeros(table.shape[:2], dtype=torch.bool, device=table.device)
        if sentence_embeds is not None and len(sentence_embeds):
            slot, _ = slots(sentence_image, len(text_embeds))
            few = slot < MOST_PHRASES
            at = sentence_image[few], slot[few]
            table = table.index_put(at, sentence_embeds[few].to(table.dtype))
            kept = kept.index_put(at, torch.ones_like(slot[few], dtype=torch.bool))
        alone = ~kept.any(1)
        table = torch.cat([torch.where(alone[:, None], text_embeds, table[:, 0])[:, None], table[:, 1:]], dim=1)
        kept = torch.cat([kept[:, :1] | alone[:, None], kept[:, 1:]], dim=1)
        regions = torch.cat([stripe_embeds, image_embeds[:, None]], dim=1)
        return {"head_regions": regions, "head_phrases": table, "head_phrase_kept": kept}

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`loss_head` of the rows of a batch, with `person_ids` and `caption_weight` `[b]` as far as given."""
        similarity = every_pair(inputs["head_regions"], inputs["head_phrases"], inputs["head_phrase_kept"])
        ids, weight = inputs.get("person_ids"), inputs.get("caption_weight")
        return {"loss_head": label_divergence(similarity, ids, weight, self.temperature)}


def attention(similarity: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """SCAN's attention of queries over keys, from their cosines.

    Negative cosines count a tenth (LeakyReLU), each key's row over the queries is brought to unit length, so that a key
    which all queries like does not win them all, and the softmax over the keys is taken at [`TEMPERATURE`].

    Args:
        similarity: `[..., q, k]` cosines.
        kept: `[..., q, k]` bool, broadcastable: which queries and keys there are; None for all.

    Returns:
        `[..., q, k]`; the row of a query sums to 1, or is 0 where there is no such query.
    """
    liked = nn.functional.leaky_relu(similarity, 0.1)
    if kept is not None:
        liked = liked * kept
    liked = TEMPERATURE * nn.functional.normalize(liked, dim=-2)
    if kept is None:
        return liked.softmax(-1)
    kept = kept.expand_as(liked)
    return liked.masked_fill(~kept, torch.finfo(liked.dtype).min).softmax(-1) * kept.any(-1, keepdim=True)


def attended_cosine(similarity: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine of each query and the mean of the keys that it attends to.

    The mean itself is never made: its product with the query is that of attention and similarity, its length that of
    the attention in the keys' Gram matrix. So all pairs of a batch cost no `[..., q, d]`.

    Args:
        similarity: `[..., q, k]` cosines; gram: `[..., k, k]` products of the keys, broadcastable.
        kept: as in [`attention`].

    Returns:
        `[..., q]`, 0 where there is no such query.
    """
    weights = attention(similarity, kept)
    square = ((weights @ gram) * weights).sum(-1)
    return (weights * similarity).sum(-1) / square.clamp(min=1e-8).sqrt()


def local_similarity(regions: torch.Tensor, phrases: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """ACSA's local similarity of pairs: both directions' mean cosine of what attends and what is attended to.

    Args:
        regions: `[..., r, d]`, phrases: `[..., p, d]` unit vectors, leading sizes broadcastable.
        kept: `[..., p]` bool, which phrases there are; at least one.

    Returns:
        `[...]`, fp32 (at least).
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, phrases = _wide(regions), _wide(phrases)
        return _both_ways(phrases @ regions.mT, regions @ regions.mT, phrases @ phrases.mT, kept)


def every_pair(regions: torch.Tensor, phrases: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[`local_similarity`] of each of b images with each of c captions.

    Args:
        regions: `[b, r, d]`; phrases: `[c, p, d]`; kept: `[c, p]` bool.

    Returns:
        `[b, c]`.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, phrases = _wide(regions), _wide(phrases)
        cosine = torch.einsum("cpd,brd->bcpr", phrases, regions)
        return _both_ways(cosine, (regions @ regions.mT)[:, None], (phrases @ phrases.mT)[None], kept[None])


def _both_ways(
    cosine: torch.Tensor, of_regions: torch.Tensor, of_phrases: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    by_phrase = attended_cosine(cosine, of_regions, kept[..., None])
    by_region = attended_cosine(cosine.mT, of_phrases, kept[..., None, :])
    counts = kept.sum(-1).clamp(min=1)
    return ((by_phrase * kept).sum(-1) / counts + by_region.mean(-1)) / 2


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


__all__ = ["StripePhraseAttention", "attended_cosine", "attention", "every_pair", "local_similarity"]
