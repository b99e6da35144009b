"""Training from Parquet shards: images are read row group by row group as their turn comes, never all of them."""

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

WORDS = tuple(name for name in FEATURES if name != "image")


class ShardImages:
    """`images[row]["image"]`, as `datasets` keeps images, of the rows of Parquet files one after the other.

    The row groups that were read last are kept, as they lie in the files.

    Args:
        rows: of the folder.
        groups: those whose images are wanted, in the order of the rows.
        lengths: rows of each.
        keep: groups are kept until they have this many rows, in each process that reads.
    """

    def __init__(self, rows: FolderRows, groups: Sequence[Group], lengths: Sequence[int], keep: int):
        self.rows, self.groups, self.lengths, self.keep = rows, list(groups), list(lengths), keep
        self.ends = np.cumsum(self.lengths)
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __getitem__(self, index: int) -> dict:
        """Raises OSError: the row group cannot be read."""
        number = int(np.searchsorted(self.ends, index, side="right"))
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
        return {"image": self._held[number][index - int(self.ends[number]) + self.lengths[number]].as_py()}


def stream_rows(root: str, buffer: int) -> tuple[dict[str, Dataset], ShardImages]:
    """The splits of a P-VLG folder; the training rows without their images, and those apart.

    Words, boxes and numbers of the training rows are held in memory (with their tokens in a [`PairDataset`] 50 kB a
    row); the images of validation and test are copied once to the cache of `datasets`, from which they are mapped.

    Args:
        root: folder of Parquet, or the Hub name of such a data set, whose Parquet is downloaded once.
        buffer: rows that are shuffled with each other, see [`GlobalBatchSampler`]; twice as many are kept.

    Raises:
        ValueError: neither a folder nor a data set on the Hub, no P-VLG, or files that cannot be read; one line.
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
        facts = {file: fact for file, fact in rows.facts["files"].items() if Path(file).name.startswith(split)}
        given = {"root": str(folder), "split": split, "facts": facts}  # other files have another cache
        data[split] = Dataset.from_generator(_rows_of, features=FEATURES, gen_kwargs=given)
    tables = [rows.table(group, WORDS) for group in groups]
    if not tables:
        return data, ShardImages(rows, [], [], 0)
    data["train"] = as_dataset(pa.concat_tables(tables))
    return data, ShardImages(rows, groups, [len(table) for table in tables], 2 * buffer)


def _rows_of(root: str, split: str, facts: dict) -> Iterator[dict]:
    yield from datasets.load_dataset("pvlg", data_dir=root, split=split, streaming=True).decode(False)


__all__ = ["ShardImages", "stream_rows"]
