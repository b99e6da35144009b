"""The public names of the package."""

import subprocess
import sys

import modeling_rogle


def test_every_public_name_can_be_imported():
    for name in modeling_rogle.__all__:
        assert getattr(modeling_rogle, name).__name__ == name
    assert set(modeling_rogle.__all__) <= set(dir(modeling_rogle))


def test_the_package_is_imported_without_torch():
    code = """
import sys
sys.modules["torch"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import modeling_rogle, modeling_rogle.late_interaction, modeling_rogle.sentences
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
