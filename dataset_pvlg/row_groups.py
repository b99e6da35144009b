"""Process a P-VLG data set row group by row group. Processes of Accelerate share the work; it is resumable and atomic.

Finished groups are stored in a hidden folder beside the result until the end. The result depends neither on the number
of processes nor on how often they were killed.
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

from dataset_pvlg.arrow_io import SCHEMA
from dataset_pvlg.builder import NEVER_NULL, empty_lists, file_facts, parquet_files, pipeline_hash
from dataset_pvlg.features import FEATURES, OPTIONAL
from dataset_pvlg.jobs.stages import lock_folder, resolved_out
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows

GROUP_ROWS = 100  # rows in a group, for rows that are not stored in row groups
_SETTINGS, _FINISHED, _RESULT = "settings.json", "finished.json", "out"

Counts = dict[str, dict[str, int]]  # split -> name of a count -> number


class Group(NamedTuple):
    """Rows that are processed together: their split, the file of the result (relative), and their number in it."""

    split: str
    file: str
    number: int


class FolderRows:
    """The row groups of a folder of P-VLG Parquet.

    Args:
        root (`str` or `Path`): the folder.

    Attributes:
        root (`Path`): the folder.
        groups (`list[Group]`): all row groups, in order.
        facts (`dict[str, Any]`): JSON-able; sizes and modification times of the files.

    Raises:
        ValueError: the folder does not exist, is not P-VLG, or has a file that cannot be read; one line that names it.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.groups: list[Group] = []
        self.facts: dict[str, Any] = {"files": {}}
        for split, names in parquet_files(str(root)).items():
            for name in names:
                file = Path(name).relative_to(self.root).as_posix()
                self.facts["files"][file] = file_facts(name)
                try:
                    with pq.ParquetFile(name) as parquet:
                        stored = parquet.schema_arrow.names
                        missing = [column for column in FEATURES if column not in stored and column not in OPTIONAL]
                        self.groups += [Group(split, file, n) for n in range(parquet.num_row_groups)]
                except pa.ArrowException as error:
                    line = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise ValueError(f"{name}: is not readable as Parquet: {line}") from error
                if missing:
                    raise ValueError(f"{name}: lacks the column(s) {', '.join(missing)}")

    def table(self, group: Group, columns: Sequence[str] = tuple(FEATURES)) -> pa.Table:
        """The rows of a group in the P-VLG schema.

        Args:
            group (`Group`): one of `groups`.
            columns (`Sequence[str]`): columns to read; by default all.

        Returns:
            `pa.Table`: the rows; images are null if the file has none, and null lists are empty.

        Raises:
            LayoutError: (a ValueError) a value is null that must not be, see `builder.empty_lists`.
        """
        with pq.ParquetFile(self.root / group.file) as parquet:
            stored = parquet.schema_arrow.names
            present = [name for name in columns if name in stored]
            table = parquet.read_row_group(group.number, columns=present)
        for name in (name for name in OPTIONAL if name in columns and name not in present):
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
        table = table.select(list(columns)).cast(_schema_of(columns))
        checked = [name for name in NEVER_NULL if name in columns]
        identified = ["image_id"] if "image_id" in columns else []
        rows = table.select([*identified, *checked]).to_pylist()
        empty = [empty_lists(row, str(self.root / group.file)) for row in rows]
        for name in {name for lists in empty for name in lists}:
            values = [lists.get(name, value) for lists, value in zip(empty, table[name].to_pylist(), strict=True)]
            column = pa.array(values, SCHEMA.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
        return table


class GeneratedRows:
    """The embedded synthetic data in groups of [`GROUP_ROWS`] rows. The result has one file per split.

    Args:
        name (`str`): `synthetic` or `synthetic-tiny`.
    """

    def __init__(self, name: str):
        self.root: Path | None = None
        self.facts: dict[str, Any] = {"generated": name}
        self._splits = {split: rows.with_format("arrow") for split, rows in load_rows(name)[0].items()}
        self.groups = [
            Group(split, f"data/{split}-00000-of-00001.parquet", n)
            for split, rows in self._splits.items()
            for n in range(-(-len(rows) // GROUP_ROWS))
        ]

    def table(self, group: Group, columns: Sequence[str] = tuple(FEATURES)) -> pa.Table:
        """The rows of a group, see [`FolderRows.table`]."""
        rows, start = self._splits[group.split], group.number * GROUP_ROWS
        table = rows.select_columns(list(columns))[start : min(start + GROUP_ROWS, len(rows))]
        return table.select(list(columns)).cast(_schema_of(columns))


Rows = FolderRows | GeneratedRows


def open_rows(data: str | Path) -> Rows:
    """Open `synthetic`, `synthetic-tiny`, or a folder of P-VLG Parquet. Raises ValueError, see [`FolderRows`]."""
    return GeneratedRows(str(data)) if str(data) in SYNTHETIC_NAMES else FolderRows(data)


def _schema_of(columns: Sequence[str]) -> pa.Schema:
    names = list(columns)
    return SCHEMA if names == list(FEATURES) else pa.schema([SCHEMA.field(name) for name in names])


def as_dataset(table: pa.Table) -> Dataset:
    """A table of P-VLG rows as a data set."""
    return Dataset(InMemoryTable(table))


def processes() -> PartialState:
    """The processes of Accelerate, also on a machine without a GPU."""
    # By default, Accelerate ignores CPU processes, and treats those that end half an hour apart as dead.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=7))


def end_processes(state: PartialState, counts: Counts, out: str | Path) -> None:
    """End the process group of a command, and print its counts by split and its folder once."""
    if state.num_processes > 1:
        state.destroy_process_group()
    if state.is_main_process:
        for split, count in counts.items():
            print(f"{split}: " + ", ".join(f"{number} {name}" for name, number in count.items()))
        print(out)


def check_out(out: str | Path, name: str) -> None:
    """Check the output folder of a job before a model is loaded.

    Args:
        out (`str` or `Path`): the output folder.
        name (`str`): name of the [`Job`].

    Raises:
        ValueError: `out` is a mount point, or is not empty. A result that the same job has just finished is accepted.
    """
    out = resolved_out(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (_work_folder(out, name) / _FINISHED).exists():
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")


def _work_folder(out: Path, name: str) -> Path:
    return out.parent / f".{out.name}.{name}"


class Job:
    """One job on all rows of a data set: [`make_file`] as often as needed, then [`process_groups`], then [`finish`].

    As a context manager, it locks out other commands on the same output.

    Args:
        rows (`Rows`): the input.
        out (`str` or `Path`): the output folder, which must be empty or not exist.
        name (`str`): name of the job; finished work is stored in `.OUT.NAME` beside `out`.
        settings (`Mapping[str, Any]`): JSON-able; everything that the result depends on besides the rows.
        changed (`Sequence[str]`): columns that the job changes; all others are copied from `rows`.

    Attributes:
        counts (`Counts`, *optional*): the counts of an earlier run that finished `out` and was killed while it removed
            its work folder; otherwise None.
        parts (`Path`): the work folder.
        state (`PartialState`): the processes of Accelerate.

    Raises:
        ValueError: (on entering, in all processes) `out` is not empty, the job was started with other settings, or
            another command uses it.
    """

    def __init__(self, rows: Rows, out: str | Path, name: str, settings: Mapping[str, Any], changed: Sequence[str]):
        self.state = processes()
        self.rows, self.out, self.changed = rows, resolved_out(out), list(changed)
        self.parts = _work_folder(self.out, name)
        facts = {**settings, **rows.facts, "code": pipeline_hash()}
        self._settings = json.dumps(facts, indent=2, sort_keys=True)
        self.name = name
        self.counts: Counts | None = None
        self._lock: int | None = None

    def __enter__(self) -> "Job":
        try:
            self.counts = self._in_main_process(self._begin)
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
        settings_file, finished_file = self.parts / _SETTINGS, self.parts / _FINISHED
        if finished_file.exists() and self.out.exists() and any(self.out.iterdir()):
            finished = json.loads(finished_file.read_text(encoding="utf-8"))
            if finished["settings"] != self._settings:
                raise ValueError(f"{self.out}: exists and is not an empty folder; choose another --out")
            self._clear()
            return finished["counts"]
        if settings_file.exists():
            if settings_file.read_text(encoding="utf-8") != self._settings:
                raise ValueError(
                    f"{self.parts}: was begun with other settings or data; remove it or choose another --out"
                )
        else:
            write_atomically(settings_file, self._settings)
        return None

    def _in_main_process(self, task: Callable[[], Any]) -> Any:
        """The result of `task` in the main process. Its error is raised in all processes, so that none waits."""
        message: list[Any] = [None, None]  # error, result
        if self.state.is_main_process:
            try:
                message[1] = task()
            except (ValueError, OSError, ImportError) as error:
                message[0] = str(error)
        broadcast_object_list(message)
        if message[0] is not None:
            raise ValueError(message[0])
        return message[1]

    def make_file(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make a file in the main process, unless it exists.

        Args:
            name (`str`): name of the file in the work folder.
            make (`Callable`): `make(path)` writes the file completely or not at all.

        Returns:
            `Path`: the file.
        """
        path = self.parts / name

        def make_if_missing() -> None:
            if not path.exists():
                make(path)

        self._in_main_process(make_if_missing)
        return path

    def process_groups(
        self, work: Callable[[Dataset], tuple[Dataset, dict[str, int]]], splits: Sequence[str], progress: bool = True
    ) -> Counts:
        """Process every unfinished group of some splits. The processes share the groups.

        Args:
            work (`Callable`): rows with images -> the same rows with new values in the changed columns, and counts.
                Equal rows must give equal results.
            splits (`Sequence[str]`): the splits to process.
            progress (`bool`): whether to show a progress bar.

        Returns:
            `Counts`: the sums of the counts by split.
        """
        groups = [group for group in self.rows.groups if group.split in splits]
        unfinished = [group for group in groups if not self._part(group).exists()]
        self.state.wait_for_everyone()  # all processes must divide the same list of unfinished groups
        show_bar = progress and self.state.is_main_process
        own_share = unfinished[self.state.process_index :: self.state.num_processes]
        for group in tqdm(own_share, desc="row groups", disable=not show_bar):
            processed, counts = work(as_dataset(self.rows.table(group)))
            part = self._part(group)
            write_atomically(part.with_suffix(".json"), json.dumps(counts))
            table = processed.select_columns(self.changed).with_format("arrow")[:]
            pq.write_table(table, part.with_suffix(".part"))
            os.replace(part.with_suffix(".part"), part)  # last, so that an existing part always has its counts
        self.state.wait_for_everyone()
        total: dict[str, Counter[str]] = {}
        for group in groups:
            counts = json.loads(self._part(group).with_suffix(".json").read_text(encoding="utf-8"))
            total.setdefault(group.split, Counter()).update(counts)
        self.state.wait_for_everyone()  # all processes have read the files before they are removed
        return {split: dict(count) for split, count in total.items()}

    def _part(self, group: Group) -> Path:
        return self.parts / f"{Path(group.file).stem}-{group.number:06d}.parquet"

    def finish(self, counts: Counts, write: Callable[[Path], None]) -> None:
        """Assemble `out` and remove the work folder.

        Args:
            counts (`Counts`): the result of [`process_groups`].
            write (`Callable`): `write(folder)` adds reports and the card.
        """

        def assemble() -> None:
            folder = self.parts / _RESULT
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed here
            for file in dict.fromkeys(group.file for group in self.rows.groups):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                with pq.ParquetWriter(folder / file, SCHEMA) as writer:
                    for table in self._tables(file):
                        writer.write_table(table, row_group_size=max(1, len(table)))
            write(folder)
            content = {"settings": self._settings, "counts": counts}
            write_atomically(self.parts / _FINISHED, json.dumps(content))
            os.replace(folder, self.out)
            self._clear()

        self._in_main_process(assemble)

    def _tables(self, file: str) -> Iterator[pa.Table]:
        for group in self.rows.groups:
            if group.file != file:
                continue
            table = self.rows.table(group)
            if self._part(group).exists():
                processed = pq.read_table(self._part(group))
                for name in self.changed:
                    table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), processed[name])
            yield table.cast(SCHEMA)

    def _clear(self) -> None:
        """Remove the work folder. The file that marks `out` as complete goes last."""
        for path in self.parts.iterdir():
            if path.name != _FINISHED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.parts)


def write_atomically(file: Path, content: str) -> None:
    """Write a text file so that it is complete or absent, even if the process is killed."""
    part = file.with_name(file.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, file)


def add_to_card(root: Path | None, folder: Path, section: str) -> None:
    """Write the data card of `root` to `folder`, with one more section. Without a card, a title replaces it.

    Args:
        root (`Path`, *optional*): the folder of the input; None for generated rows.
        folder (`Path`): the folder of the result.
        section (`str`): Markdown.
    """
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
