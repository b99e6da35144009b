"""A vector store in PostgreSQL with pgvector: one table of ids and global embeddings in float16 with an HNSW graph.

Paths, metadata and regions stay in the index. The address may hold a password; it is not stored or shown. Where only
the index names the address, the password comes from ROGLE_POSTGRES_URI, which must name the same server and database.
Searches with a filter scan the graph until enough rows pass (iterative scans, since pgvector 0.8).
"""

import contextlib
import json
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_rogle.index.server_store import HNSW_BUILD_EFFORT, HNSW_LINKS, TIMEOUT, ServerStore, one_line
from modeling_rogle.inference.errors import GalleryError

MIN_PGVECTOR = (0, 8)  # iterative scans
MAX_DIMENSION = 4000  # of halfvec in a graph
MAX_FILTER = 65_536  # ids in a filter: 0.5 MB
_CONNECT_SECONDS = 10


class PgvectorStore(ServerStore):
    """A [`VectorStore`] of pgvector; see [`ServerStore`] for its arguments and errors."""

    max_filter = MAX_FILTER
    max_effort = 1000  # hnsw.ef_search, a limit of pgvector

    def _connect(self, uri: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise GalleryError(f"store {self.uri}: psycopg is not installed; pip install rogle[pgvector]") from error
        self._psycopg, self._address = psycopg, uri
        self._connection: Any = None
        self._execute("SELECT 1")

    def close(self) -> None:
        """See [`VectorStore`]."""
        if self._connection is not None:
            with contextlib.suppress(Exception):  # of a connection that is broken already
                self._connection.close()
        self._connection = None

    def _reason(self, error: Exception) -> str:
        """One line about an error of the client; a refused password is named."""
        reason = one_line(error)
        if "authentication failed" in reason or "no password supplied" in reason:
            reason += "; check the user name and password in --store or ROGLE_POSTGRES_URI"
        return reason

    def _open_connection(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = self._psycopg.connect(
                self._address,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                # Up to some ten thousand rows the planner would read the whole table, which is slower than the graph.
                options=f"-c statement_timeout={int(1000 * TIMEOUT)} -c hnsw.iterative_scan=relaxed_order "
                "-c enable_seqscan=off",
                # A server that is gone is noticed even if it does not close the connection.
                keepalives=1, keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
            )  # fmt: skip
        return self._connection

    def _execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows."""

        def run() -> list[tuple[Any, ...]]:
            cursor = self._open_connection().execute(statement, parameters, binary=True)
            return cursor.fetchall() if cursor.description else []

        rows: list[tuple[Any, ...]] = self._call(run)
        return rows

    def _read_tags(self) -> dict[str, Any] | None:
        statement = "SELECT obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) IS NULL"
        comment, is_missing = self._execute(statement, [self.collection] * 2)[0]
        if is_missing:
            return None
        try:
            tags = json.loads(comment or "{}")
        except ValueError:
            return {}
        return tags if isinstance(tags, dict) else {}

    def _write_tags(self, tags: dict[str, Any]) -> None:
        self._call(self._comment, self._open_connection(), tags)

    def _comment(self, connection: Any, tags: dict[str, Any]) -> None:
        text = self._psycopg.sql.Literal(json.dumps(tags)).as_string(connection)
        connection.execute(f"COMMENT ON TABLE {self.collection} IS {text}")

    def _width(self) -> int:
        statement = "SELECT atttypmod FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'embed'"
        return int(self._execute(statement, [self.collection])[0][0])

    def _load(self) -> None:
        """A table needs no loading."""

    def _create(self, tags: dict[str, Any]) -> None:
        if self.dimension > MAX_DIMENSION:
            raise GalleryError(f"store {self.uri}: vectors of {self.dimension} numbers, at most {MAX_DIMENSION}")
        versions = self._execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if not versions:
            self._execute("CREATE EXTENSION IF NOT EXISTS vector")
            versions = self._execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        version = versions[0][0]
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_PGVECTOR:
            least = ".".join(map(str, MIN_PGVECTOR))
            raise GalleryError(f"store {self.uri}: pgvector {version}, at least {least} is needed for filters")

        def create() -> None:
            connection = self._open_connection()
            with connection.transaction():
                connection.execute(
                    f"CREATE TABLE {self.collection} (id bigint PRIMARY KEY, embed halfvec({self.dimension}) NOT NULL)"
                )
                # The vectors are not compressible, and a row that is stored elsewhere is read in two steps.
                connection.execute(f"ALTER TABLE {self.collection} ALTER COLUMN embed SET STORAGE PLAIN")
                self._comment(connection, tags)

        self._call(create)

    def _insert(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        def copy(target: str, connection: Any) -> None:
            with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as stream:
                stream.write(_binary_rows(ids, embeds))

        def run() -> None:
            connection, table = self._open_connection(), self.collection
            with connection.transaction():
                connection.execute("SET LOCAL statement_timeout = 0")
                if self._is_new:
                    copy(table, connection)
                    return
                connection.execute(f"CREATE TEMP TABLE added (LIKE {table}) ON COMMIT DROP")
                copy("added", connection)
                connection.execute(
                    f"INSERT INTO {table} SELECT * FROM added ON CONFLICT (id) DO UPDATE SET embed = excluded.embed"
                )

        self._call(run)

    def finish(self, progress: bool) -> None:
        """See [`VectorStore`]. The graph is built after the rows are there, which is faster than row by row."""
        if not self._has_changed:
            return

        def run() -> None:
            connection, table = self._open_connection(), self.collection
            with connection.transaction():
                # Without enough memory for the whole graph, its second part is built many times slower.
                rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                needed = rows * (2 * self.dimension + 16 * HNSW_LINKS + 256) // 2**20
                connection.execute(f"SET LOCAL maintenance_work_mem = '{min(max(64, 2 * needed), 8192)}MB'")
                connection.execute("SET LOCAL statement_timeout = 0")
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {table}_graph ON {table} USING hnsw (embed halfvec_ip_ops) "
                    f"WITH (m = {HNSW_LINKS}, ef_construction = {HNSW_BUILD_EFFORT})"
                )
                connection.execute(f"ANALYZE {table}")

        with tqdm(total=1, unit=" index", desc=f"indexing in {self.uri}", disable=not progress) as bar:
            self._call(run)
            bar.update()

    def built(self) -> str | None:
        """See [`VectorStore`]."""
        rows = self._execute(
            "SELECT oid::text || ' ' || relfilenode::text FROM pg_class WHERE oid = to_regclass(%s)",
            [f"{self.collection}_graph"],
        )
        return rows[0][0] if rows else None

    def _delete(self, ids: np.ndarray) -> None:
        self._execute(f"DELETE FROM {self.collection} WHERE id = ANY(%s)", [ids.tolist()])
        # A deletion only hides the rows. VACUUM frees their space in the table and in the graph.
        self._execute("SET statement_timeout = 0")
        self._execute(f"VACUUM {self.collection}")
        self._execute(f"SET statement_timeout = {int(1000 * TIMEOUT)}")

    def _drop(self) -> None:
        self._execute(f"DROP TABLE {self.collection}")

    def _search(self, query: np.ndarray, count: int, ids: np.ndarray | None) -> np.ndarray:
        effort = min(max(self.effort, count), self.max_effort)
        vector = "[" + ",".join(map(repr, np.asarray(query, dtype=np.float32).tolist())) + "]"
        where, passing = ("", []) if ids is None else ("WHERE id = ANY(%s)", [ids.tolist()])
        self._execute(f"SET hnsw.ef_search = {effort}")
        order = f"ORDER BY embed <#> %s::halfvec({self.dimension}) LIMIT %s"
        rows = self._execute(f"SELECT id FROM {self.collection} {where} {order}", [*passing, vector, count])
        return np.array([row[0] for row in rows], dtype=np.int64)


def _binary_rows(ids: np.ndarray, embeds: np.ndarray) -> bytes:
    """Rows in PostgreSQL's binary format of COPY: the number of fields, then length and value of each field."""
    count, dimension = embeds.shape
    layout = [("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("embed_bytes", ">i4")]
    rows = np.zeros(count, dtype=[*layout, ("dimension", ">i2"), ("unused", ">i2"), ("embed", ">f2", (dimension,))])
    rows["fields"], rows["id_bytes"], rows["id"] = 2, 8, ids
    rows["embed_bytes"], rows["dimension"], rows["embed"] = 4 + 2 * dimension, dimension, embeds
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"


__all__ = ["PgvectorStore"]
