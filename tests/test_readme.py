"""README.md: what it names exists, its commands are the programs' own, CI runs its test command."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from modeling_rogle.cli.main import _parser
from train.train import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(name: str) -> str:
    """The shell block after `<!-- name command -->`, on one line."""
    found = re.search(rf"<!-- {name} command -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no {name} command"
    return found[1].replace("\\\n", " ")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_linked_files_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_map_names_folders_that_exist() -> None:
    table = README.split("## Map")[1].split("## ")[0]
    names = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    assert names
    for name in (name for row in names for name in row if "/" in name):
        assert (ROOT / name).exists(), name


def test_main_command_uses_flags_that_exist() -> None:
    steps = [shlex.split(step) for step in command("main").split("&&")]
    train = next(step for step in steps if "train/train.py" in step)
    assert read_recipe(train[train.index("train/train.py") + 1 :]) == Recipe()
    out = Recipe().out
    for step in steps:
        if step[0] == "rogle":
            args = _parser().parse_args(step[1:])
            if args.command == "index":
                assert args.model == f"{out}/best"


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    program = re.search(r"command=\$\((awk .*?)\)\n", script)[1]
    printed = subprocess.run(program, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.replace("\\\n", " ").split() == command("test").split()
    assert "pytest" in printed
