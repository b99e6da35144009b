"""RogleProcessor: PIL images, captions and boxes -> tensors; sentence spans by character offsets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.image_utils import SizeDict
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

SMALLEST_VOCABULARY = 258  # every byte, start and end of text


class RogleProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class RogleProcessor(ProcessorMixin):
    """Joins CLIP's image processor (rectangular, no crop) and tokenizer (padded on the right, cut at the limit).

    `processor(images=..., text=..., return_tensors="pt")` gives `pixel_values` `[b, 3, height, width]`, `input_ids` and
    `attention_mask` `[n, l]`, l being the longest text given.
    """

    valid_processor_kwargs = RogleProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        # "<|endoftext|>" inside a caption is text: as a token it would end the caption there.
        self.tokenizer.split_special_tokens = True

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
            b lists of token ids (cut at the limit, end-of-text kept), and b arrays `[s, 2]` int64: first and past-last
            token of each sentence, -1 -1 for one that lies behind the cut.
        """
        encoded = self.tokenizer(list(captions), truncation=True, return_offsets_mapping=True)
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


__all__ = ["RogleProcessor"]
