"""python -m dataset_pvlg.build.build --source cuhk_pedes=FOLDER --out DIR [--image-root FOLDER] [--captioner MODEL]
    [--matcher MODEL] [--proposer NAME] [--num-proc N] [--annotations-only] [--push-to-hub USER/pvlg]

One's own copies of the public sets -> P-VLG as Parquet with embedded images, a report and a data card. Afterwards
`datasets.load_dataset(DIR)` works. A build that was killed goes on where it was when the same command runs again.
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

from dataset_pvlg.build import steps as steps
from dataset_pvlg.build.card import FREE_SOURCES, card, merge
from dataset_pvlg.jobs.stages import RESULT, Stages, Unit, resolved_out
from dataset_pvlg.build.steps import Source
from dataset_pvlg.builder import pipeline_hash
from dataset_pvlg.curation.curate import CurationOptions
from dataset_pvlg.features import SPLITS
from dataset_pvlg.mining.mine_rows import parse_proposer
from dataset_pvlg.proposals.proposers import DEFAULT_PROPOSER, PROPOSER_NAMES
from dataset_pvlg.readers.read import SOURCE_NAMES
from dataset_pvlg.readers.report import ReadReport
from modeling_rogle.release.upload import check_name, push_folder

SHARD_ROWS = 250  # rows that a kill can cost each process at most, stage by stage
FILE_SHARDS = 16  # shards in a Parquet file
DRAWN_TOGETHER = 250  # synthetic images a unit
NAMES = (*SOURCE_NAMES, "synthetic")
COMPLETE = "complete"


@dataclass(frozen=True)
class Options:
    """What a build does beside reading. Names of models are folders or names on the Hub.

    curation: its switches, None leaves all rows as read. captioner: a vision-language model that writes long captions.
    matcher: a Rogle or CLIP checkpoint that mines regions, from the candidates of `proposer` (see
    [`dataset_pvlg.mining.mine_rows.parse_proposer`]; None: templates+felzenszwalb). batch_size: images a forward. images: False
    leaves `image` null in every row, for a folder that may be passed on. shard_rows: rows that are worked on together;
    file_shards: of these shards, in one Parquet file.
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
            raise ValueError("--proposer: its candidates are for a --matcher, and there is none")

    def facts(self) -> dict[str, Any]:
        """JSON-able, with the age of local models."""
        return asdict(self) | {name: _model_facts(getattr(self, name)) for name in ("captioner", "matcher")}


def build(
    sources: Sequence[Source], out: str | Path, options: Options | None = None, workers: int = 1
) -> dict[str, Any]:
    """Reads the sources, curates, captions, mines regions, and writes the folder `out`.

    What is finished of it lies in the hidden folder `.NAME.build` beside `out` until the end. Killed and called again
    with the same arguments, it goes on from there and ends in the same bytes. The number of workers changes none.

    Args:
        sources: what to read; their rows follow each other within each split.
        out: a folder that does not exist yet or is empty. It appears complete or not at all.
        options: None for the defaults.
        workers: processes.

    Returns:
        The content of `build_report.json`.

    Raises:
        SourceError: (a ValueError) a source cannot be read.
        ValueError: `out` holds something already or is a mount point, another build is at work on it, a model cannot
            be read, no row is left after curation, or an image has changed since it was read.
        OSError: a worker process died, or a disk said no.
    """
    out, options = resolved_out(out), options or Options()
    work = out.parent / f".{out.name}.build"
    facts = {
        "code": pipeline_hash(),
        "versions": [datasets.__version__, pyarrow.__version__],
        "sources": [steps.as_facts(source) for source in sources],
    }
    chosen = options.facts()
    command = json.dumps([facts, chosen], sort_keys=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not _is_complete(work, out, command):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    _try_models(options)
    if workers > 1:
        steps.let_go()  # the workers load it for themselves
    with Stages(work, workers, facts, preload=[steps.__name__]) as stages:
        if _is_complete(work, out, command):  # killed while it was clearing up
            stages.finish()
            return json.loads((out / "build_report.json").read_text(encoding="utf-8"))
        parts, report = _read(stages, sources)
        unit = {"all": (parts, options.curation, options.shard_rows, workers)}
        whole = stages.run("curate", steps.gather, unit, [chosen["curation"], options.shard_rows], here=True)["all"]
        shards = _shards(whole)
        report |= {"curation": whole.result["curation"], "captioning": {}, "matching": {}}
        if options.curation is not None:
            print(whole.result["text"], file=sys.stderr)
        if not shards:
            by = "reading" if options.curation is None else "curation"
            raise ValueError(f"{by} left no row; see {whole.folder / RESULT}")

        batch = options.batch_size
        if options.captioner is not None:
            units = {name: (path, options.captioner, batch) for name, path in shards.items()}
            done = stages.run("caption", steps.caption, units, [chosen["captioner"], batch])
            shards, report["captioning"] = _rows_of(done), _by_split(done)
        if options.matcher is not None:
            taught = _first_split(shards)
            fitted = stages.run(
                "learn", steps.learn, {"judge": (taught, options.matcher)}, chosen["matcher"], here=True
            )
            proposer = options.proposer or DEFAULT_PROPOSER
            given = options.matcher, fitted["judge"].folder / steps.JUDGE_FILE, proposer, batch
            units = {name: (path, *given) for name, path in shards.items()}
            done = stages.run("match", steps.match, units, [proposer, batch])
            shards, report["matching"] = _rows_of(done), _by_split(done)

        units = {
            name.partition(".")[0]: (paths, name, options.images, options.matcher)
            for name, paths in _files(shards, options.file_shards).items()
        }
        written = stages.run("write", steps.write, units, [options.images, options.file_shards, chosen["matcher"]])
        _finish_report(report, written, options.images)
        _put_together(work, out, written, report, command)
        stages.finish()
    return report


def _try_models(options: Options) -> None:
    """A typo must not cost a read: loads each model once."""
    if options.matcher is not None:
        parse_proposer(options.proposer or DEFAULT_PROPOSER)
    if options.captioner is not None:
        steps.load_captioner(options.captioner)
    if options.matcher is not None:
        steps.load_matcher(options.matcher)


def _first_split(shards: Mapping[str, Path]) -> list[Path]:
    """The shards of train, or of the first split that there is: what the matches' judge may learn from."""
    first = next(iter(shards)).partition("-")[0]
    return [path for name, path in shards.items() if name.partition("-")[0] == first]


def _rows_of(units: Mapping[str, Unit]) -> dict[str, Path]:
    return {name: unit.folder / steps.ROWS_FILE for name, unit in units.items()}


def _read(stages: Stages, sources: Sequence[Source]) -> tuple[list[Path], dict[str, Any]]:
    """The folders of the rows of all sources, and the report's first part."""
    layouts = {source.name: (source, stages.workers) for source in sources if source.name != "synthetic"}
    read = stages.run("read", steps.read, layouts, here=True) if layouts else {}
    folders, reports = [], []
    for source in sources:
        if source.name == "synthetic":
            units, report = _draw(stages, source)
            folders += [unit.folder for unit in units.values()]
            reports.append(report)
        else:
            folders.append(read[source.name].folder)
            reports.append(read[source.name].result["report"])
            print(read[source.name].result["text"], file=sys.stderr)
    return folders, {"sources": reports}


def _draw(stages: Stages, source: Source) -> tuple[dict[str, Unit], dict[str, Any]]:
    config = steps.synthetic_size(source.root)
    step = max(1, DRAWN_TOGETHER // config.images_per_identity)
    units = {
        f"{split}-{start:06d}": (split, start, min(start + step, config.identities(split)), config)
        for split in SPLITS
        for start in range(0, config.identities(split), step)
    }
    drawn = stages.run("draw", steps.draw, units)
    report = ReadReport("synthetic", records=sum(unit.result["rows"] for unit in drawn.values()))
    for split in SPLITS:
        report.identities[split] = config.identities(split)
        report.rows[split] = config.identities(split) * config.images_per_identity
    return drawn, report.as_dict()


def _shards(whole: Unit) -> dict[str, Path]:
    """Name of a shard, `SPLIT-00000`, -> its file."""
    names = [f"{split}-{n:05d}" for split, count in whole.result["shards"].items() for n in range(count)]
    return {name: whole.folder / f"{name}.arrow" for name in names}


def _by_split(units: Mapping[str, Unit]) -> dict[str, dict[str, Any]]:
    """The counts that a stage's shards returned, added up for each split."""
    counts: dict[str, list[dict]] = {}
    for name, unit in units.items():
        counts.setdefault(name.partition("-")[0], []).append(unit.result)
    return {split: merge(parts) for split, parts in counts.items()}


def _files(shards: Mapping[str, Path], file_shards: int) -> dict[str, list[Path]]:
    """Name of a Parquet file -> the shards that go into it."""
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
    counts = _by_split({name: Unit(unit.folder, unit.result["counts"]) for name, unit in written.items()})
    report["splits"] = {
        split: {"rows": found.pop("rows"), "identities": len(people[split]), **found} for split, found in counts.items()
    }
    report["histograms"] = merge(unit.result["histograms"] for unit in written.values())
    report["pictures"] = images
    report["files"] = {f"data/{name}.parquet": unit.result["sha256"] for name, unit in written.items()}


def _put_together(work: Path, out: Path, written: Mapping[str, Unit], report: dict[str, Any], command: str) -> None:
    """Links the files into a folder of their own and moves that to `out` in one step."""
    part = work / "out"
    (work / COMPLETE).unlink(missing_ok=True)  # first, as it speaks of a part that has been moved
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
    """`build_report.json` and the card, `README.md`."""
    content = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / "build_report.json").write_text(content, encoding="utf-8")
    (folder / "README.md").write_text(card(report), encoding="utf-8")


def _is_complete(work: Path, out: Path, command: str) -> bool:
    """Whether this very command has moved its result to `out` and not yet removed the work folder."""
    try:
        moved = not (work / "out").exists() and (out / "build_report.json").is_file()
        return moved and (work / COMPLETE).read_text(encoding="utf-8") == command
    except OSError:
        return False


def _model_facts(name: str | None) -> Any:
    """A name on the Hub as it is, a folder by the size and age of its files."""
    if name is None:
        return None
    files = sorted(path for path in Path(name).rglob("*") if path.is_file()) if Path(name).is_dir() else []
    return [name, [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]]


def push(folder: Path, repo_id: str) -> str:
    """Uploads a built folder as a data set of the Hub. Returns the address of the commit.

    Raises:
        ReleaseError: (a ValueError) the Hub refuses, or the repository is public and the folder not all free.
        ValueError: the folder holds images whose authors forbid passing them on.
    """
    report = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    names = [source["source"] for source in report["sources"]]
    check_push(names, repo_id, report["pictures"])
    closed = set(names) != {"synthetic"}  # captions too are their authors'
    return push_folder(folder, repo_id, "dataset", private=True, must_be_private=closed, replaced=["data/*"]).url


def check_push(names: Sequence[str], repo_id: str, images: bool) -> None:
    """Raises ValueError on a name that the Hub does not take, or on images that may not be passed on."""
    check_name(repo_id)
    bound = [name for name in names if name not in FREE_SOURCES]
    if bound and images:
        raise ValueError(
            f"--push-to-hub: the images of {', '.join(bound)} may not be passed on; add --annotations-only"
        )


def parse_sources(sources: Sequence[str], image_roots: Sequence[str]) -> list[Source]:
    """`name=path` arguments; an image root is `path`, for the only source, or `name=path`.

    Raises:
        ValueError: one of them has another form or names no source.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 after an error, which is told in one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m dataset_pvlg.build.build", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--source", action="append", required=True, metavar="NAME=PATH", help=f"{', '.join(NAMES)}; may be repeated"
    )
    parser.add_argument("--image-root", "--image_root", action="append", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--captioner", metavar="MODEL", help="a vision-language model that writes long captions")
    parser.add_argument("--matcher", metavar="MODEL", help="a Rogle or CLIP checkpoint that mines the regions")
    parser.add_argument(
        "--proposer",
        metavar="NAME[=MODEL]",
        help=f"whose candidates are matched: places, {', '.join(PROPOSER_NAMES)} (default: {DEFAULT_PROPOSER})",
    )
    parser.add_argument("--batch-size", "--batch_size", type=int, default=32, help="images a forward (default 32)")
    parser.add_argument("--num-proc", "--num_proc", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--annotations-only",
        "--annotations_only",
        action="store_true",
        help="no image inside; put back by `python -m dataset_pvlg.build.join`",
    )
    parser.add_argument(
        "--push-to-hub", "--push_to_hub", metavar="USER/NAME", help="upload it; private if it is not all synthetic"
    )
    _add_curation(parser)
    args = parser.parse_args(argv)
    try:
        sources = parse_sources(args.source, args.image_root)
        if args.num_proc < 1 or args.batch_size < 1:
            raise ValueError("--num-proc and --batch-size start at 1")
        if args.push_to_hub:
            check_push([source.name for source in sources], args.push_to_hub, not args.annotations_only)
        curation = {each.name: vars(args)[each.name] for each in fields(CurationOptions) if each.name in args}
        if curation and not args.curation:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in curation)
            raise ValueError(f"{flags}: of no use with --no-curation")
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
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_curation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("curation", "see dataset_pvlg/curation/curate.py")
    group.add_argument("--curation", action=argparse.BooleanOptionalAction, default=True, help="all of it, or none")
    for each in fields(CurationOptions):
        flag = f"--{each.name.replace('_', '-')}"
        if isinstance(each.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        else:
            kind, told = type(each.default), f"default {each.default}"
            group.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar="N", help=told)


if __name__ == "__main__":
    sys.exit(main())
