"""Region-to-Sentence Matching over a whole split: the `regions` column of rows that have none."""

from typing import Any

from datasets import Dataset

from dataset_pvlg.features import FEATURES
from modeling_rogle.matching import match_rows


def mine_rows(
    model: Any,
    processor: Any,
    rows: Dataset,
    batch_size: int = 32,
    threshold: float = 0.0,
    temperature: float = 0.01,
    progress: bool = True,
) -> tuple[Dataset, dict[str, int]]:
    """Pairs the sentences of every row with template regions.

    Regions that the rows have keep their place unless they were mined before (origin `"rsm"`): a sentence that a
    person or the generator has paired is not paired again.

    Args:
        model, processor, batch_size, threshold, temperature, progress: see
            [`modeling_rogle.matching.match_rows`].
        rows: P-VLG rows with images.

    Returns:
        The rows with a new `regions` column, and counts: `images`, `sentences`, `kept` (paired before), `assigned`,
        `unassigned`, where the last three add up to `sentences`.
    """
    found, counts = match_rows(model, processor, rows, batch_size, threshold, temperature, progress)
    column, kept, assigned = [], 0, 0
    for old, new in zip(rows["regions"], found, strict=True):
        given = [region for region in old if region["origin"] != "rsm"]
        paired = {region["sentence"] for region in given if region["sentence"] >= 0}
        mined = [region for region in new if region["sentence"] not in paired]
        column.append(given + mined)
        kept, assigned = kept + len(paired), assigned + len(mined)
    counts |= {"kept": kept, "assigned": assigned, "unassigned": counts["sentences"] - kept - assigned}
    mined_rows = rows.remove_columns("regions").add_column("regions", column, feature=FEATURES["regions"])
    return mined_rows.select_columns(list(FEATURES)), counts
