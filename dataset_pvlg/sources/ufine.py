"""UFine6926 (Zuo et al., CVPR 2024), given on request: a list of `split`, `id`, `file_path`, `captions`.

Paths begin with `images/` (`images/1.jpg`), captions are long (80 words on average). The name of the annotation file
is not public, so a single JSON file in the folder is taken, unless its name is another set's. There is no validation
split: training identities are held out.
"""

from dataset_pvlg.sources import cuhk_pedes, icfg_pedes, rstpreid
from dataset_pvlg.sources.records import Layout


def camera(name: str) -> str | None:
    """File names are plain numbers."""
    return None


LAYOUT = Layout(
    source="ufine",
    folders=("UFine6926", "UFine"),
    files=("train_test.json", "UFine6926.json", "*.json"),
    camera=camera,
    hold_out_validation=True,
    foreign={name: other.LAYOUT.source for other in (cuhk_pedes, icfg_pedes, rstpreid) for name in other.LAYOUT.files},
)
