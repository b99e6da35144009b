"""Calibration: scores of a search -> the probability that an image shows the described person, and "no match".

A cosine alone is not comparable between queries: a long description scores low with every image, a short one high. The
logistic regressions (Platt, "Probabilistic outputs for support vector machines", 1999) therefore read a score together
with its position in the distribution of the query's scores over the gallery. `open_set.py` fits and evaluates them.
"""

import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.inference.untrusted import parse_json

FILE = "calibration.json"
FORMAT = "rogle-calibration"
VERSION = 3
DEPTH = 10  # results that a calibration reads
MIN_GALLERY = 20  # images; the distribution of scores over fewer images is too noisy
# Squared distance of the mean embeddings of two sets of images, as a share of the variance of the fit, above which the
# images are of another kind: SHIFT for large sets, and SHIFT_OF_ONE / n more for each set of n images.
SHIFT, SHIFT_OF_ONE = 0.1, 2.5
# Features of the result at each rank. A width is the standard deviation of the query's scores over the gallery.
FEATURES = (
    "score",
    "z",  # widths above the gallery's mean
    "excess",  # z minus the expected maximum of N random scores, sqrt(2 ln N)
    "lead",  # widths of the best result above the mean of the following ones
    "behind",  # widths of this result below the best
    "global",  # the global score; its difference from the score is the agreement of sentences and regions
    "global_z",  # widths of the global score above the gallery's mean
    "gap",  # mean of ranks 1 to 3 minus mean of ranks 6 to 10: a person has a few images, not ten
)


def features(
    scores: np.ndarray,
    mean: np.ndarray,
    width: np.ndarray,
    count: np.ndarray | int,
    global_scores: np.ndarray | None = None,
) -> np.ndarray:
    """Features of the results of a search.

    Args:
        scores: `[..., K]` final scores, best first.
        mean: `[...]` mean of the query's global scores over the gallery.
        width: `[...]` standard deviation of the same scores.
        count: number of images in the gallery.
        global_scores: `[..., K]` global scores of the same results. Default: `scores`.

    Returns:
        `[..., K, 8]` float64 in the order of `FEATURES`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    mean, width = np.asarray(mean)[..., None], np.maximum(np.asarray(width), 1e-6)[..., None]
    z = (scores - mean) / width
    chance = np.sqrt(2.0 * np.log(np.maximum(np.asarray(count), 2)))[..., None]
    next_best = scores[..., 1:DEPTH]
    lead = (scores[..., :1] - next_best.mean(axis=-1, keepdims=True)) / width if next_best.size else np.zeros_like(z)
    global_scores = scores if global_scores is None else np.asarray(global_scores, dtype=np.float64)
    far = scores[..., 5:DEPTH]
    gap = scores[..., :3].mean(axis=-1, keepdims=True) - far.mean(axis=-1, keepdims=True) if far.size else 0.0
    behind = (scores[..., :1] - scores) / width
    parts = (scores, z, z - chance, lead, behind, global_scores, (global_scores - mean) / width, gap)
    return np.stack([np.broadcast_to(part, z.shape) for part in parts], axis=-1)


@dataclass(frozen=True)
class Logistic:
    """Logistic regression over some of `FEATURES`: sigmoid(bias + weights . (x - mean) / scale)."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, names: Sequence[str], steps: int = 50) -> "Logistic":
        """Fits the regression with Newton's method on the log loss.

        Platt's targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) replace 1 and 0, so the weights stay finite on separable
        data.

        Args:
            x: `[n, 8]` result of [`features`].
            y: `[n]` labels in {0, 1}.
            names: the features to use.
            steps: maximum number of steps. Default: 50.
        """
        used = x[:, [FEATURES.index(name) for name in names]]
        mean, scale = used.mean(axis=0), np.maximum(used.std(axis=0), 1e-9)
        design = np.concatenate([np.ones((len(x), 1)), (used - mean) / scale], axis=1)
        positive = float(y.sum())
        target = np.where(y > 0.5, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2))
        weights = np.zeros(design.shape[1])
        for _ in range(steps):
            p = _sigmoid(design @ weights)
            curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(len(weights))
            step = np.linalg.solve(curvature, design.T @ (p - target) + 1e-6 * weights)
            weights -= step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
            if np.abs(step).max() < 1e-9:
                break
        bias, *rest = weights.tolist()
        return cls(tuple(names), tuple(mean.tolist()), tuple(scale.tolist()), tuple(rest), bias)

    def probability(self, x: np.ndarray) -> np.ndarray:
        """Probabilities `[...]` in [0, 1] for features `[..., 8]`."""
        used = x[..., [FEATURES.index(name) for name in self.names]]
        return _sigmoid(self.bias + ((used - np.array(self.mean)) / np.array(self.scale)) @ np.array(self.weights))


@dataclass(frozen=True)
class ImageSummary:
    """Summary of the images that a calibration was fitted on.

    Args:
        mean: mean of their global embeddings, `[D]`.
        count: number of images.
    """

    mean: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, embeds: np.ndarray) -> "ImageSummary":
        """Summarises `[n, D]` unit vectors."""
        return cls(tuple(np.round(embeds.astype(np.float64).mean(axis=0), 5).tolist()), len(embeds))

    def is_like(self, embeds: np.ndarray) -> bool:
        """Whether `[n, D]` unit vectors are of images like those of the fit, by the distance of the two means.

        A single image of another kind can have an embedding as in the fit. The mean of a gallery reveals them.
        """
        mean = np.array(self.mean)
        variance = max(1.0 - float(mean @ mean), 1e-6)  # of unit vectors, the sum over their components
        shift = float(np.square(embeds.astype(np.float64).mean(axis=0) - mean).sum())
        return shift <= variance * (SHIFT + SHIFT_OF_ONE / max(len(embeds), 1) + SHIFT_OF_ONE / max(self.count, 1))


@dataclass(frozen=True)
class Calibration:
    """Calibration of one model with one local weight, for one kind of images.

    Args:
        fingerprint: SHA-256 of the model, see [`loading.fingerprint`].
        local_weight: weight of the local score that the calibration was fitted with.
        best: features of the first result -> probability that it shows the described person.
        other: the same for any later result.
        present: features of the first result -> probability that the person is in the gallery.
        threshold: threshold on `present`; a search below it has no match.
        false_alarm_rate: target share of descriptions of absent people above the threshold.
        gallery_sizes: number of images in the smallest and the largest gallery of the fit.
        fitted_on: name of the data.
        images: summary of the images of the fit. The calibration holds for images like these. None in a file of version
            2, which does not say so.
        report: figures on other data, see [`evaluate_calibration`].
    """

    fingerprint: str
    local_weight: float
    best: Logistic
    other: Logistic
    present: Logistic
    threshold: float
    false_alarm_rate: float
    gallery_sizes: tuple[int, int]
    fitted_on: str
    images: ImageSummary | None
    report: Mapping[str, Any]

    def probability(
        self,
        scores: np.ndarray,
        background: np.ndarray,
        count: int | None = None,
        global_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """The probability that each result shows the described person, if half of the described people are absent.

        Args:
            scores: `[K]` final scores of one search, best first. The calibration was fitted with K = 10.
            background: `[B]` global scores of the query with the gallery, or with a random sample of it.
            count: number of images that were searched. Default: B.
            global_scores: `[K]` global scores of the same results. Default: `scores`.

        Returns:
            `[K]` in [0, 1].
        """
        return self.probability_of_features(_one_search(scores, background, count, global_scores))

    def probability_of_features(self, x: np.ndarray) -> np.ndarray:
        """Probabilities `[..., K]` for features `[..., K, 8]` of results, best first; see [`features`]."""
        return np.concatenate([self.best.probability(x[..., :1, :]), self.other.probability(x[..., 1:, :])], axis=-1)

    def no_match(
        self,
        scores: np.ndarray,
        background: np.ndarray,
        count: int | None = None,
        global_scores: np.ndarray | None = None,
    ) -> bool:
        """Whether the described person is likely not in the gallery. Takes the arguments of `probability`."""
        x = _one_search(scores, background, count, global_scores)
        return bool(self.present.probability(x)[0] < self.threshold)

    @property
    def measured_false_alarms(self) -> tuple[float, tuple[float, float]] | None:
        """The false-alarm rate that was measured on other data, and its 95 % interval; None if it was not measured."""
        interval = self.report.get("false_alarm_interval")
        return None if interval is None else (self.report["false_alarms"], (interval[0], interval[1]))

    def save(self, folder: str | Path) -> Path:
        """Writes `calibration.json` into the folder of a model or an index, in one step."""
        path = Path(folder) / FILE
        new = path.with_name(f".{FILE}.{secrets.token_hex(4)}")
        saved = {"format": FORMAT, "version": VERSION if self.images is not None else 2, **asdict(self)}
        try:
            new.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration | None":
        """Reads the `calibration.json` of a folder; None if there is none.

        Raises:
            ValueError: the file is not a calibration, has another version or is damaged; file and field are named.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            saved = parse_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); run `rogle calibrate` again") from error
        if not isinstance(saved, dict) or saved.get("format") != FORMAT or saved.get("version") not in (2, VERSION):
            raise ValueError(f"{path}: not a calibration of version {VERSION}; run `rogle calibrate` again")
        try:
            sizes = _numbers(saved, "gallery_sizes", 2)
            return cls(
                fingerprint=_checked(saved, "fingerprint", str),
                local_weight=_finite(saved, "local_weight"),
                best=_logistic(_checked(saved, "best", dict), "best"),
                other=_logistic(_checked(saved, "other", dict), "other"),
                present=_logistic(_checked(saved, "present", dict), "present"),
                threshold=_finite(saved, "threshold"),
                false_alarm_rate=_finite(saved, "false_alarm_rate"),
                gallery_sizes=(sizes[0], sizes[1]),
                fitted_on=_checked(saved, "fitted_on", str),
                images=_summary(_checked(saved, "images", dict)) if saved["version"] == VERSION else None,
                report=_report(_checked(saved, "report", dict)),
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}; run `rogle calibrate` again") from error


def expected_calibration_error(probability: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean difference of probability and frequency over bins, weighted by their size.

    The bins have equal counts (Nixon et al., "Measuring Calibration in Deep Learning", 2019): most results have a low
    probability, so most bins of equal width would be almost empty.

    Args:
        probability: `[n]` in [0, 1].
        correct: `[n]` in {0, 1}.
        bins: number of bins. Default: 15.
    """
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    errors = [len(part) * abs(probability[part].mean() - correct[part].mean()) for part in parts if len(part)]
    return sum(errors) / len(correct)


def auroc(statistic: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive's statistic exceeds a negative's. Ties count half.

    Args:
        statistic: `[n]`.
        positive: `[n]` bool.
    """
    positive = np.asarray(positive, dtype=bool)
    _, group, count = np.unique(statistic, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[group]
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n0 and n1 else float("nan")


def false_positives_at(statistic: np.ndarray, positive: np.ndarray, true_positives: float = 0.95) -> float:
    """False-positive rate at the highest threshold with this true-positive rate; arguments as for [`auroc`]."""
    positive = np.asarray(positive, dtype=bool)
    ordered = np.sort(statistic[positive])[::-1]
    threshold = ordered[math.ceil(true_positives * len(ordered)) - 1]
    return float((statistic[~positive] >= threshold).mean())


def rate_interval(event: np.ndarray, person: np.ndarray) -> tuple[float, float]:
    """95 % interval of a rate that is measured in searches for some people: that of as many other people lies in it.

    Wilson's interval with the effective number of searches, because those for one person resemble each other. It is
    halved, because the other measurement varies as much as this one.

    Args:
        event: `[n]` bool.
        person: `[n]` the described person.
    """
    rate, z = float(event.mean()), 1.96
    group, sizes = np.unique(person, return_inverse=True, return_counts=True)[1:]
    sums = np.bincount(group, weights=event - rate)
    variance = float(np.square(sums).sum()) / len(event) ** 2
    people = len(sizes)
    effective = min(rate * (1 - rate) / variance, float(len(event))) if variance > 0 else float(people)
    n = max(effective, 1.0) / 2
    centre, width = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max((centre - width) / (1 + z * z / n), 0.0), min((centre + width) / (1 + z * z / n), 1.0)


def _one_search(
    scores: np.ndarray, background: np.ndarray, count: int | None, global_scores: np.ndarray | None
) -> np.ndarray:
    background = np.asarray(background, dtype=np.float64)
    return features(np.asarray(scores), background.mean(), background.std(), count or len(background), global_scores)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # does not overflow


def _checked(saved: Mapping[str, Any], field: str, kind: type) -> Any:
    if not isinstance(saved.get(field), kind):
        raise ValueError(f"field {field!r} is missing or not a {kind.__name__}")
    return saved[field]


def _finite(saved: Mapping[str, Any], field: str) -> float:
    return _numbers({field: [saved.get(field)]}, field, 1)[0]


def _numbers(saved: Mapping[str, Any], field: str, count: int) -> list[Any]:
    values = saved.get(field)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    ):
        raise ValueError(f"field {field!r} does not hold {count} finite number{'s' * (count > 1)}")
    return values


def _summary(saved: Mapping[str, Any]) -> ImageSummary:
    mean = saved.get("mean")
    if not isinstance(mean, list) or not mean:
        raise ValueError("field 'images.mean' is missing or not a list")
    return ImageSummary(tuple(_numbers(saved, "mean", len(mean))), int(_finite(saved, "count")))


def _report(saved: dict[str, Any]) -> dict[str, Any]:
    if saved.get("false_alarm_interval") is not None:
        _numbers(saved, "false_alarm_interval", 2)
        _finite(saved, "false_alarms")
    return saved


def _logistic(saved: Mapping[str, Any], field: str) -> Logistic:
    names = saved.get("names")
    if not isinstance(names, list) or not names or not set(map(str, names)) <= set(FEATURES):
        raise ValueError(f"field '{field}.names' must name some of {', '.join(FEATURES)}")
    mean, scale, weights = (tuple(_numbers(saved, name, len(names))) for name in ("mean", "scale", "weights"))
    return Logistic(tuple(names), mean, scale, weights, _finite(saved, "bias"))


__all__ = [
    "Calibration", "ImageSummary", "Logistic", "auroc", "expected_calibration_error", "false_positives_at", "features",
    "rate_interval",
]  # fmt: skip
