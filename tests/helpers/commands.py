"""Runs one sub-command of `rogle data` by its module, as `rogle` runs it."""

import argparse
from collections.abc import Sequence
from types import ModuleType


def run_data_command(module: ModuleType, arguments: Sequence[str]) -> int:
    """Parses the arguments and runs the module; its ValueError or OSError is raised.

    Returns:
        The exit status, 0 for None.
    """
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments)) or 0


def one_line(error: BaseException) -> str:
    """The message of a user's error, which must be a single line."""
    message = str(error)
    assert message and "\n" not in message
    return message
