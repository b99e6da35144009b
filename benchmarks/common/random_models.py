"""CLIP and Rogle towers of three sizes with random weights, and random inputs for them."""

from collections.abc import Sequence

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil

from modeling_rogle import RogleConfig, RogleProcessor
from train.small_model import train_tokenizer

SIZES = {
    "tiny": ((32, 16), 8, (32, 2, 2), (32, 2, 2), 32, 600, 160),
    "small": ((192, 64), 16, (128, 4, 4), (128, 2, 4), 128, 2048, 248),  # train/small_model.py
    "vitb16": ((384, 128), 16, (768, 12, 12), (512, 12, 8), 512, 49408, 248),
}
START, END = 0, 1


def configurations(size: str) -> tuple[RogleConfig, CLIPConfig]:
    """The same two towers as a Rogle and as a CLIP configuration.

    CLIP's table of image positions is that of a square image, as in the published checkpoints.
    """
    image_size, patch, vision, text, dimension, words, positions = SIZES[size]

    def tower(width: int, layers: int, heads: int) -> dict:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "projection_dim": dimension,
        }

    towers = {
        "projection_dim": dimension,
        "vision_config": {**tower(*vision), "image_size": 14 * patch, "patch_size": patch},
        "text_config": {
            **tower(*text),
            "vocab_size": words,
            "max_position_embeddings": positions,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
    }
    return RogleConfig(image_size=list(image_size), **towers), CLIPConfig(**towers)


def random_batch(config: RogleConfig, images: int, pairs: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `RogleModel.forward` for training with the local branch: random pixels, token ids and boxes.

    Captions have 85 to 155 tokens in 6 to 9 sentences, and each sentence has one region.

    Args:
        config: the model's configuration.
        images: number of images, each of another identity and with one caption.
        pairs: use only the first so many sentences of each caption. Default: all.
        seed: of the random numbers. Default: 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    words = torch.randint(2, config.text_config.vocab_size, (images, 155), generator=generator)
    captions, sentences, spans, box_image = [], [], [], []
    for image in range(images):
        length, count = between(85, 155), between(6, 9)
        caption = words[image, : length - 2]
        captions.append(caption)
        # Sentences have nearly the same length: their ends vary by at most two tokens.
        ends = [round(length * (i + 1) / count) - 2 + between(-2, 2) for i in range(count - 1)] + [length - 2]
        for start, end in list(zip([0, *ends], ends, strict=False))[:pairs]:
            sentences.append(caption[start:end])
            spans.append((1 + start, 1 + end))
            box_image.append(image)
    n = len(sentences)
    corners = torch.rand(n, 4, generator=generator)
    return {
        "pixel_values": torch.randn(images, 3, *config.image_size, generator=generator),
        "input_ids": token_table(captions),
        "person_ids": torch.arange(images),
        "boxes": torch.cat([corners[:, :2] * 0.5, 0.5 + corners[:, 2:] * 0.4 + 0.1], dim=1),
        "box_image": torch.tensor(box_image),
        "sentence_input_ids": token_table(sentences),
        "sentence_spans": torch.tensor(spans),
        "sentence_ids": torch.arange(n),
        "part_ids": torch.arange(n),
        "pair_weight": torch.ones(n),
    }


def token_table(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token ids `[n, longest]` of texts without special tokens.

    Start and end of text are added. The end of text is also the padding, as in CLIP's tokenizer.
    """
    rows = torch.full((len(texts), max(map(len, texts)) + 2), END)
    for row, text in zip(rows, texts, strict=True):
        row[0] = START
        row[1 : len(text) + 1] = text
    return rows


def pad_to(ids: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, `[n, length]`, as a tokenizer returns them with `padding="max_length"`."""
    ids = torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=END)
    return {"input_ids": ids, "attention_mask": ((ids == END).cumsum(1) - (ids == END).long() == 0).long()}


def random_processor(size: str) -> RogleProcessor:
    """A processor for images of a size of [`SIZES`], with a tokenizer that was trained on one sentence."""
    height, width = SIZES[size][0]
    images = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
    return RogleProcessor(images, train_tokenizer(["A man in a red coat carries a black bag."] * 20, max_length=64))


__all__ = [
    "END", "SIZES", "START", "configurations", "pad_to", "random_batch", "random_processor", "token_table",
]  # fmt: skip
