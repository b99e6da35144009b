"""A tiny random vision-language model that AutoProcessor and AutoModelForImageTextToText load from a folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>")
SPECIAL += ("<end_of_utterance>",)
# Tokens are whole sentences, so that the random model writes English.
SENTENCES = [
    f"{he} {wears} {colour} {garment} that fits {how} and looks rather {age} today."
    for he, wears in (("The man", "has"), ("He also", "wears"))
    for colour in ("red", "green", "blue", "white")
    for garment in ("shirt", "jacket", "jeans", "shoes")
    for how, age in (("well", "new"), ("loosely", "old"))
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant {% endif %}"
)


def save_tiny_captioner(folder: Path) -> Path:
    """Save Idefics3 with one layer in each tower, 32 x 32 px and 4 image tokens. Its weights are always the same."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *SENTENCES])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    torch.manual_seed(0)
    config = Idefics3Config(
        image_token_id=ids["<image>"],
        scale_factor=2,
        vision_config={**size, "image_size": 32, "patch_size": 8},
        text_config={
            **size,
            "model_type": "llama",
            "num_key_value_heads": 2,
            "vocab_size": len(processor.tokenizer),
            "max_position_embeddings": 1024,
            "pad_token_id": ids["<pad>"],
            "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"],
        },
    )
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
