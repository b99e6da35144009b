"""Any P-VLG-shaped set by its name: what `--dataset`, `--data-root` and `--image-root` mean to train and eval."""

from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError

from dataset_pvlg.builder import LayoutError
from dataset_pvlg.readers.read import SOURCE_NAMES, read_source
from dataset_pvlg.readers.report import ReadReport

SYNTHETIC_NAMES = ("synthetic", "synthetic-tiny")
DATASET_NAMES = (*SYNTHETIC_NAMES, "pvlg", *SOURCE_NAMES)


def load_rows(
    name: str, data_root: str | Path | None = None, image_root: str | Path | None = None, images: bool = False
) -> tuple[datasets.DatasetDict, ReadReport | None]:
    """Rows of `dataset_pvlg.features.FEATURES` by split.

    Args:
        name: `synthetic` or `synthetic-tiny` (embedded), `pvlg` (a folder of P-VLG Parquet), or the name of a public
            layout as `dataset_pvlg.readers.read.read_source` knows it.
        data_root: the set's folder; needed by all but the synthetic ones.
        image_root: where a public layout's image paths start, if not where its authors put them.
        images: refuse rows without one, as an annotations-only folder has them.

    Returns:
        The splits that there are, and the reader's report (None where rows were ready made).

    Raises:
        ValueError: an unknown name, a root that is missing or that this set has no use for, or data that cannot be
            read; one line. The readers' own errors are ValueErrors too.
    """
    if name not in DATASET_NAMES:
        raise ValueError(f"dataset {name!r} is not known; known are {', '.join(DATASET_NAMES)}")
    if name in SYNTHETIC_NAMES:
        if data_root is not None or image_root is not None:
            raise ValueError(f"dataset {name!r} is generated: it takes no data root and no image root")
        return datasets.load_dataset("pvlg", name), None
    if data_root is None:
        raise ValueError(f"dataset {name!r} needs a data root, the folder that it lies in")
    if name == "pvlg":
        if image_root is not None:
            raise ValueError("dataset 'pvlg' holds its images: it takes no image root")
        try:
            data = datasets.load_dataset("pvlg", data_dir=str(data_root))
        except DatasetGenerationError as error:  # hides what the builder said
            cause = error.__cause__ or error
            line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise ValueError(line if isinstance(cause, LayoutError) else f"pvlg: {data_root}: {line}") from error
        without = sum(rows.data.column("image").null_count for rows in data.values())
        if images and without:
            raise ValueError(
                f"pvlg: {data_root}: {without} rows have no image; `python -m dataset_pvlg.build.join` puts them back"
            )
        return data, None
    return read_source(name, data_root, image_root)


__all__ = ["DATASET_NAMES", "load_rows"]
