"""The command `rogle search`: search an index with a description."""

import argparse
import json
import sys

from modeling_rogle.cli.common import add_gallery_arguments, open_gallery


def add_search(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "search",
        help="search an index with a description",
        description="Rank the indexed images by a description, and show the region that matches each sentence.",
    )
    parser.add_argument("query", nargs="?", default="", help="description of a person in one or more sentences")
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
    parser.add_argument("--json", action="store_true", help="print JSON (default: a table)")
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
    for option in ("model", "save_map"):
        if args.onnx and getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')}: not supported with --onnx")
    if args.int8 and not args.onnx:
        raise ValueError("--int8: needs --onnx DIR")
    _check_drawing(args)
    gallery = open_gallery(args)
    matches = gallery.search(args.query, args.top_k, args.local_weight, image=args.image, where=args.where)
    from modeling_rogle.display.text_output import format_table, to_json_data, verdict

    if args.json:
        search = {"query": args.query, "index": args.index, "image": args.image, "where": args.where}
        print(json.dumps(search | to_json_data(matches), ensure_ascii=False, indent=1))
    else:
        print(format_table(matches))
    output = sys.stderr if args.json else sys.stdout
    if args.save and matches:
        from modeling_rogle.display.result_sheet import draw_results

        print(f"image: {draw_results(matches, args.save, verdict=verdict(matches))}", file=output)
    if args.save_map and matches:
        from modeling_rogle.display.heatmap import draw_maps
        from modeling_rogle.inference.image_encoder import TorchEncoder

        encoder = gallery.encoder
        assert isinstance(encoder, TorchEncoder)  # --save-map is refused with --onnx
        path = draw_maps(encoder.model, encoder.processor, matches, args.save_map, args.heatmap)
        print(f"heat map: {path}", file=output)


def _check_drawing(args: argparse.Namespace) -> None:
    """Checks --save, --save-map and --heatmap before the model is loaded."""
    if args.heatmap is not None:
        if not args.save_map:
            raise ValueError("--heatmap: needs --save-map IMAGE")
        from modeling_rogle.sentences import query_sentences

        count = len(query_sentences(args.query)[0])
        if not 1 <= args.heatmap <= count:
            raise ValueError(f"--heatmap: no sentence {args.heatmap}, the query has {count}")
    if args.save or args.save_map:
        from modeling_rogle.display.drawing import check_image_suffix

        for image in filter(None, (args.save, args.save_map)):
            check_image_suffix(image)


__all__ = ["add_search"]
