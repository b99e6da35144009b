"""What a run ran on, and where its log goes."""

import pytest
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, is_tensorboard_available

from train.environment import tracker_names


def test_a_tracker_that_is_not_installed_is_named() -> None:
    assert tracker_names("none") is None
    assert tracker_names("auto") == (["tensorboard"] if is_tensorboard_available() else None)
    there = [str(each) for each in get_available_trackers()]
    assert tracker_names(", ".join(there) or "none") == (there or None)
    absent = sorted(set(LoggerType.list()) - set(there) - {"all"})
    with pytest.raises(ImportError, match=f"--trackers {absent[0]}: it is not installed"):
        tracker_names(absent[0])
    with pytest.raises(ValueError, match="--trackers tensorbord: "):
        tracker_names("tensorbord")
