"""RSTPReid (Zhu et al., 2021): `RSTPReid/data_captions.json` and a flat `RSTPReid/imgs/`.

The path stands in `img_path`, `id` is 0-based, five images an identity, two captions each. The split was changed on
2022-10-17 and both releases are in use, with results that do not compare.
"""

import re

from dataset_pvlg.sources.records import Layout
from dataset_pvlg.sources.report import ReadReport

_NAME = re.compile(r"^\d+_c(\d+)_\d+\.")

# Identities, images by split.
CURRENT = {"train": (3701, 18505), "validation": (200, 1000), "test": (200, 1000)}
BEFORE_2022_10_17 = {"train": (3901, 19505), "validation": (100, 500), "test": (100, 500)}


def camera(name: str) -> str | None:
    """Names are `<person>_c<camera>_<frame>.jpg`, camera 1 to 15, not padded."""
    match = _NAME.match(name.rsplit("/", 1)[-1])
    return f"c{match.group(1)}" if match else None


def check(sizes: dict[str, tuple[int, int]], report: ReadReport) -> None:
    """Says which release of the split this is."""
    if sizes == CURRENT:
        return
    found = ", ".join(f"{split} {people}/{images}" for split, (people, images) in sizes.items())
    if sizes == BEFORE_2022_10_17:
        report.warn(f"this is the split from before 2022-10-17 ({found}); results do not compare with the current one")
    else:
        report.warn(f"identities/images match neither release of RSTPReid ({found}): a part of it, or another file")


LAYOUT = Layout(
    source="rstpreid",
    folders=("RSTPReid", "RSTP-Reid"),
    files=("data_captions.json",),
    camera=camera,
    path_field="img_path",
    check=check,
)
