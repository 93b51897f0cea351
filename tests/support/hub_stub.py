"""A stub of the Hub: the part of its HTTP interface that huggingface_hub uses to download and upload models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
READER = "hf_reader"  # a token without write permission


@dataclass
class Repo:
    """A repository: files by commit, and commits by branch or tag."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def add(self, files: dict[str, bytes], name: str = "main") -> str:
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.names[name] = commit
        return commit

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.names.get(revision)


def in_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def content_name(path: str, data: bytes) -> str:
    """The name of the content, which is its ETag: as in LFS, or as in git."""
    return (
        hashlib.sha256(data).hexdigest() if in_lfs(path) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    )


class StubHub(ThreadingHTTPServer):
    """Serves the stub on a free local port.

    Attributes:
        repos: repositories by id. requests: "METHOD path" of each request. ranges: (path, first byte) of each download.
        cut: the name of a file whose next download stops after half of the file.
        failing: the name of a file whose download fails.
        pushes: by repository, the commit that its branch main has after the next answer about the repository.
        gated: a repository whose files nobody may read, only their names.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.ranges: list[tuple[str, int]] = []
        self.objects: dict[str, bytes] = {}
        self.cut: str | None = None
        self.failing: str | None = None
        self.pushes: dict[str, str] = {}
        self.gated: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer_to("GET", self.path)

    def do_HEAD(self) -> None:
        self.answer_to("HEAD", self.path)

    def do_POST(self) -> None:
        self.answer_to("POST", self.path)

    def do_PUT(self) -> None:
        self.answer_to("PUT", self.path)

    def answer_to(self, method: str, target: str) -> None:
        path = unquote(urlsplit(target).path)
        self.server.requests.append(f"{method} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, handler in _ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                handler(self, *found.groups())
                return
        self.send(404, {"error": f"no route for {method} {path}"})

    def send(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def repo(self, name: str) -> Repo | None:
        if name not in self.server.repos:
            self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.server.repos.get(name)

    def info(self, name: str, revision: str = "main") -> None:
        if (repo := self.repo(name)) is None:
            return
        commit = repo.at(revision)
        if commit is None and repo.commits:
            self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return
        files = repo.commits.get(commit or "", {})
        siblings = [{"rfilename": path} for path in files]
        self.send(200, {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})
        if name in self.server.pushes:
            repo.names["main"] = self.server.pushes.pop(name)

    def tree(self, name: str, revision: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        files = repo.commits.get(repo.at(revision) or "", {})
        entries: list[dict[str, Any]] = []
        for path, data in files.items():
            name = content_name(path, data)
            stored = {"lfs": {"oid": name, "size": len(data), "pointerSize": 134}} if in_lfs(path) else {}
            entries.append({"type": "file", "path": path, "size": len(data), "oid": name[:40], **stored})
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        self.send(200, [*entries, *({"type": "directory", "path": f, "oid": "0" * 40} for f in sorted(folders))])

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        if name == self.server.gated:
            self.send(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            return
        commit = repo.at(revision)
        data = repo.commits.get(commit or "", {}).get(path)
        if commit is None or data is None:
            self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET" and path == self.server.failing:
            self.send(500, {"error": "out of order"})
            return
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(found[1]) if found else 0
        self.send_response(206 if found else 200)
        self.send_header("ETag", f'"{content_name(path, data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if found:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.ranges.append((path, first))
        if self.server.cut == path:
            self.server.cut = None
            self.wfile.write(data[first : first + (len(data) - first) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[first:])

    def whoami(self) -> None:
        known = self.token() in (TOKEN, READER)
        self.send(200, {"name": "me", "type": "user", "orgs": []}) if known else self.send(
            401, {"error": "Unauthorized"}
        )

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self.token() != TOKEN:
            self.send(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.server.repos:
            self.send(409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"})
        else:
            self.server.repos[name] = Repo(private=bool(asked.get("private") or asked.get("visibility") == "private"))
            self.send(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def yaml(self) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        modes = ["lfs" if f["path"].endswith(".safetensors") else "regular" for f in files]
        answer = [{"path": f["path"], "uploadMode": m, "shouldIgnore": False} for f, m in zip(files, modes)]
        self.send(200, {"files": answer, "commitOid": self.server.repos[name].at(revision)})

    def batch(self, name: str) -> None:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.server.address}/objects/{o['oid']}"}}}
            for o in json.loads(self.body)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self.send(200)

    def commit(self, name: str, revision: str) -> None:
        repo = self.server.repos[name]
        files = dict(repo.commits.get(repo.at(revision) or "", {}))
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.add(files, revision)
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})


_ROUTES = (
    (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)", _Handler.tree),
    (r"GET /api/models/([^/]+/[^/]+)/revision/([^/]+)", _Handler.info),
    (r"GET /api/models/([^/]+/[^/]+)", _Handler.info),
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.yaml),
    (r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)", _Handler.preupload),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /objects/(\w+)", _Handler.store),
    (r"POST /api/models/([^/]+/[^/]+)/commit/([^/]+)", _Handler.commit),
)
