"""The files of an evaluation: results.json, .csv and .md, and the ranks of every query; written atomically."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.breakdown import breakdown_table
from modeling_rogle.evaluation.protocols import RankedQueries
from modeling_rogle.evaluation.references import LOOK_UP, ORACLE, RANDOM
from modeling_rogle.evaluation.tables import format_table

# Fields listed under the table: needed to compare the figures with others.
LISTED_FIELDS = (
    "protocol",
    "dataset",
    "dataset_fingerprint",
    "split",
    "rows",
    "identities",
    "checkpoint_sha256",
    "code",
    "command",
)


def write_text(path: Path, text: str) -> None:
    """Writes a text file; it is replaced atomically."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_outputs(folder: Path, report: Mapping[str, Any], queries: pa.Table) -> None:
    """Writes results.json, results.csv, results.md and queries.parquet.

    Args:
        folder: the folder, which is created.
        report: the report of `eval.py`, JSON.
        queries: see `query_table`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)
    unfinished = folder / f"queries.parquet.{os.getpid()}.unfinished"
    try:
        pq.write_table(queries, unfinished)
        os.replace(unfinished, folder / "queries.parquet")
    finally:
        unfinished.unlink(missing_ok=True)
    write_text(folder / "results.csv", as_csv(report))
    write_text(folder / "results.md", as_markdown(report))
    write_text(
        folder / "results.json", json.dumps(report, indent=1) + "\n"
    )  # last, so that it exists only if all files do


def as_csv(report: Mapping[str, Any]) -> str:
    """The figures as CSV, one row each: protocol, metric, value, low, high, and the provenance."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    provenance = (
        "protocol_version",
        "dataset",
        "split",
        "local_weight",
        "ties",
        "dataset_fingerprint",
        "checkpoint_sha256",
        "code",
    )
    writer.writerow(("protocol", "metric", "value", "low", "high", *provenance))
    for key, value in report["results"].items():
        line, _, name = key.rpartition("/")
        low, high = report["intervals"].get(line, {}).get(name, ("", ""))
        fields = {"protocol_version": report["protocol"], **report}
        writer.writerow((line, name, value, low, high, *(fields[field] for field in provenance)))
    return stream.getvalue()


def as_markdown(report: Mapping[str, Any]) -> str:
    """The figures as Markdown: the table with intervals, dropped queries, the provenance and the breakdown."""
    parts = [f"# {report['model']} on {report['dataset']}, split {report['split']}", scores_table(report)]
    if report["intervals"]:
        settings = report["bootstrap"]
        parts.append(
            f"In percent; 95 % intervals in brackets, from {settings['draws']} bootstrap draws of identities (seed "
            f"{settings['seed']}, fixed gallery)."
        )
    parts += [
        *reference_notes(report),
        *dropped_lines(report),
        f"Ties: {report['ties']}. Local weight {report['local_weight']} ({report['weight_from']}).",
    ]
    parts.append("| | |\n|---|---|\n" + "\n".join(f"| {name} | `{report[name]}` |" for name in LISTED_FIELDS))
    if report["breakdown"]:
        parts += ["## By content and length of the query", breakdown_table(report["breakdown"])]
    return "\n\n".join(parts) + "\n"


def scores_table(report: Mapping[str, Any]) -> str:
    """The table of an evaluation's report, see `format_table`."""
    return format_table(report["results"], report["intervals"], report["protocols"])


def dropped_lines(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each line of the table with dropped queries."""
    return [f"{line}: {entry['queries']} queries {entry['why']}" for line, entry in report["dropped"].items()]


def reference_notes(report: Mapping[str, Any]) -> list[str]:
    """What decides the relevance of regions, and what the reference lines are; nothing without the local protocol."""
    if LOOK_UP + "/R@1" not in report["results"]:
        return []
    ceiling = f"{ORACLE} knows the facts of every region."
    if report["relevance"] == "labels":
        ceiling = "The rows have no facts, so labels decide which regions are relevant, and there is no ceiling."
    return [
        f"Protocol {report['protocol']}. {RANDOM} is a random order. {LOOK_UP} reads no image ({report['look_up']}). "
        + ceiling
    ]


def texts_of_queries(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts of a split's queries for the kinds `long`, `short` and `sentence`, in the order of `encode_split`."""
    texts: dict[str, list[str]] = {"long": [], "short": [], "sentence": []}
    for row in rows:
        texts["short"] += row["captions"]
        if row["caption"]:
            texts["long"].append(row["caption"])
            texts["sentence"] += [sentence["text"] for sentence in row["sentences"]]
    return texts


def query_table(
    lines: Mapping[str, RankedQueries], image_ids: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> pa.Table:
    """The ranks of all queries, one row per query and line of the results.

    Args:
        lines: see `protocols.ranked_queries`.
        image_ids: `[I]`.
        texts: the texts of the queries by kind, for kinds that have texts.

    Returns:
        Columns protocol, image_id, person_id, text (null for images), first_rank (null without a positive),
        average_precision and inverse_penalty in [0, 1], positives.
    """
    schema = pa.schema(
        [
            ("protocol", pa.dictionary(pa.int16(), pa.string())),
            ("image_id", pa.string()),
            ("person_id", pa.int64()),
            ("text", pa.string()),
            ("first_rank", pa.int64()),
            ("average_precision", pa.float64()),
            ("inverse_penalty", pa.float64()),
            ("positives", pa.int64()),
        ]
    )
    tables = []
    for line, ranked in lines.items():
        ranking, of_kind = ranked.ranking, texts.get(ranked.kind)
        dropped = ranking.n_positives == 0
        columns: list[Iterable] = [
            pa.array([line] * len(dropped)).dictionary_encode().cast(schema.field("protocol").type),
            [image_ids[i] for i in ranked.image],
            ranked.person_ids,
            [of_kind[i] if of_kind is not None else None for i in ranked.query],
            pa.array(ranking.first_rank, mask=dropped),
            pa.array(ranking.average_precision, mask=dropped),
            pa.array(ranking.inverse_penalty, mask=dropped),
            ranking.n_positives,
        ]
        tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()
