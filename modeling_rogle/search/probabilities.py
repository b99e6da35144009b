"""Scores of a search -> probabilities, with the calibration of the index or of the model."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from modeling_rogle.index.shards import Index
from modeling_rogle.search.calibration import DEPTH, MIN_GALLERY, Calibration
from modeling_rogle.search.results import Matches

BACKGROUND = 20_000  # images whose scores estimate the distribution of a query's scores
MIN_FILTERED = 100  # a filter that passes fewer images does not show that distribution
SIZE_FACTOR = 10  # times the gallery sizes of the calibration, beyond which a search warns


class Probabilities:
    """Adds probabilities to the results of searches in one state of an index.

    Args:
        index: the index.
        model_folder: folder of the model, whose calibration is used where the index has none; or None.

    Raises:
        ValueError: `calibration.json` is damaged or has another version; the file and the field are named.

    Warns:
        UserWarning: the calibration was fitted to another model and is ignored.
    """

    def __init__(self, index: Index, model_folder: Path | None):
        self.index = index
        self._sample: np.ndarray | None = None  # [B, D]
        self._sample_is_like: bool | None = None
        folders = [folder for folder in (index.path, model_folder) if folder is not None]
        self.calibration = next(filter(None, map(Calibration.load, folders)), None)
        if self.calibration and self.calibration.fingerprint != index.header["model"].get("fingerprint"):
            warnings.warn("calibration.json: fitted to another model; no probabilities", stacklevel=4)
            self.calibration = None
        images = self.calibration.images if self.calibration else None
        if self.calibration and images is None:
            self._warn("does not say which images it was fitted on; run `rogle calibrate` again")
        if images is not None and len(images.mean) != index.header["dimension"]:
            raise ValueError(f"calibration.json: field 'images.mean' does not hold {index.header['dimension']} numbers")

    def add(
        self,
        matches: Matches,
        scores: np.ndarray,
        global_scores: np.ndarray,
        query_embed: np.ndarray,
        rows: np.ndarray | None,
        local_weight: float,
        positions: Sequence[int] | None = None,
    ) -> Matches:
        """Adds the probability of each result, and whether there is a match at all.

        Args:
            matches: the results, best first.
            scores: `[K]` final scores of the best results that late interaction reranked, at least ten where the
                gallery has them.
            global_scores: `[K]` global scores of the same results.
            query_embed: `[D]` unit vector of the query.
            rows: `[n]` rows of the index that were searched; None for all.
            local_weight: weight of the local score in `scores`.
            positions: position of each result in `scores`, where results stand for groups. Default: 0, 1, ...

        Returns:
            The results with probabilities; unchanged without a calibration, in a gallery of less than 20 images, or
            where the calibration does not apply, for example because it was fitted on other images.

        Warns:
            UserWarning: the calibration does not apply to this search or gallery, or was fitted on galleries of another
                size.
        """
        calibration = self.calibration
        if calibration is None or not matches:
            return matches
        if len(self.index) < MIN_GALLERY:
            self._warn(f"needs a gallery of {MIN_GALLERY} images, this one has {len(self.index)}; no probabilities")
            return matches
        searched = len(self.index) if rows is None else len(rows)
        if abs(calibration.local_weight - local_weight) > 1e-6:
            fitted = f"{calibration.local_weight:g}"
            self._warn(f"fitted with local weight {fitted}, not {local_weight:g}; no probabilities")
            return matches
        if len(scores) < min(DEPTH, searched):
            self._warn(f"reads the best {DEPTH} results, only {len(scores)} were reranked; no probabilities")
            return matches
        smallest, largest = calibration.gallery_sizes
        if searched * SIZE_FACTOR < smallest or searched > largest * SIZE_FACTOR:
            sizes = f"{smallest:g} to {largest:g} images, {searched} are searched"
            self._warn(f"fitted on galleries of {sizes}; probabilities may be off")
        images = self._background(rows)
        if not self._is_like(images):
            self._warn(f"not calibrated for these images, but for those of {calibration.fitted_on}; no probabilities")
            return matches
        background = images @ query_embed
        probability = calibration.probability(scores, background, searched, global_scores)
        calibrated = Matches(
            replace(match, probability=float(probability[n]) if n < len(probability) else None)
            for n, match in zip(positions or range(len(matches)), matches, strict=True)
        )
        calibrated.no_match = calibration.no_match(scores, background, searched, global_scores)
        calibrated.trained_regions = matches.trained_regions
        measured = calibration.measured_false_alarms
        calibrated.false_alarm_rate, calibrated.false_alarm_interval = measured or (calibration.false_alarm_rate, None)
        return calibrated

    def _is_like(self, images: np.ndarray) -> bool:
        """Whether these images are like those of the fit. The answer for all images is kept."""
        summary = self.calibration.images if self.calibration is not None else None
        if summary is None:
            return True
        if images is not self._sample:
            return summary.is_like(images)
        if self._sample_is_like is None:
            self._sample_is_like = summary.is_like(images)
        return self._sample_is_like

    def _background(self, rows: np.ndarray | None) -> np.ndarray:
        """Embeddings `[B, D]` of a fixed random sample of the searched rows, or of all rows if a filter is narrow."""
        if rows is not None and len(rows) >= MIN_FILTERED:
            return self.index.global_rows(_sample_rows(rows))
        if self._sample is None:
            self._sample = self.index.global_rows(_sample_rows(np.arange(len(self.index))))
        return self._sample

    @staticmethod
    def _warn(reason: str) -> None:
        warnings.warn(f"calibration.json: {reason}", stacklevel=4)


def _sample_rows(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= BACKGROUND:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, BACKGROUND, replace=False))


__all__ = ["Probabilities"]
