"""Region-to-Sentence Matching over a whole split: the `regions` column of rows that have none."""

from typing import Any

from datasets import Dataset

from dataset_pvlg.features import FEATURES
from modeling_rogle.mining import (
    SAMPLE,
    Judge,
    Proposer,
    fit_matcher,
    fit_prior,
    match_rows,
    propose_places,
    spread,
)
from modeling_rogle.region_matcher import RegionMatcher


def fit_matching(model: Any, processor: Any, rows: Dataset, seed: int = 0, progress: bool = True) -> RegionMatcher:
    """The judge of these rows' matches, learnt from the pairs that a person or the generator made, if there are any.

    Else nothing is needed but images and sentences: a position prior learnt from crops pairs a sample, and the judge
    learns from that; it sees each image, which the prior does not. Pairs mined before (origin `"rsm"`) are not read,
    so that a better model starts afresh.

    Args:
        model, processor: the matcher, see [`modeling_rogle.mining.see_rows`].
        rows: P-VLG rows with images.

    Raises:
        ValueError: the rows have fewer than two sentences.
    """
    given = [[r for r in regions if r["origin"] != "rsm" and r["sentence"] >= 0] for regions in rows["regions"][:]]
    if any(given):
        paired = [n for n, regions in enumerate(given) if regions]  # rows that nobody has annotated teach nothing
        sample = spread(with_regions(rows.select(paired), [given[n] for n in paired]), SAMPLE["matcher"])
    else:
        sample = spread(rows, SAMPLE["matcher"])
        prior = fit_prior(model, processor, sample, progress=progress)
        sample = with_regions(sample, match_rows(model, processor, sample, prior, progress=progress)[0])
    return fit_matcher(model, processor, sample, seed=seed, progress=progress)


def with_regions(rows: Dataset, regions: list[list[dict[str, Any]]]) -> Dataset:
    """The rows with these regions in place of their own."""
    column = rows.remove_columns("regions").add_column("regions", regions, feature=FEATURES["regions"])
    return column.select_columns(list(FEATURES))


def mine_rows(
    model: Any,
    processor: Any,
    rows: Dataset,
    batch_size: int = 32,
    judge: Judge | None = None,
    propose: Proposer = propose_places,
    rule: str = "best",
    threshold: float | None = None,
    progress: bool = True,
) -> tuple[Dataset, dict[str, int]]:
    """Pairs the sentences of every row with regions.

    Regions that the rows have keep their place unless they were mined before (origin `"rsm"`): a sentence that a
    person or the generator has paired is not paired again.

    Args:
        model, processor, batch_size, judge, propose, rule, threshold, progress: see
            [`modeling_rogle.mining.match_rows`].
        rows: P-VLG rows with images.

    Returns:
        The rows with a new `regions` column, and counts: `images`, `sentences`, `kept` (paired before), `assigned`,
        `unassigned`, where the last three add up to `sentences`.
    """
    found, counts = match_rows(
        model, processor, rows, judge, propose, rule, threshold, batch_size=batch_size, progress=progress
    )
    column, kept, assigned = [], 0, 0
    for old, new in zip(rows["regions"], found, strict=True):
        given = [region for region in old if region["origin"] != "rsm"]
        paired = {region["sentence"] for region in given if region["sentence"] >= 0}
        mined = [region for region in new if region["sentence"] not in paired]
        column.append(given + mined)
        kept, assigned = kept + len(paired), assigned + len(mined)
    counts |= {"kept": kept, "assigned": assigned, "unassigned": counts["sentences"] - kept - assigned}
    return with_regions(rows, column), counts
