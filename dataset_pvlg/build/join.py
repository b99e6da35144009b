"""python -m dataset_pvlg.build.join ANNOTATIONS_DIR --images SOURCE=FOLDER --out DIR

Puts the images back into an annotations-only folder, from one's own copies of the sources: found by `path` under the
source's image root, taken only if their bytes have the `sha256` of the row. Rows whose image is missing or another
one are left out, counted, and listed in `build_report.json`.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_pvlg.build.build import write_report
from dataset_pvlg.jobs.stages import resolved_out
from dataset_pvlg.build.steps import ROWS_PER_GROUP, SCHEMA
from dataset_pvlg.builder import LayoutError, parquet_files
from dataset_pvlg.curation.image_checks import MODE, ORIENTATION, store_anew, stored_as
from dataset_pvlg.arrow_io import cut_by_bytes
from dataset_pvlg.readers.image_files import RefusedPathError, find_image

SHOWN = 5  # rows left out that are named on the terminal; build_report.json has them all


@dataclass
class JoinReport:
    """Rows by outcome; `left_out` names every row that is not `joined`: (image_id, path, reason)."""

    rows: int = 0
    joined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, for JSON."""
        return {
            "rows": self.rows,
            "joined": self.joined,
            "reasons": dict(self.reasons),
            "left_out": [dict(zip(("image_id", "path", "reason"), each, strict=True)) for each in self.left_out],
        }

    def __str__(self) -> str:
        lines = [f"{self.joined} of {self.rows} rows have their image again"]
        lines += [f"  left out: {count} x {reason}" for reason, count in self.reasons.items()]
        lines += [f"    {image_id}: {path!r}: {reason}" for image_id, path, reason in self.left_out[:SHOWN]]
        return "\n".join(lines)


def join(annotations: str | Path, images: Mapping[str, str | Path], out: str | Path) -> JoinReport:
    """Writes the annotated rows with their images, file by file; memory holds a group of rows.

    Args:
        annotations: a folder as `dataset_pvlg.build.build --annotations-only` writes it.
        images: source -> the folder that its image paths are relative to.
        out: a folder that does not exist yet or is empty. It appears complete or not at all.

    Raises:
        ValueError: `annotations` is no P-VLG folder, `out` holds something, an image root is no folder, and nothing is
            written if no row finds its image.
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
    known = _read_report(root)
    report = JoinReport()
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (part / "data").mkdir()
        known |= {"splits": {}, "files": {}}
        for split, names in files.items():
            counts, people = Counter(rows=0, captions=0, sentences=0, regions=0), set()
            for name in names:
                _join_file(name, part / "data" / name.name, roots, known["curation"], report, counts, people)
            if not counts["rows"]:  # a split of no rows is no split
                for name in names:
                    (part / "data" / name.name).unlink()
                continue
            known["splits"][split] = {"rows": counts.pop("rows"), "identities": len(people), **counts}
            for name in names:
                with open(part / "data" / name.name, "rb") as file:
                    known["files"][f"data/{name.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
        if not report.joined:
            raise ValueError(f"{root}: no row found its image; {report}".replace("\n", ";"))
        write_report(known | {"pictures": True, "join": report.as_dict()}, part)
        part.chmod(0o755)  # mkdtemp's folders are closed to everybody else
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _read_report(root: Path) -> dict[str, Any]:
    file = root / "build_report.json"
    known = {"sources": [], "curation": None, "captioning": {}, "matching": {}, "histograms": {}}
    if file.is_file():
        try:
            known |= json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: not readable as a report: {error}") from error
    return known


def _join_file(
    file: Path,
    target: Path,
    roots: Mapping[str, Path],
    curation: Mapping[str, Any] | None,
    report: JoinReport,
    counts: Counter[str],
    people: set[int],
) -> None:
    columns = [name for name in SCHEMA.names if name != "image"]
    try:
        with pq.ParquetFile(file) as parquet, pq.ParquetWriter(target, SCHEMA) as writer:
            missing = [name for name in columns if name not in parquet.schema_arrow.names]
            if missing:
                raise LayoutError(f"{file}: lacks the column(s) {', '.join(missing)}")
            total = parquet.metadata.num_rows
            with tqdm(total=total, desc=f"joining {file.name}", unit="row", disable=None) as bar:
                for piece in _pieces(parquet, columns):
                    found = (row for row in piece.to_pylist() if _attach(row, roots, curation, report))
                    for rows in cut_by_bytes(found):
                        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                        people.update(row["person_id"] for row in rows)
                        counts["rows"] += len(rows)
                        for column in ("captions", "sentences", "regions"):
                            counts[column] += sum(len(row[column] or []) for row in rows)
                    bar.update(len(piece))
    except pa.ArrowException as error:
        raise LayoutError(f"{file}: not readable as Parquet: {str(error).strip().splitlines()[0]}") from error


def _pieces(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a file, large ones in pieces: what `build` wrote comes back in the groups that it wrote."""
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=columns)
        for start in range(0, len(table), ROWS_PER_GROUP):
            yield table.slice(start, ROWS_PER_GROUP)


def _attach(
    row: dict[str, Any], roots: Mapping[str, Path], curation: Mapping[str, Any] | None, report: JoinReport
) -> bool:
    """Puts the image into the row, stored as the build would have stored it, or counts why not."""
    report.rows += 1
    try:
        content, name = _image(row, roots)
    except ValueError as error:
        report.reasons[str(error)] += 1
        report.left_out.append((row["image_id"], row["path"], str(error)))
        return False
    row["image"] = {"bytes": content, "path": name}
    options = (curation or {}).get("options", {})
    stored = stored_as(content) if options.get("rgb") or options.get("upright") else ""
    if (options.get("rgb") and MODE in stored) or (options.get("upright") and ORIENTATION in stored):
        store_anew(row)
    report.joined += 1
    return True


def _image(row: dict[str, Any], roots: Mapping[str, Path]) -> tuple[bytes, str]:
    """Bytes and file name of a row's image. Raises ValueError with the reason why there is none."""
    if row["source"] not in roots:
        raise ValueError(f"no --images {row['source']}=FOLDER was given")
    try:
        found = find_image(roots[row["source"]], row["path"] or "")
        content = found and found[0].read_bytes()
    except RefusedPathError:
        raise ValueError("path leads out of the image root") from None
    except OSError:
        raise ValueError("image cannot be read") from None
    if content is None:
        raise ValueError("image missing")
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError("image has another sha256")
    return content, found[0].name


def parse_images(texts: Sequence[str]) -> dict[str, str]:
    """`SOURCE=FOLDER` arguments. Raises ValueError on another form or a source given twice."""
    images: dict[str, str] = {}
    for text in texts:
        source, equals, folder = text.partition("=")
        if not equals or not source or not folder or source in images:
            raise ValueError(f"--images {text}: SOURCE=FOLDER is expected, each source once")
        images[source] = folder
    return images


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 after bad input, which is told in one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m dataset_pvlg.build.join", description=__doc__.split("\n\n")[1])
    parser.add_argument("annotations", metavar="ANNOTATIONS_DIR")
    parser.add_argument("--images", action="append", required=True, metavar="SOURCE=FOLDER", help="may be repeated")
    parser.add_argument("--out", required=True, metavar="DIR")
    args = parser.parse_args(argv)
    try:
        print(join(args.annotations, parse_images(args.images), args.out))
    except (ValueError, OSError) as error:
        print(f"dataset_pvlg.build.join: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
