"""Runs a standalone Milvus server on loopback, for tests and measurements.

    python -m venv milvus && milvus/bin/pip install milvus==2.3.5
    export ROGLE_MILVUS_PACKAGE=$(milvus/bin/python -c "import milvus; print(milvus.__path__[0])")
    python -m benchmarks.common.milvus_server DATA   # runs until it is interrupted and prints its address

The package `milvus` contains the server's binary. Its Python wrapper is not used, because it moves to another port when
the server is started again after a kill. Milvus listens on all interfaces, so it runs in a network namespace of its own
(Linux). A forwarder connects ports of 127.0.0.1 to it.
"""

import asyncio
import ctypes
import fcntl
import json
import lzma
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.processes import child_environment, process_cpu_seconds, process_resident_bytes

PACKAGE = "ROGLE_MILVUS_PACKAGE"  # environment variable: the folder of the installed package `milvus`
TOKEN = "root:Milvus"  # of a new server
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_START_SECONDS = 180.0


class MilvusServer:
    """A running server.

    Args:
        data: folder of the server's files. A server that is started again in the same folder has the same data.
        ports: ports of 127.0.0.1 for queries and for metrics. Default: free ports.

    Attributes:
        uri: `http://127.0.0.1:<port>`.
        pid: process id of the server.

    Raises:
        RuntimeError: the server did not start. The message has the end of its log.
    """

    def __init__(self, data: Path, ports: Sequence[int] = (0, 0)):
        package = Path(os.environ[PACKAGE])
        sockets = [_listening(port) for port in ports]
        self.ports = [listener.getsockname()[1] for listener in sockets]
        self.uri = f"http://127.0.0.1:{self.ports[0]}"
        self._log = data / "logs" / "milvus.log"
        _write_configuration(package, data)
        numbers = [listener.fileno() for listener in sockets]
        command = [
            sys.executable,
            "-m",
            "benchmarks.common.milvus_server",
            str(_unpacked(package)),
            str(data),
            json.dumps(numbers),
        ]
        self._process = subprocess.Popen(
            command, env=child_environment(), pass_fds=numbers, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for listener in sockets:
            listener.close()
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline() or 0)
        until = time.monotonic() + _START_SECONDS
        while not self._is_healthy():
            if time.monotonic() > until or self._process.poll() is not None:
                self.stop()
                text = self._log.read_text(errors="replace") if self._log.exists() else ""
                raise RuntimeError(f"Milvus did not start: {text[-2000:]}")
            time.sleep(0.1)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[1]}/healthz", timeout=5) as response:
                return b"OK" in response.read()
        except OSError:
            return False

    def searches(self) -> int:
        """Number of vectors that the server has searched since it started, from its own metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[1]}/metrics", timeout=30) as response:
            text = response.read().decode()
        return int(sum(map(float, re.findall(r"^milvus_proxy_search_vectors_count\{[^}]*\} (\S+)$", text, re.M))))

    def cpu_seconds(self) -> float:
        """CPU seconds of the server so far."""
        return process_cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """Resident memory of the server."""
        return process_resident_bytes(self.pid)

    def kill(self) -> None:
        """Kills the server without warning."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends the server."""
        if self._process.poll() is None:
            self._process.kill()  # the server ends with its parent
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> "MilvusServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def _unpacked(package: Path) -> Path:
    """Unpacks the binaries of the package beside themselves, once."""
    folder = package / "unpacked"
    if not folder.exists():
        new = package / f"unpacked.{os.getpid()}"
        new.mkdir()
        for file in (package / "data" / "bin").glob("*.lzma"):
            with lzma.open(file) as source, open(new / file.stem, "wb") as target:
                shutil.copyfileobj(source, target)
            (new / file.stem).chmod(0o755)
        try:
            new.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(new)
    return folder


def _write_configuration(package: Path, data: Path) -> None:
    """Fills the template of the package: default ports, because the server has a network namespace of its own."""
    folders = {
        "etcd_log_path": data / "logs" / "etcd.log",
        "etcd_data_dir": data / "etcd",
        "local_storage_dir": data / "storage",
        "rocksmq_data_dir": data / "rocksmq",
        "system_log_path": data / "logs",
    }
    text = (package / "data" / "config.yaml.template").read_text()
    text = re.sub(
        r"\{\{\s*(\w+)(?:\(\w+\))?\s*(?::\s*(.*?))?\s*\}\}", lambda m: str(folders.get(m[1], m[2] or "")), text
    )
    text = text.replace("authorizationEnabled: false", "authorizationEnabled: true")
    text = re.sub(r"^  ip: *#.*$", "  ip: 127.0.0.1", text, flags=re.M)
    for folder in ("configs", "logs"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    (data / "configs" / "milvus.yaml").write_text(text)
    shutil.copy(package / "data" / "glog.conf", data / "configs" / "glog.conf")


def _enter_network() -> None:
    """Moves this process into a network namespace that has only a loopback interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "no network namespace can be created for Milvus")
    with socket.socket() as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _forward(listener: socket.socket, port: int) -> None:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.read(1 << 18):
                writer.write(block)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    server = await asyncio.start_server(connect, sock=listener)
    await server.serve_forever()


async def _run(binaries: str, data: Path, numbers: Sequence[int]) -> None:
    environment = {
        **os.environ,
        "DEPLOY_MODE": "STANDALONE",
        "MILVUS_RUN_DIR": str(data / "run"),
        "LD_LIBRARY_PATH": binaries,
        "METRICS_PORT": "9091",
    }
    with open(data / "logs" / "milvus.log", "ab") as log:
        milvus = subprocess.Popen(
            [f"{binaries}/milvus", "run", "standalone"],
            cwd=data, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent,
        )  # fmt: skip
    print(milvus.pid, flush=True)
    forwarders = [
        asyncio.ensure_future(_forward(socket.socket(fileno=number), port))
        for number, port in zip(numbers, (19530, 9091), strict=True)
    ]
    loop = asyncio.get_running_loop()
    parent = loop.run_in_executor(None, sys.stdin.read)  # ends with the parent
    server = loop.run_in_executor(None, milvus.wait)
    await asyncio.wait({*forwarders, parent, server}, return_when=asyncio.FIRST_COMPLETED)
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    if len(argv) == 3:  # the process that MilvusServer starts
        _enter_network()
        asyncio.run(_run(argv[0], Path(argv[1]), json.loads(argv[2])))
        return
    with MilvusServer(Path(argv[0])) as server:
        print(f"MILVUS_URI={server.uri} MILVUS_TOKEN={TOKEN}", flush=True)
        try:
            server._process.wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
