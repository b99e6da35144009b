"""What an evaluation leaves in its folder: results.json, .csv and .md, and every query's rank; written atomically."""

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
from modeling_rogle.evaluation.tables import format_table

# One line each under the table: what a reader must know before she compares the figures with others.
TOLD = ("dataset", "dataset_fingerprint", "split", "rows", "identities", "checkpoint_sha256", "code", "command")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_outputs(folder: Path, found: Mapping[str, Any], queries: pa.Table) -> None:
    """Writes results.json, results.csv, results.md and queries.parquet.

    Args:
        found: what `eval.py` reports, JSON.
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
    write_text(folder / "results.csv", as_csv(found))
    write_text(folder / "results.md", as_markdown(found))
    write_text(folder / "results.json", json.dumps(found, indent=1) + "\n")  # last: where it is, all is


def as_csv(found: Mapping[str, Any]) -> str:
    """One row a figure: protocol, metric, value, low, high, and by what it is to be found again."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    told = ("dataset", "split", "local_weight", "ties", "dataset_fingerprint", "checkpoint_sha256", "code")
    writer.writerow(("protocol", "metric", "value", "low", "high", *told))
    for key, value in found["results"].items():
        line, _, name = key.rpartition("/")
        low, high = found["intervals"].get(line, {}).get(name, ("", ""))
        writer.writerow((line, name, value, low, high, *(found[field] for field in told)))
    return stream.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    """The table with intervals, what was dropped, by what the figures can be repeated, and the breakdown."""
    parts = [f"# {found['model']} on {found['dataset']}, split {found['split']}", scores_table(found)]
    if found["intervals"]:
        told = found["bootstrap"]
        parts.append(
            f"Percent; in brackets 95 % intervals over {told['draws']} bootstrap draws of identities, seed "
            f"{told['seed']}, the gallery as it is."
        )
    parts += [
        *dropped_lines(found),
        f"Ties: {found['ties']}. Local weight {found['local_weight']} ({found['weight_from']}).",
    ]
    parts.append("| | |\n|---|---|\n" + "\n".join(f"| {name} | `{found[name]}` |" for name in TOLD))
    if found["breakdown"]:
        parts += ["## By what the query names, and its length", breakdown_table(found["breakdown"])]
    return "\n\n".join(parts) + "\n"


def scores_table(found: Mapping[str, Any]) -> str:
    return format_table(found["results"], found["intervals"], found["protocols"])


def dropped_lines(found: Mapping[str, Any]) -> list[str]:
    """One sentence for each line of the table that left queries out."""
    return [f"{line}: {entry['queries']} queries {entry['why']}" for line, entry in found["dropped"].items()]


def texts_of_queries(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts of a split's queries by kind, `long`, `short` and `sentence`, in the order of `encode_split`."""
    texts: dict[str, list[str]] = {"long": [], "short": [], "sentence": []}
    for row in rows:
        texts["short"] += row["captions"]
        if row["caption"]:
            texts["long"].append(row["caption"])
            texts["sentence"] += [sentence["text"] for sentence in row["sentences"]]
    return texts


def query_table(lines: Mapping[str, RankedQueries], image_ids: Sequence[str], texts: Mapping[str, Sequence[str]]) -> pa.Table:
    """One row a query and line of the table.

    Args:
        image_ids: `[I]`; texts: of all queries of a kind, where they have texts.

    Returns:
        protocol, image_id, person_id, text (null for images), first_rank (null where the query had no positive),
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
        if ranked.kind == "mixed":  # its queries stand in the lines of their own kinds
            continue
        ranking, said = ranked.ranking, texts.get(ranked.kind)
        dropped = ranking.n_positives == 0
        columns: list[Iterable] = [
            pa.array([line] * len(dropped)).dictionary_encode().cast(schema.field("protocol").type),
            [image_ids[i] for i in ranked.image],
            ranked.person_ids,
            [said[i] if said is not None else None for i in ranked.query],
            pa.array(ranking.first_rank, mask=dropped),
            pa.array(ranking.average_precision, mask=dropped),
            pa.array(ranking.inverse_penalty, mask=dropped),
            ranking.n_positives,
        ]
        tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()
