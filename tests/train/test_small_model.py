"""The tokenizer trained on captions and the small default model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train.small_model import build_small_model, train_tokenizer

CAPTIONS = ["The woman wears a red coat and black trousers.", "A man with a blue backpack is walking."] * 30


def test_words_of_the_captions_are_one_token_each() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    assert len(tokenizer("a red coat")["input_ids"]) == 5
    assert tokenizer.model_max_length == 248


def test_every_text_has_tokens_and_one_end() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    for text in ("", "zebra", "naïve café 你好", "\U0001f600", "#@!%"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1, text


@pytest.mark.slow
def test_training_is_deterministic_over_processes() -> None:
    # Hashes are seeded by the process; many words of equal counts leave many ties to break.
    code = (
        "import hashlib, itertools; from train.small_model import train_tokenizer;"
        "words = [''.join(w) for w in itertools.product('bdgk', 'aeiou', 'lmnr', 'st')];"
        "t = train_tokenizer([' '.join(words)] * 3, vocab_size=700);"
        "print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    digests = {subprocess.check_output([sys.executable, "-c", code], env=environment) for _ in range(2)}
    assert len(digests) == 1


def test_small_model_is_small_and_knows_its_special_tokens() -> None:
    model, processor = build_small_model(CAPTIONS, local_loss_weight=0.25)
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    assert model.config.local_loss_weight == 0.25
    assert model.text_model.eos_token_id == processor.tokenizer.eos_token_id
    texts = processor(text=["a red coat", "a red coat and a long way to go"], return_tensors="pt")
    embeds = model.eval().encode_texts(**texts)
    assert embeds.shape == (2, 128)
    assert not torch.allclose(embeds[0], embeds[1])
