"""ACSA's local similarity: cross-attention between an image's stripes and a caption's phrases, without weights.

After ACSA (IEEE Transactions on Multimedia, 2022), of which only the abstract and facts stated in its public code are
used. The attention is that of SCAN (arXiv 1803.08024), from which ACSA takes it. The rest of ACSA is
`global_loss="cmpm"` with `id_loss="cmpc"`. Known differences:
- ACSA uses Swin and BERT; this uses the two encoders of CLIP.
- ACSA finds phrases with a noun-phrase chunker; here a phrase is a sentence.
- ACSA's windows and stage features are left out; only body stripes and the whole image are used.
- The temperature of its local loss is not public, and its neighbour re-ranking is left out.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import CLIPModel

from .box_ops import positions_in_image
from .configuration_rogle import RogleConfig
from .losses import at_least_float32, label_divergence
from .objective import Head, Step, first_pairs

# Head, upper body, lower body and feet in sixths of the height.
STRIPES = ((0.0, 0.0, 1.0, 1 / 6), (0.0, 1 / 6, 1.0, 3 / 6), (0.0, 3 / 6, 1.0, 5 / 6), (0.0, 5 / 6, 1.0, 1.0))
TEMPERATURE = 20.0  # factor of the similarities, as in ACSA and SCAN
MAX_PHRASES = 10  # of a caption in training, as in ACSA


class StripePhraseAttention(Head):
    """The local branch of ACSA. It has no weights and reads the embeddings of stripes, image and sentences.

    Training: KL divergence of the batch's local similarities to its identities. Inference: a re-ranker, see
    `evaluation/head_similarity.py`.

    Args:
        config: `head_config["head_temperature"]` is the temperature of the loss.
    """

    reads = frozenset({"regions"})
    part_counts = (len(STRIPES) + 1, 0)

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
        """Puts the regions of each image and the phrases of each caption into tables.

        Args:
            stripe_embeds: `[b, 4, d]` unit vectors.
            image_embeds: `[b, d]` unit vectors.
            text_embeds: `[b, d]` unit vectors.
            sentence_embeds: `[n, d]` unit vectors, or None.
            sentence_image: `[n]` int64, the image of each sentence, or None.

        Returns:
            `head_regions` `[b, 5, d]`, the whole image last; `head_phrases` `[b, MAX_PHRASES, d]`; `head_phrase_kept`
            `[b, MAX_PHRASES]` bool. A caption without sentences is its own only phrase.
        """
        table = text_embeds.new_zeros(len(text_embeds), MAX_PHRASES, text_embeds.shape[1])
        kept = torch.zeros(table.shape[:2], dtype=torch.bool, device=table.device)
        if sentence_embeds is not None and sentence_image is not None and len(sentence_embeds):
            position, _ = positions_in_image(sentence_image, len(text_embeds))
            fits = position < MAX_PHRASES
            index = sentence_image[fits], position[fits]
            table = table.index_put(index, sentence_embeds[fits].to(table.dtype))
            kept = kept.index_put(index, torch.ones_like(position[fits], dtype=torch.bool))
        empty = ~kept.any(1)
        table = torch.cat([torch.where(empty[:, None], text_embeds, table[:, 0])[:, None], table[:, 1:]], dim=1)
        kept = torch.cat([kept[:, :1] | empty[:, None], kept[:, 1:]], dim=1)
        regions = torch.cat([stripe_embeds, image_embeds[:, None]], dim=1)
        return {"head_regions": regions, "head_phrases": table, "head_phrase_kept": kept}

    def loss_inputs(self, step: Step) -> dict[str, torch.Tensor]:
        """See [`StripePhraseAttention.forward`]."""
        count = len(step.image_embeds)
        stripes = step.embed_regions(*_stripe_boxes(count, step.image_embeds.device)).unflatten(0, (count, -1))
        sentences, image = step.sentence_embeds, step.batch["box_image"]
        if sentences is not None and image is not None:  # a sentence about several regions is one phrase
            first = first_pairs(step.batch["sentence_numbers"], len(sentences), sentences.device)
            sentences, image = sentences[first], image[first]
        return self(stripes, step.image_embeds, step.text_embeds, sentences, image)

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The scalar loss of the tables, and of `person_ids` and `caption_weight` `[b]` if they are there."""
        similarity = every_pair(inputs["head_regions"], inputs["head_phrases"], inputs["head_phrase_kept"])
        return label_divergence(similarity, inputs.get("person_ids"), inputs.get("caption_weight"), self.temperature)

    def encode_image_parts(self, model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[b, 5, d]` unit vectors of the stripes and, last, of the whole image."""
        images, regions = model.encode_images(pixel_values, *_stripe_boxes(len(pixel_values), pixel_values.device))
        return torch.cat([regions.unflatten(0, (len(images), -1)), images[:, None]], dim=1)


def _stripe_boxes(images: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`[4 * images, 4]` boxes and `[4 * images]` int64, the image of each."""
    boxes = torch.tensor(STRIPES, device=device).repeat(images, 1)
    return boxes, torch.arange(images, device=device).repeat_interleave(len(STRIPES))


def attention(similarity: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """SCAN's attention of queries over keys, from their cosines.

    Negative cosines count a tenth (LeakyReLU). The values of each key over the queries are scaled to unit length, so
    that a key that is similar to every query does not dominate all of them. The softmax over the keys is taken at
    [`TEMPERATURE`].

    Args:
        similarity: `[..., q, k]` cosines.
        kept: `[..., q, k]` bool, broadcastable, False for queries and keys that are padding; None if there are none.

    Returns:
        `[..., q, k]`. The row of a query sums to 1, or is 0 for padding.
    """
    logits = nn.functional.leaky_relu(similarity, 0.1)
    if kept is not None:
        logits = logits * kept
    logits = TEMPERATURE * nn.functional.normalize(logits, dim=-2)
    if kept is None:
        return logits.softmax(-1)
    kept = kept.expand_as(logits)
    return logits.masked_fill(~kept, torch.finfo(logits.dtype).min).softmax(-1) * kept.any(-1, keepdim=True)


def attended_cosine(similarity: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine of each query with the mean of the keys that it attends to.

    The mean itself is not computed. Its product with the query is the product of attention and similarity, and its
    length follows from the keys' Gram matrix. So all pairs of a batch need no tensor `[..., q, d]`.

    Args:
        similarity: `[..., q, k]` cosines.
        gram: `[..., k, k]` products of the keys, broadcastable.
        kept: as in [`attention`].

    Returns:
        `[..., q]`, 0 for padding.
    """
    weights = attention(similarity, kept)
    square = ((weights @ gram) * weights).sum(-1)
    return (weights * similarity).sum(-1) / square.clamp(min=1e-8).sqrt()


def local_similarity(regions: torch.Tensor, phrases: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """ACSA's local similarity of pairs: the mean attended cosine of both directions.

    Args:
        regions: `[..., r, d]` unit vectors.
        phrases: `[..., p, d]` unit vectors; the leading sizes are broadcastable.
        kept: `[..., p]` bool, False for padding; at least one phrase is kept.

    Returns:
        `[...]`, float32 or float64.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, phrases = at_least_float32(regions), at_least_float32(phrases)
        return _both_directions(phrases @ regions.mT, regions @ regions.mT, phrases @ phrases.mT, kept)


def every_pair(regions: torch.Tensor, phrases: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[`local_similarity`] of each of b images with each of c captions.

    Args:
        regions: `[b, r, d]` unit vectors.
        phrases: `[c, p, d]` unit vectors.
        kept: `[c, p]` bool, False for padding.

    Returns:
        `[b, c]`, float32 or float64.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, phrases = at_least_float32(regions), at_least_float32(phrases)
        cosine = torch.einsum("cpd,brd->bcpr", phrases, regions)
        return _both_directions(cosine, (regions @ regions.mT)[:, None], (phrases @ phrases.mT)[None], kept[None])


def _both_directions(
    cosine: torch.Tensor, region_gram: torch.Tensor, phrase_gram: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    by_phrase = attended_cosine(cosine, region_gram, kept[..., None])
    by_region = attended_cosine(cosine.mT, phrase_gram, kept[..., None, :])
    counts = kept.sum(-1).clamp(min=1)
    return ((by_phrase * kept).sum(-1) / counts + by_region.mean(-1)) / 2


__all__ = ["StripePhraseAttention", "attended_cosine", "attention", "every_pair", "local_similarity"]
