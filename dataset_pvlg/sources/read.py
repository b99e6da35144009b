"""One door to all public layouts."""

from collections.abc import Collection
from pathlib import Path

from datasets import DatasetDict

from dataset_pvlg.sources import cuhk_pedes, icfg_pedes, rstpreid, ufine
from dataset_pvlg.sources.report import ReadReport, SourceError
from dataset_pvlg.sources.walk import read_layout

_LAYOUTS = {module.LAYOUT.source: module.LAYOUT for module in (cuhk_pedes, icfg_pedes, rstpreid, ufine)}
SOURCE_NAMES = tuple(_LAYOUTS)


def read_source(
    name: str,
    root: str | Path,
    image_root: str | Path | None = None,
    splits: Collection[str] | None = None,
) -> tuple[DatasetDict, ReadReport]:
    """Reads a public set as its authors lay it out on disk.

    Args:
        name: `cuhk_pedes`, `icfg_pedes`, `rstpreid` or `ufine`.
        root: the set's folder, the folder above it, or the annotation file itself.
        image_root: the folder that image paths are relative to; by default `imgs/` beside the annotation file, or
            the annotation file's folder.
        splits: read only these of `train`, `validation`, `test`; by default all that there are.

    Returns:
        Rows of `dataset_pvlg.features.FEATURES` by split, images as paths of the source's files (nothing is copied),
        and the [`ReadReport`]. Every record of the annotation file either gives a row or is counted as skipped.
        Every image was decoded to its last pixel. A split without rows is absent.

    Raises:
        SourceError: (a ValueError) the source as a whole cannot be read: unknown name, no annotation file, broken
            JSON, no record with a split, or no record that gave a row. One line that names the file and the field.
    """
    if name not in _LAYOUTS:
        raise SourceError(f"source {name!r} is not known; known are {', '.join(SOURCE_NAMES)}")
    return read_layout(_LAYOUTS[name], root, image_root, splits)
