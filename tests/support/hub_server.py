"""A local server that speaks the Hugging Face hub's protocol, as far as ``huggingface_hub`` uses it for models.

Small files are served by the hub itself; tensors and arrays lie in a store at another address (as large files do on the
real hub), behind a redirect. Any path can be made to misbehave as in :mod:`rough_server`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from rough_server import Handler, QuietServer, RoughServer

LARGE = (".safetensors", ".npz")
TOKEN = "hf_the_right_one"


@dataclass
class Repository:
    """A model repository.

    Attributes:
        commits: files of each commit, the latest last.
        private: known only to those who have the token.
        gated: its files are given only to those who have the token, and, if ``waiting``, to nobody yet.
    """

    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    private: bool = False
    gated: bool = False
    waiting: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def sha(self, number: int = -1) -> str:
        listed = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in self.commits[number].items())
        return hashlib.sha1(repr((number % len(self.commits), listed)).encode()).hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        if revision == "main":
            return self.sha(), self.files
        for number in range(len(self.commits)):
            if self.sha(number) == revision:
                return revision, self.commits[number]
        return None


class HubServer(RoughServer):
    """``repositories`` by ``ORG/NAME``; the store's files are in ``files`` at ``/store/SHA256``."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.created: list[tuple[str, bool]] = []

    @property
    def store(self) -> str:
        """Address of the store: another host name, so that it is another server to a client."""
        return self.url.replace("127.0.0.1", "localhost")

    def publish(self, name: str, folder: Path, **settings: bool) -> Repository:
        """Make a repository of the files of a folder."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository([files], **settings)
        return self.repositories[name]


def place(content: bytes) -> str:
    """Path of a large file in the store."""
    return f"/store/{hashlib.sha256(content).hexdigest()}"


class HubHandler(Handler):
    rough: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if path.startswith("/store/"):
            super().do_GET()
            return
        with self.rough.lock:
            self.rough.requests.append((path, dict(self.headers)))
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with suppress(BrokenPipeError, ConnectionResetError):
            self._posted(unquote(self.path.split("?")[0]), body)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(self.path)
        waiting = self.rough.faults[path]
        if waiting:
            waiting.pop(0)(self, content)
            return
        self.rough.files[path] = content
        self.plain(200, b"")

    @property
    def _has_token(self) -> bool:
        return self.headers.get("Authorization", "") == f"Bearer {TOKEN}"

    def _json(self, data: object, status: int = 200, **headers: str) -> None:
        self.plain(status, json.dumps(data).encode(), Content_Type="application/json", **headers)

    def send(self, body: bytes, pause_s: float = 0.0) -> None:
        if self.command != "HEAD":
            super().send(body, pause_s)

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        waiting = self.rough.faults[path]
        if waiting:
            waiting.pop(0)(self, b"")
            return
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            self._information(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self.plain(404, b"")

    def _found(self, name: str, revision: str) -> tuple[Repository, str, dict[str, bytes]] | None:
        repository = self.rough.repositories.get(name)
        if repository is None or (repository.private and not self._has_token):
            self._json({"error": "Repository not found"}, 401, X_Error_Code="RepoNotFound")
            return None
        found = repository.at(revision)
        if found is None:
            self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return None
        return repository, *found

    def _information(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        repository, commit, files = found
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        known = {"id": name, "sha": commit, "siblings": siblings, "private": repository.private}
        self._json({**known, "gated": "manual" if repository.gated else False})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        repository, commit, files = found
        if repository.gated and (not self._has_token or repository.waiting):
            self._json({"error": "gated"}, 403 if self._has_token else 401, X_Error_Code="GatedRepo")
        elif path not in files:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif path.endswith(LARGE):
            content = files[path]
            self.rough.files.setdefault(place(content), content)
            digest = place(content).rpartition("/")[2]
            known = {"X_Repo_Commit": commit, "X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{digest}"'}
            self.plain(302, b"", Location=self.rough.store + place(content), **known)
        else:
            etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
            self.plain(200, files[path], X_Repo_Commit=commit, ETag=etag)

    def _posted(self, path: str, body: bytes) -> None:
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        elif not self._has_token:
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/.+", path):
            held = self.rough.repositories[match[1]].files
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": _id(file["path"], held[file["path"]]) if file["path"] in held else None,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif re.fullmatch(r"/.+\.git/info/lfs/objects/batch", path):
            upload = [
                {**entry, "actions": {"upload": {"href": f"{self.rough.url}/store/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": upload})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], body)
        else:
            self.plain(404, b"")

    def _create(self, asked: dict[str, object]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else str(asked["name"])
        if name in self.rough.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.rough.url}/{name}"}, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.rough.repositories[name] = Repository([{".gitattributes": b"*.safetensors filter=lfs\n"}], private)
        self.rough.created.append((name, private))
        self._json({"url": f"{self.rough.url}/{name}", "id": "1", "name": name})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.rough.repositories[name]
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.rough.files[f"/store/{value['oid']}"]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        repository.commits.append(files)
        commit = repository.sha()
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.rough.url}/{name}/commit/{commit}"})


def _id(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running hub on a free port."""
    hub = HubServer()
    handler = type("BoundHandler", (HubHandler,), {"rough": hub})
    with QuietServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield hub
        finally:
            http.shutdown()
            thread.join()
