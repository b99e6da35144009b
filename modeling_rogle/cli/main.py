"""The `rogle` command. Each sub-command is one function; what it needs is imported when it runs."""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from modeling_rogle.cli.data_commands import add_join, add_mine, add_push

LISTED = 20  # skipped images named on the terminal; index.json has them all


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
        prog="rogle", description="Find a person in a folder of images from a description in words."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_index, _add_search, _add_delete, _add_calibrate, _add_demo, _add_convert, _add_export):
        add(commands)
    for add in (add_mine, add_join, add_push):
        add(commands)
    return parser


def _add_index(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "index",
        help="index a folder of person images",
        description="Makes an index, or brings one up to date: what is indexed already and has not changed is kept, so "
        "a run that was killed goes on where it was.",
    )
    parser.add_argument("folder", help="folder of images with all its sub-folders, a glob, or a folder of a data set")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder (or Hub name) of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder of the index")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images a forward pass (default 32)")
    parser.add_argument("--append", action="store_true", help="keep what is indexed and not in FOLDER")
    parser.add_argument(
        "--detector", metavar="DIR", help="object-detection model of transformers that finds the persons in full scenes"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode (default: by device)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of embeddings on disk (default float32, or the index's own)",
    )
    parser.add_argument(
        "--store", metavar="STORE", help="exact (default), faiss, milvus, a file for milvus-lite, or http://host:19530"
    )
    parser.set_defaults(run=_index)


def _add_search(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("search", help="search an index with a description")
    parser.add_argument("query", nargs="?", default="", help="a description, of one or more sentences")
    _add_gallery(parser)
    parser.add_argument("--image", metavar="IMAGE", help="an image of the person, instead of or beside the words")
    parser.add_argument(
        "--where", metavar="FILTER", help="which images, as in \"camera = 'c3' and time > '2024-05-01'\""
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="number of results (default 10)")
    parser.add_argument("--save", metavar="IMAGE", help="draw the results into this .png, .jpg or .webp")
    parser.add_argument("--save-map", metavar="IMAGE", help="draw where in each result each sentence is")
    parser.add_argument("--heatmap", type=int, metavar="N", help="of sentence N alone (with --save-map)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--onnx", metavar="DIR", help="search with an exported model, without torch; see rogle export")
    parser.add_argument("--int8", action="store_true", help="with its int8 files (with --onnx)")
    parser.add_argument(
        "--local-weight", type=float, metavar="W", help="weight of the regions in the score, 0 to 1 (default: fitted)"
    )
    parser.set_defaults(run=_search)


def _add_gallery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` made")
    parser.add_argument("--model", metavar="DIR", help="the model's folder (default: where the index found it)")
    parser.add_argument("--store", metavar="STORE", help="where to look up (default: the index's own; exact for none)")


def _add_delete(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "delete",
        help="delete images from an index",
        description="Removes metadata and embeddings of images from an index. The image files stay where they are: "
        "remove them too, or the next `rogle index` finds them again.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="as `rogle search` prints it, or absolute")
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` made")
    parser.set_defaults(run=_delete)


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="fit scores to probabilities, and when to say that nobody matches",
        description="Fits on the validation split of a data set and reports on its test split; or fits on half of the "
        "people described in --pairs and reports on the other half. Half of the people asked for are taken out of the "
        "gallery. Writes calibration.json, which every search reads from then on.",
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--dataset", metavar="NAME", help="synthetic, pvlg, cuhk_pedes, ...; needs --model")
    data.add_argument("--index", metavar="INDEX", help="folder that `rogle index` made; needs --pairs")
    parser.add_argument("--pairs", metavar="FILE", help='JSON lines {"query": "a man ...", "paths": ["a.jpg", ...]}')
    parser.add_argument("--model", metavar="DIR", help="the model's folder")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data set (not for synthetic)")
    parser.add_argument("--image-root", metavar="DIR", help="folder of its images, where not in --data-root")
    parser.add_argument("--out", metavar="DIR", help="where calibration.json goes (default: the index, or the model)")
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.1,
        metavar="R",
        help="share of searches for absent people that may be answered all the same (default 0.1)",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a forward pass (default 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of who is taken out (default 0)")
    parser.set_defaults(run=_calibrate)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("demo", help="search an index in the browser (needs `pip install rogle[demo]`)")
    _add_gallery(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on (default 7860)")
    parser.set_defaults(run=_demo)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert another project's checkpoint into a Rogle model",
        description="Reads a checkpoint of OpenAI CLIP, open_clip, Long-CLIP, IRRA, RDE or TBPS-CLIP, told by its "
        "keys, without running anything in it, and saves a folder that every other command takes as --model.",
    )
    parser.add_argument("file", help="the checkpoint: .safetensors, a file of torch.save, or OpenAI's own .pt")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of CLIP's tokenizer, which the weights do not hold")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="pixels (default 384 128, or the checkpoint's own where it was trained for person search)",
    )
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="where the file does not tell it: quick_gelu for OpenAI's weights, gelu for most of open_clip's",
    )
    parser.set_defaults(run=_convert)


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="export a model as ONNX, to search without torch (needs `pip install rogle[export]`)",
        description="Writes both towers as ONNX, in float32 and int8, checks the first in onnxruntime against the "
        "model, and puts the tokenizer beside them. `rogle search --onnx DIR` searches an index with them.",
    )
    parser.add_argument("model", help="folder (or Hub name) of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the export")
    parser.add_argument("--no-int8", action="store_true", help="without the int8 files")
    parser.set_defaults(run=_export)


def _index(args: argparse.Namespace) -> None:
    if not set(args.folder) & set("*?[") and not Path(args.folder).exists():  # before seconds are spent on the model
        raise FileNotFoundError(f"{args.folder}: no such folder")
    model_folder = _checked_model(args.model)
    _load_library()
    from modeling_rogle.inference.image_io import printable_path
    from modeling_rogle.search.gallery import Gallery, load_model

    report = Gallery.build(
        args.folder,
        *load_model(model_folder),
        args.out,
        args.batch_size,
        sys.stderr.isatty(),
        append=args.append,
        detector=args.detector,
        workers=args.workers,
        precision=args.precision,
        store=args.store,
    )
    for item in report.skipped[:LISTED]:
        print(f"skipped {printable_path(item.path)}: {item.reason}", file=sys.stderr)
    if len(report.skipped) > LISTED:
        rest = len(report.skipped) - LISTED
        print(f"skipped {rest} more, listed in {report.path / 'index.json'}", file=sys.stderr)
    changes = (
        f"{report.added} new, {report.kept} kept, {report.removed} dropped; " if report.kept + report.removed else ""
    )
    print(
        f"indexed {report.images} images into {report.path} in {report.seconds:.1f} s "
        f"({report.images_per_second:.0f} images/s); {changes}{len(report.skipped)} skipped, "
        f"{report.ignored} other files"
    )


def _search(args: argparse.Namespace) -> None:
    if args.onnx:
        return _search_onnx(args)
    if args.int8:
        raise ValueError("--int8: needs --onnx DIR")
    if args.heatmap is not None and not args.save_map:
        raise ValueError("--heatmap: needs --save-map PICTURE")
    if args.heatmap is not None:
        from modeling_rogle.sentences import query_sentences

        count = len(query_sentences(args.query)[0])
        if not 1 <= args.heatmap <= count:
            raise ValueError(f"--heatmap: no sentence {args.heatmap}, the query has {count}")
    if args.save or args.save_map:
        from modeling_rogle.display.drawing import check_image_suffix

        for image in filter(None, (args.save, args.save_map)):
            check_image_suffix(image)
    gallery = _opened(args)
    matches = gallery.search(args.query, args.top_k, args.local_weight, image=args.image, where=args.where)
    from modeling_rogle.display.text_output import format_table, to_json_data, verdict

    if args.json:
        asked = {"query": args.query, "index": args.index, "image": args.image, "where": args.where}
        print(json.dumps(asked | to_json_data(matches), ensure_ascii=False, indent=1))
    else:
        print(format_table(matches))
    told = sys.stderr if args.json else sys.stdout
    if args.save and matches:
        from modeling_rogle.display.result_sheet import draw_results

        print(f"image: {draw_results(matches, args.save, verdict=verdict(matches))}", file=told)
    if args.save_map and matches:
        from modeling_rogle.display.heatmap import draw_maps

        saved = draw_maps(gallery.model(), gallery.processor(), matches, args.save_map, args.heatmap)
        print(f"heat map: {saved}", file=told)


def _search_onnx(args: argparse.Namespace) -> None:
    for option in ("image", "where", "save", "save_map", "heatmap", "store", "model"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')}: not with --onnx, which searches by words alone")
    from modeling_rogle.inference.onnx_encoder import OnnxTowers
    from modeling_rogle.search.onnx_search import OnnxGallery, as_plain, as_table

    found = OnnxGallery(args.index, OnnxTowers(args.onnx, args.int8)).search(args.query, args.top_k, args.local_weight)
    if args.json:
        print(json.dumps({"query": args.query, "index": args.index, "results": as_plain(found)}, ensure_ascii=False))
    else:
        print(as_table(found))


def _opened(args: argparse.Namespace):
    model = _checked_model(args.model) if args.model else None
    _load_library()
    # That a query is cut is said by the search, in words about the query.
    logging.getLogger("modeling_rogle.processing_rogle").setLevel(logging.ERROR)
    from modeling_rogle.search.gallery import Gallery

    return Gallery.open(args.index, model, store=args.store)


def _delete(args: argparse.Namespace) -> None:
    from modeling_rogle.search.gallery import Gallery

    gallery = Gallery.open(args.index)
    before = len(gallery)
    count = gallery.delete(args.paths)
    deleted = before - len(gallery)
    names = f" and {count - deleted} names of skipped ones" if count > deleted else ""
    print(f"deleted {deleted} of {before} images{names} from {args.index}; the files themselves were not touched")


def _calibrate(args: argparse.Namespace) -> None:
    needed = "model" if args.dataset else "pairs"
    if getattr(args, needed) is None:
        raise ValueError(f"--{'dataset' if args.dataset else 'index'}: needs --{needed} too")
    if not 0.0 < args.false_alarm_rate < 1.0:
        raise ValueError(f"--false-alarm-rate must lie in (0, 1), not {args.false_alarm_rate}")
    out = Path(args.out or args.index or args.model)
    if not out.is_dir():
        raise FileNotFoundError(f"--out {out}: no such folder")
    _load_library()
    fitting, judging, about = _dataset_trials(args) if args.dataset else _index_trials(args)
    from dataclasses import replace

    from modeling_rogle.search.open_set import fit_calibration, judge

    calibration = fit_calibration(fitting, *about, args.false_alarm_rate)
    if judging is None:
        print("not judged: the data have no test split", file=sys.stderr)
    else:
        calibration = replace(calibration, report=judge(calibration, judging))
        print(_as_report(calibration.report))
    print(f"calibration: {calibration.save(out)}")


def _dataset_trials(args: argparse.Namespace) -> tuple:
    model_folder = _checked_model(args.model)
    from dataset_pvlg.loading import load_rows
    from modeling_rogle.evaluation.split_embeddings import encode_split
    from modeling_rogle.search.gallery import fingerprint, load_model
    from modeling_rogle.search.open_set import SHARES, split_trials

    splits, _ = load_rows(args.dataset, args.data_root, args.image_root)
    if "validation" not in splits:
        raise ValueError(f"--dataset {args.dataset}: has no validation split to fit on, only {', '.join(splits)}")
    model, processor = load_model(model_folder)
    weight = float(model.config.local_weight)

    def trials(split: str, seed: int, shares: tuple[float, ...] = (1.0,)):
        progress = sys.stderr.isatty()
        embeddings = encode_split(model, processor, splits[split], args.batch_size, progress, regions="templates")
        return split_trials(embeddings, weight, seed, shares)

    fitting = trials("validation", args.seed, SHARES)
    judging = trials("test", args.seed + 1) if "test" in splits else None
    return fitting, judging, (fingerprint(model), weight, f"{args.dataset} validation")


def _index_trials(args: argparse.Namespace) -> tuple:
    model_folder = _checked_model(args.model) if args.model else None
    from modeling_rogle.search.gallery import Gallery, fingerprint
    from modeling_rogle.search.open_set import gallery_trials, read_pairs

    gallery = Gallery.open(args.index, model_folder)
    fitting, judging = gallery_trials(gallery, *read_pairs(args.pairs, gallery), args.seed, sys.stderr.isatty())
    model = gallery.model()
    about = fingerprint(model), float(model.config.local_weight), f"half of the people in {Path(args.pairs).name}"
    return fitting, judging, about


def _as_report(figures: Mapping[str, float]) -> str:
    counts = f"{figures['trials']} searches, {figures['people']} unseen people, {figures['gallery']} images"
    return (
        f"judged on {counts}, half of the people absent:\n"
        f"  best result right                {figures['best_right']:7.1%}\n"
        f"  expected calibration error       {figures['ece_best']:7.3f} of the best result, "
        f"{figures['ece_all']:.3f} of the best ten\n"
        f"  AUROC present/absent             {figures['auroc']:7.3f}, by the score alone {figures['auroc_score']:.3f}\n"
        f"  FPR at 95 % TPR                  {figures['fpr95']:7.3f}, by the score alone {figures['fpr95_score']:.3f}\n"
        f"  absent people answered           {figures['false_alarms']:7.1%}, present ones {figures['answered']:.1%}"
    )


def _demo(args: argparse.Namespace) -> None:
    from modeling_rogle.display.demo import launch

    launch(_opened(args), args.host, args.port)


def _convert(args: argparse.Namespace) -> None:
    from modeling_rogle.conversion.convert import convert_checkpoint

    done = convert_checkpoint(
        args.file, args.out, args.image_size, tokenizer=args.tokenizer, activation=args.activation
    )
    size = " x ".join(map(str, done.image_size))
    print(f"converted {args.file} ({done.layout}) into {done.folder}: {done.parameters:,} parameters, {size} px")
    if done.left_out:
        tensors, numbers = (sum(pair[n] for pair in done.left_out.values()) for n in (0, 1))
        parts = ", ".join(done.left_out)
        print(f"left out, no part of the two towers: {tensors} tensors, {numbers:,} numbers ({parts})", file=sys.stderr)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if not done.with_processor:
        print("no processor in it, since the weights hold no tokenizer: give one with --tokenizer DIR", file=sys.stderr)


def _export(args: argparse.Namespace) -> None:
    model = _checked_model(args.model)
    _load_library()
    from modeling_rogle.onnx_export.export import export_onnx

    done = export_onnx(model, args.out, int8=not args.no_int8)
    for name, size in done.sizes.items():
        print(f"{name:<20} {size / 1e6:9.2f} MB")
    told = ", ".join(f"{tower} {largest:.1e}" for tower, largest in done.difference.items())
    print(f"exported {model} into {done.folder}; largest difference from the model in onnxruntime: {told}")


def _load_library() -> None:
    """Makes our classes known to transformers, which the command itself starts without."""
    from modeling_rogle import RogleModel  # noqa: F401


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
