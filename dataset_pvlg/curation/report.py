"""The rows that a curation works on, why each is removed, and the report.

No Python object is held for every row. Columns are read a thousand rows at a time and kept as arrays; texts are kept as
digests.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from dataset_pvlg.arrow_io import ROWS_AT_ONCE
from dataset_pvlg.features import SPLITS

MAX_EXAMPLES = 5
DIGEST = np.dtype("S16")


@dataclass
class CurationReport:
    """What was done, by reason. In each split, `before` minus the sum of `removed` equals `after`.

    Args:
        options (`dict[str, Any]`): the options of the curation.
        before (`dict[str, int]`): rows by split.
        after (`dict[str, int]`): rows by split.
        removed (`dict[str, Counter[str]]`): rows by split and reason.
        changed (`Counter[str]`): re-encoded images, by reason.
        cleaned (`Counter[str]`): rows whose `caption` was corrected, by fault.
        noted (`Counter[str]`): rows with a finding that were kept, by finding.
        examples (`dict[str, list[str]]`): image_ids by reason.
    """

    options: dict[str, Any]
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    removed: dict[str, Counter[str]] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def example(self, reason: str, text: str) -> None:
        """Add an example of a reason, unless there are enough."""
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(text)

    def add(self, part: "CurationReport") -> None:
        """Add what was changed, cleaned and noted in later rows."""
        self.changed.update(part.changed)
        self.cleaned.update(part.cleaned)
        self.noted.update(part.noted)
        for reason, texts in part.examples.items():
            for text in texts:
                self.example(reason, text)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain dicts and lists, for JSON."""
        return {
            "options": self.options,
            "before": self.before,
            "after": self.after,
            "removed": {split: dict(counts) for split, counts in self.removed.items()},
            "changed": dict(self.changed),
            "cleaned": dict(self.cleaned),
            "noted": dict(self.noted),
            "examples": self.examples,
        }

    def __str__(self) -> str:
        lines = ["curation:"]
        for split, count in self.before.items():
            lines.append(f"  {split}: {count} rows, {self.after[split]} kept")
            lines += [self._line(f"removed from {split}", *item) for item in self.removed.get(split, {}).items()]
        for title, counts in (("changed", self.changed), ("caption cleaned", self.cleaned), ("noted", self.noted)):
            lines += [self._line(title, reason, count) for reason, count in counts.items()]
        return "\n".join(lines)

    def _line(self, title: str, reason: str, count: int) -> str:
        example = self.examples.get(reason, [""])[0]
        return f"  {title}: {count} x {reason}" + (f", as {example}" if example else "")


class CurationRows:
    """The rows of all splits, one split after the other, with 2 bytes per row in memory. Columns are read in pieces.

    Args:
        splits (`Sequence[str]`): names of the splits in the order of `SPLITS`.
        parts (`Sequence[Dataset]`): the rows of each split.
        report (`CurationReport`): receives what is removed and noted.

    Attributes:
        split_index (`np.ndarray`): position in `SPLITS`, int8 [N].
        reason_index (`np.ndarray`): position in `reasons`, int8 [N]; 0 for a row that stays.
        reasons (`list[str]`): why rows are removed; the first is "".
    """

    def __init__(self, splits: Sequence[str], parts: Sequence[Dataset], report: CurationReport):
        self.splits, self.report = splits, report
        self.parts = [part.with_format("arrow") for part in parts]
        positions = np.array([SPLITS.index(split) for split in splits], np.int8)
        self.split_index = np.repeat(positions, [len(part) for part in parts])
        self.reason_index = np.zeros(len(self.split_index), np.int8)
        self.reasons = [""]

    def __len__(self) -> int:
        return len(self.split_index)

    def pieces(self, *names: str) -> Iterator[pa.Table]:
        """Some columns, a thousand rows at a time."""
        for part in self.parts:
            columns = part.select_columns(list(names))
            for start in range(0, len(part), ROWS_AT_ONCE):
                yield columns[start : start + ROWS_AT_ONCE]

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, int64 [N]."""
        return concatenated([piece[name].to_numpy().astype(np.int64) for piece in self.pieces(name)], np.int64)

    def drop(self, rows: np.ndarray, reason: str, evaluation: bool = False) -> None:
        """Mark rows for removal. Rows that are already marked are ignored.

        Args:
            rows (`np.ndarray`): indices, int [M], ascending.
            reason (`str`): why they are removed.
            evaluation (`bool`): whether rows of validation and test are removed too. By default they are only noted.
        """
        rows = rows[self.reason_index[rows] == 0]
        removed = (self.split_index[rows] == 0) | evaluation
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason_index[rows[removed]] = self.reasons.index(reason)
        for position, split in enumerate(SPLITS[1:], start=1):
            self.note(rows[~removed & (self.split_index[rows] == position)], f"{reason}, kept in {split}")

    def note(self, rows: np.ndarray, reason: str) -> None:
        """Count rows (indices, int [M], ascending) that have a finding and stay."""
        if len(rows):
            self.report.noted[reason] += len(rows)
            self._add_examples(rows, reason)

    def count_removed(self) -> None:
        """Add all removed rows to the report."""
        removed = np.flatnonzero(self.reason_index)
        for reason, rows in self._by_reason(removed):
            self._add_examples(rows, reason)
        for position, split in enumerate(SPLITS):
            in_split = removed[self.split_index[removed] == position]
            counts = Counter({reason: len(rows) for reason, rows in self._by_reason(in_split)})
            if counts:
                self.report.removed[split] = counts

    def image_id(self, number: int) -> str:
        """The image_id of row `number`."""
        for part in self.parts:
            if number < len(part):
                return part.select_columns(["image_id"])[number : number + 1]["image_id"][0].as_py()
            number -= len(part)
        raise IndexError(number)

    def _by_reason(self, removed: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Pairs of reason and rows, in order of the first row."""
        codes, first = np.unique(self.reason_index[removed], return_index=True)
        for code in codes[np.argsort(first)]:
            yield self.reasons[code], removed[self.reason_index[removed] == code]

    def _add_examples(self, rows: np.ndarray, reason: str) -> None:
        missing = MAX_EXAMPLES - len(self.report.examples.get(reason, ()))
        for number in rows[:missing].tolist():
            self.report.example(reason, self.image_id(number))


def digests(texts: Iterable[str | None]) -> np.ndarray:
    """Digests of 16 bytes, `DIGEST` [N], which identify equal texts. An empty text or None has an empty digest."""
    values = [hashlib.blake2b(text.encode(), digest_size=16).digest() if text else b"" for text in texts]
    return np.array(values, DIGEST)


def concatenated(pieces: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """Concatenate the pieces of a column. Without pieces, the result is an empty array of `dtype`."""
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)
