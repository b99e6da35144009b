"""RSTPReid (Zhu et al., 2021): `RSTPReid/data_captions.json` and a flat `RSTPReid/imgs/`.

The path of an image is in `img_path`, and `id` starts at 0. Each identity has five images with two captions each. The
split was changed on 2022-10-17. Both releases are in use, and their results are not comparable.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from dataset_pvlg.readers.records import Layout, Record
from dataset_pvlg.readers.report import ReadReport

_NAME = re.compile(r"^\d+_c(\d+)_\d+\.")

# Identities and images by split.
CURRENT = {"train": (3701, 18505), "validation": (200, 1000), "test": (200, 1000)}
BEFORE_2022_10_17 = {"train": (3901, 19505), "validation": (100, 500), "test": (100, 500)}


def camera(name: str) -> str | None:
    """The camera in a name like `<person>_c<camera>_<frame>.jpg`, from 1 to 15 without padding."""
    match = _NAME.match(name.rsplit("/", 1)[-1])
    return f"c{match.group(1)}" if match else None


def check(records: Iterable[Record], report: ReadReport) -> None:
    """Warn if this is not the current release of the split.

    The number of identities decides, because some copies lack an image or a caption.
    """
    people, names = defaultdict(set), defaultdict(set)
    for record in records:
        people[record.split].add(record.person)
        names[record.split].add(record.name)
    sizes = {split: (len(people[split]), len(names[split])) for split in people}
    listing = ", ".join(f"{split} {people}/{images}" for split, (people, images) in sizes.items())
    identities = _identities(sizes)
    if identities == _identities(BEFORE_2022_10_17):
        report.warn(
            f"this is the split from before 2022-10-17 ({listing}); results do not compare with the current one"
        )
        release = BEFORE_2022_10_17
    elif identities == _identities(CURRENT):
        release = CURRENT
    else:
        report.warn(f"identities/images match neither release of RSTPReid ({listing}): a part of it, or another file")
        return
    if sizes != release:
        report.warn(f"identities are those of a release, images are not ({listing}): some records are missing")


def _identities(sizes: dict[str, tuple[int, int]]) -> dict[str, int]:
    return {split: people for split, (people, _) in sizes.items()}


LAYOUT = Layout(
    source="rstpreid",
    folders=("RSTPReid", "RSTP-Reid"),
    files=("data_captions.json",),
    camera=camera,
    path_field="img_path",
    check=check,
)
