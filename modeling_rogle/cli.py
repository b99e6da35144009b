"""The `rogle` command. Each sub-command is one function; what it needs is imported when it runs."""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LISTED = 20  # skipped pictures named on the terminal; index.json has them all


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command.

    Returns:
        0; 2 after bad input, which is told in one line on stderr; 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        with _one_line_warnings():
            args.run(args)
    except BrokenPipeError:  # `rogle search ... | head`
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"rogle {args.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rogle {args.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError  # no ValueError, although it says the same

        if not isinstance(error, StrictDataclassError):
            raise
        print(f"rogle {args.command}: {_one_line(error.__cause__ or error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rogle", description="Find a person in a folder of pictures from a description in words."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_index, _add_search, _add_delete, _add_convert):
        add(commands)
    return parser


def _add_index(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("index", help="index a folder of person pictures")
    parser.add_argument("folder", help="folder of pictures, searched with all its sub-folders")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder (or Hub name) of a Rogle or CLIP model")
    parser.add_argument(
        "--out", required=True, metavar="INDEX", help="folder for the index; an older index is replaced"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures a forward pass (default 32)")
    parser.set_defaults(run=_index)


def _add_search(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("search", help="search an index with a description")
    parser.add_argument("query", help="a description, of one or more sentences")
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` made")
    parser.add_argument("--model", metavar="DIR", help="the model's folder (default: where the index found it)")
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="number of results (default 10)")
    parser.add_argument("--save", metavar="PICTURE", help="draw the results into this .png, .jpg or .webp")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--local-weight", type=float, metavar="W", help="weight of the regions in the score, 0 to 1 (default: fitted)"
    )
    parser.set_defaults(run=_search)


def _add_delete(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "delete",
        help="delete pictures from an index",
        description="Removes metadata and embeddings of pictures from an index. The picture files stay where they are: "
        "remove them too, or the next `rogle index` finds them again.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="as `rogle search` prints it, or absolute")
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` made")
    parser.set_defaults(run=_delete)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert OpenAI CLIP weights into a Rogle model",
        description="Reads a state dict in the layout of OpenAI's CLIP (.safetensors, or a file of torch.save that "
        "needs no code to be read) and saves a folder that every other command takes as --model.",
    )
    parser.add_argument("file", help="the state dict")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of CLIP's tokenizer, which the weights do not hold")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=(384, 128),
        metavar=("HEIGHT", "WIDTH"),
        help="pixels (default 384 128)",
    )
    parser.set_defaults(run=_convert)


def _index(args: argparse.Namespace) -> None:
    if not Path(args.folder).exists():  # before seconds are spent on the model
        raise FileNotFoundError(f"{args.folder}: no such folder")
    model_folder = _checked_model(args.model)
    from .folder import shown
    from .gallery import Gallery, load_model

    report = Gallery.build(args.folder, *load_model(model_folder), args.out, args.batch_size, sys.stderr.isatty())
    for item in report.skipped[:LISTED]:
        print(f"skipped {shown(item.path)}: {item.reason}", file=sys.stderr)
    if len(report.skipped) > LISTED:
        rest = len(report.skipped) - LISTED
        print(f"skipped {rest} more, listed in {report.path / 'index.json'}", file=sys.stderr)
    print(
        f"indexed {report.images} pictures into {report.path} in {report.seconds:.1f} s "
        f"({report.images_per_second:.0f} images/s); {len(report.skipped)} skipped, {report.ignored} other files"
    )


def _search(args: argparse.Namespace) -> None:
    if args.save:
        from .pictures import check_suffix, draw_results

        check_suffix(args.save)
    model = _checked_model(args.model) if args.model else None
    from .gallery import Gallery

    matches = Gallery.open(args.index, model).search(args.query, args.top_k, args.local_weight)
    print(_as_json(args, matches) if args.json else _as_table(matches))
    if args.save:
        saved = draw_results(matches, args.query, args.save)
        print(f"picture: {saved}", file=sys.stderr if args.json else sys.stdout)


def _delete(args: argparse.Namespace) -> None:
    from .gallery import Gallery

    gallery = Gallery.open(args.index)
    before = len(gallery)
    count = gallery.delete(args.paths)
    deleted = before - len(gallery)
    names = f" and {count - deleted} names of skipped ones" if count > deleted else ""
    print(f"deleted {deleted} of {before} pictures{names} from {args.index}; the files themselves were not touched")


def _convert(args: argparse.Namespace) -> None:
    from .convert import convert_openai

    converted = convert_openai(args.file, args.out, args.image_size, tokenizer=args.tokenizer)
    height, width = args.image_size
    print(f"converted {args.file} into {converted.folder}: {converted.parameters:,} parameters, {height} x {width} px")
    if not converted.with_processor:
        print("no processor in it, since the weights hold no tokenizer: give one with --tokenizer DIR", file=sys.stderr)


def _as_table(matches: Sequence) -> str:
    from .folder import shown

    sentences = matches[0].sentences
    lines = [f"[{number}] {' '.join(found.sentence.split())}" for number, found in enumerate(sentences, start=1)]
    width = max(len(shown(match.path)) for match in matches)
    lines += ["", f"{'rank':>4}  {'score':>6}  {'global':>6}  {'picture':<{width}}  best region of each sentence"]
    for match in matches:
        regions = ", ".join(f"[{number}] {found.label}" for number, found in enumerate(match.sentences, start=1))
        numbers = f"{match.rank:>4}  {match.score:>6.3f}  {match.global_score:>6.3f}"
        lines.append(f"{numbers}  {shown(match.path):<{width}}  {regions}")
    return "\n".join(lines)


def _as_json(args: argparse.Namespace, matches: Sequence) -> str:
    from dataclasses import asdict

    results = [{**asdict(match), "file": str(match.file)} for match in matches]
    return json.dumps({"query": args.query, "index": args.index, "results": results}, ensure_ascii=False, indent=1)


def _checked_model(name: str) -> str:
    """A folder that exists, or something that can be a Hub name (`user/model`)."""
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir()
    if not Path(name).is_dir() and looks_local:
        raise FileNotFoundError(f"--model {name}: no such folder")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"--model {name}: no config.json there, so it is not a model's folder")
    return name


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings as one line on stderr, without the place in the code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
