"""The commands that come before an index: frames of videos, and a list of public models."""

import argparse
import json
import sys


def add_frames(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "frames",
        help="write frames of videos as images to index (needs `pip install rogle[video]`)",
        description="Write frames of videos into a new folder, with their cameras and times in metadata.csv. "
        "`rogle index FOLDER --detector MODEL` finds the persons in them.",
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video file")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new folder for the frames")
    parser.add_argument(
        "--every", default="1s", metavar="TIME", help="time between frames, such as 1s, 200ms or 2min (default: 1s)"
    )
    parser.set_defaults(run=_frames)


def add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "models",
        help="list public checkpoints that should work",
        description="List public checkpoints: what they were trained on, licence, size, how to get them, and whether "
        "we tried them. It needs no network and downloads nothing.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (default: a text)")
    parser.set_defaults(run=_models)


def _frames(args: argparse.Namespace) -> None:
    from modeling_rogle.image_io import printable_path
    from modeling_rogle.indexing.video_frames import parse_interval, write_frames

    try:
        every = parse_interval(args.every)
    except ValueError as error:
        raise ValueError(f"--every: {error}") from error
    report = write_frames(args.videos, args.out, every)
    for path, reason in report.skipped:
        print(f"skipped {printable_path(path)}: {reason}", file=sys.stderr)
    print(f"wrote {report.frames} frames of {report.videos} videos into {report.folder}; {len(report.skipped)} skipped")


def _models(args: argparse.Namespace) -> None:
    from modeling_rogle.display.public_models import MODELS, format_models, models_as_data

    print(json.dumps(models_as_data(MODELS), indent=1) if args.json else format_models(MODELS))


__all__ = ["add_frames", "add_models"]
