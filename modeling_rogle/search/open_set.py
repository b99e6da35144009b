"""Open-set trials: searches in galleries that lack half of the people. A calibration is fitted and evaluated on them.

Every description is searched in each reduced gallery, so half of the searches have a correct result and half have none.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_rogle.evaluation.fusion import caption_similarities
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.inference.untrusted import parse_json
from modeling_rogle.late_interaction import fuse
from modeling_rogle.search.calibration import (
    DEPTH,
    FEATURES,
    Calibration,
    ImageSummary,
    Logistic,
    auroc,
    expected_calibration_error,
    false_positives_at,
    rate_interval,
)
from modeling_rogle.search.calibration import features as result_features
from modeling_rogle.search.gallery import RERANKED, Gallery

HALVES = 4  # random halves of the people
SHARES = (1.0, 0.5, 0.25)  # gallery sizes: a calibration must hold for small and large galleries
MAX_QUERIES = 4000  # of long and of short captions each; more do not change the fit
MAX_SCORES = 100_000_000  # scores of descriptions and images, held twice in memory: 800 MB
FOLDS = 5
_BLOCK = 256
# Candidate feature sets. The one with the lowest log loss in cross-validation by person is used.
_BEST_FEATURES = (
    ("score",), ("z",), ("score", "z"), ("score", "z", "lead"), ("score", "excess", "lead"), ("score", "global"),
    ("score", "global", "gap"), ("score", "global", "global_z", "gap"),
    ("score", "z", "lead", "global", "global_z", "gap"), ("score", "excess", "lead", "global", "global_z", "gap"),
)  # fmt: skip
_OTHER_FEATURES = tuple((*names, "behind") for names in _BEST_FEATURES)


@dataclass(frozen=True)
class Trials:
    """n searches and the best K = 10 results of each; fewer in a smaller gallery.

    Attributes:
        features: `[n, K, 8]` float64, see `calibration.FEATURES`.
        correct: `[n, K]` bool, whether the result shows the described person.
        present: `[n]` bool, whether the described person is in the gallery.
        person: `[n]` int64, the described person.
        gallery: `[n]` int64, number of images in the gallery.
    """

    features: np.ndarray
    correct: np.ndarray
    present: np.ndarray
    person: np.ndarray
    gallery: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence["Trials"]) -> "Trials":
        """Concatenates trials, cut to the smallest K."""
        depth = min(part.correct.shape[1] for part in parts)
        cut = [replace(part, features=part.features[:, :depth], correct=part.correct[:, :depth]) for part in parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in cut]) for field in fields(cls)))


def split_scores(
    embeddings: SplitEmbeddings, captions: CaptionSet, local_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of C captions with the I images of a split, as [`Gallery.search`] computes them.

    Args:
        embeddings: the split.
        captions: its long or short captions, or some of them.
        local_weight: weight of the local score, in [0, 1].

    Returns:
        `[C, I]` float32 final scores and global scores.
    """
    # The local similarity of a baseline's head is no part of a search.
    embeddings = replace(embeddings, image_parts=torch.zeros(0, 0, 0))
    similarities = caption_similarities(embeddings, captions)
    shape = len(captions.embeds), len(embeddings.image_embeds)
    final, global_scores = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    for start in range(0, len(final), _BLOCK):
        stop = min(start + _BLOCK, len(final))
        global_scores[start:stop], local = similarities(start, stop)
        final[start:stop] = fuse(global_scores[start:stop], local, local_weight)
    return final, global_scores


def open_set_trials(
    final: np.ndarray,
    global_scores: np.ndarray,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    seed: int = 0,
    halves: int = HALVES,
    shares: Sequence[float] = (1.0,),
) -> Trials:
    """Searches with every query in galleries without a random half of the people.

    Images of people without a description always stay in the gallery, as distractors.

    Args:
        final: `[Q, N]` final scores.
        global_scores: `[Q, N]` global scores.
        query_person: `[Q]` int64.
        gallery_person: `[N]` int64.
        seed: seed of the random halves. Default: 0.
        halves: number of random halves. Default: 4.
        shares: for each value in (0, 1], one gallery with this share of the remaining people. Default: all of them.

    Raises:
        ValueError: there are fewer than four people, or fewer than two images in a gallery.
    """
    people = np.unique(query_person)
    if len(people) < 4:
        raise ValueError(f"calibration needs descriptions of at least 4 people, there are {len(people)}")
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(halves):
        order = rng.permutation(people)
        absent, remaining = order[: len(order) // 2], order[len(order) // 2 :]
        for share in shares:
            removed = remaining[max(1, round(share * len(remaining))) :]
            columns = np.flatnonzero(~np.isin(gallery_person, np.concatenate([absent, removed])))
            if len(columns) < 2:
                raise ValueError("calibration needs at least two images in every gallery")
            # Queries for people that only a smaller gallery lacks would change the share of absent people.
            rows = np.flatnonzero(~np.isin(query_person, removed))
            if share < 1.0:
                absent_rows = np.flatnonzero(np.isin(query_person, absent))
                present_count = len(rows) - len(absent_rows)
                dropped = rng.permutation(absent_rows)[min(present_count, len(absent_rows)) :]
                rows = np.setdiff1d(rows, dropped)
            parts.append(_search(final, global_scores, rows, columns, query_person, gallery_person, absent))
    return Trials.concatenate(parts)


def _search(
    final: np.ndarray,
    global_scores: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    absent: np.ndarray,
) -> Trials:
    """Searches with the queries `rows` among the images `columns`."""
    scores, global_parts, results, mean, width = [], [], [], [], []
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        background = global_scores[np.ix_(part, columns)]
        candidates = np.argsort(-background, axis=1, kind="stable")[:, :RERANKED]
        reranked = np.take_along_axis(final[np.ix_(part, columns)], candidates, axis=1)
        order = np.argsort(-reranked, axis=1, kind="stable")[:, :DEPTH]
        scores.append(np.take_along_axis(reranked, order, axis=1))
        best = np.take_along_axis(candidates, order, axis=1)
        global_parts.append(np.take_along_axis(background, best, axis=1))
        results.append(columns[best])
        mean.append(background.mean(axis=1))
        width.append(background.std(axis=1))
    person = query_person[rows]
    statistics = np.concatenate(mean), np.concatenate(width), len(columns)
    return Trials(
        result_features(np.concatenate(scores), *statistics, np.concatenate(global_parts)),
        gallery_person[np.concatenate(results)] == person[:, None],
        ~np.isin(person, absent),
        person,
        np.full(len(rows), len(columns)),
    )


def split_trials(
    embeddings: SplitEmbeddings, local_weight: float, seed: int = 0, shares: Sequence[float] = (1.0,)
) -> Trials:
    """Open-set trials of a split's long and short captions, at most 4,000 of each; see [`open_set_trials`]."""
    people = embeddings.image_person_ids.numpy()
    parts = []
    for captions in (embeddings.long, embeddings.short):
        if len(captions.embeds):
            sample = _sample_captions(captions, MAX_QUERIES, seed)
            scores = split_scores(embeddings, sample, local_weight)
            parts.append(open_set_trials(*scores, people[sample.image.numpy()], people, seed, shares=shares))
    if not parts:
        raise ValueError("calibration needs captions, the rows have none")
    return Trials.concatenate(parts)


def _sample_captions(captions: CaptionSet, count: int, seed: int) -> CaptionSet:
    if len(captions.embeds) <= count:
        return captions
    chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(captions.embeds))[:count]))
    position = torch.full((len(captions.embeds),), -1)
    position[chosen] = torch.arange(count)
    clauses, caption = captions.clauses
    owner = position[caption]
    return CaptionSet(captions.embeds[chosen], captions.image[chosen], clauses[owner >= 0], owner[owner >= 0])


def read_pairs(path: str | Path, gallery: Gallery) -> tuple[list[str], list[list[int]]]:
    """Reads descriptions of people in a gallery.

    Args:
        path: JSON lines `{"query": "a man ...", "paths": ["a.jpg", ...]}`. `paths` lists all indexed images of that
            person.
        gallery: the gallery.

    Returns:
        The queries, and the rows of each query's images.

    Raises:
        OSError: the file does not exist.
        ValueError: a line is not such an object, or names a path that is not in the index; line and field are named.
    """
    row_of = {name: row for row, name in enumerate(gallery.paths)}
    queries, rows = [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        query, paths = (item.get("query"), item.get("paths")) if isinstance(item, dict) else (None, None)
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"{path}, line {number}: field 'query' must be a description")
        if not isinstance(paths, list) or not paths:
            raise ValueError(f"{path}, line {number}: field 'paths' must be a list of indexed images")
        missing = next((name for name in paths if name not in row_of), None)
        if missing is not None:
            raise ValueError(f"{path}, line {number}: field 'paths': {missing!r} is not in the index")
        queries.append(query)
        rows.append([row_of[name] for name in paths])
    return queries, rows


def gallery_trials(
    gallery: Gallery, queries: Sequence[str], rows: Sequence[Sequence[int]], seed: int = 0, progress: bool = False
) -> tuple[Trials, Trials]:
    """Open-set trials in a gallery: half of the described people for fitting, the other half for evaluation.

    At most 4,000 descriptions are used. Of a large gallery, as many images without a description are used as fit into
    memory. Both are sampled with `seed`.

    Args:
        gallery: the gallery.
        queries: Q descriptions.
        rows: for each description, the rows of all images of that person.
        seed: seed of the samples and halves. Default: 0.
        progress: show a progress bar. Default: False.

    Returns:
        Trials for fitting and trials for evaluation.

    Raises:
        ValueError: fewer than eight people are described.

    Warns:
        UserWarning: only some of the descriptions or images are used.
    """
    query_person, gallery_person = _identities(rows, len(gallery))
    rng = np.random.default_rng([seed, 1])
    if len(queries) > MAX_QUERIES:
        chosen = np.sort(rng.permutation(len(queries))[:MAX_QUERIES])
        warnings.warn(f"calibration: a random {MAX_QUERIES} of {len(queries)} descriptions are searched", stacklevel=2)
        queries, query_person = [queries[n] for n in chosen], query_person[chosen]
    columns = _sample_images(gallery_person, query_person, MAX_SCORES // max(len(queries), 1), rng)
    if len(columns) < len(gallery):
        warnings.warn(f"calibration: a random {len(columns)} of {len(gallery)} images are searched", stacklevel=2)
    gallery_person = gallery_person[columns]
    people = np.random.default_rng(seed).permutation(np.unique(query_person))
    if len(people) < 8:
        raise ValueError(f"calibration needs descriptions of at least 8 people, there are {len(people)}")
    final, global_scores = _gallery_scores(gallery, queries, columns, progress)
    halves = []
    for half in (people[: len(people) // 2], people[len(people) // 2 :]):
        part = np.isin(query_person, half)
        halves.append(
            open_set_trials(
                final[part], global_scores[part], query_person[part], gallery_person, seed, halves=2 * HALVES
            )
        )
    return halves[0], halves[1]


def _gallery_scores(
    gallery: Gallery, queries: Sequence[str], columns: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`[Q, N]` float32 final and global scores of the queries with the images `columns` `[N]`."""
    images = gallery.encode_gallery(columns)
    final, global_scores = (np.empty((len(queries), len(images)), dtype=np.float32) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a long description is truncated, as in a search
        for number, text in enumerate(tqdm(queries, desc="searching", unit=" queries", disable=not progress)):
            query = gallery.encode_query(text)
            global_scores[number] = images @ query.embed
            final[number] = gallery.similarity(query, rows=columns)
    return final, global_scores


def _sample_images(person: np.ndarray, described: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """All images of the described people and a random sample of the others, `count` in total; ascending."""
    if len(person) <= count:
        return np.arange(len(person))
    is_described = np.isin(person, described)
    others = rng.permutation(np.flatnonzero(~is_described))[: max(count - int(is_described.sum()), 0)]
    return np.sort(np.concatenate([np.flatnonzero(is_described), others]))


def _identities(rows: Sequence[Sequence[int]], images: int) -> tuple[np.ndarray, np.ndarray]:
    """Identities of the queries `[Q]` and of the images `[N]`: queries that share an image describe one person."""
    person = -1 - np.arange(images)  # an image without a description is an identity of its own
    query_person: list[int] = []
    for number, own_rows in enumerate(rows):
        merged = {int(person[row]) for row in own_rows if person[row] >= 0}
        person[list(own_rows)] = number
        person[np.isin(person, list(merged))] = number
        query_person = [number if identity in merged else identity for identity in query_person] + [number]
    return np.array(query_person), person


def fit_calibration(
    trials: Trials,
    fingerprint: str,
    local_weight: float,
    fitted_on: str,
    images: ImageSummary,
    false_alarm_rate: float = 0.1,
) -> Calibration:
    """Fits a calibration. Its features and its threshold are chosen by cross-validation over people.

    Args:
        trials: trials on validation data.
        fingerprint: SHA-256 of the model, see [`loading.fingerprint`].
        local_weight: weight of the local score in the trials.
        fitted_on: name of the data.
        images: summary of the images of the trials.
        false_alarm_rate: target false-alarm rate for people who are not in the gallery, in (0, 1). Default: 0.1.

    Raises:
        ValueError: `false_alarm_rate` is out of range, or no result is correct.
    """
    if not 0.0 < false_alarm_rate < 1.0:
        raise ValueError(f"false-alarm rate must lie in (0, 1), not {false_alarm_rate}")
    if not trials.correct.any():
        raise ValueError("nothing to calibrate: no search has the described person among the ten best results")
    best, others = trials.features[:, 0], trials.features[:, 1:]
    owner = np.repeat(trials.person, others.shape[1])
    present = _fit_best(best, trials.present, trials.person, _BEST_FEATURES)
    absent = _out_of_fold(best, trials.present, trials.person, present.names)[~trials.present]
    return Calibration(
        fingerprint=fingerprint,
        local_weight=local_weight,
        best=_fit_best(best, trials.correct[:, 0], trials.person, _BEST_FEATURES),
        other=_fit_best(others.reshape(-1, len(FEATURES)), trials.correct[:, 1:].ravel(), owner, _OTHER_FEATURES),
        present=present,
        threshold=float(np.quantile(absent, 1.0 - false_alarm_rate)),
        false_alarm_rate=false_alarm_rate,
        gallery_sizes=(int(trials.gallery.min()), int(trials.gallery.max())),
        fitted_on=fitted_on,
        images=images,
        report={},
    )


def _fit_best(x: np.ndarray, y: np.ndarray, person: np.ndarray, candidates: Sequence[tuple[str, ...]]) -> Logistic:
    """The regression with the features of the lowest cross-validated log loss."""

    def loss(names: Sequence[str]) -> float:
        p = np.clip(_out_of_fold(x, y, person, names), 1e-9, 1 - 1e-9)
        return float(-np.where(y, np.log(p), np.log(1 - p)).mean())

    return Logistic.fit(x, y, min(candidates, key=loss))


def _out_of_fold(x: np.ndarray, y: np.ndarray, person: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """`[n]` probabilities, each by a regression that was fitted without that person."""
    fold = np.unique(person, return_inverse=True)[1] % FOLDS
    p = np.empty(len(y))
    for k in range(FOLDS):
        p[fold == k] = Logistic.fit(x[fold != k], y[fold != k], names).probability(x[fold == k])
    return p


def evaluate_calibration(calibration: Calibration, trials: Trials) -> dict[str, Any]:
    """Figures of a calibration on trials that it was not fitted on.

    Returns:
        Counts `trials`, `people` and `gallery` (images), and shares in [0, 1]:
        `best_right`: best results that are correct;
        `ece_best`, `ece_all`: expected calibration error of the best result and of all ten;
        `auroc`, `fpr95`: separation of present from absent people by the calibration;
        `auroc_score`, `fpr95_score`: the same by the best score only;
        `false_alarms`: absent people whose search reports a match; `false_alarm_interval`: its 95 % interval, see
        [`rate_interval`];
        `answered`: present people whose search reports a match.
    """
    best = trials.features[:, 0]
    p = calibration.probability_of_features(trials.features)
    present, score = calibration.present.probability(best), best[:, FEATURES.index("score")]
    answered = present >= calibration.threshold
    figures = {
        "best_right": trials.correct[:, 0].mean(),
        "ece_best": expected_calibration_error(p[:, 0], trials.correct[:, 0]),
        "ece_all": expected_calibration_error(p.ravel(), trials.correct.ravel()),
        "auroc": auroc(present, trials.present),
        "auroc_score": auroc(score, trials.present),
        "fpr95": false_positives_at(present, trials.present),
        "fpr95_score": false_positives_at(score, trials.present),
        "false_alarms": answered[~trials.present].mean(),
        "answered": answered[trials.present].mean(),
    }
    counts = {"trials": len(best), "people": len(np.unique(trials.person)), "gallery": int(trials.gallery.max())}
    interval = rate_interval(answered[~trials.present], trials.person[~trials.present])
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return counts | rounded | {"false_alarm_interval": [round(end, 4) for end in interval]}


__all__ = [
    "Trials", "evaluate_calibration", "fit_calibration", "gallery_trials", "open_set_trials", "read_pairs",
    "split_scores", "split_trials",
]  # fmt: skip
