import torch

from modeling_rogle.matching.bag_of_words import WordBags

TEXTS = ["a red jacket"] * 5 + ["white shoes"] * 5 + ["a zebra"]


def test_a_bag_holds_each_known_word_once_and_has_unit_length(tiny_processor):
    bags = WordBags.of_texts(tiny_processor.tokenizer, TEXTS)
    encoded = bags(tiny_processor.tokenizer, ["red red jacket", "jacket red", ""])
    assert encoded.shape == (3, len(bags.words) + 1)
    assert torch.equal(encoded[0], encoded[1])
    assert torch.allclose(encoded.norm(dim=1), torch.ones(3))
    assert encoded[2].nonzero().tolist() == [[len(bags.words)]]  # the intercept


def test_rare_words_are_ignored(tiny_processor):
    bags = WordBags.of_texts(tiny_processor.tokenizer, TEXTS)
    assert set(tiny_processor.tokenizer.tokenize("red jacket white shoes")) <= set(bags.words)
    rare = set(tiny_processor.tokenizer.tokenize("zebra")) - set(
        tiny_processor.tokenizer.tokenize(" ".join(TEXTS[:10]))
    )
    assert rare and not rare & set(bags.words)
