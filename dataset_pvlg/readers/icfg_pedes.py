"""ICFG-PEDES (Ding et al., 2021): `ICFG-PEDES/ICFG-PEDES.json` (or `ICFG_PEDES.json`) and `ICFG-PEDES/imgs/`.

One caption an image; `id` is 0-based. Images keep MSMT17's tree, whose `train/` and `test/` folders say nothing about
the split: the field `split` (in any case) does. There is no validation split: common practice evaluates on test,
Rogle holds training identities out.
"""

import re

from dataset_pvlg.readers.records import Layout

_MSMT17 = re.compile(r"^\d+_\d+_(\d+)_\d{4}(?:morning|noon|afternoon)_")


def camera(name: str) -> str | None:
    """MSMT17 names are `<person>_<k>_<camera>_<date><time of day>_<frame>_<n>.jpg`."""
    match = _MSMT17.match(name.rsplit("/", 1)[-1])
    return f"c{int(match.group(1))}" if match else None


LAYOUT = Layout(
    source="icfg_pedes",
    folders=("ICFG-PEDES", "ICFG_PEDES"),
    files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    camera=camera,
    hold_out=("validation",),
)
