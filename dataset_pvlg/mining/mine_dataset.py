"""python -m dataset_pvlg.mining.mine_dataset DATA --model MODEL --out DIR (the same as `rogle mine`)

Region-to-Sentence Matching over a whole data set: the `regions` column of rows that have none. A judge is fitted once,
then row groups are mined. Broken off, the same command goes on; under `accelerate launch` the work is shared by the
processes, and the result does not depend on how.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.features import FEATURES
from dataset_pvlg.proposals.proposers import DEFAULT_PROPOSER, PROPOSER_NAMES, load_proposer
from dataset_pvlg.row_groups import Counts, Job, Rows, add_to_card, check_out, open_rows
from modeling_rogle.inference.loading import fingerprint
from modeling_rogle.matching.mining import (
    SAMPLE,
    Proposer,
    Scorer,
    fit_matcher,
    fit_prior,
    match_rows,
    propose_anchors,
    spread,
)
from modeling_rogle.matching.region_matcher import RegionMatcher

LEAST_PAIRS = 500  # that a judge is learnt from alone
JUDGE_FILE = "judge.safetensors"
REPORT_FILE = "mine_report.json"
_WORK = "mining"


def fit_matching(
    model: Any,
    processor: Any,
    rows: Dataset,
    seed: int = 0,
    images: int = SAMPLE["matcher"],
    batch_size: int = 32,
    progress: bool = True,
) -> RegionMatcher:
    """The judge of these rows' matches, learnt from the pairs that a person or the generator made, if there are enough.

    With fewer than 500 it learns from those mined before (origin `"rsm"`), as a model that was trained on them sees
    them: the next round. And where there are none either, nothing is needed but images and sentences: a position prior
    learnt from crops pairs a sample, and the judge learns from that; it sees each image, which the prior does not.

    Args:
        model, processor, batch_size: the matcher, see [`modeling_rogle.matching.mining.encode_rows`].
        rows: P-VLG rows with images.
        images: the sample, spread evenly over the rows that have pairs, or over all; the prior's is a part of it.

    Raises:
        ValueError: the rows have fewer than two sentences.
    """
    given = [_given(regions) for regions in rows["regions"][:]]
    if sum(map(len, given)) >= LEAST_PAIRS:
        paired = [n for n, regions in enumerate(given) if regions]  # rows that nobody has annotated teach nothing
        sample = spread(with_regions(rows.select(paired), [given[n] for n in paired]), images)
    else:
        sample = spread(rows, images)
        if sum(region["sentence"] >= 0 for regions in sample["regions"][:] for region in regions) < LEAST_PAIRS:
            crops = min(SAMPLE["prior"], images)
            prior = fit_prior(model, processor, sample, images=crops, batch_size=batch_size, progress=progress)
            mined, _ = match_rows(model, processor, sample, prior, batch_size=batch_size, progress=progress)
            sample = with_regions(sample, mined)
    return fit_matcher(model, processor, sample, images, batch_size, seed, progress)


def _given(regions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that a person or the generator has paired with a sentence."""
    return [region for region in regions if region["origin"] != "rsm" and region["sentence"] >= 0]


def with_regions(rows: Dataset, regions: list[list[dict[str, Any]]]) -> Dataset:
    """The rows with these regions in place of their own."""
    column = rows.remove_columns("regions").add_column("regions", regions, feature=FEATURES["regions"])
    return column.select_columns(list(FEATURES))


def mine_rows(
    model: Any,
    processor: Any,
    rows: Dataset,
    batch_size: int = 32,
    scorer: Scorer | None = None,
    propose: Proposer = propose_anchors,
    threshold: float | None = None,
    progress: bool = True,
) -> tuple[Dataset, dict[str, int]]:
    """Pairs the sentences of every row with regions.

    Regions that the rows have keep their place unless they were mined before (origin `"rsm"`): a sentence that a
    person or the generator has paired is not paired again.

    Args:
        model, processor, batch_size, scorer, propose, threshold, progress: see
            [`modeling_rogle.matching.mining.match_rows`].
        rows: P-VLG rows with images.

    Returns:
        The rows with a new `regions` column, and counts: `images`, `sentences`, `kept` (paired before), `assigned`,
        `unassigned`, where the last three add up to `sentences`.
    """
    found, counts = match_rows(
        model, processor, rows, scorer, propose, threshold, batch_size=batch_size, progress=progress
    )
    column, kept, assigned = [], 0, 0
    for old, new in zip(rows["regions"], found, strict=True):
        given = [region for region in old if region["origin"] != "rsm"]
        paired = {region["sentence"] for region in given if region["sentence"] >= 0}
        mined = [region for region in new if region["sentence"] not in paired]
        column.append(given + mined)
        kept, assigned = kept + len(paired), assigned + len(mined)
    counts |= {"kept": kept, "assigned": assigned, "unassigned": counts["sentences"] - kept - assigned}
    return with_regions(rows, column), counts


# ---------------------------------------------------------------------------------------------------- a whole data set
@dataclass(frozen=True)
class MineOptions:
    """What mining follows from beside the data and the model.

    splits: those that are mined; the others are copied as they are; none named: all. proposer: see [`find_proposer`].
    threshold, batch_size: see [`modeling_rogle.matching.mining.match_rows`]. sample, seed: of the judge, see
    [`fit_matching`]. ignore_pairs: regions that the mined splits have are dropped first, whatever their origin: how one
    measures mining that is shown no true box.
    """

    splits: tuple[str, ...] = ()
    proposer: str = DEFAULT_PROPOSER
    threshold: float | None = None
    sample: int = SAMPLE["matcher"]
    ignore_pairs: bool = False
    batch_size: int = 32
    seed: int = 0


def check_mining(data: str | Path, out: str | Path, options: MineOptions) -> tuple[Rows, Proposer, tuple[str, ...]]:
    """All that can be wrong before a model is read.

    Returns:
        The rows, the proposer, and the splits that are mined.

    Raises:
        ValueError: one line that names what is wrong.
    """
    rows = open_rows(data)
    there = tuple(dict.fromkeys(group.split for group in rows.groups))
    if not there:
        raise ValueError(f"{data}: has no rows")
    if missing := [split for split in options.splits if split not in there]:
        raise ValueError(f"--split {missing[0]}: {data} has {', '.join(there)} alone")
    for name in ("sample", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold must lie in [0, 1], not {options.threshold}")
    propose = find_proposer(options.proposer)
    check_out(out, _WORK)
    return rows, propose, options.splits or there


def find_proposer(text: str) -> Proposer:
    """`places` (the same forty-eight boxes of every image), a name of `dataset_pvlg.proposals.proposers`, or `NAME=MODEL` for one
    that reads weights.

    Raises:
        ValueError: one line: no such name, no weights or needless ones, or a library is missing.
    """
    if text == "places":
        return propose_anchors
    name, _, weights = text.partition("=")
    try:
        return load_proposer(name, weights or None)
    except (ValueError, ImportError) as error:
        hint = "" if name in PROPOSER_NAMES else "; so is places"
        raise ValueError(f"--proposer {text}: {error}{hint}") from error


def mine_folder(
    model: Any,
    processor: Any,
    data: str | Path,
    out: str | Path,
    options: MineOptions | None = None,
    progress: bool = True,
) -> Counts:
    """Pairs sentences with regions in a whole data set and writes the folder `out`, file by file as they are in `data`.

    The judge is fitted in the main process on the training split (the first mined one where there is none) and is
    written beside the data as `judge.safetensors`; then the processes of Accelerate share the row groups. What is
    finished stays in the hidden folder `.OUT.mining` until the end, so that the same call goes on where another was
    broken off. Fitting gives equal bits on one device and number of threads, all else on any number of processes.

    Args:
        model, processor: a Rogle or CLIP model; it is moved to this process's device.
        data: a folder of P-VLG Parquet, `synthetic` or `synthetic-tiny`.
        out: a folder that does not exist yet or is empty. It appears whole or not at all.

    Returns:
        By mined split, the counts of [`mine_rows`].

    Raises:
        ValueError: see [`check_mining`]; `out` was begun with other settings; the rows have fewer than two sentences,
            or one has no image.
    """
    options = options or MineOptions()
    rows, propose, splits = check_mining(data, out, options)
    settings = {
        **asdict(options),
        "splits": list(splits),
        "model": Path(model.name_or_path).name,
        "fingerprint": fingerprint(model),
    }
    with Job(rows, out, _WORK, settings, ["regions"]) as job:
        if job.counts is not None:
            return job.counts
        model = model.eval().to(job.state.device)
        taught = "train" if any(group.split == "train" for group in rows.groups) else splits[0]
        blind = options.ignore_pairs

        def fit(path: Path) -> None:
            scratch = path.with_name("sample.arrow")
            sample = _sample(rows, taught, options.sample, blind and taught in splits, scratch, progress)
            judge = fit_matching(model, processor, sample, options.seed, options.sample, options.batch_size, progress)
            judge.save(path)
            scratch.unlink()

        judge = RegionMatcher.load(job.once(JUDGE_FILE, fit))
        choices = (judge, propose, options.threshold)

        def mine(part: Dataset) -> tuple[Dataset, dict[str, int]]:
            part = with_regions(part, [[] for _ in range(len(part))]) if blind else part
            return mine_rows(model, processor, part, options.batch_size, *choices, progress=False)

        counts = job.each(mine, splits, progress)
        file = job.parts / JUDGE_FILE
        job.finish(counts, lambda folder: _write_reports(rows, folder, file, settings, counts, taught))
        return counts


def _sample(rows: Rows, split: str, images: int, blind: bool, file: Path, progress: bool) -> Dataset:
    """The rows that the judge may learn from, in a file of their own: all that have pairs, or all, thinned evenly."""
    groups = [group for group in rows.groups if group.split == split]
    starts, paired = [0], []
    for group in groups:
        column = rows.table(group, ["regions"])["regions"].to_pylist()
        if not blind:
            paired += [starts[-1] + n for n, regions in enumerate(column) if _given(regions)]
        starts.append(starts[-1] + len(column))
    chosen = set(spread(paired or range(starts[-1]), images))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer:
        for group, start, stop in zip(
            tqdm(groups, desc="reading a sample", disable=not progress), starts, starts[1:], strict=False
        ):
            if here := [n - start for n in range(start, stop) if n in chosen]:
                writer.write_table(rows.table(group).take(here))
    sample = Dataset.from_file(str(file))
    return with_regions(sample, [[] for _ in range(len(sample))]) if blind else sample


def _write_reports(
    rows: Rows, folder: Path, judge: Path, settings: dict[str, Any], counts: Counts, taught: str
) -> None:
    """`mine_report.json`, the judge, the build's report and the card of the input with a section more."""
    shutil.copyfile(judge, folder / JUDGE_FILE)
    report = settings | {"judge_fitted_on": taught, "splits": counts}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    build = rows.root and rows.root / "build_report.json"
    if build and build.is_file():
        known = json.loads(build.read_text(encoding="utf-8"))
        known.pop("files", None)  # checksums of other bytes
        known["mining"] = report
        (folder / build.name).write_text(json.dumps(known, indent=2, ensure_ascii=False), encoding="utf-8")
    total = {name: sum(count[name] for count in counts.values()) for name in ("sentences", "kept", "assigned")}
    section = f"""## Regions found by a model

`{settings["model"]}` looked for the regions of {total["sentences"]} sentences (splits: {", ".join(counts)}) and found
{total["assigned"]} (`origin` is `rsm`; `reliability` is its own guess at how likely the box is right); {total["kept"]}
were paired before and left alone. Counts of regions above are from before this. Details: `{REPORT_FILE}`.
"""
    add_to_card(rows.root, folder, section)


def main(argv: Sequence[str] | None = None) -> int:
    """`rogle mine`."""
    from modeling_rogle.cli.main import main as rogle

    return rogle(["mine", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
