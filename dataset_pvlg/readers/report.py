"""What a reader did to its source: nothing is skipped, dropped or repaired without being counted here."""

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

MAX_EXAMPLES = 5


class SourceError(ValueError):
    """A source cannot be read at all; one line that names the file and the field."""


@dataclass
class ReadReport:
    """Counts of one source by reason, with the first few examples of each.

    `sum(rows.values()) + sum(skipped.values()) == records` holds at the end of every read.
    """

    source: str
    file: str = ""
    image_root: str = ""
    records: int = 0  # in the annotation file
    rows: dict[str, int] = field(default_factory=dict)  # written, by split
    identities: dict[str, int] = field(default_factory=dict)  # by split
    captions: dict[str, int] = field(default_factory=dict)  # by split
    skipped: Counter[str] = field(default_factory=Counter)  # records, by reason
    dropped: Counter[str] = field(default_factory=Counter)  # captions and boxes, by reason
    repaired: Counter[str] = field(default_factory=Counter)  # by repair
    noted: Counter[str] = field(default_factory=Counter)  # facts worth knowing; nothing was changed
    irregular: Counter[str] = field(default_factory=Counter)  # captions, by fault; they stand in the rows as they are
    examples: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def skip(self, reason: str, example: str) -> None:
        """A record that gives no row."""
        self.skipped[reason] += 1
        self._example(reason, example)

    def drop(self, reason: str, example: str, count: int = 1) -> None:
        """A part of a record (a caption, a box) that its row goes without."""
        self.dropped[reason] += count
        self._example(reason, example)

    def repair(self, reason: str, example: str, count: int = 1) -> None:
        self.repaired[reason] += count
        self._example(reason, example)

    def note(self, reason: str, example: str, count: int = 1) -> None:
        self.noted[reason] += count
        self._example(reason, example)

    def tell(self, fault: str, example: str, count: int = 1) -> None:
        """A caption that is kept with its fault."""
        self.irregular[fault] += count
        self._example(fault, example)

    @property
    def file_name(self) -> str:
        return Path(self.file).name

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def _example(self, reason: str, example: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def as_dict(self) -> dict:
        """Plain dicts and lists, for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        # Not asdict: it rebuilds a Counter from its pairs and thereby counts the pairs.
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.records} records in {self.file}, images under {self.image_root}"]
        for split, count in self.rows.items():
            lines.append(
                f"  {split}: {count} rows, {self.identities.get(split, 0)} identities, "
                f"{self.captions.get(split, 0)} captions"
            )
        for title in ("skipped", "dropped", "repaired", "noted", "irregular"):
            for reason, count in getattr(self, title).items():
                example = self.examples.get(reason, [""])[0]
                lines.append(f"  {title}: {count} x {reason}" + (f", as {example}" if example else ""))
        lines += [f"  warning: {line}" for line in self.warnings]
        return "\n".join(lines)
