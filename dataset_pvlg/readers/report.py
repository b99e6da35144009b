"""What a reader did with its source. Everything that is skipped, dropped or repaired is counted here."""

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

MAX_EXAMPLES = 5


class SourceError(ValueError):
    """A source cannot be read at all. The message is one line that names the file and the field."""


@dataclass
class ReadReport:
    """Counts for one source by reason, with the first examples of each.

    `sum(rows.values()) + sum(skipped.values()) == records` holds after every read.

    Args:
        source (`str`): name of the source.
        file (`str`): the annotation file.
        image_root (`str`): the folder that image paths are relative to.
        records (`int`): records in the annotation file.
        rows (`dict[str, int]`): rows by split.
        identities (`dict[str, int]`): identities by split.
        captions (`dict[str, int]`): captions by split.
        skipped (`Counter[str]`): records without a row, by reason.
        dropped (`Counter[str]`): captions and boxes that were left out, by reason.
        repaired (`Counter[str]`): corrected records, by kind of correction.
        noted (`Counter[str]`): findings without a change.
        irregular (`Counter[str]`): captions that stay in their row with a fault, by fault.
        examples (`dict[str, list[str]]`): examples by reason.
        warnings (`list[str]`): findings about the source as a whole.
    """

    source: str
    file: str = ""
    image_root: str = ""
    records: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    irregular: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def skip(self, reason: str, example: str) -> None:
        """Count a record that gives no row."""
        self.skipped[reason] += 1
        self._example(reason, example)

    def drop(self, reason: str, example: str, count: int = 1) -> None:
        """Count parts of a record (captions, boxes) that its row lacks."""
        self.dropped[reason] += count
        self._example(reason, example)

    def repair(self, reason: str, example: str, count: int = 1) -> None:
        """Count corrected records."""
        self.repaired[reason] += count
        self._example(reason, example)

    def note(self, reason: str, example: str, count: int = 1) -> None:
        """Count findings without a change."""
        self.noted[reason] += count
        self._example(reason, example)

    def note_irregular(self, fault: str, example: str, count: int = 1) -> None:
        """Count captions that are kept with a fault."""
        self.irregular[fault] += count
        self._example(fault, example)

    def warn(self, line: str) -> None:
        """Add a finding about the source as a whole."""
        self.warnings.append(line)

    @property
    def file_name(self) -> str:
        """Name of the annotation file without its folder."""
        return Path(self.file).name

    def _example(self, reason: str, example: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def as_dict(self) -> dict:
        """The report as plain dicts and lists, for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # `asdict` would rebuild a Counter from its pairs, and count the pairs instead.
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
