"""Calibration: the scores of a search -> the probability that an image shows the described person, and "nobody here".

A cosine says little by itself: a long description scores low everywhere, a short one high. So logistic regressions
(Platt, "Probabilistic outputs for support vector machines", 1999) read a score together with where it lies in the
gallery's own distribution of scores for the same query. What they are fitted and judged on is made in `open_set.py`.
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

FILE = "calibration.json"
FORMAT = "rogle-calibration"
VERSION = 2
DEPTH = 10  # results that a calibration looks at
FEWEST = 20  # images in a gallery whose distribution says something
# What is read of the result at each rank. Widths are standard deviations of the query's scores over the gallery.
FEATURES = (
    "score",
    "z",  # widths above the gallery's mean
    "excess",  # z less the largest that chance brings among N images, sqrt(2 ln N)
    "lead",  # widths from the mean of the results after the best up to the best
    "behind",  # widths from this result up to the best
    "global",  # the result's global score: with the score it tells what sentences and regions agree on
    "global_z",  # widths of that above the gallery's mean
    "gap",  # from the mean of the first three to that of the sixth to tenth: a person has a few images, not ten
)


def features(
    scores: np.ndarray,
    mean: np.ndarray,
    width: np.ndarray,
    count: np.ndarray | int,
    global_scores: np.ndarray | None = None,
) -> np.ndarray:
    """What a calibration reads of a search.

    Args:
        scores: `[..., K]` final scores, best first.
        mean, width: `[...]` mean and standard deviation of the query's global scores over the gallery.
        count: images in the gallery.
        global_scores: `[..., K]` of the same results; the scores themselves where nothing was joined to them.

    Returns:
        `[..., K, 8]` float64 in the order of `FEATURES`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    mean, width = np.asarray(mean)[..., None], np.maximum(np.asarray(width), 1e-6)[..., None]
    z = (scores - mean) / width
    chance = np.sqrt(2.0 * np.log(np.maximum(np.asarray(count), 2)))[..., None]
    next_best = scores[..., 1:DEPTH]
    lead = (scores[..., :1] - next_best.mean(axis=-1, keepdims=True)) / width if next_best.size else np.zeros_like(z)
    whole = scores if global_scores is None else np.asarray(global_scores, dtype=np.float64)
    far = scores[..., 5:DEPTH]
    gap = scores[..., :3].mean(axis=-1, keepdims=True) - far.mean(axis=-1, keepdims=True) if far.size else 0.0
    behind = (scores[..., :1] - scores) / width
    parts = (scores, z, z - chance, lead, behind, whole, (whole - mean) / width, gap)
    return np.stack([np.broadcast_to(part, z.shape) for part in parts], axis=-1)


@dataclass(frozen=True)
class Logistic:
    """sigmoid(bias + weights . (x - mean) / scale) over some of `FEATURES`."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, names: Sequence[str], steps: int = 50) -> "Logistic":
        """Newton's method on the log loss; `x` `[n, 8]` as [`features`] makes it, `y` `[n]` in {0, 1}.

        Platt's targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) in place of 1 and 0 keep separable data finite.
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
        """`[..., 8]` as [`features`] makes it -> `[...]` in [0, 1]."""
        used = x[..., [FEATURES.index(name) for name in self.names]]
        return _sigmoid(self.bias + ((used - np.array(self.mean)) / np.array(self.scale)) @ np.array(self.weights))


@dataclass(frozen=True)
class Calibration:
    """Fitted to one model and one way to join its scores.

    Args:
        fingerprint: of the model, see `gallery.fingerprint`.
        local_weight: w of the final scores that it was fitted on.
        best, other: features of the first result, of any later one -> probability that it shows the described person.
        present: the best result's features -> probability that the person is in the gallery at all.
        threshold: of `present`; under it the answer is "nobody here matches".
        false_alarm_rate: share of descriptions of absent people that pass the threshold all the same, on the data that
            it was fitted on.
        gallery_sizes: images in the smallest and the largest gallery that it was fitted on.
        fitted_on: the data, in words.
        report: figures on the data that it was judged on.
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
    report: Mapping[str, Any]

    def probability(
        self,
        scores: np.ndarray,
        background: np.ndarray,
        count: int | None = None,
        global_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """The probability that each result shows the described person, when half of the people asked for are absent.

        Args:
            scores: `[K]` final scores of one search, best first; with at least ten of them it says what it was fitted
                to say.
            background: `[B]` the query's global scores with the gallery, or with a random sample of it.
            count: images that were searched; by default those of `background`.
            global_scores: `[K]` of the same results; by default the scores.

        Returns:
            `[K]` in [0, 1].
        """
        return self.of_results(_one_search(scores, background, count, global_scores))

    def of_results(self, x: np.ndarray) -> np.ndarray:
        """Probabilities `[..., K]` of results whose features `[..., K, 8]` [`features`] made, best first."""
        return np.concatenate([self.best.probability(x[..., :1, :]), self.other.probability(x[..., 1:, :])], axis=-1)

    def nobody(
        self,
        scores: np.ndarray,
        background: np.ndarray,
        count: int | None = None,
        global_scores: np.ndarray | None = None,
    ) -> bool:
        """Whether the described person is likely not in the gallery; arguments as for `probability`."""
        found = _one_search(scores, background, count, global_scores)
        return bool(self.present.probability(found)[0] < self.threshold)

    def save(self, folder: str | Path) -> Path:
        """Writes `calibration.json` into a folder (the model's, or a gallery's), atomically."""
        path = Path(folder) / FILE
        new = path.with_name(f".{FILE}.{secrets.token_hex(4)}")
        saved = {"format": FORMAT, "version": VERSION, **asdict(self)}
        try:
            new.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration | None":
        """Reads a folder's `calibration.json`; None if there is none.

        Raises:
            ValueError: not a calibration, of another version, or damaged; names file and field.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); run `rogle calibrate` again") from error
        if not isinstance(saved, dict) or (saved.get("format"), saved.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"{path}: not a calibration that this program reads; run `rogle calibrate` again")
        try:
            return cls(
                fingerprint=_checked(saved, "fingerprint", str),
                local_weight=_finite(saved, "local_weight"),
                best=_logistic(_checked(saved, "best", dict), "best"),
                other=_logistic(_checked(saved, "other", dict), "other"),
                present=_logistic(_checked(saved, "present", dict), "present"),
                threshold=_finite(saved, "threshold"),
                false_alarm_rate=_finite(saved, "false_alarm_rate"),
                gallery_sizes=tuple(_numbers(saved, "gallery_sizes", 2)),
                fitted_on=_checked(saved, "fitted_on", str),
                report=_checked(saved, "report", dict),
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}; run `rogle calibrate` again") from error


def expected_calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Mean distance of probability and frequency over bins of equal size, weighted by size; `[n]`, `[n]` in {0, 1}.

    Bins of equal count (Nixon et al., "Measuring Calibration in Deep Learning", 2019): most results have a low
    probability, and bins of equal width would leave the others to chance.
    """
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    return sum(len(part) * abs(probability[part].mean() - right[part].mean()) for part in parts if len(part)) / len(
        right
    )


def auroc(statistic: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive's statistic is above a negative's, ties counting half; `[n]`, `[n]` bool."""
    positive = np.asarray(positive, dtype=bool)
    _, place, count = np.unique(statistic, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n0 and n1 else float("nan")


def false_positives_at(statistic: np.ndarray, positive: np.ndarray, true_positives: float = 0.95) -> float:
    """Share of negatives at or above the highest threshold that at least this share of positives reaches."""
    positive = np.asarray(positive, dtype=bool)
    ordered = np.sort(statistic[positive])[::-1]
    threshold = ordered[math.ceil(true_positives * len(ordered)) - 1]
    return float((statistic[~positive] >= threshold).mean())


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


def _numbers(saved: Mapping[str, Any], field: str, count: int) -> list[float]:
    values = saved.get(field)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    ):
        raise ValueError(f"field {field!r} does not hold {count} finite number{'s' * (count > 1)}")
    return values


def _logistic(saved: Mapping[str, Any], place: str) -> Logistic:
    names = saved.get("names")
    if not isinstance(names, list) or not names or not set(map(str, names)) <= set(FEATURES):
        raise ValueError(f"field '{place}.names' must name some of {', '.join(FEATURES)}")
    vectors = (tuple(_numbers(saved, field, len(names))) for field in ("mean", "scale", "weights"))
    return Logistic(tuple(names), *vectors, _finite(saved, "bias"))


__all__ = [
    "Calibration", "Logistic", "auroc", "expected_calibration_error", "false_positives_at", "features",
]  # fmt: skip
