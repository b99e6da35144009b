"""Calibration: metrics equal their definitions, regressions recover known weights, damaged files are refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.search.calibration import (
    FEATURES,
    FILE,
    Calibration,
    ImageSummary,
    Logistic,
    auroc,
    expected_calibration_error,
    false_positives_at,
    features,
    rate_interval,
)


def make_calibration(**changes) -> Calibration:
    match = Logistic(("z", "behind"), (1.0, 0.5), (2.0, 1.0), (1.5, -0.5), -1.0)
    present = Logistic(("score",), (0.5,), (0.1,), (1.0,), 0.0)
    fields = {
        "fingerprint": "abc",
        "local_weight": 0.3,
        "best": match,
        "other": match,
        "present": present,
        "threshold": 0.6,
        "false_alarm_rate": 0.1,
        "gallery_sizes": (100, 400),
        "fitted_on": "synthetic validation",
        "images": ImageSummary((0.1, 0.2), 40),
        "report": {"ece_best": 0.02, "false_alarms": 0.12, "false_alarm_interval": [0.08, 0.17]},
    }
    return Calibration(**{**fields, **changes})


def test_features_equal_their_definitions():
    background = np.array([0.1, 0.2, 0.3, 0.4])
    x = features(np.array([0.6, 0.5, 0.4]), background.mean(), background.std(), 4)
    width = np.sqrt(0.0125)
    best = dict(zip(FEATURES, x[0].tolist(), strict=True))
    assert best["score"] == pytest.approx(0.6) and best["z"] == pytest.approx(0.35 / width)
    assert best["excess"] == pytest.approx(0.35 / width - np.sqrt(2 * np.log(4)))
    assert best["lead"] == pytest.approx(0.15 / width) and best["behind"] == 0
    assert x[2, FEATURES.index("behind")] == pytest.approx(0.2 / width)
    several = features(np.array([[0.6, 0.5, 0.4]] * 2), np.array([0.25, 0.1]), np.array([width, 0.1]), np.array([4, 9]))
    assert several.shape == (2, 3, 8) and several[0] == pytest.approx(x)
    assert best["global"] == pytest.approx(0.6) and best["gap"] == 0
    scores, overall = np.linspace(0.9, 0.0, 10), np.linspace(0.5, 0.3, 10)
    ten = dict(zip(FEATURES, features(scores, 0.2, 0.1, 50, overall)[1].tolist(), strict=True))
    assert (ten["score"], ten["global"]) == pytest.approx((0.8, overall[1]))
    assert (ten["global_z"], ten["gap"]) == pytest.approx(((overall[1] - 0.2) / 0.1, 0.8 - 0.2))


def test_probabilities_are_finite_for_one_image_and_for_equal_scores():
    for scores, background in (([0.5], [0.5]), ([0.5, 0.5], [0.5, 0.5])):
        p = make_calibration().probability(np.array(scores), np.array(background))
        assert p.shape == (len(scores),) and np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()


def test_probability_and_no_match_follow_the_scores():
    calibration, background = make_calibration(), np.linspace(0.0, 0.4, 50)
    p = calibration.probability(np.array([0.9, 0.5, 0.3]), background)
    assert (np.diff(p) < 0).all() and p == pytest.approx(
        calibration.probability_of_features(features(np.array([0.9, 0.5, 0.3]), 0.2, background.std(), 50))
    )
    assert not calibration.no_match(np.array([0.9, 0.5]), background)
    assert calibration.no_match(np.array([0.5, 0.4]), background)  # sigmoid(0) = 0.5 < 0.6


def test_the_size_of_the_gallery_can_exceed_that_of_the_sample():
    logistic = Logistic(("excess",), (0.0,), (1.0,), (1.0,), 0.0)
    calibration, background = (
        make_calibration(best=logistic, other=logistic, present=logistic),
        np.linspace(0.0, 0.4, 50),
    )
    scores = np.array([0.6, 0.5])
    expected = calibration.probability_of_features(features(scores, 0.2, background.std(), 10**6))
    assert calibration.probability(scores, background, 10**6) == pytest.approx(expected)
    assert (expected < calibration.probability(scores, background)).all()
    assert calibration.no_match(scores, background, 10**6) and not calibration.no_match(scores, background)


def test_regression_recovers_the_weights_of_the_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 8)) * 3 + 1
    true = 1 / (1 + np.exp(-(0.5 + 1.2 * x[:, 1] - 0.7 * x[:, 3])))
    fitted = Logistic.fit(x, rng.random(len(x)) < true, ("z", "lead"))
    slopes = np.array(fitted.weights) / np.array(fitted.scale)
    assert slopes == pytest.approx([1.2, -0.7], abs=0.06)
    assert np.abs(fitted.probability(x) - true).mean() < 0.01


def test_separable_and_one_sided_data_stay_finite():
    x = np.zeros((10, 8))
    x[:, 0] = np.arange(10)
    for y in (np.arange(10) > 4, np.zeros(10, dtype=bool), np.ones(10, dtype=bool)):
        p = Logistic.fit(x, y, ("score",)).probability(x)
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_and_false_positives_equal_their_definitions(pairs):
    statistic, positive = np.array([s for s, _ in pairs], float), np.array([y for _, y in pairs])
    yes, no = statistic[positive], statistic[~positive]
    if not len(yes) or not len(no):
        assert np.isnan(auroc(statistic, positive))
        return
    wins = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    assert auroc(statistic, positive) == pytest.approx(wins)
    thresholds = [t for t in np.unique(yes) if (yes >= t).mean() >= 0.95]
    assert false_positives_at(statistic, positive) == pytest.approx((no >= max(thresholds)).mean())


def test_calibration_error_of_known_cases():
    rng = np.random.default_rng(0)
    p = rng.random(30_000)
    right = rng.random(len(p)) < p
    assert expected_calibration_error(p, right) < 0.015
    assert expected_calibration_error(np.clip(p + 0.2, 0, 1), right) == pytest.approx(0.18, abs=0.02)
    assert expected_calibration_error(np.ones(10), np.zeros(10)) == 1.0


def test_saved_and_loaded_is_the_same(tmp_path):
    calibration = make_calibration()
    assert Calibration.load(tmp_path) is None
    assert calibration.save(tmp_path) == tmp_path / FILE
    assert Calibration.load(tmp_path) == calibration
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "not a calibration of version"),
        ({"images": None}, "field 'images' is missing"),
        ({"images": {"mean": [1, "x"], "count": 3}}, "field 'mean' does not hold 2 finite numbers"),
        ({"report": {"false_alarm_interval": 3}}, "field 'false_alarm_interval' does not hold 2 finite numbers"),
        ({"format": "x"}, "not a calibration"),
        ({"threshold": "high"}, "field 'threshold' does not hold 1 finite number"),
        ({"local_weight": float("nan")}, "field 'local_weight'"),
        ({"gallery_sizes": [1]}, "field 'gallery_sizes' does not hold 2 finite numbers"),
        ({"fingerprint": 3}, "field 'fingerprint' is missing or not a str"),
        ({"best": None}, "field 'best' is missing"),
        ({"other": {"names": ["colour"]}}, "field 'other.names' must name some of score, z"),
        ({"present": {"names": ["z"], "mean": [], "scale": [1], "weights": [1], "bias": 0}}, "field 'mean'"),
    ],
)
def test_an_invalid_field_is_refused_in_one_line(tmp_path, change, message):
    file = make_calibration().save(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as raised:
        Calibration.load(tmp_path)
    assert str(raised.value).startswith(str(file)) and "\n" not in str(raised.value)


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    file = make_calibration().save(tmp_path)
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match="calibration.json: damaged"):
        Calibration.load(tmp_path)


def test_a_file_of_version_2_has_no_summary_of_images(tmp_path):
    file = make_calibration().save(tmp_path)
    saved = json.loads(file.read_text()) | {"version": 2, "report": {}}
    del saved["images"]
    file.write_text(json.dumps(saved))
    loaded = Calibration.load(tmp_path)
    assert loaded.images is None and loaded.measured_false_alarms is None
    assert make_calibration().measured_false_alarms == (0.12, (0.08, 0.17))


@pytest.mark.parametrize("count", [20, 90, 2000])
def test_galleries_of_other_images_are_recognised_by_their_mean(count):
    rng = np.random.default_rng(0)

    def gallery(mean: np.ndarray, images: int) -> np.ndarray:
        embeds = mean + rng.normal(size=(images, 64)) / 8
        return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)

    first, second = np.eye(64)[:2]
    summary = ImageSummary.of(gallery(first, 600))
    assert summary.count == 600 and len(summary.mean) == 64
    like = [summary.is_like(gallery(first, count)) for _ in range(50)]
    other = [summary.is_like(gallery(0.6 * first + 0.8 * second, count)) for _ in range(50)]
    assert sum(like) == 50 and sum(other) == 0


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.4])
def test_the_interval_contains_the_rate_of_other_people(rate):
    """Each person has a rate of their own, so that the searches for one person resemble each other."""
    rng = np.random.default_rng(1)

    def measured() -> tuple[np.ndarray, np.ndarray]:
        own = rng.beta(4 * rate, 4 * (1 - rate), size=80)
        person = np.repeat(np.arange(80), 12)
        return rng.random(len(person)) < own[person], person

    inside = 0
    for _ in range(200):
        low, high = rate_interval(*measured())
        inside += low <= measured()[0].mean() <= high
    assert 180 <= inside  # 90 %


def test_the_interval_of_no_event_is_not_empty():
    low, high = rate_interval(np.zeros(300, dtype=bool), np.repeat(np.arange(30), 10))
    assert low == 0 and 0.05 < high < 0.3
