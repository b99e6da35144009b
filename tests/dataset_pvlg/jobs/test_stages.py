"""Units of work survive a kill: complete or absent, computed once, the same with any number of workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset_pvlg.jobs.stages import RESULT, Stages


def count(folder: Path, log: Path, text: str) -> dict:
    with open(log, "a") as file:
        file.write(text + "\n")
    (folder / "text").write_text(text)
    return {"length": len(text)}


def fail_on(folder: Path, log: Path, text: str) -> dict:
    if text == "bad":
        raise ValueError("bad: is bad")
    return count(folder, log, text)


def die(folder: Path) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def linger(folder: Path, log: Path) -> dict:
    log.write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def test_a_finished_unit_is_not_computed_again(tmp_path, capfd):
    log, work = tmp_path / "log", tmp_path / "work"
    with Stages(work) as stages:
        stages.run("one", count, {"a": (log, "a"), "b": (log, "bb")})
    with Stages(work) as stages:
        units = stages.run("one", count, {"a": (log, "a"), "b": (log, "bb"), "c": (log, "ccc")})
        assert {name: unit.result["length"] for name, unit in units.items()} == {"a": 1, "b": 2, "c": 3}
        assert [(unit.folder / "text").read_text() for unit in units.values()] == ["a", "bb", "ccc"]
        stages.finish()
    assert log.read_text().split() == ["a", "bb", "ccc"]
    assert not work.exists()
    assert "one: 1 made, 2 found finished" in capfd.readouterr().err


def test_an_incomplete_unit_is_computed_again(tmp_path):
    log, work = tmp_path / "log", tmp_path / "work"
    with Stages(work) as stages:
        folder = stages.run("one", count, {"a": (log, "a"), "b": (log, "b")})["a"].folder
    incomplete = folder.with_name("a.part")
    folder.rename(incomplete)
    (incomplete / RESULT).write_text('{"length"')
    with Stages(work) as stages:
        assert stages.run("one", count, {"a": (log, "a"), "b": (log, "b")})["a"].result == {"length": 1}
    assert log.read_text().split() == ["a", "b", "a"] and not incomplete.exists()


def test_new_options_recompute_that_stage_and_the_later_ones(tmp_path):
    log, work = tmp_path / "log", tmp_path / "work"

    def run(facts: int, second: int) -> None:
        with Stages(work, facts=facts) as stages:
            for name, options in (("one", None), ("two", second), ("three", None)):
                stages.run(name, count, {"a": (log, name)}, options)

    run(0, 0)
    run(0, 1)
    assert log.read_text().split() == ["one", "two", "three", "two", "three"]
    run(1, 1)
    assert log.read_text().split()[5:] == ["one", "two", "three"]
    assert len(list(work.glob("*-*"))) == 3  # outdated stages are removed


def test_an_error_is_passed_on_and_finished_units_stay(tmp_path):
    log, work = tmp_path / "log", tmp_path / "work"
    with pytest.raises(ValueError, match="bad: is bad"), Stages(work) as stages:
        stages.run("one", fail_on, {"a": (log, "a"), "b": (log, "bad")})
    with Stages(work) as stages:
        stages.run("one", fail_on, {"a": (log, "a"), "b": (log, "good")})
    assert log.read_text().split() == ["a", "good"]


def test_without_a_finished_unit_no_work_folder_is_left(tmp_path):
    with pytest.raises(ValueError, match="is bad"), Stages(tmp_path / "work") as stages:
        stages.run("one", fail_on, {"a": (tmp_path / "log", "bad")})
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path):
    with (
        Stages(tmp_path / "work"),
        pytest.raises(ValueError, match="another process is using it"),
        Stages(tmp_path / "work"),
    ):
        pass


def test_workers_give_the_same_results_and_pass_errors_on(tmp_path):
    log = tmp_path / "log"
    units = {name: (log, name * 3) for name in "abcdef"}
    with Stages(tmp_path / "two", workers=2) as stages:
        two = stages.run("one", count, units)
        with pytest.raises(ValueError, match="bad: is bad"):
            stages.run("two", fail_on, {"a": (log, "bad"), "b": (log, "b")})
        with pytest.raises(OSError, match="a worker process died"):
            stages.run("two", die, {"a": (), "b": ()})
    with Stages(tmp_path / "one") as stages:
        one = stages.run("one", count, units)
    assert [json.dumps(u.result) for u in one.values()] == [json.dumps(u.result) for u in two.values()]


@pytest.mark.slow
def test_workers_end_with_a_killed_build(tmp_path):
    logs = [tmp_path / "a", tmp_path / "b"]
    code = (
        "import pathlib, tests.dataset_pvlg.jobs.test_stages as t\n"
        "with t.Stages(pathlib.Path('work'), workers=2) as stages:\n"
        "    stages.run('one', t.linger, {name: (pathlib.Path(name),) for name in 'ab'})"
    )
    path = str(Path(__file__).parents[3])
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    until = time.monotonic() + 60
    while not all(log.exists() and log.read_text() for log in logs):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    while any(_runs(log.read_text()) for log in logs):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
