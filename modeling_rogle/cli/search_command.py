"""The command `rogle search`: search an index with a description, a file of descriptions, or at a prompt."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modeling_rogle.cli.common import add_gallery_arguments, open_gallery

if TYPE_CHECKING:
    from modeling_rogle.search.gallery import Gallery
    from modeling_rogle.search.grouping import Grouping
    from modeling_rogle.search.requests import Answer, Request
    from modeling_rogle.search.results import Matches


def add_search(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "search",
        help="search an index with a description",
        description="Rank the indexed images by a description, and show the region that matches each sentence.",
    )
    parser.add_argument(
        "query",
        nargs="?",
        default="",
        help="description of a person in one or more sentences (default: ask for descriptions, on a terminal)",
    )
    add_gallery_arguments(parser)
    parser.add_argument(
        "--image", metavar="IMAGE", help="image of the person, besides or instead of the description (default: none)"
    )
    parser.add_argument(
        "--where",
        metavar="FILTER",
        help="search only images that pass this filter, for example \"camera = 'c3' and time > '2024-05-01'\" "
        "(default: all images)",
    )
    parser.add_argument(
        "--queries",
        metavar="FILE",
        help="search with every query of this file: one a line, or a .csv or .jsonl file with the fields query, image "
        "and where (default: search with QUERY)",
    )
    parser.add_argument(
        "--like",
        type=int,
        metavar="N",
        help="search with the image of the Nth result of the query (default: search with the query)",
    )
    parser.add_argument(
        "--explain",
        choices=("regions", "crops"),
        default="regions",
        help="where the best region of each sentence comes from: the regions of the index, or crops of the results, "
        "which takes 11 more forward passes per result and needs no trained regions (default: regions)",
    )
    parser.add_argument(
        "--group",
        action=argparse.BooleanOptionalAction,
        help="show near-duplicates, and images that follow each other in the columns camera and time or frame, as one "
        "result (default: only with --html; exact copies are always one result)",
    )
    parser.add_argument(
        "--group-by", metavar="COLUMN", help="show images with the same value of COLUMN as one result (default: none)"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="number of results (default: 10)")
    parser.add_argument(
        "--save", metavar="IMAGE", help="draw the results into this .png, .jpg or .webp file (default: no image)"
    )
    parser.add_argument(
        "--save-map",
        metavar="IMAGE",
        help="draw heat maps of the sentences over the results into this file (default: none)",
    )
    parser.add_argument(
        "--heatmap",
        type=int,
        metavar="N",
        help="draw the heat map for sentence N only; needs --save-map (default: all sentences)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON; with --queries one line a query (default: a table)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write a CSV file with a row for each result (default: none)")
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with the images and regions of the results (default: none)"
    )
    parser.add_argument(
        "--onnx",
        metavar="DIR",
        help="search with a model that `rogle export` wrote, without torch (default: search with torch)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="use the int8 files of the exported model; needs --onnx (default: the float32 files)",
    )
    parser.add_argument(
        "--local-weight",
        type=float,
        metavar="W",
        help="weight of the region-sentence similarity in the score, 0 to 1 (default: that of the model)",
    )
    parser.set_defaults(run=_search)


def _search(args: argparse.Namespace) -> None:
    _check_options(args)
    from modeling_rogle.search.requests import Request, answer, read_requests

    if args.queries:
        requests = read_requests(args.queries)
    else:
        requests = [Request(args.query, args.image, args.where)]
    gallery = open_gallery(args)
    if not (args.query.strip() or args.image or args.queries) and sys.stdin.isatty():
        _prompt(args, gallery)
        return
    _check_filters(args, requests, gallery)
    grouping = _grouping(args)
    failed = 0
    printed_notes: set[str] = set()
    with ExitStack() as stack:
        outputs = _open_outputs(args, stack, gallery, requests)
        for number, request in enumerate(requests, start=1):
            result = answer(gallery, request, args.top_k, args.local_weight, args.like, grouping)
            if result.error is not None and not args.queries:
                raise ValueError(result.error)
            for note in result.notes:
                if note not in printed_notes:
                    message = f"query {number}: {note.removeprefix('query: ')}" if args.queries else note
                    print(f"warning: {message}", file=sys.stderr)
                printed_notes.add(note)
            if result.error is not None:
                failed += 1
                print(f"query {number}: {result.error}", file=sys.stderr)
            _explain(args, gallery, result.matches)
            for output in outputs:
                output.add(result)
            _print(args, result, number)
    for file in filter(None, (args.csv, args.html)):
        print(f"results: {file}", file=sys.stderr if args.json else sys.stdout)
    if not args.queries:
        _draw(args, gallery, result.matches)
    if failed:
        raise ValueError(f"{failed} of {len(requests)} queries failed")


def _grouping(args: argparse.Namespace) -> Grouping:
    """What becomes one result: similar images with --group, which --html implies unless --group-by is given."""
    from modeling_rogle.search.grouping import Grouping

    similar = bool(args.html and not args.group_by) if args.group is None else args.group
    return Grouping(similar, args.group_by)


def _check_options(args: argparse.Namespace) -> None:
    """Checks the options against each other before anything is loaded."""
    for option in ("model", "save_map"):
        if args.onnx and getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')}: not supported with --onnx")
    if args.int8 and not args.onnx:
        raise ValueError("--int8: needs --onnx DIR")
    if args.queries:
        for option in ("query", "image", "save", "save_map", "like"):
            if getattr(args, option):
                name = "QUERY" if option == "query" else f"--{option.replace('_', '-')}"
                raise ValueError(f"--queries: not supported with {name}")
    if args.like is not None and args.save_map:
        raise ValueError("--save-map: not supported with --like, which searches with an image")
    _check_drawing(args)


def _check_filters(args: argparse.Namespace, requests: list[Request], gallery: Gallery) -> None:
    """Adds the filter of --where to requests without a filter, and checks all of them before the model is loaded."""
    from modeling_rogle.search.filters import parse_where

    for number, request in enumerate(requests):
        if request.where is None and args.where is not None:
            requests[number] = request = replace(request, where=args.where)
        elif request.where is not None and args.queries:
            try:
                parse_where(request.where, gallery.schema)
            except ValueError as error:
                raise ValueError(f"{args.queries}, query {number + 1}: {error}") from error
    if args.where is not None:
        parse_where(args.where, gallery.schema)
    if args.queries:
        _ = gallery.encoder  # without a model every query would fail


def _open_outputs(args: argparse.Namespace, stack: ExitStack, gallery: Gallery, requests: list[Request]) -> list[Any]:
    """Opens the files of --csv and --html; they are complete when `stack` closes."""
    from modeling_rogle.display.text_output import replacing

    outputs: list[Any] = []
    if args.csv:
        from modeling_rogle.display.csv_output import CsvOutput
        from modeling_rogle.index.shards import SCHEMA

        columns = [name for name in gallery.schema.names if name not in SCHEMA.names]
        outputs.append(CsvOutput(stack.enter_context(replacing(args.csv)), columns))
    if args.html:
        from modeling_rogle.display.html_report import HtmlReport

        report = HtmlReport(stack.enter_context(replacing(args.html)), gallery, requests)
        stack.callback(report.finish)
        outputs.append(report)
    return outputs


def _explain(args: argparse.Namespace, gallery: Gallery, matches: Matches | None) -> None:
    """Finds the regions of results from crops, if the user asked for it, and prints what it cost."""
    if args.explain == "crops" and matches:
        started = time.perf_counter()
        crops = gallery.explain(matches)
        seconds = time.perf_counter() - started
        print(f"explained {len(matches)} results with {crops} crops in {seconds:.1f} s", file=sys.stderr)


def _print(args: argparse.Namespace, result: Answer, number: int) -> None:
    """Prints one answer as JSON or as a table. With a file of queries and an output file, only JSON is printed."""
    from modeling_rogle.display.text_output import format_table, to_json_data

    request = result.request
    if args.json:
        search = {"query": request.query, "index": args.index, "image": request.image, "where": request.where}
        search |= {"like": result.like} if args.like else {}
        data = {"error": result.error} if result.matches is None else to_json_data(result.matches)
        print(json.dumps(search | data, ensure_ascii=False, indent=None if args.queries else 1))
    elif result.matches is not None and not (args.queries and (args.csv or args.html)):
        if args.queries:
            print(f"{'' if number == 1 else chr(10)}query {number}: {request.query or request.image}")
        if result.like is not None:
            print(f"images like {result.like}")
        print(format_table(result.matches))


def _draw(args: argparse.Namespace, gallery: Gallery, matches: Matches | None) -> None:
    output = sys.stderr if args.json else sys.stdout
    if args.save and matches:
        from modeling_rogle.display.result_sheet import draw_results
        from modeling_rogle.display.text_output import verdict

        print(f"image: {draw_results(matches, args.save, verdict=verdict(matches))}", file=output)
    if args.save_map and matches:
        from modeling_rogle.display.heatmap import draw_maps
        from modeling_rogle.inference.image_encoder import TorchEncoder

        encoder = gallery.encoder
        assert isinstance(encoder, TorchEncoder)  # --save-map is refused with --onnx
        path = draw_maps(encoder.model, encoder.processor, matches, args.save_map, args.heatmap)
        print(f"heat map: {path}", file=output)


def _prompt(args: argparse.Namespace, gallery: Gallery) -> None:
    """Answers descriptions that are typed on the terminal, until an empty line or the end of the input."""
    for option in ("like", "save", "save_map", "csv", "html", "json"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')}: needs a QUERY")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lines can be edited and recalled
    from modeling_rogle.display.text_output import format_table
    from modeling_rogle.search.requests import Request, answer

    print(f"{len(gallery)} images. Describe a person; `like N` searches with the Nth result; an empty line ends.")
    _ = gallery.encoder
    request, where, grouping = None, args.where, _grouping(args)
    while line := _typed_line():
        number = re.fullmatch(r"like (\d+)", line)
        if number and request is None:
            print("like: search with a description first", file=sys.stderr)
            continue
        request = request if number else Request(line, where=where)
        assert request is not None
        like = int(number[1]) if number else None
        result = answer(gallery, request, args.top_k, args.local_weight, like, grouping)
        for note in result.notes:
            print(f"warning: {note}", file=sys.stderr)
        if result.matches is None:
            print(result.error, file=sys.stderr)
            continue
        _explain(args, gallery, result.matches)
        if result.like is not None:
            print(f"images like {result.like}")
        print(format_table(result.matches))


def _typed_line() -> str:
    """The next line without spaces around it; empty at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return ""


def _check_drawing(args: argparse.Namespace) -> None:
    """Checks --save, --save-map and --heatmap."""
    if args.heatmap is not None:
        if not args.save_map:
            raise ValueError("--heatmap: needs --save-map IMAGE")
        from modeling_rogle.sentences import normalize_text, query_sentences

        count = len(query_sentences(normalize_text(args.query))[0])
        if not 1 <= args.heatmap <= count:
            raise ValueError(f"--heatmap: no sentence {args.heatmap}, the query has {count}")
    if args.save or args.save_map:
        from modeling_rogle.display.drawing import check_image_suffix

        for image in filter(None, (args.save, args.save_map)):
            check_image_suffix(image)


__all__ = ["add_search"]
