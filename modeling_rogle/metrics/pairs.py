"""Sparse pairs of queries and gallery items, block by block, in the form that `rank` reads.

All functions here take and return `PairsOf`: (start, stop) of the queries -> rows counted from start, gallery columns,
and the grade of each pair, if the pairs are graded.
"""

from collections.abc import Callable

import numpy as np

from .ranks import PairsOf


def listed_pairs(table: np.ndarray, n_queries: int) -> PairsOf:
    """Pairs of a table.

    Args:
        table: int64 `[P, 2]` query and gallery row, or `[P, 3]` with a grade.
        n_queries: number of queries.
    """
    table = table[np.argsort(table[:, 0], kind="stable")]
    first = np.searchsorted(table[:, 0], np.arange(n_queries + 1))

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        part = table[first[start] : first[stop]]
        return part[:, 0] - start, *part[:, 1:].T

    return block


def pairs_of_entries(owner: np.ndarray, n_queries: int, pairs: PairsOf) -> PairsOf:
    """Pairs of queries that have several entries each.

    Args:
        owner: int64 `[E]` ascending, the query of each entry.
        n_queries: number of queries.
        pairs: pairs of the E entries; grades are dropped.
    """
    first = np.searchsorted(owner, np.arange(n_queries + 1))

    def block(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = pairs(int(first[start]), int(first[stop]))[:2]
        return owner[first[start] : first[stop]][rows] - start, columns

    return block


def to_owners(pairs: PairsOf, owner: np.ndarray) -> PairsOf:
    """Pairs whose columns are replaced by the gallery items that own them."""

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        rows, columns, *grades = pairs(start, stop)
        return rows, owner[columns], *grades

    return block


def shifted(pairs: PairsOf, first_query: int, first_column: int) -> PairsOf:
    """Pairs of queries and gallery items that follow `first_query` other queries and `first_column` other items."""

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        inner = max(start, first_query)
        rows, columns, *grades = pairs(inner - first_query, max(stop, inner) - first_query)
        return rows + inner - start, columns + first_column, *grades

    return block


def selected(pairs: PairsOf, keep: Callable[..., np.ndarray]) -> PairsOf:
    """The pairs for which `keep` is True. It receives queries (not counted from start), columns and grades, if any."""

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        parts = pairs(start, stop)
        kept = keep(start + parts[0], *parts[1:])
        return tuple(part[kept] for part in parts)

    return block


def union(*parts: PairsOf) -> PairsOf:
    """Pairs that are in any of the parts, all with grades or all without. A pair may be there several times."""

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        columns = zip(*(part(start, stop) for part in parts), strict=True)
        return tuple(np.concatenate(values) for values in columns)

    return block


def graded(pairs: PairsOf, grade: int) -> PairsOf:
    """The pairs, all with one grade."""

    def block(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, columns = pairs(start, stop)[:2]
        return rows, columns, np.full(len(rows), grade)

    return block


def others(pairs: PairsOf, without: PairsOf) -> PairsOf:
    """The pairs that are not in `without`."""

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        parts, (rows, columns) = pairs(start, stop), without(start, stop)[:2]
        width = 1 + max(parts[1].max(initial=0), columns.max(initial=0))
        kept = ~np.isin(parts[0] * width + parts[1], rows * width + columns)
        return tuple(part[kept] for part in parts)

    return block


def last_block_kept(pairs: PairsOf) -> PairsOf:
    """The pairs, without computing them again if the same block is read several times in a row."""
    last: tuple[tuple[int, int] | None, tuple[np.ndarray, ...]] = (None, ())

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        nonlocal last
        if last[0] != (start, stop):
            last = ((start, stop), pairs(start, stop))
        return last[1]

    return block


def joint_codes(*columns: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Combines several kinds of ids into one code per row.

    Args:
        columns: (query ids, gallery ids) of each kind.

    Returns:
        Codes of queries and of gallery items, from 0. A row with a negative id in any column but the first equals
        nothing: its code is -1 for a query and -2 for a gallery item.
    """
    n_query = len(columns[0][0])
    table = np.stack([np.concatenate(column) for column in columns], axis=1)
    codes = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    unknown = (table[:, 1:] < 0).any(axis=1)
    return np.where(unknown, -1, codes)[:n_query], np.where(unknown, -2, codes)[n_query:]
