"""The commands on an index besides `rogle search`: index, delete, calibrate, demo."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_rogle.cli.common import add_gallery_arguments, check_model, open_gallery

if TYPE_CHECKING:
    from modeling_rogle.search.calibration import Calibration

MAX_LISTED = 20  # skipped images printed on the terminal; index.json lists all of them


def add_index(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "index",
        help="index a folder of person images",
        description="Create an index, or update one: images that have not changed since they were indexed are not "
        "encoded again. Run the same command again after an interrupt to continue.",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder of images with its sub-folders, a glob pattern, or a data set folder"
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="folder or Hub name of a Rogle or CLIP model")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder of the index")
    parser.add_argument(
        "--fit",
        choices=("pad", "squeeze", "crop"),
        help="how CLIP weights see an image: pad it to the model's shape, squeeze it, or crop it (default: that of the "
        "existing index, else pad). A Rogle checkpoint keeps its own fit, image size and text length",
    )
    parser.add_argument(
        "--image-size",
        type=_image_size,
        metavar="HxW",
        help="height and width in pixels for CLIP weights, such as 384x128 (default: that of the existing index, else "
        "the size that the weights were trained with)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum length of a query for CLIP weights, such as 248 (default: that of the existing index, else that "
        "of the weights, 77 for most)",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images per batch (default: 32)")
    parser.add_argument(
        "--append",
        action="store_true",
        help="add to the index; keep entries that are missing from FOLDER (default: remove them)",
    )
    parser.add_argument(
        "--detector",
        metavar="DIR",
        help="object-detection model of transformers that crops the persons from full scenes, such as "
        "hustvl/yolos-small or PekingU/rtdetr_r50vd (default: the images are person crops already)",
    )
    parser.add_argument(
        "--detector-threshold",
        type=float,
        metavar="T",
        help="lowest score of a detected person, between 0 and 1; needs --detector (default: 0.5)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that decode images (default: 0 on a CPU, up to 8 on a GPU)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="precision of the global embeddings on disk (default: that of the existing index, else float32)",
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="vector store: exact, faiss-flat, faiss, faiss-hnsw, http://host:19530 (Milvus) or "
        "postgresql://host/database (pgvector) (default: that of the existing index, else exact)",
    )
    parser.set_defaults(run=_index)


def add_delete(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "delete",
        help="delete images from an index",
        description="Delete the metadata and embeddings of images from an index. The image files are not deleted: "
        "delete them too, or the next `rogle index` adds them again.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="path as `rogle search` prints it, or absolute path")
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` wrote")
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="vector store of the index, where the embeddings are deleted too; exact removes a store on a server from "
        "the index without contacting it (default: the store of the index, if it is a file of the index or is named by "
        "MILVUS_URI or ROGLE_POSTGRES_URI)",
    )
    parser.set_defaults(run=_delete)


def add_merge(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "merge",
        help="merge indexes into one",
        description="Merge indexes that the same model made of different images, for example on several machines. No "
        "image is encoded again, and the files of the parts are linked where possible. The parts stay as they are; an "
        "image that is deleted from the merged index is still in its part.",
    )
    parser.add_argument("parts", nargs="+", metavar="PART", help="folder that `rogle index` wrote")
    parser.add_argument(
        "--out", required=True, metavar="INDEX", help="folder of the merged index, which must not exist"
    )
    parser.add_argument(
        "--prefer",
        choices=("first", "last"),
        help="the part whose image is kept if several parts hold the same path (default: such a path is an error)",
    )
    parser.set_defaults(run=_merge)


def add_calibrate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="fit probabilities to the scores, and a threshold for persons who are not in the gallery",
        description="With --dataset, fit on the validation split and evaluate on the test split. With --index, fit on "
        "half of the people described in --pairs and evaluate on the other half. Half of the described people are "
        "removed from the gallery to measure false alarms. Every later search reads the result, calibration.json.",
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--dataset", metavar="NAME", help="name of a data set: synthetic, pvlg, cuhk_pedes, ...; needs --model"
    )
    data.add_argument("--index", metavar="INDEX", help="folder that `rogle index` wrote; needs --pairs")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help='JSON lines {"query": "a man ...", "paths": ["a.jpg", ...]}; needed with --index (default: none)',
    )
    parser.add_argument(
        "--model", metavar="DIR", help="folder or Hub name of the model (default: the model that made the index)"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the data set (default: none, for a synthetic data set)"
    )
    parser.add_argument("--image-root", metavar="DIR", help="folder of its images (default: inside --data-root)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for calibration.json (default: the index, or the model folder)"
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.1,
        metavar="R",
        help="target false-alarm rate for people who are not in the gallery, between 0 and 1 (default: 0.1)",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch (default: 64)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed that selects the people to remove (default: 0)"
    )
    parser.set_defaults(run=_calibrate)


def add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="search an index in the browser (needs `pip install rogle[demo]`)",
        description="Serve a web page that searches an index. It runs on this machine and needs no network.",
    )
    add_gallery_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on (default: 7860)")
    parser.set_defaults(run=_demo)


def _merge(args: argparse.Namespace) -> None:
    from modeling_rogle.index.merge import merge_indexes

    report = merge_indexes(args.parts, args.out, args.prefer)
    dropped = f", {report.duplicates} duplicates dropped" if report.duplicates else ""
    print(f"{report.path}: {report.images} images of {len(args.parts)} indexes{dropped}", file=sys.stderr)


def _image_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"not HEIGHTxWIDTH in pixels, such as 384x128: {text!r}")
    return int(height), int(width)


def _index(args: argparse.Namespace) -> None:
    if not set(args.folder) & set("*?[") and not Path(args.folder).exists():  # before the model is loaded
        raise FileNotFoundError(f"{args.folder}: no such folder")
    if args.detector_threshold is not None and not args.detector:
        raise ValueError("--detector-threshold: needs --detector DIR")
    model_name = check_model(args.model)
    from modeling_rogle.index.manifest import check_index_folder

    check_index_folder(Path(args.out))
    from modeling_rogle import build_index, load_model
    from modeling_rogle.image_io import printable_path
    from modeling_rogle.indexing.index_header import choose_preprocessing

    preprocessing = choose_preprocessing(Path(args.out), model_name, args.image_size, args.max_tokens, args.fit)
    if preprocessing is not None:
        print(f"{model_name}: {preprocessing}", file=sys.stderr)
    detector = args.detector
    if args.detector_threshold is not None:
        from modeling_rogle.indexing.person_detector import Detector

        detector = Detector(args.detector, args.detector_threshold)
    report = build_index(
        args.folder,
        *load_model(model_name, preprocessing),
        args.out,
        args.batch_size,
        sys.stderr.isatty(),
        append=args.append,
        detector=detector,
        workers=args.workers,
        precision=args.precision,
        store=args.store,
    )
    for item in report.skipped[:MAX_LISTED]:
        print(f"skipped {printable_path(item.path)}: {item.reason}", file=sys.stderr)
    if len(report.skipped) > MAX_LISTED:
        more = len(report.skipped) - MAX_LISTED
        print(f"skipped {more} more, listed in {report.path / 'index.json'}", file=sys.stderr)
    changes = ""
    if report.kept + report.removed:
        changes = f"{report.added} new, {report.kept} unchanged, {report.removed} removed; "
    if report.copied:
        changes += f"{report.copied} exact copies, encoded once; "
    print(
        f"indexed {report.images} images into {report.path} in {report.seconds:.1f} s "
        f"({report.images_per_second:.0f} images/s); {changes}{len(report.skipped)} skipped, "
        f"{report.ignored} other files"
    )


def _delete(args: argparse.Namespace) -> None:
    from modeling_rogle.search.gallery import Gallery

    gallery = Gallery.open(args.index, store=args.store)
    before = len(gallery)
    count = gallery.delete(args.paths)
    deleted = before - len(gallery)
    names = f" and {count - deleted} names of skipped files" if count > deleted else ""
    print(f"deleted {deleted} of {before} images{names} from {args.index}; the image files were not changed")


def _calibrate(args: argparse.Namespace) -> None:
    needed = "model" if args.dataset else "pairs"
    if getattr(args, needed) is None:
        raise ValueError(f"--{'dataset' if args.dataset else 'index'}: needs --{needed} too")
    if not 0.0 < args.false_alarm_rate < 1.0:
        raise ValueError(f"--false-alarm-rate must be between 0 and 1, not {args.false_alarm_rate}")
    out = Path(args.out or args.index or args.model)
    if not out.is_dir():
        raise FileNotFoundError(f"--out {out}: no such folder")
    fitting, held_out, source = _dataset_trials(args) if args.dataset else _index_trials(args)
    from dataclasses import replace

    from modeling_rogle.search.open_set import evaluate_calibration, fit_calibration

    fingerprint, local_weight, fitted_on, images = source
    calibration = fit_calibration(fitting, fingerprint, local_weight, fitted_on, images, args.false_alarm_rate)
    if held_out is None:
        print("not evaluated: the data set has no test split, so the false-alarm rate is not measured", file=sys.stderr)
    else:
        calibration = replace(calibration, report=evaluate_calibration(calibration, held_out))
        print(_format_report(calibration.report))
        print(_format_target(calibration))
    print(f"calibration: {calibration.save(out)}")


def _dataset_trials(args: argparse.Namespace) -> tuple:
    """Trials to fit on, trials to evaluate on (or None), and what else the fit needs."""
    model_name = check_model(args.model)
    from dataset_pvlg.loading import load_rows
    from modeling_rogle import load_model
    from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
    from modeling_rogle.inference.loading import fingerprint
    from modeling_rogle.search.calibration import ImageSummary
    from modeling_rogle.search.open_set import SHARES, split_trials

    splits, _ = load_rows(args.dataset, args.data_root, args.image_root)
    if "validation" not in splits:
        raise ValueError(f"--dataset {args.dataset}: has no validation split to fit on, only {', '.join(splits)}")
    model, processor = load_model(model_name)
    weight = model.config.late_interaction_weight

    def encode(split: str) -> SplitEmbeddings:
        progress = sys.stderr.isatty()
        return encode_split(model, processor, splits[split], args.batch_size, progress, regions="templates")

    embeddings = encode("validation")
    images = ImageSummary.of(embeddings.image_embeds.numpy())
    fitting = split_trials(embeddings, weight, args.seed, SHARES)
    held_out = split_trials(encode("test"), weight, args.seed + 1) if "test" in splits else None
    return fitting, held_out, (fingerprint(model), weight, f"{args.dataset} validation", images)


def _index_trials(args: argparse.Namespace) -> tuple:
    """As [`_dataset_trials`], from the people described in --pairs."""
    model_name = check_model(args.model) if args.model else None
    import numpy as np

    from modeling_rogle import Gallery
    from modeling_rogle.search.calibration import ImageSummary
    from modeling_rogle.search.open_set import gallery_trials, read_pairs
    from modeling_rogle.search.probabilities import BACKGROUND

    gallery = Gallery.open(args.index, model_name)
    fitting, held_out = gallery_trials(gallery, *read_pairs(args.pairs, gallery), args.seed, sys.stderr.isatty())
    fitted_on = f"half of the people in {Path(args.pairs).name}"
    sample = np.sort(np.random.default_rng(args.seed).permutation(len(gallery))[:BACKGROUND])
    images = ImageSummary.of(gallery.encode_gallery(sample))
    source = gallery.fingerprint, gallery.encoder.local_weight, fitted_on, images
    return fitting, held_out, source


def _format_report(figures: Mapping[str, Any]) -> str:
    counts = f"{figures['trials']} searches, {figures['people']} unseen people, {figures['gallery']} images"
    return (
        f"evaluated on {counts}; half of the people are absent:\n"
        f"  best result correct              {figures['best_right']:7.1%}\n"
        f"  expected calibration error       {figures['ece_best']:7.3f} of the best result, "
        f"{figures['ece_all']:.3f} of the best ten\n"
        f"  AUROC present/absent             {figures['auroc']:7.3f}, by the score only {figures['auroc_score']:.3f}\n"
        f"  FPR at 95 % TPR                  {figures['fpr95']:7.3f}, by the score only {figures['fpr95_score']:.3f}\n"
        f"  false-alarm rate, absent people  {figures['false_alarms']:7.1%}, 95 % interval "
        f"{figures['false_alarm_interval'][0]:.1%} to {figures['false_alarm_interval'][1]:.1%}\n"
        f"  present people with a match      {figures['answered']:7.1%}"
    )


def _format_target(calibration: "Calibration") -> str:
    """Whether the measured false-alarm rate agrees with the target."""
    target = calibration.false_alarm_rate
    low, high = calibration.report["false_alarm_interval"]
    if low <= target <= high:
        return f"target {target:.1%}: in this interval"
    missed = "more false alarms than intended" if target < low else "fewer false alarms than intended"
    return f"target {target:.1%}: MISSED, {missed}; choose another --false-alarm-rate, or fit on more people"


def _demo(args: argparse.Namespace) -> None:
    from modeling_rogle.display.demo import launch

    launch(open_gallery(args), args.host, args.port)


__all__ = ["add_calibrate", "add_delete", "add_demo", "add_index"]
