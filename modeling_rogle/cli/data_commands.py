"""The commands on data sets: mine, join, and `rogle data NAME`."""

import argparse
import sys
from importlib import import_module

from modeling_rogle.cli.common import check_model

# NAME of `rogle data NAME` -> its module, with `add_arguments(parser)` and `run(args)`, and its help text.
DATA_COMMANDS = {
    "build": ("dataset_pvlg.build.build", "build a P-VLG data set from public data sets or your own images"),
    "view": ("dataset_pvlg.inspection.html_view", "write rows of a data set as one HTML page"),
    "sheet": ("dataset_pvlg.inspection.contact_sheet", "draw rows of a data set into one image"),
    "export": ("dataset_pvlg.inspection.export_images", "write the images of a synthetic split as files"),
    "generate": ("dataset_pvlg.generation.generate", "add edited copies of training images as hard negatives"),
    "enrich": ("dataset_pvlg.captioning.enrich", "write long captions with a vision-language model"),
    "card": ("dataset_pvlg.synthetic.card", "write the data card of the synthetic data set"),
}


def add_mine(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "mine",
        help="find the region of every sentence in a data set",
        description="Run Region-to-Sentence Matching on a whole data set. Run the same command again after an "
        "interrupt to continue. `accelerate launch -m modeling_rogle.cli.main mine ...` shares the work among "
        "processes.",
    )
    parser.add_argument("data", help="folder of P-VLG Parquet files, synthetic, or synthetic-tiny")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder or Hub name of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set with regions")
    parser.add_argument(
        "--split",
        nargs="+",
        default=(),
        metavar="SPLIT",
        help="splits to mine; the others are copied (default: all splits)",
    )
    parser.add_argument(
        "--proposer",
        default="templates+felzenszwalb",
        metavar="NAME",
        help="source of candidate regions: templates+felzenszwalb, templates, grid, anchors (the same boxes for every "
        "image), sam=MODEL, open_vocabulary=MODEL or parser=MODEL (default: templates+felzenszwalb)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="minimum probability, 0 to 1, at which a sentence gets a region (default: 0.5)",
    )
    parser.add_argument(
        "--sample", type=int, default=4000, metavar="N", help="images that the scorer is fitted on (default: 4000)"
    )
    parser.add_argument(
        "--ignore-pairs",
        action="store_true",
        help="drop the regions of the data set, ground truth included, and use none of them (default: keep them)",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images per batch (default: 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for fitting the scorer (default: 0)")
    parser.set_defaults(run=_mine)


def add_join(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "join",
        help="add your own images to a data set of annotations only",
        description="Find the image of each row by its path. An image is used only if its SHA-256 is that of the row.",
    )
    parser.add_argument("annotations", help="folder that `rogle data build --annotations-only` wrote")
    parser.add_argument(
        "--images",
        action="append",
        required=True,
        metavar="SOURCE=FOLDER",
        help="image folder of a source; repeat for each source of the rows",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set with images")
    parser.set_defaults(run=_join)


def add_data(commands: argparse._SubParsersAction) -> None:
    width = max(map(len, DATA_COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in DATA_COMMANDS.items())
    parser = commands.add_parser(
        "data",
        help="build, view, draw, export, extend or document a data set",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Work on a P-VLG data set. NAME is one of:\n\n{listing}\n\n"
        "`rogle data NAME --help` lists the options of a command.",
    )
    parser.add_argument("name", choices=tuple(DATA_COMMANDS), metavar="NAME", help="one of the commands above")
    options = parser.add_argument("options", nargs=argparse.REMAINDER, help="arguments of that command")
    options.required = False  # or the error of a missing NAME would name it too
    parser.set_defaults(run=_data)


def _mine(args: argparse.Namespace) -> None:
    model_name = check_model(args.model)
    from dataset_pvlg.mining.mine_dataset import MineOptions, check_mining, mine_folder
    from dataset_pvlg.row_groups import end_processes, processes

    names = ("proposer", "threshold", "sample", "ignore_pairs", "batch_size", "seed")
    options = MineOptions(tuple(args.split), **{name: getattr(args, name) for name in names})
    state = processes()
    check_mining(args.data, args.out, options)  # before the model is loaded
    from modeling_rogle import load_model
    from modeling_rogle.inference.preprocessing import PERSON_SEARCH

    counts = mine_folder(*load_model(model_name, PERSON_SEARCH), args.data, args.out, options, sys.stderr.isatty())
    end_processes(state, counts, args.out)


def _join(args: argparse.Namespace) -> None:
    from dataset_pvlg.build.join import join, parse_images

    print(join(args.annotations, parse_images(args.images), args.out))
    print(args.out)


def _data(args: argparse.Namespace) -> int | None:
    module_name, text = DATA_COMMANDS[args.name]
    module = import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"rogle data {args.name}", description=f"{text[0].upper()}{text[1:]}.")
    module.add_arguments(parser)
    return module.run(parser.parse_args(args.options))


__all__ = ["DATA_COMMANDS", "add_data", "add_join", "add_mine"]
