"""Open-set trials: half of the people asked for have left the gallery. What a calibration is fitted on and judged by.

Every description is put to what is left of the gallery, so half of the searches have an answer and half have none.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.search.calibration import (
    DEPTH,
    FEATURES,
    Calibration,
    Logistic,
    auroc,
    expected_calibration_error,
    false_positives_at,
)
from modeling_rogle.search.calibration import features as result_features
from modeling_rogle.search.gallery import Gallery

HALVES = 4  # random halves of the people
SHARES = (1.0, 0.5, 0.25)  # of the people left: a calibration must hold for small and large galleries
MAX_QUERIES = 4000  # of a kind; more would say the same
RERANKED = 200  # as in `Gallery.search`
FOLDS = 5
MOST_SCORES = 100_000_000  # of a gallery with its descriptions, held twice in memory: 800 MB
_BLOCK = 256
# Tried on the fitting data in folds by person; the lowest log loss is taken, so what does not help is not used.
_OF_BEST = (
    ("score",), ("z",), ("score", "z"), ("score", "z", "lead"), ("score", "excess", "lead"), ("score", "global"),
    ("score", "global", "gap"), ("score", "global", "global_z", "gap"),
    ("score", "z", "lead", "global", "global_z", "gap"), ("score", "excess", "lead", "global", "global_z", "gap"),
)  # fmt: skip
_OF_OTHERS = tuple((*names, "behind") for names in _OF_BEST)


@dataclass(frozen=True)
class Trials:
    """n searches, each with its best K = 10 results (fewer in a smaller gallery)."""

    features: np.ndarray  # [n, K, 8] see `calibration.FEATURES`
    right: np.ndarray  # [n, K] bool: the result shows the described person
    present: np.ndarray  # [n] bool: the person is in the gallery
    person: np.ndarray  # [n] int64: who is described
    gallery: np.ndarray  # [n] int64: images in the gallery

    @classmethod
    def concatenate(cls, parts: Sequence["Trials"]) -> "Trials":
        """All trials of several sets; results that only some of them have are left out."""
        depth = min(part.right.shape[1] for part in parts)
        cut = {"features", "right"}
        columns = {
            field.name: [getattr(part, field.name)[:, :depth] if field.name in cut else getattr(part, field.name)
                         for part in parts]
            for field in fields(cls)
        }  # fmt: skip
        return cls(**{name: np.concatenate(values) for name, values in columns.items()})


def split_scores(
    embeddings: SplitEmbeddings, captions: CaptionSet, local_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """`[C, I]` float32 final scores `(1 - w) * global + w * local` and global scores of captions with all images."""
    whole = captions.embeds @ embeddings.image_embeds.T
    final = whole.clone()
    owner = captions.sentence_caption
    first = torch.searchsorted(owner, torch.arange(len(whole) + 1))
    for start in range(0, len(whole), _BLOCK):
        stop = min(start + _BLOCK, len(whole))
        mine = slice(int(first[start]), int(first[stop]))
        best = torch.full((mine.stop - mine.start, whole.shape[1]), -torch.inf)
        for template in embeddings.template_embeds.unbind(dim=1):
            best = torch.maximum(best, captions.sentence_embeds[mine] @ template.T)
        counts = first[start + 1 : stop + 1] - first[start:stop]
        local = torch.zeros_like(whole[start:stop]).index_add_(0, owner[mine] - start, best)
        local = torch.where(counts[:, None] > 0, local / counts.clamp(min=1)[:, None], whole[start:stop])
        final[start:stop] = (1 - local_weight) * whole[start:stop] + local_weight * local
    return final.numpy(), whole.numpy()


def open_set_trials(
    final: np.ndarray,
    whole: np.ndarray,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    seed: int = 0,
    halves: int = HALVES,
    shares: Sequence[float] = (1.0,),
) -> Trials:
    """Searches every query in galleries from which half of the people have been removed.

    Args:
        final, whole: `[Q, N]` final and global scores.
        query_person, gallery_person: `[Q]`, `[N]` int64.
        seed: of the halves; halves: how many different ones.
        shares: of the people left, galleries of these sizes each.

    Raises:
        ValueError: fewer than four people, or not two images in a gallery.
    """
    people = np.unique(query_person)
    if len(people) < 4:
        raise ValueError(f"calibration needs descriptions of at least 4 people, there are {len(people)}")
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(halves):
        order = rng.permutation(people)
        gone, left = order[: len(order) // 2], order[len(order) // 2 :]
        # Images of people that nobody asks for stay: they are the crowd.
        for share in shares:
            also_gone = left[max(1, round(share * len(left))) :]
            columns = np.flatnonzero(~np.isin(gallery_person, np.concatenate([gone, also_gone])))
            if len(columns) < 2:
                raise ValueError("calibration needs at least two images in every gallery")
            # A query whose person left with the smaller gallery would only shift the halves.
            rows = np.flatnonzero(~np.isin(query_person, also_gone))
            if share < 1.0:
                of_gone = np.flatnonzero(np.isin(query_person, gone))
                there = len(rows) - len(of_gone)
                dropped = rng.permutation(of_gone)[min(there, len(of_gone)) :]
                rows = np.setdiff1d(rows, dropped)
            parts.append(_search(final, whole, rows, columns, query_person, gallery_person, gone))
    return Trials.concatenate(parts)


def _search(
    final: np.ndarray,
    whole: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    gone: np.ndarray,
) -> Trials:
    scores, overall, found, mean, width = [], [], [], [], []
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        background = whole[np.ix_(part, columns)]
        kept = np.argsort(-background, axis=1, kind="stable")[:, :RERANKED]
        joined = np.take_along_axis(final[np.ix_(part, columns)], kept, axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :DEPTH]
        scores.append(np.take_along_axis(joined, order, axis=1))
        best = np.take_along_axis(kept, order, axis=1)
        overall.append(np.take_along_axis(background, best, axis=1))
        found.append(columns[best])
        mean.append(background.mean(axis=1))
        width.append(background.std(axis=1))
    person = query_person[rows]
    return Trials(
        result_features(*map(np.concatenate, (scores, mean, width)), len(columns), np.concatenate(overall)),
        gallery_person[np.concatenate(found)] == person[:, None],
        ~np.isin(person, gone),
        person,
        np.full(len(rows), len(columns)),
    )


def split_trials(
    embeddings: SplitEmbeddings, local_weight: float, seed: int = 0, shares: Sequence[float] = (1.0,)
) -> Trials:
    """[`open_set_trials`] of a split's long and short captions, at most 4,000 of each, drawn by `seed`."""
    people = embeddings.image_person_ids.numpy()
    parts = []
    for captions in (embeddings.long, embeddings.short):
        if len(captions.embeds):
            chosen = _some(captions, MAX_QUERIES, seed)
            asked = people[chosen.image.numpy()]
            parts.append(
                open_set_trials(*split_scores(embeddings, chosen, local_weight), asked, people, seed, shares=shares)
            )
    if not parts:
        raise ValueError("calibration needs captions, the rows have none")
    return Trials.concatenate(parts)


def read_pairs(path: str | Path, gallery: Gallery) -> tuple[list[str], list[list[int]]]:
    """Descriptions of people in one's own gallery: JSON lines `{"query": "a man ...", "paths": ["a.jpg", ...]}`, the
    paths being all the indexed images of that person.

    Returns:
        the queries, and the rows of each one's images.

    Raises:
        OSError: no such file.
        ValueError: a line that is not such an object, or a path that is not in the index; names line and field.
    """
    row_of = {name: row for row, name in enumerate(gallery.paths)}
    queries, rows = [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
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
    """Open-set trials in one's own gallery, half of the people described for fitting and half for judging.

    Images of people that nobody describes stay in the gallery: they are the crowd. At most 4,000 descriptions are
    taken, and of a large crowd as many images as fit into memory, both drawn by `seed`.

    Raises:
        ValueError: fewer than eight people are described.

    Warns:
        UserWarning: only some of the descriptions or of the crowd were taken.
    """
    asked, gallery_person = _people(rows, len(gallery))
    rng = np.random.default_rng([seed, 1])
    if len(queries) > MAX_QUERIES:
        taken = np.sort(rng.permutation(len(queries))[:MAX_QUERIES])
        warnings.warn(f"calibration: a random {MAX_QUERIES} of {len(queries)} descriptions are searched", stacklevel=2)
        queries, asked = [queries[n] for n in taken], asked[taken]
    columns = _gallery_sample(gallery_person, asked, MOST_SCORES // max(len(queries), 1), rng)
    if len(columns) < len(gallery):
        warnings.warn(f"calibration: a random {len(columns)} of {len(gallery)} images are searched", stacklevel=2)
    gallery_person = gallery_person[columns]
    people = np.random.default_rng(seed).permutation(np.unique(asked))
    if len(people) < 8:
        raise ValueError(f"calibration needs descriptions of at least 8 people, there are {len(people)}")
    images = gallery.encode_gallery(columns)
    whole, final = (np.empty((len(queries), len(images)), dtype=np.float32) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a long description is cut; a search of it would be cut as well
        for i, text in enumerate(tqdm(queries, desc="searching", unit=" queries", disable=not progress)):
            query = gallery.encode_query(text)
            whole[i], final[i] = images @ query.embed, gallery.similarity(query, rows=columns)
    halves = []
    for part in (people[: len(people) // 2], people[len(people) // 2 :]):
        mine = np.isin(asked, part)
        halves.append(open_set_trials(final[mine], whole[mine], asked[mine], gallery_person, seed, halves=2 * HALVES))
    return halves[0], halves[1]


def _gallery_sample(person: np.ndarray, asked: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The images of everybody asked for, and as many of the others, at random, as make up `most`; ascending."""
    if len(person) <= most:
        return np.arange(len(person))
    described = np.isin(person, asked)
    crowd = rng.permutation(np.flatnonzero(~described))[: max(most - int(described.sum()), 0)]
    return np.sort(np.concatenate([np.flatnonzero(described), crowd]))


def _people(rows: Sequence[Sequence[int]], images: int) -> tuple[np.ndarray, np.ndarray]:
    """Who is described `[Q]`, and who each image shows `[N]`: queries that share an image describe one person."""
    person = -1 - np.arange(images)  # everybody else is somebody of their own
    asked: list[int] = []
    for number, mine in enumerate(rows):
        known = {int(person[row]) for row in mine if person[row] >= 0}
        person[list(mine)] = number
        person[np.isin(person, list(known))] = number
        asked = [number if one in known else one for one in asked] + [number]
    return np.array(asked), person


def _some(captions: CaptionSet, most: int, seed: int) -> CaptionSet:
    if len(captions.embeds) <= most:
        return captions
    chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(captions.embeds))[:most]))
    place = torch.full((len(captions.embeds),), -1)
    place[chosen] = torch.arange(most)
    owner = place[captions.sentence_caption]
    return CaptionSet(
        captions.embeds[chosen], captions.image[chosen], captions.sentence_embeds[owner >= 0], owner[owner >= 0]
    )


def fit_calibration(
    trials: Trials, fingerprint: str, local_weight: float, fitted_on: str, false_alarm_rate: float = 0.1
) -> Calibration:
    """Fits both probabilities; which features they read is chosen in folds by person.

    Args:
        trials: on validation data.
        false_alarm_rate: share of searches for absent people that shall not be answered with "nobody here matches".

    Raises:
        ValueError: a rate outside (0, 1), or no result that is right.
    """
    if not 0.0 < false_alarm_rate < 1.0:
        raise ValueError(f"false-alarm rate must lie in (0, 1), not {false_alarm_rate}")
    if not trials.right.any():
        raise ValueError("no described person is among the ten best results anywhere: nothing to calibrate")
    best, later = trials.features[:, 0], trials.features[:, 1:]
    owner = np.repeat(trials.person, later.shape[1])
    present = _chosen(best, trials.present, trials.person, _OF_BEST)
    absent = present.probability(best[~trials.present])
    return Calibration(
        fingerprint=fingerprint,
        local_weight=local_weight,
        best=_chosen(best, trials.right[:, 0], trials.person, _OF_BEST),
        other=_chosen(later.reshape(-1, len(FEATURES)), trials.right[:, 1:].ravel(), owner, _OF_OTHERS),
        present=present,
        threshold=float(np.quantile(absent, 1.0 - false_alarm_rate)),
        false_alarm_rate=false_alarm_rate,
        gallery_sizes=(int(trials.gallery.min()), int(trials.gallery.max())),
        fitted_on=fitted_on,
        report={},
    )


def _chosen(x: np.ndarray, y: np.ndarray, person: np.ndarray, candidates: Sequence[tuple[str, ...]]) -> Logistic:
    fold = np.unique(person, return_inverse=True)[1] % FOLDS

    def loss(names: tuple[str, ...]) -> float:
        p = np.empty(len(y))
        for k in range(FOLDS):
            p[fold == k] = Logistic.fit(x[fold != k], y[fold != k], names).probability(x[fold == k])
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return float(-np.where(y, np.log(p), np.log(1 - p)).mean())

    return Logistic.fit(x, y, min(candidates, key=loss))


def judge(calibration: Calibration, trials: Trials) -> dict[str, Any]:
    """Figures on data that the calibration has not seen.

    Returns:
        trials, people, gallery (images); `best_right`: share of best results that are right; `ece_best`, `ece_all`:
        expected calibration error of the best result and of all ten; `auroc`, `fpr95`: telling present from absent
        people by the calibration, `auroc_score`, `fpr95_score` by the best score itself; `false_alarms`: absent people
        whose search was answered; `answered`: present people whose search was. Shares in [0, 1].
    """
    best = trials.features[:, 0]
    p = calibration.of_results(trials.features)
    present, score = calibration.present.probability(best), best[:, FEATURES.index("score")]
    answered = present >= calibration.threshold
    figures = {
        "best_right": trials.right[:, 0].mean(),
        "ece_best": expected_calibration_error(p[:, 0], trials.right[:, 0]),
        "ece_all": expected_calibration_error(p.ravel(), trials.right.ravel()),
        "auroc": auroc(present, trials.present),
        "auroc_score": auroc(score, trials.present),
        "fpr95": false_positives_at(present, trials.present),
        "fpr95_score": false_positives_at(score, trials.present),
        "false_alarms": answered[~trials.present].mean(),
        "answered": answered[trials.present].mean(),
    }
    counts = {"trials": len(best), "people": len(np.unique(trials.person)), "gallery": int(trials.gallery.max())}
    return counts | {name: round(float(value), 4) for name, value in figures.items()}


__all__ = [
    "Trials", "fit_calibration", "gallery_trials", "judge", "open_set_trials", "read_pairs", "split_scores",
    "split_trials",
]  # fmt: skip
