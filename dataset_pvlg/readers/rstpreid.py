"""RSTPReid (Zhu et al., 2021): `RSTPReid/data_captions.json` and a flat `RSTPReid/imgs/`.

The path stands in `img_path`, `id` is 0-based, five images an identity, two captions each. The split was changed on
2022-10-17 and both releases are in use, with results that do not compare.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from dataset_pvlg.readers.records import Layout, Record
from dataset_pvlg.readers.report import ReadReport

_NAME = re.compile(r"^\d+_c(\d+)_\d+\.")

# Identities, images by split.
CURRENT = {"train": (3701, 18505), "validation": (200, 1000), "test": (200, 1000)}
BEFORE_2022_10_17 = {"train": (3901, 19505), "validation": (100, 500), "test": (100, 500)}


def camera(name: str) -> str | None:
    """Names are `<person>_c<camera>_<frame>.jpg`, camera 1 to 15, not padded."""
    match = _NAME.match(name.rsplit("/", 1)[-1])
    return f"c{match.group(1)}" if match else None


def check(records: Iterable[Record], report: ReadReport) -> None:
    """Says which release of the split this is. Identities decide: some copies lack an image or a caption."""
    people, names = defaultdict(set), defaultdict(set)
    for record in records:
        people[record.split].add(record.person)
        names[record.split].add(record.name)
    sizes = {split: (len(people[split]), len(names[split])) for split in people}
    found = ", ".join(f"{split} {people}/{images}" for split, (people, images) in sizes.items())
    identities = {split: people for split, (people, _) in sizes.items()}
    if identities == _identities(BEFORE_2022_10_17):
        report.warn(f"this is the split from before 2022-10-17 ({found}); results do not compare with the current one")
        whole = BEFORE_2022_10_17
    elif identities == _identities(CURRENT):
        whole = CURRENT
    else:
        report.warn(f"identities/images match neither release of RSTPReid ({found}): a part of it, or another file")
        return
    if sizes != whole:
        report.warn(f"identities are those of a whole release, images are not ({found}): some records are missing")


def _identities(release: dict[str, tuple[int, int]]) -> dict[str, int]:
    return {split: people for split, (people, _) in release.items()}


LAYOUT = Layout(
    source="rstpreid",
    folders=("RSTPReid", "RSTP-Reid"),
    files=("data_captions.json",),
    camera=camera,
    path_field="img_path",
    check=check,
)
