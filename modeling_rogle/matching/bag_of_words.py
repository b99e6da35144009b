"""Sentences as bags of a tokenizer's words: all that the matching of regions and sentences reads of a text itself."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch


class WordBags:
    """Texts -> which of the known words they hold.

    Args:
        words: the tokens known, of the tokenizer that will read the texts; others are not seen.
    """

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._column = {word: n for n, word in enumerate(self.words)}

    @classmethod
    def of_texts(cls, tokenizer: Any, texts: Sequence[str], at_least: int = 5) -> "WordBags":
        """Knows the tokens that `at_least` of the texts hold, the commonest first."""
        counts = Counter(token for text in texts for token in set(tokenizer.tokenize(text, verbose=False)))
        kept = [(word, count) for word, count in counts.items() if count >= at_least]
        return cls([word for word, _ in sorted(kept, key=lambda item: (-item[1], item[0]))])

    def __call__(self, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
        """fp32 `[S, V + 1]`, unit length: one for each word that a text holds and for a last column that all hold."""
        bags = torch.zeros(len(texts), len(self.words) + 1)
        bags[:, -1] = 1
        for n, text in enumerate(texts):
            columns = {
                self._column[token] for token in tokenizer.tokenize(text, verbose=False) if token in self._column
            }
            bags[n, list(columns)] = 1
        return torch.nn.functional.normalize(bags, dim=1)


__all__ = ["WordBags"]
