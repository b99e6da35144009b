"""The older data set, and the person in it, that an image comes from, as far as its file name shows.

CUHK-PEDES was made from Market-1501, CUHK-SYSU, CUHK03, CUHK01 and VIPeR; ICFG-PEDES and RSTPReid from MSMT17. RSTPReid
and UFine have renamed their files, so that the origin of their images is unknown.
"""

import re
from pathlib import PurePosixPath

_MARKET = re.compile(r"(\d{4})_c\ds\d_\d{6}_\d{2}\.")
_MSMT17 = re.compile(r"(\d{4})_\d{3}_\d{2}_\d{4}(?:morning|noon|afternoon)_")
# These forms are so common that any image may have such a name. They count only for images of CUHK-PEDES.
_SYSU = re.compile(r"p(\d+)_s\d+\.")
_IN_FOLDER = {
    "CUHK01": ("cuhk01", re.compile(r"(\d{4})\d{3}\.")),
    "CUHK03": ("cuhk03", re.compile(r"(\d+)_\d+\.")),
    "cam_a": ("viper", re.compile(r"(\d{3})_\d+\.")),
    "cam_b": ("viper", re.compile(r"(\d{3})_\d+\.")),
}


def origin(path: str, source: str | None = None) -> tuple[str, str] | None:
    """The older data set of an image and its name of the person.

    Args:
        path (`str`): path of the image relative to the image root, with forward slashes.
        source (`str`, *optional*): the image's data set, as in a row's `source`. Names of a common form count only for
            `cuhk_pedes`.

    Returns:
        `tuple[str, str]`, *optional*: older data set and person, or None where the name does not show them.
    """
    parts = PurePosixPath(path).parts
    if not parts:
        return None
    name = parts[-1]
    if match := _MARKET.match(name):
        return ("market1501", match[1]) if int(match[1]) else None  # 0000 marks distractors
    if match := _MSMT17.match(name):
        half = _msmt17_half(parts[:-1])
        return ("msmt17", f"{half}/{match[1]}") if half else None
    if source != "cuhk_pedes":
        return None
    if match := _SYSU.match(name):
        return "cuhk_sysu", str(int(match[1]))
    for folder in parts[:-1]:
        if folder in _IN_FOLDER:
            older_set, pattern = _IN_FOLDER[folder]
            if match := pattern.match(name):
                return older_set, match[1]
    return None


def _msmt17_half(folders: tuple[str, ...]) -> str | None:
    """MSMT17 numbers its people from 0 in `train/` and again in `test/` (`mask_train_v2/` in its second version)."""
    for folder in folders:
        for half in ("train", "test"):
            if folder in (half, f"mask_{half}", f"mask_{half}_v2"):
                return half
    return None
