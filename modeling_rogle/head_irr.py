"""IRRA's implicit relation reasoning: masked words of a caption are told from its image; in training only.

After IRRA (arXiv 2303.12501): 15 % of the words are masked (of these 80 % by the mask, 10 % by another word, 10 % left
as they are), words attend once to patches, a few more blocks among themselves follow, and the masked words are
predicted. No test similarity: what is left of it are the two towers. Ours: CLIP's vocabulary has no mask token and IRRA
gives one up for it; here the start of text, which never stands inside a text, takes that place. IRRA's further blocks
are 4, here `head_layers`.
"""

import torch
from torch import nn

from .configuration_rogle import RogleConfig
from .head_parts import Attention

IGNORED = -100


class ImplicitRelations(nn.Module):
    """Masked words and patches -> the cross-entropy of each masked word."""

    reads = ("patches",)
    masks_words = True

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

    def mask(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws words to be masked, from torch's own generator.

        Args:
            input_ids: `[b, l]`, padded on the right; lengths: `[b]` tokens of each, start and end of text among them.

        Returns:
            `[b, l]` ids with the drawn words masked, and `[b, l]` the words to tell, `IGNORED` elsewhere.
        """
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        word = (position > 0) & (position < lengths[:, None] - 1)
        drawn = word & (torch.rand(input_ids.shape, device=input_ids.device) < self.mask_probability)
        fate = torch.rand(input_ids.shape, device=input_ids.device)
        # Neither start nor end of text may be drawn as another word: the text would end there.
        another = torch.randint_like(input_ids, self.vocab_size)
        special = (another == self.bos) | (another == self.eos) | (another == self.vocab_size - 1)
        another = torch.where(special, input_ids, another)
        masked = torch.where(drawn & (fate < 0.8), torch.full_like(input_ids, self.bos), input_ids)
        masked = torch.where(drawn & (fate >= 0.8) & (fate < 0.9), another, masked)
        return masked, torch.where(drawn, input_ids, IGNORED)

    def forward(
        self, patches: torch.Tensor, words: torch.Tensor, kept: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Cross-entropies of the masked words, which are rows of their own: no other pair has a say in them.

        Args:
            patches: `[b, p, vision hidden]` after the last layer norm.
            words: `[b, l, text hidden]`, final states of the masked captions; kept: `[b, l]` bool, false behind an end.
            targets: `[b, l]` int64, `IGNORED` where nothing is masked.

        Returns:
            `head_word_losses` `[m]`, fp32.
        """
        states = self.word_entrance(words)
        states = states + self.cross(self.word_norm(states), self.patch_norm(self.patch_entrance(patches)))
        for block in self.blocks:
            states = block(states, kept)
        asked = targets != IGNORED
        logits = self.vocabulary(self.exit(states[asked]))
        return {"head_word_losses": nn.functional.cross_entropy(logits.float(), targets[asked], reduction="none")}

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`loss_head`: mean of `head_word_losses` `[m]`, 0 without any."""
        each = inputs["head_word_losses"]
        return {"loss_head": each.mean() if len(each) else each.sum()}


class SelfBlock(nn.Module):
    """A block of words that attend to each other, both ways: attention and MLP, each normed before and added."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        normed = self.norm(states)
        states = states + self.own(normed, normed, kept)
        return states + self.mlp(states)


__all__ = ["IGNORED", "ImplicitRelations", "SelfBlock"]
