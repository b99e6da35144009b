"""A local Hub server on 127.0.0.1 with model, data set and Space repositories in memory, for pushing and loading.

It implements the requests of huggingface_hub 2.4, datasets 5.2 and evaluate 0.4.6 with `HF_ENDPOINT=<url>` and
`HF_HUB_DISABLE_XET=1`. Every other request is answered with 404 and is listed in `requests`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote

KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LARGE = ("*.parquet", "*.safetensors", "*.jpg", "*.png")  # uploaded separately, like large files on the Hub
_API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?")
_FILE = re.compile(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LARGE = re.compile(r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch")


class HubServer:
    """The content and the answers of the server.

    `repos` maps `(kind, "user/name")` to the files of each commit, the newest last. `requests` lists method and path,
    `tokens` the Authorization headers.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.sdk: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuse = ""  # if set, every request is refused with this error

    def files(self, kind: str, repo: str) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.repos[kind, repo][-1][1]

    def answer(self, method: str, url: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path with its query."""
        path, _, query = url.partition("?")
        if self.refuse:
            return _json(403, {"error": self.refuse})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return _json(200, {"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return _json(200, {"name": "me", "type": "user", "auth": {}, "orgs": []})
        if _LARGE.fullmatch(path):
            objects = [self._upload_action(item) for item in json.loads(body)["objects"]]
            return _json(200, {"transfer": "basic", "objects": objects})
        if path.startswith("/large/") and method == "PUT":
            if hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
                return _json(400, {"error": "the content does not have the announced hash"})
            self.large[path.rpartition("/")[2]] = body
            return _json(200, {})
        if match := _API.fullmatch(path):
            repo = (match[1][:-1], unquote(match[2]))
            if repo not in self.repos or (self.private[repo] and not token):
                return _missing("RepoNotFound")
            return self._api(method, repo, match[3] or "", parse_qs(query), body)
        if match := _FILE.fullmatch(path):
            repo = (next(kind for kind, prefix in KINDS.items() if prefix == match[1]), match[2])
            if repo not in self.repos or (self.private[repo] and not token):
                return _missing("RepoNotFound")
            return self._file(repo, unquote(match[3]), unquote(match[4]))
        return _json(404, {"error": f"{method} {path}"})

    def _create(self, request: dict) -> tuple[int, dict, bytes]:
        kind, name = request.get("type") or "model", request["name"]
        repo = (kind, f"{request.get('organization') or 'me'}/{name}")
        new = repo not in self.repos
        if new:
            self.repos[repo] = [("0" * 40, {})]
            self.private[repo] = bool(request.get("private")) or request.get("visibility") == "private"
            self.sdk[repo[1]] = request.get("sdk") or ""
        return _json(200 if new else 409, {"url": f"{self.url}/{KINDS[kind]}{repo[1]}", "id": repo[1]})

    def _upload_action(self, item: dict) -> dict:
        target = {"href": f"{self.url}/large/{item['oid']}", "header": {}}
        actions = {} if item["oid"] in self.large else {"actions": {"upload": target}}
        return {"oid": item["oid"], "size": item["size"], **actions}

    def _commit_of(self, repo: tuple[str, str], revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos[repo]
        return commits[-1] if revision == "main" else dict((sha, (sha, files)) for sha, files in commits).get(revision)

    def _api(
        self, method: str, repo: tuple[str, str], rest: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict, bytes]:
        action, _, detail = rest.partition("/")
        revision, _, folder = (unquote(part) for part in detail.partition("/"))
        commit = self._commit_of(repo, revision or "main")
        if commit is None:
            return _missing("RevisionNotFound")
        sha, files = commit
        if method == "POST" and action == "preupload":
            sent = json.loads(body)["files"]
            modes = [(f["path"], "lfs" if any(fnmatch(f["path"], p) for p in LARGE) else "regular") for f in sent]
            return _json(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
        if method == "POST" and action == "commit":
            return self._commit(repo, [json.loads(line) for line in body.decode().splitlines()])
        if method == "POST" and action == "paths-info":
            paths = json.loads(body)["paths"]
            entries = [_entry(path, files[path]) for path in paths if path in files]
            folders = {path for path in paths if any(name.startswith(f"{path}/") for name in files)}
            return _json(200, entries + [_folder(path) for path in sorted(folders)])
        if method == "GET" and action == "tree":
            inside = [path for path in files if not folder or path.startswith(f"{folder}/")]
            if folder and not inside:
                return _missing("EntryNotFound")
            folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            level = folder.count("/") + 1 if folder else 0
            entries = [_folder(path) for path in sorted(folders)] + [_entry(path, files[path]) for path in inside]
            return _json(200, [entry for entry in entries if recursive or entry["path"].count("/") == level])
        if method == "GET" and action in ("", "revision"):
            info = {"id": repo[1], "sha": sha, "private": self.private[repo], "disabled": False, "tags": []}
            return _json(200, info | {"siblings": [{"rfilename": path} for path in files]})
        if method == "GET" and action == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
            return _json(200, {"branches": [branch], "tags": [], "converts": []})
        return _json(404, {"error": f"{method} {rest}"})

    def _commit(self, repo: tuple[str, str], entries: list[dict]) -> tuple[int, dict, bytes]:
        files = dict(self.files(*repo))
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        sha = hashlib.sha1(json.dumps([len(self.repos[repo]), repo, sorted(files)]).encode()).hexdigest()
        self.repos[repo].append((sha, files))
        url = f"{self.url}/{KINDS[repo[0]]}{repo[1]}/commit/{sha}"
        return _json(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _file(self, repo: tuple[str, str], revision: str, path: str) -> tuple[int, dict, bytes]:
        commit = self._commit_of(repo, revision)
        if commit is None:
            return _missing("RevisionNotFound")
        sha, files = commit
        if path not in files:
            return _missing("EntryNotFound", {"X-Repo-Commit": sha})
        tag = hashlib.sha256(files[path]).hexdigest()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{tag}"', "Content-Type": "application/octet-stream"}
        return 200, headers, files[path]


def _json(status: int, content: object) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _missing(code: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    return 404, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}, b""


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _folder(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802  names of the base class
        self._serve()

    do_GET = do_PUT = do_HEAD = do_POST  # noqa: N815

    def _serve(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization")
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens.add(token)
        method = "GET" if self.command == "HEAD" else self.command
        status, headers, content = self.hub.answer(method, self.path, body, token)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span and status == 200:
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Runs the server until the block ends."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_user(hub: HubServer, home: object, token: str | None = "hf_token_of_a_test") -> dict[str, str]:
    """Environment of a process that uses this server as the Hub, with separate caches in the folder `home`."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": f"{home}/hf",
        "HF_DATASETS_CACHE": f"{home}/hf/datasets",
        "HF_MODULES_CACHE": f"{home}/hf/modules",
        "HF_EVALUATE_CACHE": f"{home}/hf/evaluate",
    }
    return environment | ({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


def in_this_process(hub: HubServer, monkeypatch: object, token: str = "hf_token_of_a_test") -> None:
    """Makes the running process use this server as the Hub until `monkeypatch` is undone."""
    from huggingface_hub import constants, hf_api

    settings = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    settings["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    # Clients that have read the address already: those of huggingface_hub's functions and of transformers.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    monkeypatch.setenv("HF_TOKEN", token)
