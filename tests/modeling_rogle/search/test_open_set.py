"""Open-set trials remove half of the people; a calibration fitted on some people holds for others."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.calibration import FEATURES, ImageSummary
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.open_set import (
    evaluate_calibration,
    fit_calibration,
    gallery_trials,
    open_set_trials,
    read_pairs,
    split_scores,
    split_trials,
)  # fmt: skip


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


IMAGES = ImageSummary((0.1, 0.2), 40)


def people(seed: int, n: int = 80, images_each: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores `[Q, N]` whose level differs between queries, as for long and short captions."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n) + 1000 * seed, images_each)
    centres = rng.normal(size=(n, 24)).repeat(images_each, axis=0)
    images = unit(centres + 0.5 * rng.normal(size=centres.shape))
    queries = unit(centres + 0.8 * rng.normal(size=centres.shape))
    level, spread = rng.uniform(0.2, 0.8, size=(len(person), 1)), rng.uniform(0.05, 0.2, size=(len(person), 1))
    return (level + spread * (queries @ images.T)).astype(np.float32), person, person


def test_half_of_the_people_are_absent_and_never_correct():
    scores, queries, gallery = people(1, n=20)
    trials = open_set_trials(scores, scores, queries, gallery, seed=3, halves=3)
    assert len(trials.present) == 3 * 80 and trials.present.mean() == 0.5
    assert not trials.correct[~trials.present].any() and trials.correct[trials.present].any()
    assert (trials.gallery == 40).all() and trials.features.shape == (240, 10, 8)
    halves = [frozenset(trials.person[part][~trials.present[part]]) for part in (slice(0, 80), slice(80, 160))]
    assert halves[0] != halves[1] and len(halves[0]) == 10
    again = open_set_trials(scores, scores, queries, gallery, seed=3, halves=3)
    assert np.array_equal(again.features, trials.features)


def test_a_trial_searches_the_reduced_gallery():
    scores, queries, gallery = people(2, n=10)
    trials = open_set_trials(scores, scores, queries, gallery, halves=1)
    absent = set(trials.person[~trials.present].tolist())
    left = np.array([person not in absent for person in gallery])
    for query in (0, 17, 39):
        expected = np.sort(scores[query, left])[::-1][:10]
        row = trials.features[query]
        assert row[:, FEATURES.index("score")] == pytest.approx(expected)
        z = (expected - scores[query, left].mean()) / scores[query, left].std()
        assert row[:, FEATURES.index("z")] == pytest.approx(z, rel=1e-4)
        assert trials.correct[query, 0] == (gallery[left][scores[query, left].argmax()] == queries[query])


def test_smaller_galleries_keep_the_balance():
    scores, queries, gallery = people(1, n=32)
    trials = open_set_trials(scores, scores, queries, gallery, halves=2, shares=(1.0, 0.25))
    assert set(trials.gallery.tolist()) == {64, 16}
    for size in (64, 16):
        assert trials.present[trials.gallery == size].mean() == 0.5


def test_a_calibration_holds_for_people_it_was_not_fitted_on():
    fitting, held_out = people(1), people(2)
    calibration = fit_calibration(
        open_set_trials(fitting[0], *fitting, seed=0, halves=4), "abc", 0.0, "made here", IMAGES, false_alarm_rate=0.2
    )
    figures = evaluate_calibration(calibration, open_set_trials(held_out[0], *held_out, seed=1, halves=4))
    assert figures["ece_best"] <= 0.05 and figures["ece_all"] <= 0.05
    assert figures["auroc"] > figures["auroc_score"] + 0.1
    assert figures["fpr95"] < figures["fpr95_score"]
    assert figures["false_alarms"] == pytest.approx(0.2, abs=0.07)
    low, high = figures["false_alarm_interval"]
    assert low < figures["false_alarms"] < high and low < 0.2 < high
    assert figures["answered"] > 2 * figures["false_alarms"]
    assert calibration.gallery_sizes == (160, 160)


def make_split(seed: int = 0, n: int = 12) -> SplitEmbeddings:
    rng = np.random.default_rng(seed)

    def embeds(*shape: int) -> torch.Tensor:
        return torch.from_numpy(unit(rng.normal(size=shape)))

    # Captions of 2, 0, 1, 2, 0, 1 ... sentences.
    counts = torch.tensor([2, 0, 1] * (n // 3))
    captions = CaptionSet(
        embeds(n, 8), torch.arange(n), embeds(int(counts.sum()), 8), torch.arange(n).repeat_interleave(counts)
    )
    nothing = torch.zeros(0).long()
    fields = {name: None for name in SplitEmbeddings.__dataclass_fields__}
    fields |= {"split": "validation", "image_embeds": embeds(n, 8), "image_person_ids": torch.arange(n) // 2}
    fields |= {"template_embeds": embeds(n, 3, 8), "long": captions}
    fields["short"] = CaptionSet(embeds(0, 8), nothing, embeds(0, 8), nothing)
    return SplitEmbeddings(**fields)


def test_final_scores_equal_the_definition():
    split = make_split()
    final, global_scores = split_scores(split, split.long, 0.3)
    for i, caption in enumerate(split.long.embeds):
        sentences = split.long.sentence_embeds[split.long.sentence_caption == i]
        for j, image in enumerate(split.image_embeds):
            overall = float(caption @ image)
            local = float((sentences @ split.template_embeds[j].T).amax(1).mean()) if len(sentences) else overall
            assert (global_scores[i, j], final[i, j]) == pytest.approx((overall, 0.7 * overall + 0.3 * local), abs=1e-5)


def test_captions_that_the_rows_lack_are_ignored():
    trials = split_trials(make_split(), 0.3)
    assert len(trials.present) == 4 * 12 and trials.correct.shape[1] <= 10


def test_data_that_cannot_be_calibrated_are_refused():
    scores, queries, gallery = people(1, n=3)
    with pytest.raises(ValueError, match="at least 4 people, there are 3"):
        open_set_trials(scores, scores, queries, gallery)
    scores, queries, gallery = people(1, n=8)
    trials = open_set_trials(scores, scores, queries, gallery)
    with pytest.raises(ValueError, match="false-alarm rate must lie in"):
        fit_calibration(trials, "abc", 0.0, "x", IMAGES, false_alarm_rate=1.5)
    wrong = open_set_trials(-scores, -scores, queries, gallery)
    wrong.correct[:] = False
    with pytest.raises(ValueError, match="nothing to calibrate"):
        fit_calibration(wrong, "abc", 0.0, "x", IMAGES)


def test_trials_from_described_people_of_a_gallery(tiny_checkpoint, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        pixels = rng.integers(0, 255, (60, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    gallery = Gallery.build(tmp_path / "images", *load_model(tiny_checkpoint), tmp_path / "index", progress=False)
    file = tmp_path / "pairs.jsonl"
    pairs = [(f"{2 * i:02}.png", f"{2 * i + 1:02}.png") for i in range(9)]
    lines = [{"query": f"A man wears a red jacket {i}.", "paths": pair} for i, pair in enumerate(pairs)]
    lines.append({"query": "He is seen again.", "paths": ["01.png"]})  # the first of the nine
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    queries, rows = read_pairs(file, gallery)
    assert len(queries) == 10 and rows[1] == [2, 3]
    fitting, held_out = gallery_trials(gallery, queries, rows)
    people = [set(part.person.tolist()) for part in (fitting, held_out)]
    assert len(people[0]) + len(people[1]) == 9 and not people[0] & people[1]
    assert fitting.gallery.max() > 18  # images without a description stay
    with monkeypatch.context() as small:  # memory for 22 images
        small.setattr("modeling_rogle.search.open_set.MAX_SCORES", 220)
        with pytest.warns(UserWarning, match="a random 22 of 24 images are searched"):
            less, _ = gallery_trials(gallery, queries, rows)
        assert less.gallery.max() == fitting.gallery.max() - 2 and less.correct.any() == fitting.correct.any()
        small.setattr("modeling_rogle.search.open_set.MAX_QUERIES", 9)
        with pytest.warns(UserWarning, match="a random 9 of 10 descriptions are searched"):
            gallery_trials(gallery, queries, rows)
    with pytest.raises(ValueError, match="at least 8 people, there are 3"):
        gallery_trials(gallery, queries[:3], rows[:3])
    for line, message in (
        ("{", "line 1: not JSON"),
        ("[]", "line 1: field 'query' must be"),
        ('{"query": "x", "paths": []}', "line 1: field 'paths' must be a list"),
        ('\n{"query": "x", "paths": ["gone.png"]}', "line 2: field 'paths': 'gone.png' is not in the index"),
    ):
        file.write_text(line)
        with pytest.raises(ValueError, match=message):
            read_pairs(file, gallery)
