"""Identities and splits of a source: ids that several splits use, and training identities that are held out."""

import numpy as np

from dataset_pvlg.features import SPLITS
from dataset_pvlg.readers.record_store import RecordFile
from dataset_pvlg.readers.records import MAX_SOURCE_ID, Layout, hold_out
from dataset_pvlg.readers.report import ReadReport

HELD_OUT = 0.05  # share of the training identities that is held out for each split that the source lacks


def ids_of_several_splits(records: RecordFile, report: ReadReport) -> set[int]:
    """Ids that occur in several splits, where they mean different people, because some sets number each split from 0.

    Args:
        records (`RecordFile`): all records of a source.
        report (`ReadReport`): receives a warning if there are such ids.
    """
    pairs = np.unique(np.stack([records.people, records.splits], 1), axis=0)
    ids, counts = np.unique(pairs[:, 0], return_counts=True)
    ambiguous = set(ids[counts > 1].tolist())
    if ambiguous:
        report.warn(
            f"{len(ambiguous)} ids occur in more than one split (first: {min(ambiguous)}) and are read as different "
            "people. If they are the same people, these splits share identities and must not be used"
        )
    return ambiguous


def remove_shared_people(records: RecordFile, report: ReadReport) -> None:
    """Keep each person in one split only, because a search must not be for a person of the training data.

    Test is preferred to validation, and validation to train. Records of the other splits are removed.

    Args:
        records (`RecordFile`): all records of a source; changed in place.
        report (`ReadReport`): counts the removed records.
    """
    last = np.zeros(MAX_SOURCE_ID, np.int8)
    np.maximum.at(last, records.people, records.splits)
    shared = records.splits != last[records.people]
    for record in records.select(shared):
        report.skip(f"person of {record.split} who is in {SPLITS[last[record.person]]} too", record.image_location)
    records.remaining &= ~shared
    if shared.any():
        report.warn(
            f"{len(np.unique(records.people[shared]))} people are in more than one split; they stay only in test, or "
            f"else in validation, and {shared.sum()} records of the other splits were left out"
        )


def split_off_held_out(records: RecordFile, layout: Layout, report: ReadReport) -> None:
    """Move some training identities to the splits that the source lacks.

    Args:
        records (`RecordFile`): all records of a source; changed in place.
        layout (`Layout`): names the splits to fill.
        report (`ReadReport`): receives a warning if identities are moved.
    """
    existing = {SPLITS[split] for split in np.unique(records.splits[records.remaining])}
    train = records.remaining & (records.splits == SPLITS.index("train"))
    people = np.unique(records.people[train]).tolist()
    missing = [split for split in layout.held_out_splits if split not in existing]
    moved = hold_out(people, layout.source, missing, HELD_OUT) if missing else {}
    for split in set(moved.values()):
        chosen = [person for person, name in moved.items() if name == split]
        records.splits[train & np.isin(records.people, chosen)] = SPLITS.index(split)
    if moved:
        report.warn(
            f"the source has no {' and no '.join(missing)} split: {len(moved)} of its {len(people)} training "
            f"identities are held out as {' and '.join(missing)}, chosen by a hash of the id"
        )
