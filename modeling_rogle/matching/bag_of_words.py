"""Sentences as bags of tokens: the only view of the text that Region-to-Sentence Matching uses."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch


class WordBags:
    """Turns texts into bags of known tokens.

    Args:
        words: the known tokens, as the tokenizer writes them; other tokens are ignored.
    """

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._column = {word: n for n, word in enumerate(self.words)}

    @classmethod
    def of_texts(cls, tokenizer: Any, texts: Sequence[str], min_count: int = 5) -> "WordBags":
        """Builds the vocabulary from texts.

        Args:
            tokenizer: a Hugging Face tokenizer.
            texts: any number of texts.
            min_count: number of texts that must contain a token, 5 by default.

        Returns:
            Bags of these tokens, the most frequent one first.
        """
        counts = Counter(token for text in texts for token in set(tokenizer.tokenize(text, verbose=False)))
        frequent = [(word, count) for word, count in counts.items() if count >= min_count]
        return cls([word for word, _ in sorted(frequent, key=lambda item: (-item[1], item[0]))])

    def __call__(self, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
        """Encodes texts.

        Args:
            tokenizer: the tokenizer that the vocabulary was built with.
            texts: S texts.

        Returns:
            float32 `[S, V + 1]`, rows of unit length. A column is non-zero where the text contains its token; the last
            column, the intercept, is non-zero in every row.
        """
        bags = torch.zeros(len(texts), len(self.words) + 1)
        bags[:, -1] = 1
        for n, text in enumerate(texts):
            tokens = tokenizer.tokenize(text, verbose=False)
            bags[n, list({self._column[token] for token in tokens if token in self._column})] = 1
        return torch.nn.functional.normalize(bags, dim=1)


__all__ = ["WordBags"]
