"""The commands on models: convert, export, push."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from modeling_rogle.cli.common import check_model


def add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert another project's checkpoint into a Rogle model",
        description="Read a checkpoint of OpenAI CLIP, open_clip, Long-CLIP, IRRA, RDE or TBPS-CLIP and save a model "
        "folder, which every other command accepts as --model. The project is recognised by the keys. No code in the "
        "checkpoint is executed.",
    )
    parser.add_argument("file", help="checkpoint: .safetensors, a file of torch.save, or a .pt archive of OpenAI")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="folder of a CLIP tokenizer (default: the model is saved without processor)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input size in pixels (default: 384 128, or the checkpoint's own if it was trained for person search)",
    )
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="activation of the encoders: quick_gelu for OpenAI's weights, gelu for most of open_clip's (default: the "
        "one that the file names, else an assumption that is printed)",
    )
    parser.set_defaults(run=_convert)


def add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="export a model as ONNX, to search without torch (needs `pip install rogle[export]`)",
        description="Write the image and text encoders as ONNX in float32 and int8, with the tokenizer. The float32 "
        "files are compared with the model in onnxruntime. `rogle search --onnx DIR` searches an index with them.",
    )
    parser.add_argument("model", help="folder or Hub name of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the exported model")
    parser.add_argument("--no-int8", action="store_true", help="do not write the int8 files (default: write them)")
    parser.set_defaults(run=_export)


def add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="release a model on the Hub; from a checkout of the repository also its data, metric and demo",
        description="Run `python hub/release.py` with its options. By default nothing is uploaded: add --push. Without "
        "a checkout of the repository only the model is released, and the options are --push, --private and --base.",
    )
    parser.add_argument("model", help="folder of a Rogle model with its processor and card")
    parser.add_argument("repo_id", metavar="user/name", help="repository of the model on the Hub")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options of `python hub/release.py --help`, after the two names"
    )
    parser.set_defaults(run=_push)


def _convert(args: argparse.Namespace) -> None:
    from modeling_rogle.conversion.convert import convert_checkpoint

    result = convert_checkpoint(
        args.file, args.out, args.image_size, tokenizer=args.tokenizer, activation=args.activation
    )
    size = " x ".join(map(str, result.image_size))
    print(f"converted {args.file} ({result.layout}) into {result.folder}: {result.parameters:,} parameters, {size} px")
    if result.unused:
        tensors, values = (sum(counts[n] for counts in result.unused.values()) for n in (0, 1))
        parts = ", ".join(result.unused)
        print(f"not converted: {tensors} tensors outside the two encoders, {values:,} values ({parts})",
              file=sys.stderr)  # fmt: skip
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if not result.with_processor:
        print("saved without processor: the weights hold no tokenizer; give one with --tokenizer DIR", file=sys.stderr)


def _export(args: argparse.Namespace) -> None:
    model = check_model(args.model)
    from modeling_rogle import RogleModel  # noqa: F401  registers the model with transformers
    from modeling_rogle.onnx_export.export import export_onnx

    result = export_onnx(model, args.out, int8=not args.no_int8)
    for name, size in result.sizes.items():
        print(f"{name:<20} {size / 1e6:9.2f} MB")
    differences = ", ".join(f"{tower} {largest:.1e}" for tower, largest in result.difference.items())
    print(f"exported {model} into {result.folder}; largest difference from the model in onnxruntime: {differences}")


def _push(args: argparse.Namespace) -> int | None:
    with tempfile.TemporaryDirectory(prefix="rogle-push-", ignore_cleanup_errors=True) as cache:
        # torch creates its cache folder when it is imported, and a dry run should leave none.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
        root = Path(__file__).resolve().parents[2]
        if not (root / "hub" / "release.py").is_file():
            _push_model(args)
            return None
        sys.path.insert(0, str(root))
        from hub.release import main

        return main([args.model, args.repo_id, *args.options])  # prints its own errors


def _push_model(args: argparse.Namespace) -> None:
    parser = argparse.ArgumentParser(prog="rogle push")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="print what would be uploaded (default)")
    mode.add_argument("--push", action="store_true", help="upload the model")
    parser.add_argument("--private", action="store_true", help="create a private repository (default: public)")
    parser.add_argument("--base", help="Hub name of the model that the adapters belong to (adapters only)")
    options, unknown = parser.parse_known_args(args.options)
    if unknown:
        raise ValueError(f"{unknown[0]}: needs a checkout of the repository, because hub/release.py is not installed")
    print("rogle push: releases the model only; data, metric and demo need a checkout of the repository",
          file=sys.stderr)  # fmt: skip
    from modeling_rogle.release.push import push_model

    for line in push_model(args.model, args.repo_id, options.private, not options.push, options.base):
        print(line)


__all__ = ["add_convert", "add_export", "add_push"]
