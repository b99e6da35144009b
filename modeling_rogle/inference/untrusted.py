"""Limits of files that may come from someone else: sizes are checked before memory is allocated."""

import json
from pathlib import Path
from typing import Any

_MIB = 1 << 20


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`; JSON that is nested too deeply is a ValueError too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_parquet(file: Path, without: str | None = None) -> None:
    """Checks how much memory a Parquet file needs before its values are decoded.

    A column may repeat one long value, which costs nothing in the file. The limit is 128 MB, 20 times the file and
    128 bytes a row for at most four million rows.

    Args:
        file: the file.
        without: a column that will not be read; [`read_group`] reads images. Default: none.

    Raises:
        ValueError: the values need more memory.
        OSError, pyarrow.ArrowException: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        footer, schema = opened.metadata, opened.schema_arrow
        limit = 128 * _MIB + 20 * file.stat().st_size + 128 * min(footer.num_rows, 4_000_000)
        # Sizes of single columns are not read: Arrow ends the process where their statistics are damaged.
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)] if without is None else []
        needed = 8 * footer.num_rows * len(schema) + sum(group.total_byte_size for group in groups)
        reason = f"its values need more than {limit // _MIB} MB"
        if needed > limit:
            raise ValueError(reason)
    kinds = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())
    for name in (field.name for field in schema if field.type in kinds and field.name != without):
        with pq.ParquetFile(file, read_dictionary=[name]) as opened:
            for chunk in opened.read(columns=[name]).column(name).chunks:
                if pa.types.is_dictionary(chunk.type):
                    needed += pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        if needed > limit:
            raise ValueError(reason)


def read_group(file: Path, group: int, column: str) -> Any:
    """Reads a column of images of a row group, a few rows at a time, until it needs far more memory than its file.

    Args:
        file: a Parquet file.
        group: number of the row group.
        column: name of the column.

    Returns:
        a `pyarrow.ChunkedArray`.

    Raises:
        ValueError: the images need more than 256 MB and 20 times the file.
        OSError, pyarrow.ArrowException: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit, needed, parts = 256 * _MIB + 20 * file.stat().st_size, 0, []
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(8, row_groups=[group], columns=[column]):
            needed += batch.nbytes
            if needed > limit:
                raise ValueError(f"its images need more than {limit // _MIB} MB")
            parts.append(batch.column(0))
    return pa.chunked_array(parts)


__all__ = ["check_parquet", "parse_json", "read_group"]
