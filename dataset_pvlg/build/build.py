"""`rogle data build --source cuhk_pedes=FOLDER --out DIR`: build P-VLG from your own copies of the public sets.

The result is Parquet with embedded images, a report and a data card, and `datasets.load_dataset(DIR)` loads it. If a
build is killed, the same command resumes it.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from dataset_pvlg.build import steps
from dataset_pvlg.build.card import card, merge
from dataset_pvlg.build.push import check_push, push
from dataset_pvlg.build.steps import Source
from dataset_pvlg.builder import pipeline_hash
from dataset_pvlg.curation.curate import CurationOptions
from dataset_pvlg.features import SPLITS
from dataset_pvlg.jobs.stages import RESULT, Stages, Unit, resolved_out
from dataset_pvlg.mining.mine_rows import parse_proposer
from dataset_pvlg.proposals.proposers import DEFAULT_PROPOSER, PROPOSER_NAMES
from dataset_pvlg.readers.read import SOURCE_NAMES
from dataset_pvlg.readers.report import ReadReport

SHARD_ROWS = 250  # rows that a kill can cost each process at most, in each stage
FILE_SHARDS = 16  # shards in a Parquet file
SYNTHETIC_UNIT_IMAGES = 250  # synthetic images in one unit of work
NAMES = (*SOURCE_NAMES, "synthetic")
COMPLETE = "complete"


@dataclass(frozen=True)
class Options:
    """What a build does besides reading. A model is a folder or a name on the Hub.

    Args:
        curation (`CurationOptions`, *optional*): the filters; None keeps all rows as they were read.
        captioner (`str`, *optional*): a vision-language model that writes long captions.
        matcher (`str`, *optional*): a Rogle or CLIP checkpoint that mines regions.
        proposer (`str`, *optional*): source of the candidate regions for the matcher, see
            [`dataset_pvlg.mining.mine_rows.parse_proposer`]; None for `DEFAULT_PROPOSER`.
        batch_size (`int`): images in a forward pass.
        images (`bool`): False leaves `image` null in every row, for a folder that may be redistributed.
        shard_rows (`int`): rows that are processed together.
        file_shards (`int`): shards in one Parquet file.

    Raises:
        ValueError: `proposer` is given without `matcher`.
    """

    curation: CurationOptions | None = CurationOptions()
    captioner: str | None = None
    matcher: str | None = None
    proposer: str | None = None
    batch_size: int = 32
    images: bool = True
    shard_rows: int = SHARD_ROWS
    file_shards: int = FILE_SHARDS

    def __post_init__(self) -> None:
        if self.proposer is not None and self.matcher is None:
            raise ValueError("--proposer: requires --matcher")

    def facts(self) -> dict[str, Any]:
        """The options as JSON-able values, with sizes and modification times of local model files."""
        return asdict(self) | {name: _model_facts(getattr(self, name)) for name in ("captioner", "matcher")}


def build(
    sources: Sequence[Source], out: str | Path, options: Options | None = None, workers: int = 1
) -> dict[str, Any]:
    """Read the sources, curate the rows, write captions, mine regions, and write the folder `out`.

    Unfinished work is stored in the hidden folder `.NAME.build` beside `out`. If the call is killed and repeated with
    the same arguments, it resumes and gives the same bytes. The number of workers does not change the result.

    Args:
        sources (`Sequence[Source]`): what to read; their rows follow each other within each split.
        out (`str` or `Path`): a folder that does not exist yet or is empty. It appears complete or not at all.
        options (`Options`, *optional*): None for the defaults.
        workers (`int`): number of processes.

    Returns:
        `dict[str, Any]`: the content of `build_report.json`.

    Raises:
        SourceError: (a ValueError) a source cannot be read.
        ValueError: `out` is not empty or is a mount point, or another build uses it.
        ValueError: a model cannot be read, no row is left after curation, or an image has changed since it was read.
        OSError: a worker process died, or writing failed.
    """
    out, options = resolved_out(out), options or Options()
    work = out.parent / f".{out.name}.build"
    facts = {
        "code": pipeline_hash(),
        "versions": [datasets.__version__, pyarrow.__version__],
        "sources": [steps.source_facts(source) for source in sources],
    }
    option_facts = options.facts()
    command = json.dumps([facts, option_facts], sort_keys=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not _is_complete(work, out, command):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    _check_models(options)
    if workers > 1:
        steps.release_model()  # each worker loads its own
    with Stages(work, workers, facts, preload=[steps.__name__]) as stages:
        if _is_complete(work, out, command):  # an earlier run was killed while it removed the work folder
            stages.finish()
            return json.loads((out / "build_report.json").read_text(encoding="utf-8"))
        folders, source_reports = _read_sources(stages, sources)
        unit = {"all": (folders, options.curation, options.shard_rows, workers)}
        curation_facts = [option_facts["curation"], options.shard_rows]
        curated = stages.run("curate", steps.curate_sources, unit, curation_facts, in_this_process=True)["all"]
        if options.curation is not None:
            print(curated.result["text"], file=sys.stderr)
        shards = _curated_shards(curated)
        if not shards:
            last_step = "reading" if options.curation is None else "curation"
            raise ValueError(f"{last_step} left no row; see {curated.folder / RESULT}")

        report = {"sources": source_reports, "curation": curated.result["curation"], "captioning": {}, "matching": {}}
        if options.captioner is not None:
            shards, report["captioning"] = _write_captions(stages, shards, options, option_facts)
        if options.matcher is not None:
            shards, report["matching"] = _match_regions(stages, shards, options, option_facts)
        units = {
            name.partition(".")[0]: (paths, name, options.images, options.matcher)
            for name, paths in _parquet_files(shards, options.file_shards).items()
        }
        write_facts = [options.images, options.file_shards, option_facts["matcher"]]
        written = stages.run("write", steps.write_parquet, units, write_facts)
        _finish_report(report, written, options.images)
        _assemble(work, out, written, report, command)
        stages.finish()
    return report


def _check_models(options: Options) -> None:
    """Load each model once, so that a wrong name fails before the sources are read."""
    if options.matcher is not None:
        parse_proposer(options.proposer or DEFAULT_PROPOSER)
    if options.captioner is not None:
        steps.load_captioner(options.captioner)
    if options.matcher is not None:
        steps.load_matcher(options.matcher)


def _read_sources(stages: Stages, sources: Sequence[Source]) -> tuple[list[Path], list[dict[str, Any]]]:
    """The folders that hold the rows of all sources, and one report per source."""
    layouts = {source.name: (source, stages.workers) for source in sources if source.name != "synthetic"}
    units = stages.run("read", steps.read_layout, layouts, in_this_process=True) if layouts else {}
    folders, reports = [], []
    for source in sources:
        if source.name == "synthetic":
            drawn, report = _draw_synthetic(stages, source)
            folders += [unit.folder for unit in drawn.values()]
            reports.append(report)
        else:
            folders.append(units[source.name].folder)
            reports.append(units[source.name].result["report"])
            print(units[source.name].result["text"], file=sys.stderr)
    return folders, reports


def _draw_synthetic(stages: Stages, source: Source) -> tuple[dict[str, Unit], dict[str, Any]]:
    config = steps.synthetic_size(source.root)
    step = max(1, SYNTHETIC_UNIT_IMAGES // config.images_per_identity)
    units = {
        f"{split}-{start:06d}": (split, start, min(start + step, config.identities(split)), config)
        for split in SPLITS
        for start in range(0, config.identities(split), step)
    }
    drawn = stages.run("draw", steps.draw_identities, units)
    report = ReadReport("synthetic", records=sum(unit.result["rows"] for unit in drawn.values()))
    for split in SPLITS:
        report.identities[split] = config.identities(split)
        report.rows[split] = config.identities(split) * config.images_per_identity
    return drawn, report.as_dict()


def _write_captions(
    stages: Stages, shards: Mapping[str, Path], options: Options, option_facts: Mapping[str, Any]
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The shards with long captions, and counts by split."""
    batch = options.batch_size
    units = {name: (path, options.captioner, batch) for name, path in shards.items()}
    captioned = stages.run("caption", steps.caption_shard, units, [option_facts["captioner"], batch])
    return _row_files(captioned), _counts_by_split(captioned)


def _match_regions(
    stages: Stages, shards: Mapping[str, Path], options: Options, option_facts: Mapping[str, Any]
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The shards with mined regions, and counts by split. The region matcher is fitted on the first split."""
    fit_unit = {"matcher": (_first_split(shards), options.matcher)}
    fitted = stages.run("learn", steps.fit_matcher, fit_unit, option_facts["matcher"], in_this_process=True)
    proposer = options.proposer or DEFAULT_PROPOSER
    arguments = options.matcher, fitted["matcher"].folder / steps.MATCHER_FILE, proposer, options.batch_size
    units = {name: (path, *arguments) for name, path in shards.items()}
    matched = stages.run("match", steps.match_shard, units, [proposer, options.batch_size])
    return _row_files(matched), _counts_by_split(matched)


def _first_split(shards: Mapping[str, Path]) -> list[Path]:
    """The shards of train, or of the first split that exists."""
    first = next(iter(shards)).partition("-")[0]
    return [path for name, path in shards.items() if name.partition("-")[0] == first]


def _row_files(units: Mapping[str, Unit]) -> dict[str, Path]:
    return {name: unit.folder / steps.ROWS_FILE for name, unit in units.items()}


def _curated_shards(curated: Unit) -> dict[str, Path]:
    """Name of a shard, `SPLIT-00000`, -> its file."""
    names = [f"{split}-{n:05d}" for split, count in curated.result["shards"].items() for n in range(count)]
    return {name: curated.folder / f"{name}.arrow" for name in names}


def _counts_by_split(units: Mapping[str, Unit]) -> dict[str, dict[str, Any]]:
    """The sums of the counts that the shards of a stage returned."""
    counts: dict[str, list[dict]] = {}
    for name, unit in units.items():
        counts.setdefault(name.partition("-")[0], []).append(unit.result)
    return {split: merge(parts) for split, parts in counts.items()}


def _parquet_files(shards: Mapping[str, Path], file_shards: int) -> dict[str, list[Path]]:
    """Name of a Parquet file -> the shards in it."""
    files = {}
    for split in SPLITS:
        paths = [path for name, path in shards.items() if name.partition("-")[0] == split]
        groups = [paths[start : start + file_shards] for start in range(0, len(paths), file_shards)]
        for n, group in enumerate(groups):
            files[f"{split}-{n:05d}-of-{len(groups):05d}.parquet"] = group
    return files


def _finish_report(report: dict[str, Any], written: Mapping[str, Unit], images: bool) -> None:
    people: dict[str, set[int]] = {}
    for name, unit in written.items():
        people.setdefault(name.partition("-")[0], set()).update(unit.result.pop("people"))
    counts = _counts_by_split({name: Unit(unit.folder, unit.result["counts"]) for name, unit in written.items()})
    report["splits"] = {
        split: {"rows": numbers.pop("rows"), "identities": len(people[split]), **numbers}
        for split, numbers in counts.items()
    }
    report["histograms"] = merge(unit.result["histograms"] for unit in written.values())
    report["pictures"] = images
    report["files"] = {f"data/{name}.parquet": unit.result["sha256"] for name, unit in written.items()}


def _assemble(work: Path, out: Path, written: Mapping[str, Unit], report: dict[str, Any], command: str) -> None:
    """Link the files into one folder and move it to `out` in one step."""
    part = work / "out"
    (work / COMPLETE).unlink(missing_ok=True)  # before the folder that it refers to changes
    shutil.rmtree(part, ignore_errors=True)
    (part / "data").mkdir(parents=True)
    for name, unit in written.items():
        file = f"{name}.parquet"
        try:
            os.link(unit.folder / file, part / "data" / file)
        except OSError:  # a file system without hard links
            shutil.copyfile(unit.folder / file, part / "data" / file)
    write_report(report, part)
    (work / COMPLETE).write_text(command, encoding="utf-8")
    os.replace(part, out)


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write `build_report.json` and the card, `README.md`, into a folder."""
    content = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / "build_report.json").write_text(content, encoding="utf-8")
    (folder / "README.md").write_text(card(report), encoding="utf-8")


def _is_complete(work: Path, out: Path, command: str) -> bool:
    """Whether the same command has moved its result to `out`, and its work folder still exists."""
    try:
        moved = not (work / "out").exists() and (out / "build_report.json").is_file()
        return moved and (work / COMPLETE).read_text(encoding="utf-8") == command
    except OSError:
        return False


def _model_facts(name: str | None) -> Any:
    """A name on the Hub as it is; a folder by the sizes and modification times of its files."""
    if name is None:
        return None
    files = sorted(path for path in Path(name).rglob("*") if path.is_file()) if Path(name).is_dir() else []
    return [name, [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]]


def parse_sources(sources: Sequence[str], image_roots: Sequence[str]) -> list[Source]:
    """Parse the arguments of `--source` and `--image-root`.

    Args:
        sources (`Sequence[str]`): `NAME=PATH` each.
        image_roots (`Sequence[str]`): `NAME=PATH` each, or `PATH` if there is only one source.

    Returns:
        `list[Source]`: one for each of `sources`, in order.

    Raises:
        ValueError: an argument has another form, or names a source that does not exist.
    """
    roots: dict[str, str] = {}
    for text in sources:
        name, equals, path = text.partition("=")
        if not equals or not path or name not in NAMES:
            raise ValueError(f"--source {text}: NAME=PATH is expected, NAME one of {', '.join(NAMES)}")
        if name in roots:
            raise ValueError(f"--source {text}: {name} is given twice")
        if name == "synthetic":
            steps.synthetic_size(path)
        roots[name] = path
    images: dict[str, str] = {}
    for text in image_roots:
        name, equals, path = text.partition("=")
        if not text or (equals and name in roots and not path):
            raise ValueError(f"--image-root {text}: names no folder")
        if equals and name in roots:
            images[name] = path
        elif len(roots) == 1:
            images[next(iter(roots))] = text
        else:
            raise ValueError(f"--image-root {text}: with several sources, NAME=PATH is expected")
    return [Source(name, root, images.get(name)) for name, root in roots.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rogle data build`."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help=f"data set to read; repeat for several. NAME: one of {', '.join(NAMES)}. PATH: its folder; "
        "for synthetic, the number of identities, as 500, or 500x4 for 4 images each",
    )
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="folder that the image paths of a source are relative to (default: the one in the set's folder)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set")
    parser.add_argument(
        "--captioner",
        metavar="MODEL",
        help="vision-language model that writes long captions (default: keep the captions)",
    )
    parser.add_argument(
        "--matcher", metavar="MODEL", help="Rogle or CLIP checkpoint that mines the regions (default: no mining)"
    )
    parser.add_argument(
        "--proposer",
        metavar="NAME[=MODEL]",
        help=f"source of the candidate regions: anchors, {', '.join(PROPOSER_NAMES)} (default: {DEFAULT_PROPOSER})",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images in a forward pass (default: 32)"
    )
    parser.add_argument("--num-proc", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    parser.add_argument(
        "--annotations-only",
        action="store_true",
        help="leave the images out; `rogle join` adds them again (default: store the images)",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="USER/NAME",
        help="upload the result to a private data set on the Hub (default: no upload)",
    )
    _add_curation_arguments(parser)


def _add_curation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("curation", "filters, explained in dataset_pvlg/curation/curate.py")
    group.add_argument(
        "--curation", action=argparse.BooleanOptionalAction, default=True, help="apply the filters (default: yes)"
    )
    for option in fields(CurationOptions):
        flag, text = f"--{option.name.replace('_', '-')}", option.metadata["help"]
        if isinstance(option.default, bool):
            text += f" (default: {'yes' if option.default else 'no'})"
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            text += f" (default: {option.default})"
            group.add_argument(flag, type=type(option.default), default=argparse.SUPPRESS, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    """Build the data set that the arguments describe; print the counts of each split, the folder, and the commit if
    any.

    Raises:
        ValueError: an argument is wrong or the build fails, see [`build`] and [`push`].
        OSError: a worker process died, or writing failed.
    """
    sources = parse_sources(args.source, args.image_root)
    if args.num_proc < 1 or args.batch_size < 1:
        raise ValueError("--num-proc and --batch-size must be at least 1")
    if args.push_to_hub:
        check_push([source.name for source in sources], args.push_to_hub, not args.annotations_only)
    curation = {option.name: vars(args)[option.name] for option in fields(CurationOptions) if option.name in args}
    if curation and not args.curation:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in curation)
        raise ValueError(f"{flags}: has no effect with --no-curation")
    options = Options(
        CurationOptions(**curation) if args.curation else None,
        args.captioner,
        args.matcher,
        args.proposer,
        args.batch_size,
        not args.annotations_only,
    )
    report = build(sources, args.out, options, args.num_proc)
    for split, counts in report["splits"].items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(args.out)
    if args.push_to_hub:
        print(push(Path(args.out), args.push_to_hub))
