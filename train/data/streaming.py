"""Training from Parquet shards: images are read row group by row group, and only a few groups are held in memory."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dataset_pvlg.features import FEATURES
from dataset_pvlg.row_groups import FolderRows, Group, as_dataset

TEXT_COLUMNS = tuple(name for name in FEATURES if name != "image")


class ShardImages:
    """`images[row]["image"]`, in the form in which `datasets` stores images, for the rows of Parquet files in order.

    The most recently read row groups stay in memory, as they are in the files.

    Args:
        rows: rows of the folder.
        groups: row groups whose images are needed, in the order of the rows.
        lengths: number of rows of each group.
        keep: number of rows up to which groups stay in memory, in each process that reads.
    """

    def __init__(self, rows: FolderRows, groups: Sequence[Group], lengths: Sequence[int], keep: int):
        self.rows, self.groups, self.lengths, self.keep = rows, list(groups), list(lengths), keep
        self.ends = np.cumsum(self.lengths)
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __getitem__(self, row: int) -> dict:
        """Raises OSError if the row group cannot be read."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        if number not in self._held:
            group = self.groups[number]
            try:
                self._held[number] = self.rows.table(group, ("image",)).column("image")
            except (pa.ArrowException, OSError) as error:
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise OSError(f"{group.file}, row group {group.number}: {line}") from error
            while len(self._held) > 1 and sum(map(len, self._held.values())) > self.keep:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return {"image": self._held[number][row - int(self.ends[number]) + self.lengths[number]].as_py()}


def stream_rows(root: str, buffer: int) -> tuple[dict[str, Dataset], ShardImages]:
    """The splits of a P-VLG folder; the training rows without their images, and these images separately.

    Texts, boxes and numbers of the training rows are held in memory: 50 kB per row, with the tokens of a `PairDataset`.
    The images of validation and test are copied once to the cache of `datasets` and mapped into memory from there.

    Args:
        root: folder of Parquet files, or the Hub name of such a data set, whose Parquet files are downloaded once.
        buffer: number of rows that are shuffled together, see `GlobalBatchSampler`; twice as many images are held.

    Raises:
        ValueError: `root` is neither a folder nor a data set on the Hub, is not P-VLG, or has unreadable files.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(root, repo_type="dataset", allow_patterns=["*.parquet"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f"--data-root {root}: no folder, and no data set on the Hub: {line}") from error
    rows = FolderRows(folder)
    groups = [group for group in rows.groups if group.split == "train"]
    data = {}
    for split in sorted({group.split for group in rows.groups} - {"train"}):
        # The facts of the files are part of the cache key of `datasets`.
        facts = {file: fact for file, fact in rows.facts["files"].items() if Path(file).name.startswith(split)}
        arguments = {"root": str(folder), "split": split, "facts": facts}
        data[split] = Dataset.from_generator(_rows_of, features=FEATURES, gen_kwargs=arguments)
    tables = [rows.table(group, TEXT_COLUMNS) for group in groups]
    if not tables:
        return data, ShardImages(rows, [], [], 0)
    data["train"] = as_dataset(pa.concat_tables(tables))
    return data, ShardImages(rows, groups, [len(table) for table in tables], 2 * buffer)


def _rows_of(root: str, split: str, facts: dict) -> Iterator[dict]:
    yield from datasets.load_dataset("pvlg", data_dir=root, split=split, streaming=True).decode(False)


__all__ = ["ShardImages", "stream_rows"]
