"""Region-to-Sentence Matching (RSM) for P-VLG rows in memory: fit a scorer, then pair sentences with regions."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from dataset_pvlg.features import FEATURES
from dataset_pvlg.proposals.proposers import PROPOSER_NAMES, load_proposer
from modeling_rogle.matching.mining import (
    SAMPLE,
    Proposer,
    Scorer,
    fit_matcher,
    fit_prior,
    match_rows,
    propose_anchors,
    spread,
)
from modeling_rogle.matching.region_matcher import RegionMatcher

MIN_PAIRS = 500  # a scorer is fitted on given or mined pairs only if there are at least this many


def fit_matching(
    model: Any,
    processor: Any,
    rows: Dataset,
    seed: int = 0,
    images: int = SAMPLE["matcher"],
    batch_size: int = 32,
    progress: bool = True,
) -> RegionMatcher:
    """Fits the scorer that decides between the candidate regions of a sentence.

    It is fitted on the pairs of annotators or of the generator, if there are at least 500. Otherwise it is fitted on
    the pairs of an earlier mining round (origin `"rsm"`), as encoded by a model that was trained on them. Without
    either, only images and sentences are needed: a position prior is fitted on encoded crops, it pairs a sample, and
    the scorer is fitted on these pairs. Unlike the prior, the scorer also uses the embeddings of each image.

    Args:
        model: a Rogle or CLIP model, see [`modeling_rogle.matching.mining.encode_rows`].
        processor: the model's processor.
        rows: P-VLG rows with images.
        seed: random seed. Default: 0.
        images: sample size, spread evenly over the rows that have pairs, or over all rows; the prior uses a part of it.
        batch_size: images in a forward pass. Default: 32.
        progress: show progress bars. Default: True.

    Returns:
        The fitted scorer.

    Raises:
        ValueError: the rows have fewer than two sentences.
    """
    given = [given_pairs(regions) for regions in rows["regions"][:]]
    sample: Any  # a Dataset, as `rows` is
    if sum(map(len, given)) >= MIN_PAIRS:
        paired = [n for n, regions in enumerate(given) if regions]  # rows without annotations are no supervision
        sample = spread(with_regions(rows.select(paired), [given[n] for n in paired]), images)
    else:
        sample = spread(rows, images)
        if sum(region["sentence"] >= 0 for regions in sample["regions"][:] for region in regions) < MIN_PAIRS:
            crops = min(SAMPLE["prior"], images)
            prior = fit_prior(model, processor, sample, images=crops, batch_size=batch_size, progress=progress)
            mined, _ = match_rows(model, processor, sample, prior, batch_size=batch_size, progress=progress)
            sample = with_regions(sample, mined)
    return fit_matcher(model, processor, sample, images, batch_size, seed, progress)


def given_pairs(regions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The regions that an annotator or the generator paired with a sentence."""
    return [region for region in regions if region["origin"] != "rsm" and region["sentence"] >= 0]


def with_regions(rows: Dataset, regions: list[list[dict[str, Any]]]) -> Dataset:
    """Replaces the column `regions`.

    Args:
        rows: P-VLG rows.
        regions: the new regions of each row.

    Returns:
        The rows with the columns in the order of `FEATURES`.
    """
    column = rows.remove_columns("regions").add_column("regions", regions, feature=FEATURES["regions"])
    return column.select_columns(list(FEATURES))


def mine_rows(
    model: Any,
    processor: Any,
    rows: Dataset,
    batch_size: int = 32,
    scorer: Scorer | None = None,
    propose: Proposer = propose_anchors,
    threshold: float | None = None,
    progress: bool = True,
) -> tuple[Dataset, dict[str, int]]:
    """Pairs the sentences of every row with regions.

    Regions of annotators or of the generator are kept, and their sentences are not paired again. Regions that were
    mined before (origin `"rsm"`) are replaced.

    Args:
        model: a Rogle or CLIP model.
        processor: the model's processor.
        rows: P-VLG rows with images.
        batch_size: images in a forward pass. Default: 32.
        scorer: scores the candidates, see [`modeling_rogle.matching.mining.match_rows`]. None: their cosine.
        propose: proposer of candidate boxes. Default: the anchor boxes.
        threshold: lowest score that gives a region. None: the scorer's own threshold.
        progress: show a progress bar. Default: True.

    Returns:
        The rows with a new column `regions`, and the counts `images`, `sentences`, `kept` (paired before), `assigned`
        and `unassigned`. The last three add up to `sentences`.
    """
    matched, counts = match_rows(
        model, processor, rows, scorer, propose, threshold, batch_size=batch_size, progress=progress
    )
    column, kept, assigned = [], 0, 0
    for old, new in zip(rows["regions"], matched, strict=True):
        given = [region for region in old if region["origin"] != "rsm"]
        paired = {region["sentence"] for region in given if region["sentence"] >= 0}
        mined = [region for region in new if region["sentence"] not in paired]
        column.append(given + mined)
        kept, assigned = kept + len(paired), assigned + len(mined)
    counts |= {"kept": kept, "assigned": assigned, "unassigned": counts["sentences"] - kept - assigned}
    return with_regions(rows, column), counts


def parse_proposer(text: str) -> Proposer:
    """The proposer that a `--proposer` option names.

    Args:
        text: `anchors` (the same 48 boxes for every image), one of
            `dataset_pvlg.proposals.proposers.PROPOSER_NAMES`, or `NAME=MODEL` for a proposer that loads weights.

    Returns:
        A function of an image and its sentences, see [`dataset_pvlg.proposals.base.Proposer`].

    Raises:
        ValueError: an unknown name, missing or unused weights, or a missing library.
    """
    if text in ("anchors", "places"):  # `places` is the earlier name
        return propose_anchors
    name, _, weights = text.partition("=")
    try:
        return load_proposer(name, weights or None)
    except (ValueError, ImportError) as error:
        hint = "" if name in PROPOSER_NAMES else ", anchors"
        raise ValueError(f"--proposer {text}: {error}{hint}") from error


__all__ = ["MIN_PAIRS", "fit_matching", "given_pairs", "mine_rows", "parse_proposer", "with_regions"]
