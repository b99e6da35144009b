"""CUHK-PEDES (Li et al., CVPR 2017): `CUHK-PEDES/reid_raw.json` and `CUHK-PEDES/imgs/`.

Records hold `split`, `captions` (mostly two), `file_path`, `processed_tokens` (ignored) and `id`, 1-based and
contiguous over train, val and test. The images come from five older sets; four files end in `.jpg.jpg`.
"""

import re

from dataset_pvlg.sources.records import Layout

_MARKET = re.compile(r"^-?\d+_c(\d)s\d")
_VIPER = re.compile(r"(?:^|/)cam_([ab])/")


def camera(name: str) -> str | None:
    """Market-1501's part names its camera in the file name, VIPeR's in the folder; the other parts do not."""
    if viper := _VIPER.search(name):
        return f"cam_{viper.group(1)}"
    market = _MARKET.match(name.rsplit("/", 1)[-1])
    return f"c{market.group(1)}" if market else None


LAYOUT = Layout(
    source="cuhk_pedes",
    folders=("CUHK-PEDES", "CUHK_PEDES"),
    files=("reid_raw.json", "caption_all.json", "CUHK-PEDES.json"),
    camera=camera,
    without_split="This is the file as the authors mail it (caption_all.json); put reid_raw.json, which has the "
    "splits, beside it or name it as the source",
)
