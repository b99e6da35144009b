"""The `rogle` commands that make or give away data and models: mine, join, push. As in cli.py, what a command needs is
imported when it runs.
"""

import argparse
import sys
from pathlib import Path


def add_mine(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "mine",
        help="find the region of every sentence in a data set",
        description="Region-to-Sentence Matching over a whole data set, offline. A run that was killed goes on where "
        "it was when the same command runs again; `accelerate launch -m modeling_rogle.cli.main mine` shares the work.",
    )
    parser.add_argument("data", help="a folder of P-VLG Parquet, synthetic, or synthetic-tiny")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder (or Hub name) of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set with regions")
    parser.add_argument(
        "--split", nargs="+", default=(), metavar="SPLIT", help="mined ones (default: all); others are copied"
    )
    parser.add_argument(
        "--proposer",
        default="templates+felzenszwalb",
        metavar="NAME",
        help="where candidates come from: templates+felzenszwalb (default), templates, grid, places (the same boxes of "
        "every image, which costs nothing), sam=MODEL, open_vocabulary=MODEL or parser=MODEL",
    )
    parser.add_argument(
        "--rule",
        choices=("best", "one_to_one", "transport"),
        default="best",
        help="each sentence its best box (default), no box twice, or optimal transport",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="probability under which a sentence gets no region (default: 0.5)"
    )
    parser.add_argument("--sample", type=int, default=4000, metavar="N", help="images to learn from (default 4000)")
    parser.add_argument(
        "--ignore-pairs", action="store_true", help="drop the regions that the data have, true ones too, and use none"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images a forward pass (default 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is learnt (default 0)")
    parser.set_defaults(run=_mine)


def add_join(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "join",
        help="put one's own images back into an annotations-only data set",
        description="Images are found by the rows' paths and taken only if their sha256 is the rows'.",
    )
    parser.add_argument("annotations", help="a folder that `dataset_pvlg.build.build --annotations-only` wrote")
    parser.add_argument(
        "--images", action="append", required=True, metavar="SOURCE=FOLDER", help="one for each source of the rows"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set with its images")
    parser.set_defaults(run=_join)


def add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="release a model on the Hub; in a checkout of the repository its data, metric and demo too",
        description="What `python hub/release.py` does, with its options: a dry run unless --push is given. Without a "
        "checkout the model alone, with --push, --private and --base.",
    )
    parser.add_argument("model", help="folder of a Rogle model with its processor and card")
    parser.add_argument("repo_id", metavar="user/name", help="the model's repository on the Hub")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="as `python hub/release.py --help` lists them, after the names"
    )
    parser.set_defaults(run=_push)


def _mine(args: argparse.Namespace) -> None:
    from modeling_rogle.cli.main import _checked_model

    model_name = _checked_model(args.model)
    from dataset_pvlg.mining.mine_dataset import MineOptions, check_mining, mine_folder
    from dataset_pvlg.row_groups import end_processes, processes

    names = ("proposer", "rule", "threshold", "sample", "ignore_pairs", "batch_size", "seed")
    options = MineOptions(tuple(args.split), **{name: getattr(args, name) for name in names})
    state = processes()
    check_mining(args.data, args.out, options)  # a typo must not cost the loading of a model
    from modeling_rogle.inference.loading import load_model

    counts = mine_folder(*load_model(model_name), args.data, args.out, options, sys.stderr.isatty())
    end_processes(state, counts, args.out)


def _join(args: argparse.Namespace) -> None:
    from dataset_pvlg.build.join import join, parse_images

    print(join(args.annotations, parse_images(args.images), args.out))
    print(args.out)


def _push(args: argparse.Namespace) -> None:
    root = Path(__file__).resolve().parents[2]
    if not (root / "hub" / "release.py").is_file():
        return _push_model(args)
    sys.path.insert(0, str(root))
    from hub.release import main

    if code := main([args.model, args.repo_id, *args.options]):  # which has told why
        raise SystemExit(code)


def _push_model(args: argparse.Namespace) -> None:
    parser = argparse.ArgumentParser(prog="rogle push")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true")
    mode.add_argument("--push", action="store_true")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--base")
    options, others = parser.parse_known_args(args.options)
    if others:
        raise ValueError(f"{others[0]}: only in a checkout of the repository, as hub/release.py is not installed")
    print(
        "rogle push: the model alone; data, metric and demo are pushed from a checkout of the repository",
        file=sys.stderr,
    )
    from modeling_rogle.release.push import push_model

    for line in push_model(args.model, args.repo_id, options.private, not options.push, options.base):
        print(line)


__all__ = ["add_join", "add_mine", "add_push"]
