"""IRRA's implicit relation reasoning: masked words of a caption are predicted from its image, in training only.

After IRRA (arXiv 2303.12501): 15 % of the words are drawn; of these, 80 % are masked, 10 % replaced by another word
and 10 % left as they are. Words attend once to patches, a few blocks of self-attention follow, and the drawn words are
predicted. There is no similarity at inference, where only the two encoders are used. Known differences: CLIP's
vocabulary has no mask token and IRRA gives up one token for it; here the start of text, which never occurs inside a
text, is the mask. IRRA has 4 blocks of self-attention; here `head_layers`.
"""

from collections.abc import Mapping

import torch
from torch import nn

from .configuration_rogle import RogleConfig
from .layers import Attention, SelfBlock
from .objective import Head, Step
from .text_packing import text_lengths, token_mask

IGNORED = -100


class ImplicitRelations(Head):
    """Masked words and patches -> the cross-entropy of each masked word.

    Args:
        config: reads the widths of both encoders and `head_config`: `mask_probability` and `head_layers`.
    """

    reads = frozenset({"patches"})

    def __init__(self, config: RogleConfig):
        super().__init__()
        width, words = config.projection_dim, config.text_config
        self.mask_probability = config.head_config["mask_probability"]
        self.bos, self.eos, self.vocab_size = words.bos_token_id, words.eos_token_id, words.vocab_size
        self.patch_entrance = nn.Linear(config.vision_config.hidden_size, width)
        self.word_entrance = nn.Linear(words.hidden_size, width)
        heads = max(1, width // 64)
        self.word_norm, self.patch_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.blocks = nn.ModuleList(SelfBlock(width, heads) for _ in range(config.head_config["head_layers"]))
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.vocabulary = nn.Linear(width, self.vocab_size)

    def mask_words(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the words to mask, from torch's global generator.

        Args:
            input_ids: `[b, l]`, padded on the right.

        Returns:
            `[b, l]` ids with the drawn words masked, and `[b, l]` the words to predict, `IGNORED` elsewhere.
        """
        lengths = torch.tensor(text_lengths(input_ids, self.eos), device=input_ids.device)
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        word = (position > 0) & (position < lengths[:, None] - 1)
        drawn = word & (torch.rand(input_ids.shape, device=input_ids.device) < self.mask_probability)
        choice = torch.rand(input_ids.shape, device=input_ids.device)
        # The replacement must be neither the start nor the end of text: the text would end there.
        replacement = torch.randint_like(input_ids, self.vocab_size)
        special = (replacement == self.bos) | (replacement == self.eos) | (replacement == self.vocab_size - 1)
        replacement = torch.where(special, input_ids, replacement)
        masked = torch.where(drawn & (choice < 0.8), torch.full_like(input_ids, self.bos), input_ids)
        masked = torch.where(drawn & (choice >= 0.8) & (choice < 0.9), replacement, masked)
        return masked, torch.where(drawn, input_ids, IGNORED)

    def forward(
        self, patches: torch.Tensor, words: torch.Tensor, kept: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Cross-entropies of the masked words. Each word is a row of its own and independent of other captions.

        Args:
            patches: `[b, p, vision hidden]` after the last layer norm.
            words: `[b, l, text hidden]`, final states of the masked captions.
            kept: `[b, l]` bool, False for padding.
            targets: `[b, l]` int64, `IGNORED` where nothing is masked.

        Returns:
            `head_word_losses` `[m]`, float32.
        """
        states = self.word_entrance(words)
        states = states + self.cross(self.word_norm(states), self.patch_norm(self.patch_entrance(patches)))
        for block in self.blocks:
            states = block(states, kept)
        predicted = targets != IGNORED
        logits = self.vocabulary(self.exit(states[predicted]))
        losses = nn.functional.cross_entropy(logits.float(), targets[predicted], reduction="none")
        return {"head_word_losses": losses}

    def loss_inputs(self, step: Step) -> dict[str, torch.Tensor]:
        """See [`ImplicitRelations.forward`]."""
        patches = step.model.vision_model.post_layernorm(step.vision.last_hidden_state[:, 1:])
        kept = token_mask(step.batch["input_ids"], self.eos)
        return self(patches, step.text_states["masked"], kept, step.masked_targets)

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean of `head_word_losses` `[m]`, 0 if there are none."""
        losses = inputs["head_word_losses"]
        return losses.mean() if len(losses) else losses.sum()


__all__ = ["IGNORED", "ImplicitRelations"]
