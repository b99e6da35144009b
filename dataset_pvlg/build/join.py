"""`rogle join ANNOTATIONS_DIR --images SOURCE=FOLDER --out DIR`: add the images to an annotations-only data set.

An image is found by the row's `path` under the image root of its source. It is used only if its bytes have the row's
`sha256`. Rows whose image is missing or different are left out, counted, and listed in `build_report.json`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_pvlg.arrow_io import ROWS_PER_GROUP, SCHEMA, cut_by_bytes
from dataset_pvlg.build.build import write_report
from dataset_pvlg.build.card import count_parts
from dataset_pvlg.builder import LayoutError, parquet_files
from dataset_pvlg.curation.image_checks import MODE, ORIENTATION, reencode, storage_faults
from dataset_pvlg.features import OPTIONAL
from dataset_pvlg.jobs.stages import resolved_out
from dataset_pvlg.readers.image_files import RefusedPathError, find_image
from modeling_rogle.image_io import ImageError, decode_image

MAX_LISTED = 5  # left-out rows that are printed; build_report.json lists all of them


@dataclass
class JoinReport:
    """Rows by outcome.

    Args:
        rows (`int`): all annotated rows.
        joined (`int`): rows that have their image again.
        reasons (`Counter[str]`): the other rows, by reason.
        left_out (`list[tuple[str, str, str]]`): image_id, path and reason of every row that is not joined.
    """

    rows: int = 0
    joined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain dicts and lists, for JSON."""
        return {
            "rows": self.rows,
            "joined": self.joined,
            "reasons": dict(self.reasons),
            "left_out": [dict(zip(("image_id", "path", "reason"), row, strict=True)) for row in self.left_out],
        }

    def __str__(self) -> str:
        lines = [f"{self.joined} of {self.rows} rows have their image again"]
        lines += [f"  left out: {count} x {reason}" for reason, count in self.reasons.items()]
        lines += [f"    {image_id}: {path!r}: {reason}" for image_id, path, reason in self.left_out[:MAX_LISTED]]
        return "\n".join(lines)


def join(annotations: str | Path, images: Mapping[str, str | Path], out: str | Path) -> JoinReport:
    """Write the annotated rows with their images, file by file. One row group is in memory at a time.

    Args:
        annotations (`str` or `Path`): a folder that `rogle data build --annotations-only` wrote.
        images (`Mapping[str, str | Path]`): name of a source -> folder that its image paths are relative to.
        out (`str` or `Path`): a folder that does not exist yet or is empty. It appears complete or not at all.

    Returns:
        `JoinReport`: how many rows have their image again, and which ones do not.

    Raises:
        ValueError: `annotations` is not a P-VLG folder, `out` is not empty, an image root is not a folder, or no row
            finds its image. Nothing is written in these cases.
    """
    root, out = Path(annotations), resolved_out(out)
    files = {split: [Path(name) for name in names] for split, names in parquet_files(root).items()}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    roots = {}
    for source, folder in images.items():
        if not Path(folder).is_dir():
            raise ValueError(f"--images {source}={folder}: not a folder")
        roots[source] = Path(folder).resolve()
    build_report = _read_build_report(root)
    report = JoinReport()
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (part / "data").mkdir()
        build_report |= {"splits": {}, "files": {}}
        for split, names in files.items():
            counts = count_parts([])
            people: set[int] = set()
            for name in names:
                _join_file(name, part / "data" / name.name, roots, build_report["curation"], report, counts, people)
            if not counts["rows"]:  # a split without rows is left out
                for name in names:
                    (part / "data" / name.name).unlink()
                continue
            build_report["splits"][split] = {"rows": counts.pop("rows"), "identities": len(people), **counts}
            for name in names:
                with open(part / "data" / name.name, "rb") as file:
                    build_report["files"][f"data/{name.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
        if not report.joined:
            raise ValueError(f"{root}: no row found its image; {report}".replace("\n", ";"))
        write_report(build_report | {"pictures": True, "join": report.as_dict()}, part)
        part.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _read_build_report(root: Path) -> dict[str, Any]:
    file = root / "build_report.json"
    report: dict[str, Any] = {"sources": [], "curation": None, "captioning": {}, "matching": {}, "histograms": {}}
    if file.is_file():
        try:
            report |= json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: not readable as a report: {error}") from error
    return report


def _join_file(
    file: Path,
    target: Path,
    roots: Mapping[str, Path],
    curation: Mapping[str, Any] | None,
    report: JoinReport,
    counts: Counter[str],
    people: set[int],
) -> None:
    try:
        with pq.ParquetFile(file) as parquet, pq.ParquetWriter(target, SCHEMA) as writer:
            stored = parquet.schema_arrow.names
            missing = [name for name in SCHEMA.names if name not in stored and name not in OPTIONAL]
            if missing:
                raise LayoutError(f"{file}: lacks the column(s) {', '.join(missing)}")
            total = parquet.metadata.num_rows
            with tqdm(total=total, desc=f"joining {file.name}", unit="row", disable=None) as bar:
                columns = [name for name in SCHEMA.names if name in stored and name != "image"]
                for table in _group_tables(parquet, columns):
                    joined = (row for row in table.to_pylist() if _attach_image(row, roots, curation, report))
                    for rows in cut_by_bytes(joined):
                        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                        people.update(row["person_id"] for row in rows)
                        counts.update(count_parts(rows))
                    bar.update(len(table))
    except pa.ArrowException as error:
        raise LayoutError(f"{file}: not readable as Parquet: {str(error).strip().splitlines()[0]}") from error


def _group_tables(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a file, large ones in slices. Files that a build wrote keep their row groups."""
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=columns)
        for start in range(0, len(table), ROWS_PER_GROUP):
            yield table.slice(start, ROWS_PER_GROUP)


def _attach_image(
    row: dict[str, Any], roots: Mapping[str, Path], curation: Mapping[str, Any] | None, report: JoinReport
) -> bool:
    """Add the image to a row as the build would have stored it. Returns False, and counts the reason, without one."""
    report.rows += 1
    try:
        content, name = _read_image(row, roots)
    except ValueError as error:
        report.reasons[str(error)] += 1
        report.left_out.append((row["image_id"], row["path"], str(error)))
        return False
    row["image"] = {"bytes": content, "path": name}
    options = (curation or {}).get("options", {})
    faults = ""
    if options.get("rgb") or options.get("upright"):
        try:
            faults = storage_faults(decode_image(content, name))
        except ImageError:  # an image that the build could not decode either, and kept
            pass
    if (options.get("rgb") and MODE in faults) or (options.get("upright") and ORIENTATION in faults):
        reencode(row)
    report.joined += 1
    return True


def _read_image(row: dict[str, Any], roots: Mapping[str, Path]) -> tuple[bytes, str]:
    """Bytes and file name of a row's image. Raises ValueError with the reason if there is none."""
    if row["source"] not in roots:
        raise ValueError(f"no --images {row['source']}=FOLDER was given")
    try:
        match = find_image(roots[row["source"]], row["path"] or "")
        content = match[0].read_bytes() if match else None
    except RefusedPathError:
        raise ValueError("path leads out of the image root") from None
    except OSError:
        raise ValueError("image cannot be read") from None
    if match is None or content is None:
        raise ValueError("image missing")
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError("image has another sha256")
    return content, match[0].name


def parse_images(texts: Sequence[str]) -> dict[str, str]:
    """Parse the arguments of `--images`.

    Args:
        texts (`Sequence[str]`): `SOURCE=FOLDER` each.

    Returns:
        `dict[str, str]`: name of a source -> folder.

    Raises:
        ValueError: an argument has another form, or a source is given twice.
    """
    images: dict[str, str] = {}
    for text in texts:
        source, equals, folder = text.partition("=")
        if not equals or not source or not folder or source in images:
            raise ValueError(f"--images {text}: SOURCE=FOLDER is expected, each source once")
        images[source] = folder
    return images
