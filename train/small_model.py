"""The small default model, which trains from scratch in minutes on a CPU, and its tokenizer."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def train_tokenizer(captions: Iterable[str], vocab_size: int = 2048, max_length: int = 248) -> CLIPTokenizer:
    """Trains a byte-level BPE tokenizer like CLIP's on captions.

    Args:
        captions: texts.
        vocab_size (`int`, defaults to 2048): upper bound of the vocabulary, at least 514 (512 bytes and 2 special
            tokens).
        max_length (`int`, defaults to 248): number of text positions of the model; longer captions are cut.

    Returns:
        A `CLIPTokenizer` with a token for every byte, so that no text becomes an unknown token. CLIP's unknown token
        is the end-of-text token and would cut the caption.
    """
    clip = CLIPTokenizer().backend_tokenizer
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer, backend.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    # Bytes at the end of a word get their ids here. The trainer would order those in the captions by a random hash, and
    # break ties between merges by id. Those that are not in the captions would be unknown.
    word_ends = [byte + "</w>" for byte in sorted(ByteLevel.alphabet())]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *word_ends],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab, merges = dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def build_small_model(
    captions: Iterable[str], image_size: Sequence[int] = (192, 64), **fields: float | str
) -> tuple[RogleModel, RogleProcessor]:
    """Builds the small model with random weights, and its processor.

    Args:
        captions: texts to train the tokenizer on.
        image_size (defaults to `(192, 64)`): height and width in pixels.
        **fields: fields of [`RogleConfig`].

    Returns:
        The model (about 1.5 M parameters, patches of 16 px, 248 text positions) and the processor.
    """
    tokenizer = train_tokenizer(captions)
    config = RogleConfig(
        image_size=list(image_size),
        projection_dim=128,
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
            "projection_dim": 128,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": tokenizer.model_max_length,
            "projection_dim": 128,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        **fields,
    )
    images = CLIPImageProcessorPil(
        size={"height": image_size[0], "width": image_size[1]}, do_center_crop=False, do_convert_rgb=True
    )
    return RogleModel(config), RogleProcessor(images, tokenizer)


__all__ = ["SPECIAL_TOKENS", "build_small_model", "train_tokenizer"]
