"""Servers of vector stores, which tests start, kill and start again."""

import os
from pathlib import Path

from benchmarks.common.milvus_server import PACKAGE, TOKEN, MilvusServer
from benchmarks.common.postgres_server import PostgresServer


class Milvus:
    """A Milvus server; `available` says whether its package is installed."""

    available = PACKAGE in os.environ
    reason = f"{PACKAGE} does not name the package of the server"

    def __init__(self, data: Path):
        self.data, self.server = data, MilvusServer(data)
        self.uri = self.server.uri.replace("://", f"://{TOKEN}@")
        self.wrong_uri = self.uri.replace(TOKEN, "root:wrong")

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        """Starts the killed server again, at the same address."""
        self.server = MilvusServer(self.data, self.server.ports)

    def searches(self, collection: str) -> int:
        return self.server.searches()

    def collections(self) -> set[str]:
        """Names of all collections of indexes."""
        from pymilvus import MilvusClient

        client = MilvusClient(self.server.uri, token=TOKEN)
        try:
            return set(client.list_collections())
        finally:
            client.close()

    def stop(self) -> None:
        self.server.stop()


class Postgres:
    """A PostgreSQL server with pgvector; its role `rogle` needs a password."""

    def __init__(self, data: Path):
        import psycopg

        self.server = PostgresServer()
        with psycopg.connect(self.server.uri, autocommit=True) as connection:
            connection.execute("CREATE ROLE rogle SUPERUSER LOGIN PASSWORD 'secret'")
            hba = Path(connection.execute("SHOW hba_file").fetchone()[0])
            hba.write_text("local all rogle scram-sha-256\n" + hba.read_text())
            connection.execute("SELECT pg_reload_conf()")
        self.uri = self.server.uri.replace("postgres:@", "rogle:secret@")
        self.wrong_uri = self.uri.replace("secret", "wrong")

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        """Starts the killed server again, at the same address."""
        self.server.start()

    def searches(self, collection: str) -> int:
        return self.server.searches(collection)

    def collections(self) -> set[str]:
        """Names of all collections of indexes."""
        import psycopg

        with psycopg.connect(self.server.uri) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {name for (name,) in rows.fetchall()}

    def stop(self) -> None:
        self.server.stop()
