"""Long-CLIP's batches (arXiv 2403.15378): beside the long caption of each image, one of its short ones."""

from collections.abc import Sequence

import numpy as np

from train.data.pairs import PairDataset, pad_rows


class BothCaptions(PairDataset):
    """A [`PairDataset`] whose batches also have `short_input_ids` `[b, s]`.

    The short caption is one of the source's own, drawn anew in each epoch; without any it is the first sentence of the
    long one, as in Long-CLIP, and without sentences the long caption itself.
    """

    def _item(self, index: int) -> dict:
        told = int(self.caption_row[self._caption_of(index)])
        short = self.short_ids[told] or self.sentence_ids[told][:1] or [self.long_ids[told]]
        # Draws of their own: all others are what they are without short captions.
        choice = np.random.default_rng((self.seed, self.epoch, index, 2)).integers(len(short))
        return super()._item(index) | {"short": short[int(choice)]}

    def collate(self, items: Sequence[dict]) -> dict:
        pad = self.processor.tokenizer.pad_token_id
        return super().collate(items) | {"short_input_ids": pad_rows([item["short"] for item in items], pad)}


__all__ = ["BothCaptions"]
