"""ICFG-PEDES (Ding et al., 2021): `ICFG-PEDES/ICFG-PEDES.json` (or `ICFG_PEDES.json`) and `ICFG-PEDES/imgs/`.

Each image has one caption, and `id` starts at 0. Images keep the folders of MSMT17. Its `train/` and `test/` do not
give the split; the field `split` (in any case) does. There is no validation split. It is common practice to validate on
test; Rogle holds out training identities instead.
"""

import re

from dataset_pvlg.readers.records import Layout

_MSMT17 = re.compile(r"^\d+_\d+_(\d+)_\d{4}(?:morning|noon|afternoon)_")


def camera(name: str) -> str | None:
    """The camera in a name of MSMT17, `<person>_<k>_<camera>_<date><time of day>_<frame>_<n>.jpg`."""
    match = _MSMT17.match(name.rsplit("/", 1)[-1])
    return f"c{int(match.group(1))}" if match else None


LAYOUT = Layout(
    source="icfg_pedes",
    folders=("ICFG-PEDES", "ICFG_PEDES"),
    files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    camera=camera,
    held_out_splits=("validation",),
)
