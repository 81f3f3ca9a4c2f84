"""A Hugging Face hub on loopback: repositories of bytes behind the endpoints that `huggingface_hub` and `datasets` ask.

Large files are served as the hub does it, by a redirect to another host, which gets no token.
"""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LARGE = (".safetensors", ".parquet", "tokenizer.json")
TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """Files by their paths, as one commit; `gated`: only who sends the token may read them.

    `refused` is the status with which others are told so. `cut` names files whose transfer breaks off, at first in the
    middle and then at once, with how often that still is to happen. `unwell` is a status with which all is answered.
    """

    files: dict[str, bytes]
    gated: bool = False
    refused: int = 401
    cut: dict[str, int] = field(default_factory=dict)
    unwell: int = 0

    @property
    def commit(self) -> str:
        """Names the content, as a git commit does."""
        content = hashlib.sha1()
        for path, data in sorted(self.files.items()):
            content.update(path.encode() + b"\0" + data)
        return content.hexdigest()

    def revision(self, name: str) -> bool:
        """Whether there is such a revision."""
        return name in ("main", self.commit)

    def listing(self, under: str, recursive: bool) -> Iterator[dict[str, Any]]:
        """What `tree` says of a folder."""
        folders, prefix = set(), f"{under}/" if under else ""
        for path, data in sorted(self.files.items()):
            if not path.startswith(prefix):
                continue
            parents = path.removeprefix(prefix).split("/")[:-1]
            folders |= {prefix + "/".join(parents[: n + 1]) for n in range(len(parents) if recursive else 1) if parents}
            if recursive or not parents:
                yield self.entry(path, data)
        for folder in sorted(folders):
            yield {"type": "directory", "path": folder, "oid": _sha1(folder.encode()), "size": 0}

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        """What the hub says of a file."""
        found = {"type": "file", "path": path, "oid": _sha1(data), "size": len(data)}
        if path.endswith(_LARGE):
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return found


class LoopbackHub:
    """A running hub; `asked` are the requests that came, as (method, path)."""

    def __init__(self, repositories: Mapping[str, Repository]) -> None:
        self.repositories = dict(repositories)
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def store(self) -> str:
        """The address of its large files: the same server by another name."""
        return f"http://localhost:{self.server.server_address[1]}"

    def downloads(self) -> list[str]:
        """The files that were read."""
        return [path for method, path in self.asked if method == "GET" and ("/resolve/" in path or "/store/" in path)]

    def close(self) -> None:
        """Whoever asks now is refused the connection."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.hub.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        parts = path.strip("/").split("/")
        if parts[0] == "store":
            self._store("/".join(parts[1:]))
        elif parts[0] == "api" and parts[1] in ("models", "datasets"):
            self._api(parts[1], parts[2:], query, parse_qs(body))
        elif "resolve" in parts:
            self._resolve(parts)
        else:
            self._send(200, b"a hub")

    def _repository(self, name: str) -> Repository | None:
        """A repository that may be read; None: the refusal has been sent."""
        self.hub.tokens.append(self.headers.get("Authorization"))
        found = self.hub.repositories.get(name)
        if found is None:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif found.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(found.refused, "GatedRepo", f"Access to {name} is restricted and you are not in the list.")
        elif found.unwell:
            self._send(found.unwell, b"busy")
        else:
            return found
        return None

    def _api(self, kind: str, parts: list[str], query: Mapping[str, str], form: Mapping[str, list[str]]) -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        if kind == "models" and rest[:1] == ["tree"] and self.hub.repositories.get(name) is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        repository = self._repository(name if kind == "models" else f"datasets/{name}")
        if repository is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        if not repository.revision(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            self._json(list(repository.listing(under, query.get("recursive", "").lower() in ("true", "1"))))
        elif rest[:1] == ["paths-info"]:
            wanted = [path for path in form.get("paths", []) if path in repository.files]
            self._json([repository.entry(path, repository.files[path]) for path in wanted])
        else:
            siblings = [{"rfilename": path} for path in sorted(repository.files)]
            about = {"id": name, "sha": repository.commit, "siblings": siblings, "private": False, "tags": []}
            self._json(about | {"gated": "manual" if repository.gated else False, "downloads": 0, "likes": 0})

    def _resolve(self, parts: list[str]) -> None:
        place = parts.index("resolve")
        name, revision, path = "/".join(parts[:place]), parts[place + 1], "/".join(parts[place + 2 :])
        repository = self._repository(name)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit}
        if not repository.revision(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
        elif path.endswith(_LARGE):
            data = repository.files[path]
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", {**commit, **linked, "Location": f"{self.hub.store}/store/{name}/{path}"})
        else:
            self._file(repository, path, commit)

    def _store(self, place: str) -> None:
        name = next(name for name in self.hub.repositories if place.startswith(f"{name}/"))
        self.hub.tokens.append(self.headers.get("Authorization"))
        self._file(self.hub.repositories[name], place.removeprefix(f"{name}/"), {})

    def _file(self, repository: Repository, path: str, headers: Mapping[str, str]) -> None:
        data, start, status = repository.files[path], 0, 200
        about = {**headers, "ETag": f'"{_sha1(data)}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(data)
            about["Content-Range"], status = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}", 206
            data = data[start:end]
        if self.command == "GET" and repository.cut.get(path, 0):
            repository.cut[path] -= 1
            self._send(status, data, about, only=0 if asked else len(data) // 2)
            self.close_connection = True
        else:
            self._send(status, data, about)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, only: int | None = None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:only])
                self.wfile.flush()


def _sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def running(repositories: Mapping[str, Repository]) -> Iterator[LoopbackHub]:
    """A hub for a while."""
    hub = LoopbackHub(repositories)
    try:
        yield hub
    finally:
        with contextlib.suppress(OSError):
            hub.close()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a hub that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
