"""What a curation works on: the rows of all splits in one line, why each goes, and the report of it.

Nothing here holds a Python object for every row: columns are read a thousand rows at a time, and what is kept of them
is an array, of texts their digests.
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
    """What was done, by reason; `before` less all of `removed` is `after`, split by split."""

    options: dict[str, Any]
    before: dict[str, int] = field(default_factory=dict)  # rows, by split
    after: dict[str, int] = field(default_factory=dict)
    removed: dict[str, Counter[str]] = field(default_factory=dict)  # rows, by split and reason
    changed: Counter[str] = field(default_factory=Counter)  # images stored anew, by reason
    cleaned: Counter[str] = field(default_factory=Counter)  # rows whose `caption` had the fault, which was put right
    noted: Counter[str] = field(default_factory=Counter)  # rows found and kept, by finding
    examples: dict[str, list[str]] = field(default_factory=dict)  # image_ids

    def example(self, reason: str, text: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(text)

    def add(self, part: "CurationReport") -> None:
        """What was changed, cleaned and noted in rows that come after these."""
        self.changed.update(part.changed)
        self.cleaned.update(part.cleaned)
        self.noted.update(part.noted)
        for reason, texts in part.examples.items():
            for text in texts:
                self.example(reason, text)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, for JSON."""
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
            lines += [self._line(f"removed from {split}", *each) for each in self.removed.get(split, {}).items()]
        for title, counts in (("changed", self.changed), ("caption cleaned", self.cleaned), ("noted", self.noted)):
            lines += [self._line(title, reason, count) for reason, count in counts.items()]
        return "\n".join(lines)

    def _line(self, title: str, reason: str, count: int) -> str:
        example = self.examples.get(reason, [""])[0]
        return f"  {title}: {count} x {reason}" + (f", as {example}" if example else "")


class CurationRows:
    """The rows of all splits in one line: the split of each (its place in `SPLITS`) and why it goes, 2 bytes a row.
    What else is asked of them is read piece by piece.

    Args:
        splits, parts: names of the splits in the order of `SPLITS`, and their rows.
        report: is told what goes and what is noted.
    """

    def __init__(self, splits: Sequence[str], parts: Sequence[Dataset], report: CurationReport):
        self.splits, self.report = splits, report
        self.parts = [part.with_format("arrow") for part in parts]
        self.rank = np.repeat(np.array([SPLITS.index(split) for split in splits], np.int8), [len(p) for p in parts])
        self.why = np.zeros(len(self.rank), np.int8)  # which of `reasons`
        self.reasons = [""]  # the first: it stays

    def __len__(self) -> int:
        return len(self.rank)

    def pieces(self, *names: str) -> Iterator[pa.Table]:
        """Some columns, a thousand rows at a time."""
        for part in self.parts:
            columns = part.select_columns(list(names))
            for start in range(0, len(part), ROWS_AT_ONCE):
                yield columns[start : start + ROWS_AT_ONCE]

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, int64."""
        return joined([piece[name].to_numpy().astype(np.int64) for piece in self.pieces(name)], np.int64)

    def drop(self, found: np.ndarray, reason: str, evaluation: bool = False) -> None:
        """Marks rows (int [M], ascending) to go; those of validation and test only if `evaluation`, else they are
        noted. What goes already is not looked at."""
        found = found[self.why[found] == 0]
        goes = (self.rank[found] == 0) | evaluation
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.why[found[goes]] = self.reasons.index(reason)
        for rank, split in enumerate(SPLITS[1:], start=1):
            self.note(found[~goes & (self.rank[found] == rank)], f"{reason}, kept in {split}")

    def note(self, found: np.ndarray, reason: str) -> None:
        """Counts rows (int [M], ascending) that were found and stay."""
        if len(found):
            self.report.noted[reason] += len(found)
            self._examples(found, reason)

    def count_removed(self) -> None:
        """Tells the report of all the rows that go."""
        gone = np.flatnonzero(self.why)
        for reason, found in self._by_reason(gone):
            self._examples(found, reason)
        for rank, split in enumerate(SPLITS):
            counts = Counter({reason: len(found) for reason, found in self._by_reason(gone[self.rank[gone] == rank])})
            if counts:
                self.report.removed[split] = counts

    def image_id(self, number: int) -> str:
        for part in self.parts:
            if number < len(part):
                return part.select_columns(["image_id"])[number : number + 1]["image_id"][0].as_py()
            number -= len(part)
        raise IndexError(number)

    def _by_reason(self, gone: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(reason, its rows), in the order in which they are met."""
        codes, first = np.unique(self.why[gone], return_index=True)
        for code in codes[np.argsort(first)]:
            yield self.reasons[code], gone[self.why[gone] == code]

    def _examples(self, found: np.ndarray, reason: str) -> None:
        wanted = MAX_EXAMPLES - len(self.report.examples.get(reason, ()))
        for number in found[:wanted].tolist():
            self.report.example(reason, self.image_id(number))


def digests(texts: Iterable[str | None]) -> np.ndarray:
    """16 bytes in the place of each text, `DIGEST` [N], so that equal texts are found without them; none for an empty
    text or None."""
    found = [hashlib.blake2b(text.encode(), digest_size=16).digest() if text else b"" for text in texts]
    return np.array(found, DIGEST)


def joined(pieces: Sequence[np.ndarray], kind: Any) -> np.ndarray:
    """Pieces of a column one after the other; of `kind` where there is none."""
    return np.concatenate(pieces) if pieces else np.zeros(0, kind)
