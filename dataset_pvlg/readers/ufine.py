"""UFine6926 and UFine3C (Zuo et al., CVPR 2024), given on request: lists of `split`, `id`, `file_path`, `captions`.

Paths begin with `images/` (`images/1.jpg`), and captions have 80 words on average. The names of the annotation files
are not public. A single JSON file in the folder is read, unless its name belongs to another data set. UFine6926 has no
validation split, so training identities are held out. UFine3C is for evaluation only: every record is `test`. It has a
varying number of captions, and its field `source` names the set that it was taken from, which has its own ids.
"""

from collections.abc import Iterable

from dataset_pvlg.features import SPLITS
from dataset_pvlg.readers import cuhk_pedes, icfg_pedes, rstpreid
from dataset_pvlg.readers.records import Layout, Record
from dataset_pvlg.readers.report import ReadReport, SourceError

_FOREIGN_FILES = {
    name: other.LAYOUT.source
    for other in (cuhk_pedes, icfg_pedes, rstpreid)
    for name in other.LAYOUT.files
    if "/" not in name
}


def camera(name: str) -> str | None:
    """Always None: file names are plain numbers."""
    return None


def check_6926(records: Iterable[Record], report: ReadReport) -> None:
    """Refuse UFine3C. Read as UFine6926, its people would get the ids of other people."""
    if {(record.split, bool(record.origin)) for record in records} == {("test", True)}:
        raise SourceError(f"{report.file}: every record is 'test' and has a field 'source': this is ufine3c, not ufine")


def check_3c(records: Iterable[Record], report: ReadReport) -> None:
    """Count the origins of the images, and warn of training records, which UFine3C does not have."""
    splits = set()
    for record in records:
        splits.add(record.split)
        if record.origin:
            report.note(f"taken from {record.origin}", record.location)
    if wrong := [split for split in SPLITS if split in splits - {"test"}]:
        report.warn(f"UFine3C is for evaluation only, and there are records of {', '.join(wrong)}: is this UFine6926?")


LAYOUT = Layout(
    source="ufine",
    folders=("UFine6926", "UFine"),
    files=("train_test.json", "UFine6926.json", "*.json"),
    camera=camera,
    held_out_splits=("validation",),
    foreign_files=_FOREIGN_FILES,
    check=check_6926,
)
LAYOUT_3C = Layout(
    source="ufine3c",
    folders=("UFine3C",),
    files=("UFine3C.json", "test.json", "*.json"),
    camera=camera,
    foreign_files=_FOREIGN_FILES,
    check=check_3c,
)
