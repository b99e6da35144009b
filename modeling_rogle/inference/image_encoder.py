"""Embeddings from a model: of texts, and of images with their template regions.

`TorchEncoder` is what `Gallery` searches with; `OnnxEncoder` in `onnx_encoder.py` has the same methods without torch.
"""

import copy
import time
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_rogle.box_ops import template_boxes
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import device_of, fingerprint, preprocessing_of
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import normalize_text

MIN_BFLOAT16_WIDTH = 384  # hidden size of ViT-S; narrower vision towers gain nothing from bfloat16


class TorchEncoder:
    """A model and its processor as one encoder of texts and images.

    Args:
        model: the model, in evaluation mode.
        processor: the processor of that model.

    Attributes:
        has_image_encoder: True. An image can be a query.
    """

    has_image_encoder = True

    def __init__(self, model: RogleModel, processor: RogleProcessor):
        self.model, self.processor = model, processor

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self.model.config.projection_dim)

    @property
    def folder(self) -> Path | None:
        """Folder that the model was loaded from; None for a model from the Hub or one that was never saved."""
        name = self.model.name_or_path
        return Path(name) if name and Path(name).is_dir() else None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels to which the processor resizes an image."""
        height, width = self.model.config.image_size
        return height, width

    @property
    def fit(self) -> str:
        """How the processor fits an image to that size: `squeeze`, `pad` or `crop`."""
        return self.processor.fit

    @property
    def trained_regions(self) -> bool:
        """Whether the region embeddings were trained, so that a search may show regions."""
        return self.model.config.trained_regions

    @property
    def local_weight(self) -> float:
        """Weight of the local score in the final score, read from the configuration on each access."""
        return self.model.config.late_interaction_weight

    @property
    def max_tokens(self) -> int:
        """Maximum length of a text in tokens, including the start and end tokens."""
        return preprocessing_of(self.model, self.processor).max_tokens

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model, computed on first access; see [`fingerprint`]."""
        return fingerprint(self.model)

    def count_tokens(self, text: str) -> int:
        """Number of tokens in a text before truncation, including the start and end tokens."""
        return len(self.processor.tokenizer([normalize_text(text)], verbose=False)["input_ids"][0])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts in one forward pass.

        A text longer than `max_tokens` loses its last sentences; see [`RogleProcessor`].

        Args:
            texts: n captions, sentences or queries.

        Returns:
            float32 `[n, D]` unit vectors.

        Raises:
            GalleryError: the embeddings are not finite.
        """
        if not len(texts):
            return np.zeros((0, self.dimension), dtype=np.float32)
        tokens = self.processor(text=list(texts), return_tensors="pt", max_length=self.max_tokens)
        return finite(self.model.encode_texts(tokens["input_ids"].to(self.model.device)))

    def encode_images(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes images and their template regions in one forward pass.

        Args:
            images: n RGB images.

        Returns:
            float32 `[n, D]` and `[n, T, D]` unit vectors: images, and regions in the order of `TEMPLATE_LABELS`.

        Raises:
            GalleryError: the embeddings are not finite.
        """
        if not len(images):
            empty = np.zeros((0, self.dimension), dtype=np.float32)
            return empty, np.zeros((0, len(template_boxes()), self.dimension), dtype=np.float32)
        return encode_pixels(self.model, self.processor(images=list(images), return_tensors="pt")["pixel_values"])


@torch.no_grad()
def encode_pixels(model: RogleModel, pixels: torch.Tensor, regions: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Encodes preprocessed images and their template regions in one forward pass.

    Args:
        model: the model.
        pixels: `[n, 3, height, width]`, normalised by the processor.
        regions: encode the template regions. Otherwise the only region of an image is the image. Default: True.

    Returns:
        float32 `[n, D]` and `[n, T, D]` unit vectors: images, and regions in the order of `TEMPLATE_LABELS`; `[n, 1,
        D]` without regions.

    Raises:
        GalleryError: the embeddings are not finite.
    """
    if not regions:
        images = finite(model.encode_images(pixels.to(model.device))[0])
        return images, images[:, None]
    boxes, box_image = _boxes_of_templates(len(pixels))
    embeds, boxed = model.encode_images(pixels.to(model.device), boxes.to(model.device), box_image.to(model.device))
    return finite(embeds), finite(boxed).reshape(len(pixels), -1, embeds.shape[1])


@torch.no_grad()
def encode_with_templates(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    boxes: torch.Tensor | None = None,
    box_image: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encodes images, their template regions and optional further regions in one forward pass.

    Args:
        model: an object with the method `encode_images` of [`RogleModel`].
        processor: the processor of that model.
        images: n RGB images.
        boxes: `[R, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height, or None.
        box_image: `[R]` int64, index of the image that each box belongs to.

    Returns:
        `[n, D]` images, `[n, T, D]` template regions in the order of `TEMPLATE_LABELS`, and `[R, D]` boxes: float32
        unit vectors on the CPU.
    """
    all_boxes, owner = _boxes_of_templates(len(images))
    templates = len(all_boxes)
    if boxes is not None:
        all_boxes, owner = torch.cat([all_boxes, boxes]), torch.cat([owner, box_image])
    device = device_of(model)
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    embeds, regions = model.encode_images(pixels.to(device), all_boxes.to(device), owner.to(device))
    template_embeds, box_embeds = regions.cpu().tensor_split([templates])
    return embeds.cpu(), template_embeds.unflatten(0, (len(images), -1)), box_embeds


def _boxes_of_templates(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes `[count * T, 4]` of the template regions of `count` images, and `[count * T]` the image of each box."""
    boxes = torch.from_numpy(template_boxes())
    return boxes.repeat(count, 1), torch.arange(count).repeat_interleave(len(boxes))


def finite(embeds: torch.Tensor) -> np.ndarray:
    """Copies embeddings to the CPU as a float32 array.

    Raises:
        GalleryError: a value is not finite. Rounded to int8, such a value would look like a valid region embedding.
    """
    embeds = embeds.float().cpu()
    if not bool(embeds.isfinite().all()):
        raise GalleryError("the model returns embeddings that are not finite; its weights are broken")
    return embeds.numpy()


@cache
def fast_bfloat16(device: str = "cpu") -> bool:
    """Whether a matrix product in bfloat16 takes at most two thirds of its time in float32.

    The CPU is measured once a process, in about 50 ms, because its instruction set does not predict the result:
    AVX512-BF16 without AMX halves the speed on one processor and doubles it on another.

    For inference, write `if fast_bfloat16(model.device.type): model = model.to(torch.bfloat16)`. `encode_images` and
    `encode_texts` still return float32. On a CPU this is faster than autocast, which casts the weights in each call.

    Args:
        device: device type. `"cpu"` is measured, CUDA is looked up in torch, any other type returns False.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    operands = {}
    for dtype in (torch.float32, torch.bfloat16):
        operands[dtype] = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in operands}
    for _ in range(6):  # alternating, best of the last five, so that load from another program affects both alike
        for dtype, (rows, weight) in operands.items():
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            seconds[dtype].append(time.perf_counter() - started)
    return min(seconds[torch.bfloat16][1:]) <= min(seconds[torch.float32][1:]) * 2 / 3


def with_fast_dtype(model: RogleModel) -> RogleModel:
    """The model to index images with.

    Returns:
        a copy in bfloat16 where `fast_bfloat16` holds and the vision tower is at least as wide as ViT-S; otherwise
        `model` itself.
    """
    wide = model.config.vision_config.hidden_size >= MIN_BFLOAT16_WIDTH
    if wide and model.dtype == torch.float32 and fast_bfloat16(model.device.type):
        return copy.deepcopy(model).to(torch.bfloat16)
    return model


__all__ = ["TorchEncoder", "encode_pixels", "encode_with_templates", "fast_bfloat16", "finite", "with_fast_dtype"]
