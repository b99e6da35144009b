"""Part-level correspondence: slots shared by images and captions, and a margin that shrinks for common parts.

After "part-level cross-modal correspondence" (arXiv 2501.00318), of which only the abstract is public. Learnable tokens
shared by both modalities are the queries of a decoder, so that slot k of an image corresponds to slot k of a caption
with identities as the only supervision. A ranking loss adapts its margin to how common a part is. Ours, since not
public:
- the decoder's depth, and that the modalities share all of it except the input projection;
- the number of slots;
- the formula of the loss;
- the similarity at inference, a weighted mean of global and part cosines.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import CLIPModel
from transformers import initialization as init

from .configuration_rogle import RogleConfig
from .layers import CrossBlock
from .losses import cosines
from .objective import Head, Step
from .text_packing import token_mask


class PartDecoder(Head):
    """K slot tokens that attend to the patches of an image or the words of a caption.

    Args:
        config: reads the widths of both encoders and `head_config`: `part_slots` (K), `head_layers`, `part_margin` and
            `commonality`.
    """

    reads = frozenset({"patches", "words"})

    def __init__(self, config: RogleConfig):
        super().__init__()
        width, options = config.projection_dim, config.head_config
        self.margin, self.commonality = options["part_margin"], options["commonality"]
        self.eos = config.text_config.eos_token_id
        self.part_counts = (options["part_slots"], options["part_slots"])
        self.slots = nn.Parameter(torch.empty(options["part_slots"], width))
        self.patch_entrance = nn.Linear(config.vision_config.hidden_size, width)
        self.word_entrance = nn.Linear(config.text_config.hidden_size, width)
        heads = max(1, width // 64)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(options["head_layers"]))
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, width, bias=False)

    def init_weights(self, std: float) -> None:
        """Draws the slots from a normal distribution."""
        init.normal_(self.slots, std=std)

    def forward(
        self,
        patches: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Unit part embeddings of images, captions or both.

        Args:
            patches: `[b, p, vision hidden]` after the last layer norm, or None.
            words: `[c, l, text hidden]`, or None.
            kept: `[c, l]` bool, False for padding.

        Returns:
            `image_parts` `[b, K, d]` and `text_parts` `[c, K, d]`, each if its input is given.
        """
        parts = {}
        if patches is not None:
            parts["image_parts"] = self._decode(self.patch_entrance(patches), None)
        if words is not None:
            parts["text_parts"] = self._decode(self.word_entrance(words), kept)
        return parts

    def _decode(self, tokens: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        states = self.slots.to(tokens.dtype).expand(len(tokens), -1, -1)
        for block in self.blocks:
            states = block(states, tokens, kept)
        return nn.functional.normalize(self.exit(self.norm(states)), dim=-1)

    def loss_inputs(self, step: Step) -> dict[str, torch.Tensor]:
        """See [`PartDecoder.forward`]."""
        patches = step.model.vision_model.post_layernorm(step.vision.last_hidden_state[:, 1:])
        return self(patches, step.text_states["caption"], token_mask(step.batch["input_ids"], self.eos))

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The scalar loss of `image_parts`, `text_parts`, and of `person_ids` and `caption_weight` if given."""
        return commonality_margin_ranking(
            inputs["image_parts"],
            inputs["text_parts"],
            inputs.get("person_ids"),
            inputs.get("caption_weight"),
            self.margin,
            self.commonality,
        )

    def encode_image_parts(self, model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[b, K, d]` unit vectors of the slots, float32."""
        states = model.vision_model(pixel_values=pixel_values).last_hidden_state
        return self(patches=model.vision_model.post_layernorm(states[:, 1:]))["image_parts"].float()

    def encode_text_parts(self, model: CLIPModel, input_ids: torch.Tensor) -> torch.Tensor:
        """`[n, K, d]` unit vectors of the slots, float32."""
        words = model.encode_tokens(input_ids, keep_tokens=True)[1]
        return self(words=words, kept=token_mask(input_ids, self.eos))["text_parts"].float()


def commonality_margin_ranking(
    image_parts: torch.Tensor,
    text_parts: torch.Tensor,
    person_ids: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    margin: float = 0.2,
    commonality: float = 1.0,
) -> torch.Tensor:
    """Commonality-based margin ranking (the idea of arXiv 2501.00318; its formula is not public, this one is ours).

    For part k of pair i and another identity j, the term is `[m_ij^k - s_ii^k + s_ij^k]_+` in both directions. s is the
    cosine of an image's and a caption's part, and the margin is `m_ij^k = margin * (1 - commonality * c_ij^k)`: two
    people in black shoes need not differ by their shoes. c in [0, 1] is the (detached) mean of the two images' and the
    two captions' cosine of that part. It is rescaled so that the batch's mean over other identities is 0 and equality
    is 1. Without the rescaling all margins would be 0 at the start, when all parts are similar.

    Args:
        image_parts: `[b, K, d]` unit vectors.
        text_parts: `[b, K, d]` unit vectors, row i describing image i.
        person_ids: `[b]` int64, or None for one identity per row.
        weight: `[b]` reliability of each image-caption pair in [0, 1], for the terms in which it is the positive.
        margin: in units of cosine, 0.2 by default.
        commonality: in [0, 1], 1 by default; 0 is the ordinary margin ranking loss.

    Returns:
        Scalar, float32 or float64: the mean over the terms that are not 0, so that easy negatives do not dilute it.
    """
    b, parts, _ = image_parts.shape
    images, texts = image_parts.transpose(0, 1), text_parts.transpose(0, 1)
    similar = torch.stack([cosines(v, t) for v, t in zip(images, texts, strict=True)])  # [K, image, caption]
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
    """How similar part k of pair i and part k of pair j are.

    Args:
        image_parts: `[b, K, d]` unit vectors.
        text_parts: `[b, K, d]` unit vectors.
        ids: `[b]` int64 identities.

    Returns:
        `[K, b, b]` in [0, 1], symmetric; 0 is the batch's mean over other identities.
    """
    similar = torch.stack(
        [
            (cosines(v, v) + cosines(t, t)) / 2
            for v, t in zip(image_parts.transpose(0, 1), text_parts.transpose(0, 1), strict=True)
        ]
    )
    other = ids[:, None] != ids[None, :]
    mean = (similar * other).sum((1, 2), keepdim=True) / other.sum().clamp(min=1)
    return ((similar - mean) / (1 - mean).clamp(min=1e-6)).clamp(0, 1)


__all__ = ["PartDecoder", "commonality_margin_ranking", "part_commonality"]
