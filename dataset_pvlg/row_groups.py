"""Work on a P-VLG data set row group by row group: shared by the processes of Accelerate, resumable, and whole or not
at all. What is finished lies in a hidden folder beside the result until the end; the result does not depend on how
many processes there were, nor on how often they were killed.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from datasets import Dataset
from datasets.table import InMemoryTable
from tqdm import tqdm

from dataset_pvlg.builder import NEVER_NULL, empty_lists, parquet_files, pipeline_hash
from dataset_pvlg.features import FEATURES
from dataset_pvlg.jobs.stages import lock_folder, resolved_out
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows

GROUP_ROWS = 100  # of rows that have no groups of their own
_SCHEMA = FEATURES.arrow_schema
_SETTINGS, _FINISHED, _RESULT = "settings.json", "finished.json", "out"

Counts = dict[str, dict[str, int]]  # split -> what was counted


class Group(NamedTuple):
    """Rows that are worked on together: their split, the file that they go to (relative), and which of its groups."""

    split: str
    file: str
    number: int


class FolderRows:
    """The row groups of a folder of P-VLG Parquet.

    Raises:
        ValueError: no such folder, no P-VLG, or a file that cannot be read; one line that names it.

    [`table`] raises LayoutError (a ValueError) on a null where a value must stand, see `builder.empty_lists`.
    """

    def __init__(self, root: str | Path):
        self.root: Path | None = Path(root)
        self.groups: list[Group] = []
        self.facts: dict[str, Any] = {"files": {}}
        for split, names in parquet_files(str(root)).items():
            for name in names:
                file = Path(name).relative_to(self.root).as_posix()
                self.facts["files"][file] = [os.path.getsize(name), os.stat(name).st_mtime_ns]
                try:
                    with pq.ParquetFile(name) as parquet:
                        stored = parquet.schema_arrow.names
                        missing = [c for c in FEATURES if c not in stored and c != "image"]
                        self.groups += [Group(split, file, n) for n in range(parquet.num_row_groups)]
                except pa.ArrowException as error:
                    line = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise ValueError(f"{name}: is not readable as Parquet: {line}") from error
                if missing:
                    raise ValueError(f"{name}: lacks the column(s) {', '.join(missing)}")

    def table(self, group: Group, columns: Sequence[str] = tuple(FEATURES)) -> pa.Table:
        """Rows of a group in the schema of P-VLG; images are null where the file has none."""
        with pq.ParquetFile(self.root / group.file) as parquet:
            stored = parquet.schema_arrow.names
            there = [name for name in columns if name in stored]
            table = parquet.read_row_group(group.number, columns=there)
        if "image" in columns and "image" not in there:
            table = table.append_column("image", pa.nulls(len(table), _SCHEMA.field("image").type))
        table = table.select(list(columns)).cast(_schema(columns))
        there = [name for name in NEVER_NULL if name in columns]
        named = ["image_id"] if "image_id" in columns else []
        found = [empty_lists(row, str(self.root / group.file)) for row in table.select([*named, *there]).to_pylist()]
        for name in {name for lists in found for name in lists}:
            values = [lists.get(name, value) for lists, value in zip(found, table[name].to_pylist(), strict=True)]
            column = pa.array(values, _SCHEMA.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), _SCHEMA.field(name), column)
        return table


class GeneratedRows:
    """The embedded synthetic data, cut into groups of [`GROUP_ROWS`]; they go to one file a split."""

    def __init__(self, name: str):
        self.root = None
        self.facts: dict[str, Any] = {"generated": name}
        self._splits = {split: rows.with_format("arrow") for split, rows in load_rows(name)[0].items()}
        self.groups = [
            Group(split, f"data/{split}-00000-of-00001.parquet", n)
            for split, rows in self._splits.items()
            for n in range(-(-len(rows) // GROUP_ROWS))
        ]

    def table(self, group: Group, columns: Sequence[str] = tuple(FEATURES)) -> pa.Table:
        """See [`FolderRows.table`]."""
        rows, start = self._splits[group.split], group.number * GROUP_ROWS
        table = rows.select_columns(list(columns))[start : min(start + GROUP_ROWS, len(rows))]
        return table.select(list(columns)).cast(_schema(columns))


Rows = FolderRows | GeneratedRows


def open_rows(data: str | Path) -> Rows:
    """`synthetic`, `synthetic-tiny`, or a folder of P-VLG Parquet. Raises ValueError, see [`FolderRows`]."""
    return GeneratedRows(str(data)) if str(data) in SYNTHETIC_NAMES else FolderRows(data)


def _schema(columns: Sequence[str]) -> pa.Schema:
    names = list(columns)
    return _SCHEMA if names == list(FEATURES) else pa.schema([_SCHEMA.field(name) for name in names])


def as_dataset(table: pa.Table) -> Dataset:
    """A table of P-VLG as rows."""
    return Dataset(InMemoryTable(table))


def processes() -> PartialState:
    """Accelerate's processes, of a machine without a GPU too."""
    # By itself it does not see those, and takes processes that end half an hour apart for dead.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=7))


def end_processes(state: PartialState, counts: Counts, out: str | Path) -> None:
    """The last lines of a command: counts by split and where the rows are, told once; the processes part."""
    if state.num_processes > 1:
        state.destroy_process_group()
    if state.is_main_process:
        for split, count in counts.items():
            print(f"{split}: " + ", ".join(f"{number} {name}" for name, number in count.items()))
        print(out)


def check_out(out: str | Path, name: str) -> None:
    """A typo must not cost the loading of a model.

    Raises:
        ValueError: `out` holds something, and no [`Job`] of that name was killed just after it had finished it; or it
            is a mount point.
    """
    out = resolved_out(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (_folder(out, name) / _FINISHED).exists():
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")


def _folder(out: Path, name: str) -> Path:
    return out.parent / f".{out.name}.{name}"


class Job:
    """One piece of work on all rows of a data set: [`once`] as often as needed, then [`each`], then [`finish`].

    A context manager that keeps other commands out of the same work.

    Args:
        rows: what it works on.
        out: the folder that the result goes to; it must not hold anything.
        name: of the work; what is finished lies in `.OUT.NAME` beside `out`.
        settings: JSON-able, all that the result follows from beside the rows.
        changed: the columns that the work changes; the others are taken from `rows` at the end.

    Attributes:
        counts: of an earlier run that had finished `out` and was killed while it cleared up; else None.

    Raises:
        ValueError: (on entering, in all processes) `out` holds something, the work was begun with other settings, or
            another command is at it.
    """

    def __init__(self, rows: Rows, out: str | Path, name: str, settings: Mapping[str, Any], changed: Sequence[str]):
        self.state = processes()
        self.rows, self.out, self.changed = rows, resolved_out(out), list(changed)
        self.parts = _folder(self.out, name)
        facts = {**settings, **rows.facts, "code": pipeline_hash()}
        self._settings = json.dumps(facts, indent=2, sort_keys=True)
        self.name = name
        self.counts: Counts | None = None
        self._lock: int | None = None

    def __enter__(self) -> "Job":
        try:
            self.counts = self._by_main(self._begin)
        except ValueError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self) -> Counts | None:
        check_out(self.out, self.name)
        self._lock = lock_folder(self.parts)
        begun, finished = self.parts / _SETTINGS, self.parts / _FINISHED
        if finished.exists() and self.out.exists() and any(self.out.iterdir()):
            known = json.loads(finished.read_text(encoding="utf-8"))
            if known["settings"] != self._settings:
                raise ValueError(f"{self.out}: exists and is not an empty folder; choose another --out")
            self._clear()
            return known["counts"]
        if begun.exists():
            if begun.read_text(encoding="utf-8") != self._settings:
                raise ValueError(
                    f"{self.parts}: was begun with other settings or data; remove it or choose another --out"
                )
        else:
            write_atomically(begun, self._settings)
        return None

    def _by_main(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the main process; its error is raised in all, so that none waits for ever."""
        told: list[Any] = [None, None]
        if self.state.is_main_process:
            try:
                told[1] = make()
            except (ValueError, OSError, ImportError) as error:
                told[0] = str(error)
        broadcast_object_list(told)
        if told[0] is not None:
            raise ValueError(told[0])
        return told[1]

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """A file that the main process makes unless it is there; `make(path)` must write it whole or not at all."""
        path = self.parts / name

        def unless_there() -> None:
            if not path.exists():
                make(path)

        self._by_main(unless_there)
        return path

    def each(
        self, work: Callable[[Dataset], tuple[Dataset, dict[str, int]]], splits: Sequence[str], progress: bool = True
    ) -> Counts:
        """Calls `work` for every group of these splits that is not finished; the processes share them.

        Args:
            work: rows with their images -> the same rows with other values in the changed columns, and counts. Given
                equal rows it must give equal ones.

        Returns:
            By split, the sum of all counts.
        """
        asked = [group for group in self.rows.groups if group.split in splits]
        todo = [group for group in asked if not self._part(group).exists()]
        self.state.wait_for_everyone()  # or one could see what another has just finished, and share out differently
        bar = progress and self.state.is_main_process
        shared = todo[self.state.process_index :: self.state.num_processes]
        for group in tqdm(shared, desc="row groups", disable=not bar):
            done, counts = work(as_dataset(self.rows.table(group)))
            part = self._part(group)
            write_atomically(part.with_suffix(".json"), json.dumps(counts))
            table = done.select_columns(self.changed).with_format("arrow")[:]
            pq.write_table(table, part.with_suffix(".part"))
            os.replace(part.with_suffix(".part"), part)  # last: a part that is there has its counts
        self.state.wait_for_everyone()
        total: dict[str, Counter[str]] = {}
        for group in asked:
            counts = json.loads(self._part(group).with_suffix(".json").read_text(encoding="utf-8"))
            total.setdefault(group.split, Counter()).update(counts)
        self.state.wait_for_everyone()  # all have read them before they go
        return {split: dict(count) for split, count in total.items()}

    def _part(self, group: Group) -> Path:
        return self.parts / f"{Path(group.file).stem}-{group.number:06d}.parquet"

    def finish(self, counts: Counts, write: Callable[[Path], None]) -> None:
        """Puts `out` together and removes what lay beside it; `write(folder)` adds reports and the card."""

        def assemble() -> None:
            folder = self.parts / _RESULT
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
            for file in dict.fromkeys(group.file for group in self.rows.groups):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                with pq.ParquetWriter(folder / file, _SCHEMA) as writer:
                    for table in self._tables(file):
                        writer.write_table(table, row_group_size=max(1, len(table)))
            write(folder)
            content = {"settings": self._settings, "counts": counts}
            write_atomically(self.parts / _FINISHED, json.dumps(content))
            os.replace(folder, self.out)
            self._clear()

        self._by_main(assemble)

    def _tables(self, file: str) -> Iterator[pa.Table]:
        for group in self.rows.groups:
            if group.file != file:
                continue
            table = self.rows.table(group)
            if self._part(group).exists():
                new = pq.read_table(self._part(group))
                for name in self.changed:
                    table = table.set_column(table.schema.get_field_index(name), _SCHEMA.field(name), new[name])
            yield table.cast(_SCHEMA)

    def _clear(self) -> None:
        """The mark that `out` is whole goes last."""
        for path in self.parts.iterdir():
            if path.name != _FINISHED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.parts)


def write_atomically(file: Path, content: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, file)


def add_to_card(root: Path | None, folder: Path, section: str) -> None:
    """The data card of `root`, if it has one, with a section more."""
    card = None if root is None else root / "README.md"
    text = card.read_text(encoding="utf-8").rstrip() + "\n" if card is not None and card.exists() else "# P-VLG rows\n"
    (folder / "README.md").write_text(text + "\n" + section.strip() + "\n", encoding="utf-8")


__all__ = [
    "Counts",
    "FolderRows",
    "GeneratedRows",
    "Group",
    "Job",
    "Rows",
    "add_to_card",
    "as_dataset",
    "check_out",
    "end_processes",
    "open_rows",
    "processes",
    "write_atomically",
]
