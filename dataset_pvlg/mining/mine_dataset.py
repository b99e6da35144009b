"""Region-to-Sentence Matching (RSM) for a whole data set (`rogle mine`): fills the column `regions`.

The scorer is fitted once, then row groups are mined one by one. An interrupted run resumes with the same command. Under
`accelerate launch -m modeling_rogle.cli.main mine ...` several processes share the row groups; the result does not
depend on their number.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.features import FEATURES
from dataset_pvlg.mining.mine_rows import fit_matching, given_pairs, mine_rows, parse_proposer, with_regions
from dataset_pvlg.proposals.proposers import DEFAULT_PROPOSER
from dataset_pvlg.row_groups import Counts, Job, Rows, add_to_card, check_out, open_rows
from modeling_rogle.inference.loading import fingerprint
from modeling_rogle.matching.mining import SAMPLE, Proposer, spread
from modeling_rogle.matching.region_matcher import RegionMatcher

SCORER_FILE = "judge.safetensors"
REPORT_FILE = "mine_report.json"
_JOB_NAME = "mining"


@dataclass(frozen=True)
class MineOptions:
    """Options of [`mine_folder`].

    Args:
        splits: splits to mine; the others are copied unchanged. Empty: all splits.
        proposer: source of candidate regions, see [`dataset_pvlg.mining.mine_rows.parse_proposer`].
        threshold: probability under which a sentence gets no region. None: the scorer's own threshold.
        sample: images that the scorer is fitted on.
        ignore_pairs: drop all regions of the mined splits first, whatever their origin. This measures mining without
            ground truth.
        batch_size: images in a forward pass.
        seed: random seed of the fit.
    """

    splits: tuple[str, ...] = ()
    proposer: str = DEFAULT_PROPOSER
    threshold: float | None = None
    sample: int = SAMPLE["matcher"]
    ignore_pairs: bool = False
    batch_size: int = 32
    seed: int = 0


def check_mining(data: str | Path, out: str | Path, options: MineOptions) -> tuple[Rows, Proposer, tuple[str, ...]]:
    """Checks everything that can be checked before a model is loaded.

    Args:
        data: a folder of P-VLG Parquet, `synthetic` or `synthetic-tiny`.
        out: the output folder.
        options: see [`MineOptions`].

    Returns:
        The rows, the proposer, and the splits to mine.

    Raises:
        ValueError: the data, the output folder or an option is invalid; the message names it.
    """
    rows = open_rows(data)
    available = tuple(dict.fromkeys(group.split for group in rows.groups))
    if not available:
        raise ValueError(f"{data}: has no rows")
    if missing := [split for split in options.splits if split not in available]:
        raise ValueError(f"--split {missing[0]}: {data} has {', '.join(available)}")
    for name in ("sample", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold must lie in [0, 1], not {options.threshold}")
    propose = parse_proposer(options.proposer)
    check_out(out, _JOB_NAME)
    return rows, propose, options.splits or available


def mine_folder(
    model: Any,
    processor: Any,
    data: str | Path,
    out: str | Path,
    options: MineOptions | None = None,
    progress: bool = True,
) -> Counts:
    """Pairs sentences with regions in a whole data set and writes it to the folder `out`.

    The main process fits the scorer on the training split, or on the first mined split if there is none, and writes it
    to `judge.safetensors` in `out`. Then all processes of Accelerate share the row groups. Finished work is kept in the
    hidden folder `.OUT.mining`, so that the same call resumes an interrupted run. The fit is reproducible bit by bit on
    one device with one number of threads; everything else also for any number of processes.

    Args:
        model: a Rogle or CLIP model. It is moved to the device of the process.
        processor: the model's processor.
        data: a folder of P-VLG Parquet, `synthetic` or `synthetic-tiny`.
        out: a folder that is absent or empty. It appears when it is complete.
        options: see [`MineOptions`]. None: the defaults.
        progress: show progress bars. Default: True.

    Returns:
        For each mined split, the counts of [`dataset_pvlg.mining.mine_rows.mine_rows`].

    Raises:
        ValueError: see [`check_mining`]; `out` was started with other settings; the rows have fewer than two
            sentences; or a row has no image.
    """
    options = options or MineOptions()
    rows, propose, splits = check_mining(data, out, options)
    settings = {
        **asdict(options),
        "splits": list(splits),
        "model": Path(model.name_or_path).name,
        "fingerprint": fingerprint(model),
    }
    with Job(rows, out, _JOB_NAME, settings, ["regions"]) as job:
        if job.counts is not None:
            return job.counts
        model = model.eval().to(job.state.device)
        fit_split = "train" if any(group.split == "train" for group in rows.groups) else splits[0]
        ignore_pairs = options.ignore_pairs

        def fit(path: Path) -> None:
            temporary = path.with_name("sample.arrow")
            ignore = ignore_pairs and fit_split in splits
            sample = _read_sample(rows, fit_split, options.sample, ignore, temporary, progress)
            scorer = fit_matching(model, processor, sample, options.seed, options.sample, options.batch_size, progress)
            scorer.save(path)
            temporary.unlink()

        scorer = RegionMatcher.load(job.make_file(SCORER_FILE, fit))
        matching = (scorer, propose, options.threshold)

        def mine(part: Dataset) -> tuple[Dataset, dict[str, int]]:
            part = with_regions(part, [[] for _ in range(len(part))]) if ignore_pairs else part
            return mine_rows(model, processor, part, options.batch_size, *matching, progress=False)

        counts = job.process_groups(mine, splits, progress)
        file = job.parts / SCORER_FILE
        job.finish(counts, lambda folder: _write_reports(rows, folder, file, settings, counts, fit_split))
        return counts


def _read_sample(rows: Rows, split: str, images: int, ignore_pairs: bool, file: Path, progress: bool) -> Dataset:
    """Copies the rows that the scorer may be fitted on to a file: an even sample of those with pairs, or of all."""
    groups = [group for group in rows.groups if group.split == split]
    starts, paired = [0], []
    for group in groups:
        column = rows.table(group, ["regions"])["regions"].to_pylist()
        if not ignore_pairs:
            paired += [starts[-1] + n for n, regions in enumerate(column) if given_pairs(regions)]
        starts.append(starts[-1] + len(column))
    chosen = set(spread(paired or range(starts[-1]), images))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer:
        for group, start, stop in zip(
            tqdm(groups, desc="reading a sample", disable=not progress), starts, starts[1:], strict=False
        ):
            if indices := [n - start for n in range(start, stop) if n in chosen]:
                writer.write_table(rows.table(group).take(indices))
    sample = Dataset.from_file(str(file))
    return with_regions(sample, [[] for _ in range(len(sample))]) if ignore_pairs else sample


def _write_reports(
    rows: Rows, folder: Path, scorer: Path, settings: dict[str, Any], counts: Counts, fit_split: str
) -> None:
    """Writes the mining report and the scorer, and extends the build report and the card of the input."""
    shutil.copyfile(scorer, folder / SCORER_FILE)
    report = settings | {"judge_fitted_on": fit_split, "splits": counts}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    build = rows.root and rows.root / "build_report.json"
    if build and build.is_file():
        build_report = json.loads(build.read_text(encoding="utf-8"))
        build_report.pop("files", None)  # checksums of the input files
        build_report["mining"] = report
        (folder / build.name).write_text(json.dumps(build_report, indent=2, ensure_ascii=False), encoding="utf-8")
    total = {name: sum(count[name] for count in counts.values()) for name in ("sentences", "kept", "assigned")}
    section = f"""## Regions found by a model

`{settings["model"]}` searched for the regions of {total["sentences"]} sentences in the splits {", ".join(counts)}. It
found {total["assigned"]}: their `origin` is `rsm`, and `reliability` is the estimated probability that the box is
correct. {total["kept"]} sentences already had a region and were not changed. Counts of regions above were made before
mining. Details: `{REPORT_FILE}`.
"""
    add_to_card(rows.root, folder, section)


__all__ = ["MineOptions", "check_mining", "mine_folder"]
