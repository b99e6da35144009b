import numpy as np
import pytest
import torch

from modeling_rogle.reliability.caption_agreement import caption_agreement

COLOURS = ("red", "green", "blue", "black", "white", "grey", "brown")
THINGS = ("jacket", "shirt", "pants", "shorts", "shoes", "sandals", "bag", "hat")


def people(share: float, count: int = 150, images: int = 4, seed: int = 0) -> tuple[list[str], list[int], np.ndarray]:
    """Captions that name some of a person's clothes in their colours, whose they are said to be, and whether they are
    that person's; a share of them permuted."""
    rng = np.random.default_rng(seed)
    texts, who = [], []
    for person in range(count):
        wears = {thing: COLOURS[rng.integers(len(COLOURS))] for thing in rng.permutation(THINGS)[:4]}
        for _ in range(images):
            named = rng.permutation(list(wears))[: rng.integers(3, 5)]
            parts = [f"{wears[thing]} {thing}" for thing in named]
            texts.append(f"A {('man', 'woman')[rng.integers(2)]} is walking with {' and '.join(parts)}.")
            who.append(person)
    chosen = rng.permutation(len(texts))[: round(share * len(texts))]
    source = np.arange(len(texts))
    source[chosen] = source[rng.permutation(chosen)]
    people = np.array(who)
    return [texts[n] for n in source], who, people[source] == people


@pytest.mark.parametrize(("share", "least"), [(0.2, 0.9), (0.5, 0.7)])
def test_captions_of_other_people_are_doubted_and_own_ones_are_not(tiny_processor, share, least):
    texts, who, own = people(share)
    chance, right = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert chance.dtype == torch.float32 and chance.min() >= 0 and chance.max() <= 1
    kept = (chance > 0.5).numpy()
    assert own[kept].mean() > least and kept[own].mean() > least
    assert right == pytest.approx(own.mean(), abs=0.1)


def test_clean_captions_are_all_trusted(tiny_processor):
    texts, who, own = people(0.0)
    assert own.all()
    chance, right = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert chance.mean() > 0.98 and (chance > 0.5).float().mean() > 0.98 and right > 0.98


def test_one_caption_against_many(tiny_processor):
    texts, who, _ = people(0.0, images=13)  # more than are weighed together
    other = 13 * 7
    texts[0], texts[other] = texts[other], texts[0]
    chance, _ = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert chance[0] < 0.5 and chance[other] < 0.5 and chance.mean() > 0.98


def test_only_texts_count_as_much_as_the_rest_is_right(tiny_processor):
    texts, who, _ = people(0.4)
    texts, who = [*texts, "A man in a red jacket is walking."], [*who, "alone"]
    chance, right = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert float(chance[-1]) == pytest.approx(right, abs=1e-4)


def test_nothing_is_doubted_where_nothing_can_be_told(tiny_processor):
    texts, who, _ = people(0.5)
    for few, them in ((texts, range(len(texts))), (texts[:12], who[:12]), ([], [])):
        chance, right = caption_agreement(tiny_processor.tokenizer, few, list(them))
        assert torch.equal(chance, torch.ones(len(few))) and right == 1
    shuffled = list(np.random.default_rng(0).permutation(who))  # every caption is wrong: the words tell nobody apart
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, texts, shuffled)[0], torch.ones(len(texts)))
    nearly_one = [0] * (len(texts) - 2) + [1, 1]
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, texts, nearly_one)[0], torch.ones(len(texts)))
    same = ["A man is walking."] * len(texts)
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, same, who)[0], torch.ones(len(texts)))


def test_a_sample_is_learnt_from_and_all_are_judged(tiny_processor, monkeypatch):
    texts, who, own = people(0.3, count=300)
    whole, _ = caption_agreement(tiny_processor.tokenizer, texts, who)
    monkeypatch.setattr("modeling_rogle.reliability.caption_agreement.SAMPLE", 400)
    chance, right = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert ((chance > 0.5) == (whole > 0.5)).float().mean() > 0.95
    assert right == pytest.approx(own.mean(), abs=0.1)


def test_each_text_needs_a_person(tiny_processor):
    with pytest.raises(ValueError, match="3 texts, and 2 person_ids"):
        caption_agreement(tiny_processor.tokenizer, ["a", "b", "c"], [1, 2])
