"""Commands and mistakes that need no model import neither torch nor transformers."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
INDEX = ROOT / "tests" / "compatibility" / "files" / "index"
CODE = """
import sys
sys.argv = ["rogle"]
sys.modules["torch"] = sys.modules["transformers"] = None  # an import of them fails
from modeling_rogle.cli.main import main
for line in sys.stdin.read().splitlines():
    try:
        print(main(line.split("|")), flush=True)
    except SystemExit as error:
        print(error.code, flush=True)
"""


def test_nothing_that_needs_no_model_imports_one(tmp_path):
    index, search = shutil.copytree(INDEX, tmp_path / "index"), "search|a man|--index"
    commands = {
        "index|--help": 0,
        "models": 0,
        f"delete|05.png|--index|{index}": 0,
        f"delete|05.png|--index|{index} ": 2,
        f"{search}|{index}|--where|camra = 'c1'": 2,
        f"{search}|{tmp_path / 'gone'}": 2,
        f"{search}|{index}|--top-k|0": 2,
        f"{search}|{index}|--local-weight|3": 2,
        f"index|{tmp_path / 'gone'}|--model|user/clip|--out|{tmp_path / 'new'}": 2,
        f"index|{tmp_path}|--model|user/clip|--out|{tmp_path}": 2,
        f"frames|{tmp_path / 'gone.mp4'}|--out|{tmp_path}|--every|1h": 2,
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    statuses = [line for line in done.stdout.splitlines() if line in ("0", "2")]
    assert statuses == [str(status) for status in commands.values()], done.stderr
    assert "Traceback" not in done.stderr and "torch" not in done.stderr
