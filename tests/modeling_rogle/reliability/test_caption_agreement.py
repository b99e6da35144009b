import numpy as np
import pytest
import torch

from modeling_rogle.reliability.caption_agreement import caption_agreement

COLOURS = ("red", "green", "blue", "black", "white", "grey", "brown")
THINGS = ("jacket", "shirt", "pants", "shorts", "shoes", "sandals", "bag", "hat")


def captions_of_people(
    share: float, count: int = 150, images: int = 4, seed: int = 0
) -> tuple[list[str], list[int], np.ndarray]:
    """Captions that name some of a person's clothes with colours, of which a share is permuted.

    Returns the captions, their labelled identities, and whether each caption describes its identity.
    """
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
def test_captions_of_other_people_get_low_agreement_and_own_ones_high(tiny_processor, share, least):
    texts, who, own = captions_of_people(share)
    agreement, estimate = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert agreement.dtype == torch.float32 and agreement.min() >= 0 and agreement.max() <= 1
    kept = (agreement > 0.5).numpy()
    assert own[kept].mean() > least and kept[own].mean() > least
    assert estimate == pytest.approx(own.mean(), abs=0.1)


def test_clean_captions_keep_their_agreement(tiny_processor):
    texts, who, own = captions_of_people(0.0)
    assert own.all()
    agreement, estimate = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert agreement.mean() > 0.98 and (agreement > 0.5).float().mean() > 0.98 and estimate > 0.98


def test_one_caption_against_many(tiny_processor):
    texts, who, _ = captions_of_people(0.0, images=13)  # more than one group
    other = 13 * 7
    texts[0], texts[other] = texts[other], texts[0]
    agreement, _ = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert agreement[0] < 0.5 and agreement[other] < 0.5 and agreement.mean() > 0.98


def test_the_only_text_of_a_person_gets_the_share_of_correct_texts(tiny_processor):
    texts, who, _ = captions_of_people(0.4)
    texts, who = [*texts, "A man in a red jacket is walking."], [*who, "alone"]
    agreement, estimate = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert float(agreement[-1]) == pytest.approx(estimate, abs=1e-4)


def test_without_evidence_all_agreement_is_1(tiny_processor):
    texts, who, _ = captions_of_people(0.5)
    for few, them in ((texts, range(len(texts))), (texts[:12], who[:12]), ([], [])):
        agreement, estimate = caption_agreement(tiny_processor.tokenizer, few, list(them))
        assert torch.equal(agreement, torch.ones(len(few))) and estimate == 1
    shuffled = list(np.random.default_rng(0).permutation(who))  # every caption is wrong: no words distinguish people
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, texts, shuffled)[0], torch.ones(len(texts)))
    nearly_one = [0] * (len(texts) - 2) + [1, 1]
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, texts, nearly_one)[0], torch.ones(len(texts)))
    same = ["A man is walking."] * len(texts)
    assert torch.equal(caption_agreement(tiny_processor.tokenizer, same, who)[0], torch.ones(len(texts)))


def test_a_model_fitted_on_a_sample_scores_all_texts(tiny_processor, monkeypatch):
    texts, who, own = captions_of_people(0.3, count=300)
    full, _ = caption_agreement(tiny_processor.tokenizer, texts, who)
    monkeypatch.setattr("modeling_rogle.reliability.caption_agreement.SAMPLE", 400)
    agreement, estimate = caption_agreement(tiny_processor.tokenizer, texts, who)
    assert ((agreement > 0.5) == (full > 0.5)).float().mean() > 0.95
    assert estimate == pytest.approx(own.mean(), abs=0.1)


def test_each_text_needs_a_person(tiny_processor):
    with pytest.raises(ValueError, match="3 texts, and 2 person_ids"):
        caption_agreement(tiny_processor.tokenizer, ["a", "b", "c"], [1, 2])
