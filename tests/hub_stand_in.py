"""A stand-in for the Hub on 127.0.0.1, enough for create_repo and upload_folder of model repositories in memory."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn:
    """`repos` maps a repository to its files, `requests` are method and path, `tokens` the Authorization headers."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict]:
        if (method, path) == ("POST", "/api/repos/create"):
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            new = repo not in self.repos
            self.repos.setdefault(repo, {})
            self.private.setdefault(repo, asked.get("visibility") == "private")
            return (200 if new else 409), {"url": f"{self.url}/{repo}", "id": repo}
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if method == "POST" and found and found[1] in self.repos:
            if found[2] == "preupload":  # "regular": the content comes inside the commit
                files = [file["path"] for file in json.loads(body)["files"]]
                return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.repos[found[1]][value["path"]] = base64.b64decode(value["content"])
            commit = "0" * 40
            return 200, {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{self.url}/{found[1]}/commit/{commit}",
                "hookOutput": "",
            }
        return 404, {"error": f"{method} {path}"}


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """Serves until the block ends."""
    hub = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802  the base class's name
            self._serve("POST")

        def do_GET(self) -> None:  # noqa: N802
            self._serve("GET")

        def _serve(self, method: str) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{method} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            status, content = hub.answer(method, path, body)
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
