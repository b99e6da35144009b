"""The small default model, trained from scratch in minutes on a CPU, and its tokenizer, trained on the captions."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def train_tokenizer(captions: Iterable[str], vocab_size: int = 2048, max_length: int = 248) -> CLIPTokenizer:
    """Trains CLIP's kind of byte-level BPE tokenizer on captions.

    Args:
        captions: texts.
        vocab_size: upper bound of the vocabulary, at least 514 (512 bytes and 2 special tokens).
        max_length: the model's number of text positions; longer captions are cut there.

    Returns:
        A `CLIPTokenizer` that knows every byte, so that no text becomes an unknown token (which is the end-of-text
        token in CLIP, and would cut the caption).
    """
    clip = CLIPTokenizer().backend_tokenizer
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer, backend.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    # Bytes that end a word get their numbers here: the trainer would number those that it meets in the order of a
    # random hash, and break ties between merges by number; those that it does not meet would be unknown for ever.
    word_ends = [byte + "</w>" for byte in sorted(ByteLevel.alphabet())]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *word_ends],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    learnt = json.loads(backend.to_str())["model"]
    vocab, merges = dict(learnt["vocab"]), [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def build_small_model(
    captions: Iterable[str], image_size: Sequence[int] = (192, 64), **fields: float | str
) -> tuple[RogleModel, RogleProcessor]:
    """A random small model and its processor.

    Args:
        captions: texts to train the tokenizer on.
        image_size: height and width in pixels.
        **fields: fields of [`RogleConfig`] to set.

    Returns:
        Model (about 1.5 M parameters; patches of 16 px, 248 text positions) and processor.
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
