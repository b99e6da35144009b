"""The `rogle` command: the list of its commands, and one line on stderr for every error.

Each command is one function, which imports what it needs when it runs. Help texts therefore load neither torch nor
transformers nor datasets.
"""

import argparse
import sys
from collections.abc import Sequence

from modeling_rogle.cli.common import one_line, one_line_warnings, printable_output
from modeling_rogle.cli.data_commands import add_data, add_join, add_mine
from modeling_rogle.cli.index_commands import add_calibrate, add_delete, add_demo, add_index, add_merge
from modeling_rogle.cli.model_commands import add_convert, add_export, add_push
from modeling_rogle.cli.photo_commands import add_frames, add_models
from modeling_rogle.cli.search_command import add_search

COMMANDS = (
    add_index, add_search, add_delete, add_merge, add_calibrate, add_demo, add_frames, add_models,
    add_convert, add_export, add_push,
    add_mine, add_join, add_data,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments. Default: those of the process.

    Returns:
        The exit code: 0, or 2 after an error in the input, or 130 after an interrupt.
    """
    args = _parser().parse_args(argv)
    with printable_output():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    program = f"rogle {args.command} {args.name}" if args.command == "data" else f"rogle {args.command}"
    try:
        with one_line_warnings():
            return args.run(args) or 0
    except BrokenPipeError:  # `rogle search ... | head`
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError  # an invalid configuration, but not a ValueError

        if not isinstance(error, StrictDataclassError):
            raise
        print(f"{program}: {one_line(error.__cause__ or error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rogle", description="Find a person in a folder of images by a description in words."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
