"""RogleProcessor: PIL images, captions and boxes -> tensors; sentence spans by character offsets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import logging

from .sentences import split_sentences

logger = logging.get_logger(__name__)

SMALLEST_VOCABULARY = 258  # every byte, start and end of text


class RogleProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class RogleProcessor(ProcessorMixin):
    """Joins CLIP's image processor (rectangular, no crop) and tokenizer (padded on the right).

    `processor(images=..., text=..., return_tensors="pt")` gives `pixel_values` `[b, 3, height, width]`, `input_ids` and
    `attention_mask` `[n, l]`, l being the longest text given.

    A text over the tokenizer's limit (or the `max_length` of a call) loses its last sentences, until whole ones fit; a
    first sentence that is too long by itself is cut at the limit. The first such text is warned of, and
    `truncated_captions` counts them all.
    """

    valid_processor_kwargs = RogleProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        # "<|endoftext|>" inside a caption is text: as a token it would end the caption there.
        self.tokenizer.split_special_tokens = True
        self.truncated_captions = 0

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """As `ProcessorMixin`'s; texts over the limit end with a whole sentence, unless `truncation=False`."""
        options = kwargs.get("text_kwargs", {}) | kwargs
        if text is not None and options.get("truncation", True):
            limit = options.get("max_length") or self.tokenizer.model_max_length
            if isinstance(text, str):
                text = self._cut([text], limit)[0]
            elif all(isinstance(one, str) for one in text):
                text = self._cut(text, limit)
        return super().__call__(images=images, text=text, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        image_size: Sequence[int] = (384, 128),
        max_position_embeddings: int = 248,
        **kwargs: Any,
    ) -> "RogleProcessor":
        """Loads the processor of a Rogle checkpoint, or makes one from any CLIP one.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            image_size: height and width in pixels, read for a CLIP processor only: a Rogle one knows its own.
            max_position_embeddings: caption length in tokens, read for a CLIP processor only.

        Raises:
            OSError: no processor or no vocabulary there.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if len(processor.tokenizer) < SMALLEST_VOCABULARY:
            # transformers makes an empty tokenizer up, and every word would be the same token.
            raise OSError(
                f"{pretrained_model_name_or_path}: no vocabulary: neither tokenizer.json nor vocab.json and merges.txt"
            )
        stored, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if stored.get("processor_class") != cls.__name__:
            # CLIP's crops to a square; ours squeezes the whole person into the rectangle, as the field does.
            processor.image_processor.do_center_crop = False
            processor.image_processor.size = SizeDict(height=image_size[0], width=image_size[1])
            processor.tokenizer.model_max_length = max_position_embeddings
            # A limit stored by an earlier call would win over the new one.
            processor.tokenizer.init_kwargs.pop("max_length", None)
        return processor

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """As saved. The image processor is named as PIL's: the same pixels where torchvision is installed, too."""
        saved = super().to_dict(**kwargs)
        if "image_processor" in saved:
            saved["image_processor"]["image_processor_type"] = "CLIPImageProcessorPil"
        return saved

    @staticmethod
    def normalize_boxes(boxes: np.ndarray | Sequence[Sequence[float]], width: float, height: float) -> np.ndarray:
        """COCO boxes in pixels -> corners in [0, 1], clipped to the image.

        Args:
            boxes: `[n, 4]` x, y, w, h in pixels of an image of `width` x `height` pixels.

        Returns:
            `[n, 4]` float32 x0, y0, x1, y1. A box that lies wholly outside keeps no area.
        """
        boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return np.clip(corners / np.array([width, height, width, height], dtype=np.float32), 0.0, 1.0)

    def caption_spans(
        self, captions: Sequence[str], sentences: Sequence[Sequence[dict]]
    ) -> tuple[list[list[int]], list[np.ndarray]]:
        """Tokenises captions and finds the tokens of their sentences.

        Args:
            captions: b texts.
            sentences: for each caption its `{start, end}` character offsets.

        Returns:
            b lists of token ids, end-of-text kept, and b arrays `[s, 2]` int64: first and past-last token of each
            sentence. A caption over the limit ends with its last sentence that fits, and is counted in
            `truncated_captions`; -1 -1 stands for a sentence behind the cut.
        """
        captions = self._cut(captions, self.tokenizer.model_max_length)
        encoded = self.tokenizer(captions, truncation=True, return_offsets_mapping=True)
        spans = []
        for offsets, parts in zip(encoded["offset_mapping"], sentences, strict=True):
            starts = np.array([start for start, _ in offsets])
            ends = np.array([end for _, end in offsets])
            real = ends > starts  # the two special tokens cover no character
            found = np.full((len(parts), 2), -1, dtype=np.int64)
            for row, part in enumerate(parts):
                inside = np.flatnonzero(real & (starts >= part["start"]) & (ends <= part["end"]))
                # A sentence cut in two by the limit is not that sentence any more.
                if len(inside) and part["end"] <= ends.max() + 1:
                    found[row] = inside[0], inside[-1] + 1
            spans.append(found)
        return encoded["input_ids"], spans

    def _cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Texts of more than `limit` tokens without the sentences that do not fit."""
        texts, special = list(texts), self.tokenizer.num_special_tokens_to_add()
        # No token is shorter than a byte, so that most texts need not be counted.
        suspects = [i for i, text in enumerate(texts) if len(text.encode()) + special > limit]
        if not suspects:
            return texts
        counted = self.tokenizer(
            [texts[i] for i in suspects], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        cut = 0
        for i, offsets in zip(suspects, counted["offset_mapping"], strict=True):
            if len(offsets) + special <= limit:
                continue
            cut += 1
            last = offsets[max(limit - special, 1) - 1][1]
            whole = [end for _, _, end in split_sentences(texts[i]) if end <= last]
            if whole:
                texts[i] = texts[i][: whole[-1]]
        if cut and not self.truncated_captions:
            logger.warning(
                f"{cut} of {len(texts)} captions are longer than {limit} tokens and end with the last sentence that "
                "fits; RogleProcessor.truncated_captions counts them, this is said once"
            )
        self.truncated_captions += cut
        return texts


__all__ = ["RogleProcessor"]
