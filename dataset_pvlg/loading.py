"""Load any P-VLG-shaped data set by name: `--dataset`, `--data-root` and `--image-root` of training and evaluation."""

import os
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError

from dataset_pvlg.builder import LayoutError
from dataset_pvlg.readers.read import SOURCE_NAMES, read_source
from dataset_pvlg.readers.report import ReadReport

SYNTHETIC_NAMES = ("synthetic", "synthetic-tiny", "synthetic-v1")
DATASET_NAMES = (*SYNTHETIC_NAMES, "pvlg", *SOURCE_NAMES)


def load_rows(
    name: str, data_root: str | Path | None = None, image_root: str | Path | None = None, images: bool = False
) -> tuple[datasets.DatasetDict, ReadReport | None]:
    """Rows of `dataset_pvlg.features.FEATURES` by split.

    Args:
        name (`str`): `synthetic` or `synthetic-tiny` (embedded), `pvlg` (a folder of P-VLG Parquet), or a public layout
            that [`dataset_pvlg.readers.read.read_source`] knows.
        data_root (`str` or `Path`, *optional*): folder of the data set. All but the synthetic ones need it.
        image_root (`str` or `Path`, *optional*): folder that the image paths of a public layout are relative to; by
            default the folder that the set's authors use.
        images (`bool`): whether rows without an image are refused, as an annotations-only folder has them.

    Returns:
        `tuple[DatasetDict, ReadReport | None]`: the splits that exist, and the reader's report (None unless a public
        layout was read).

    Raises:
        ValueError: the name is unknown, a root is missing or has no use, or the data cannot be read; one line. Errors
            of the readers are ValueErrors too.
    """
    if name not in DATASET_NAMES:
        raise ValueError(f"dataset {name!r} is not known; known are {', '.join(DATASET_NAMES)}")
    if name in SYNTHETIC_NAMES:
        if data_root is not None or image_root is not None:
            raise ValueError(f"dataset {name!r} is generated: it takes no data root and no image root")
        # Two processes halve the first generation. They do not pay for the tiny set.
        processes = None if name == "synthetic-tiny" else min(2, os.cpu_count() or 1)
        return datasets.load_dataset("pvlg", name, num_proc=processes), None
    if data_root is None:
        raise ValueError(f"dataset {name!r} needs a data root, the folder of the data set")
    if name == "pvlg":
        if image_root is not None:
            raise ValueError("dataset 'pvlg' contains its images: it takes no image root")
        try:
            data = datasets.load_dataset("pvlg", data_dir=str(data_root))
        except DatasetGenerationError as error:  # hides the message of the builder
            cause = error.__cause__ or error
            line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise ValueError(line if isinstance(cause, LayoutError) else f"pvlg: {data_root}: {line}") from error
        without_image = sum(rows.data.column("image").null_count for rows in data.values())
        if images and without_image:
            raise ValueError(f"pvlg: {data_root}: {without_image} rows have no image; add the images with `rogle join`")
        return data, None
    return read_source(name, data_root, image_root)


__all__ = ["DATASET_NAMES", "load_rows"]
