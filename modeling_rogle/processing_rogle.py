"""RogleProcessor: PIL images, captions and boxes -> tensors; sentence spans by character offsets."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import logging

from .image_io import FITS, decode_image, fit_image, to_rgb, upright_rgb
from .sentences import normalize_text, split_sentences

logger = logging.get_logger(__name__)

SMALLEST_VOCABULARY = 258  # every byte, start and end of text


class RogleProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class RogleProcessor(ProcessorMixin):
    """Joins CLIP's image processor (rectangular, no crop) and tokenizer (padded on the right).

    `processor(images=..., text=..., return_tensors="pt")` gives `pixel_values` `[b, 3, height, width]`, `input_ids` and
    `attention_mask` `[n, l]`, where l is the length of the longest text.

    The characters of texts are cleaned by [`normalize_text`], as CLIP does. Texts are padded on the right, because the
    model reads them up to their first end token.

    A text over the tokenizer's limit (or the `max_length` of a call) is cut after its last whole sentence that fits.
    If its first sentence does not fit, that is cut at the limit. The first such text causes a warning.

    Args:
        image_processor (`CLIPImageProcessorPil`): resizes images to the model's height and width.
        tokenizer (`CLIPTokenizer`): its `model_max_length` is the limit of a text.
        fit (`str`, defaults to `"squeeze"`): how an image is fitted to that size. `"squeeze"` changes its aspect ratio;
            `"pad"` keeps it and fills the borders with CLIP's mean colour; `"crop"` keeps it and cuts the borders off.
        **kwargs: as in `ProcessorMixin`.

    Attributes:
        truncated_captions (`int`): number of texts that were cut.
    """

    valid_processor_kwargs = RogleProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, fit="squeeze", **kwargs):
        if fit not in FITS:
            raise ValueError(f"fit must be one of {FITS}, not {fit!r}")
        self.fit = fit
        super().__init__(image_processor, tokenizer, **kwargs)
        # "<|endoftext|>" inside a caption is text; as a token it would end the caption.
        self.tokenizer.split_special_tokens = True
        self.tokenizer.padding_side = "right"
        self.truncated_captions = 0

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """As `ProcessorMixin.__call__`; texts over the limit end with a whole sentence, unless `truncation=False`.

        Args:
            images: an image or several images. PIL images of any mode become RGB by [`to_rgb`]. With a `fit` other
                than `"squeeze"`, all must be images of PIL.
            text: a text or several texts.
            **kwargs: as in `ProcessorMixin.__call__`, for example `return_tensors` and `max_length`.

        Returns:
            `pixel_values`, `input_ids` and `attention_mask`, as far as images and texts are given. Of no texts and no
            images, empty tensors.

        Raises:
            ValueError: `padding_side` is not "right", a text is not a string, or there are `boxes`, which
                [`RogleProcessor.normalize_boxes`] converts.
        """
        options = kwargs.get("text_kwargs", {}) | kwargs
        if options.get("padding_side", "right") != "right":
            raise ValueError("padding_side: must be 'right'; the model reads a text up to its first end token")
        if "boxes" in kwargs:
            raise ValueError("boxes: not an argument of the processor; RogleProcessor.normalize_boxes converts them")
        self.tokenizer.padding_side = "right"
        empty: dict[str, Any] = {}
        if isinstance(images, Iterator):
            images = list(images)
        if isinstance(images, list) and not images:
            size = self.image_processor.size
            images, empty["pixel_values"] = None, np.zeros((0, 3, size["height"], size["width"]), dtype=np.float32)
        if images is not None and self.fit != "squeeze":
            images = [self._fitted(image) for image in ([images] if isinstance(images, Image.Image) else images)]
        if text is not None:
            text = self._clean(text, options)
            if not text and isinstance(text, list):
                text = None
                empty |= {name: np.zeros((0, 0), dtype=np.int64) for name in ("input_ids", "attention_mask")}
        if not empty:
            return super().__call__(images=_as_rgb(images), text=text, **kwargs)
        given = images is not None or text is not None
        rest = super().__call__(images=_as_rgb(images), text=text, **kwargs) if given else {}
        return BatchFeature({**rest, **empty}, tensor_type=options.get("return_tensors"))

    @staticmethod
    def read_image(data: bytes | Image.Image) -> Image.Image:
        """The upright RGB image in the bytes of an image file, as `rogle index` reads it.

        Args:
            data: the content of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or an image that is open already.

        Raises:
            ImageError: (a ValueError) the bytes are not an image, are damaged or hold over 80 million pixels.
        """
        return upright_rgb(data) if isinstance(data, Image.Image) else decode_image(data, "").image

    def _fitted(self, image: Image.Image) -> Image.Image:
        """An image of exactly the model's size, which the image processor does not resize any more."""
        processor = self.image_processor
        size = processor.size["height"], processor.size["width"]
        colour = tuple(round(255 * value) for value in processor.image_mean)
        return fit_image(to_rgb(image), size, self.fit, processor.resample, colour)

    def _clean(self, text: Any, options: dict[str, Any]) -> str | list[str]:
        """Cleans a text or several texts, and cuts those over the limit."""
        if not isinstance(text, Iterable):
            raise ValueError(f"text: must be a string or several strings, not {type(text).__name__}")
        texts = [text] if isinstance(text, str) else list(text)
        for number, item in enumerate(texts):
            if not isinstance(item, str):
                raise ValueError(f"text: entry {number} must be a string, not {type(item).__name__}")
        texts = [normalize_text(item) for item in texts]
        if options.get("truncation", True):
            texts = self._cut(texts, options.get("max_length") or self.tokenizer.model_max_length)
        return texts[0] if isinstance(text, str) else texts

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        image_size: Sequence[int] = (384, 128),
        max_position_embeddings: int = 248,
        fit: str = "squeeze",
        **kwargs: Any,
    ) -> "RogleProcessor":
        """Loads the processor of a Rogle checkpoint, or makes one from that of a CLIP checkpoint.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            image_size: height and width in pixels for a CLIP processor, [384, 128] by default. A Rogle processor
                keeps its own.
            max_position_embeddings: caption length in tokens for a CLIP processor, 248 by default.
            fit: how a CLIP processor fits an image to that size, `"squeeze"` by default.
            **kwargs: as in `ProcessorMixin.from_pretrained`.

        Raises:
            OSError: the checkpoint has no processor or no vocabulary.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if len(processor.tokenizer) < SMALLEST_VOCABULARY:
            # transformers then creates an empty tokenizer, for which every word is the same token.
            raise OSError(
                f"{pretrained_model_name_or_path}: no vocabulary: neither tokenizer.json nor vocab.json and merges.txt"
            )
        stored, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if stored.get("processor_class") != cls.__name__:
            # CLIP's processor crops to a square; this one resizes the whole person to the rectangle, as is usual.
            processor.fit = fit
            processor.image_processor.do_center_crop = False
            processor.image_processor.size = SizeDict(height=image_size[0], width=image_size[1])
            processor.tokenizer.model_max_length = max_position_embeddings
            # A limit stored by an earlier call would override the new one.
            processor.tokenizer.init_kwargs.pop("max_length", None)
        return processor

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """As saved. The image processor is stored as PIL's, so that pixels are the same with torchvision installed."""
        saved = super().to_dict(**kwargs)
        if self.fit == "squeeze":
            saved.pop("fit", None)
        if "image_processor" in saved:
            saved["image_processor"]["image_processor_type"] = "CLIPImageProcessorPil"
        return saved

    @staticmethod
    def normalize_boxes(boxes: np.ndarray | Sequence[Sequence[float]], width: float, height: float) -> np.ndarray:
        """COCO boxes in pixels -> corners in [0, 1], clipped to the image.

        Args:
            boxes: `[n, 4]` x, y, w, h in pixels.
            width: width of the image in pixels.
            height: height of the image in pixels.

        Returns:
            `[n, 4]` float32 x0, y0, x1, y1. A box outside the image has no area.
        """
        boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return np.clip(corners / np.array([width, height, width, height], dtype=np.float32), 0.0, 1.0)

    def caption_spans(
        self, captions: Sequence[str], sentences: Sequence[Sequence[dict]]
    ) -> tuple[list[list[int]], list[np.ndarray]]:
        """Cleans and tokenises captions, and finds the tokens of their sentences.

        Args:
            captions: b texts.
            sentences: for each caption its `{start, end}` character offsets.

        Returns:
            b lists of token ids with the end-of-text token, and b arrays `[s, 2]` int64: first and past-last token of
            each sentence, or -1, -1 if the caption is cut before its end. A caption over the limit ends with its last
            sentence that fits and is counted in `truncated_captions`.
        """
        cleaned = [_normalize_caption(*pair) for pair in zip(captions, sentences, strict=True)]
        captions, sentences = [text for text, _ in cleaned], [parts for _, parts in cleaned]
        captions = self._cut(captions, self.tokenizer.model_max_length)
        encoded = self.tokenizer(captions, truncation=True, return_offsets_mapping=True)
        spans = []
        for offsets, parts in zip(encoded["offset_mapping"], sentences, strict=True):
            starts = np.array([start for start, _ in offsets])
            ends = np.array([end for _, end in offsets])
            real = ends > starts  # the two special tokens cover no character
            rows = np.full((len(parts), 2), -1, dtype=np.int64)
            for row, part in enumerate(parts):
                inside = np.flatnonzero(real & (starts >= part["start"]) & (ends <= part["end"]))
                # A sentence that the limit cuts in two is left out.
                if len(inside) and part["end"] <= ends.max() + 1:
                    rows[row] = inside[0], inside[-1] + 1
            spans.append(rows)
        return encoded["input_ids"], spans

    def _cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Cuts texts of more than `limit` tokens after their last sentence that fits."""
        texts, special = list(texts), self.tokenizer.num_special_tokens_to_add()
        # A token has at least one byte, so most texts need not be tokenised here.
        candidates = [i for i, text in enumerate(texts) if len(text.encode()) + special > limit]
        if not candidates:
            return texts
        counted = self.tokenizer(
            [texts[i] for i in candidates], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        cut = 0
        for i, offsets in zip(candidates, counted["offset_mapping"], strict=True):
            if len(offsets) + special <= limit:
                continue
            cut += 1
            last = offsets[max(limit - special, 1) - 1][1]
            whole = [end for _, _, end in split_sentences(texts[i]) if end <= last]
            if whole:
                texts[i] = texts[i][: whole[-1]]
        if cut and not self.truncated_captions:
            logger.warning(
                f"{cut} of {len(texts)} captions are longer than {limit} tokens and were cut after their last sentence "
                "that fits; RogleProcessor.truncated_captions counts all of them, this warning appears once"
            )
        self.truncated_captions += cut
        return texts


def _as_rgb(images: Any) -> Any:
    """PIL images as RGB, alone or in lists; arrays, tensors and None as they are."""
    if isinstance(images, Image.Image):
        return to_rgb(images)
    return [_as_rgb(image) for image in images] if isinstance(images, list | tuple) else images


def _normalize_caption(caption: str, sentences: Sequence[dict]) -> tuple[str, Sequence[dict]]:
    """Cleans a caption as a query is, and moves the offsets of its sentences."""
    if normalize_text(caption) == caption:
        return caption, sentences
    edges = sorted({0, len(caption), *(part[name] for part in sentences for name in ("start", "end"))})
    pieces = [normalize_text(caption[start:end]) for start, end in pairwise(edges)]
    moved = dict(zip(edges, accumulate(map(len, pieces), initial=0), strict=True))
    return "".join(pieces), [{"start": moved[part["start"]], "end": moved[part["end"]]} for part in sentences]


__all__ = ["RogleProcessor"]
