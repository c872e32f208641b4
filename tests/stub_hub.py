"""A stand-in for the Hugging Face hub on this machine: repositories are folders, asked as huggingface_hub does."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMIT, OLD = "c" * 40, "0" * 40
TOKEN = "hf_" + "a" * 30
LARGE = (".safetensors", ".png")
"""Endings of files that the hub keeps in its large storage."""


def git_hash(content: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories are folders below ``root``; ``old`` is an earlier revision of every one. Nothing can be written."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":  # /api/models/owner/name/tree/revision: the list of files
            if len(parts) < 4 or not (self.root / parts[2] / parts[3]).is_dir():
                self.reply(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})
                return
            folder = self.root / parts[2] / parts[3]
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            listing = [
                {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": "0"}
                for path in files
            ]
            about = self.about(f"{parts[2]}/{parts[3]}", files, folder)
            self.reply(200, json.dumps(listing if "tree" in parts else about).encode(), body)
            return
        if parts[0] == "datasets":
            parts = parts[1:]
        owner, name, _, revision, *path = parts
        if owner == "gated":
            self.reply(403, b"", body, **{"X-Error-Code": "GatedRepo"})
        elif not (self.root / owner / name).is_dir():
            self.reply(404, b"", body, **{"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "old", COMMIT, OLD):
            self.reply(404, b"", body, **{"X-Error-Code": "RevisionNotFound"})
        elif not (file := self.root.joinpath(owner, name, *path)).is_file():
            self.reply(404, b"", body, **{"X-Error-Code": "EntryNotFound"})
        else:
            commit = OLD if revision in ("old", OLD) else COMMIT
            content = file.read_bytes()
            self.reply(200, content, body, ETag=f'"{hash(content):x}"', **{"X-Repo-Commit": commit})

    def about(self, repository: str, files: list[Path], folder: Path) -> dict[str, Any]:
        """What the hub says of a repository, its files with their hashes among it."""
        siblings = []
        for path in files:
            content = path.read_bytes()
            name = str(path.relative_to(folder))
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if path.suffix in LARGE:
                sibling["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 130,
                }
            siblings.append(sibling)
        about = {"id": repository, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
        return {**about, "siblings": siblings}

    def reply(self, status: int, content: bytes, body: bool, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class WritableHub(Hub):
    """And takes what is pushed, for the owners ``ann`` and ``lab``."""

    private: dict[str, bool]
    """Of each repository that was made."""
    heads: dict[str, str]
    """The last commit of each."""
    commits: list[dict[str, Any]]
    """What each said, and the files that it added and took away."""
    objects: dict[str, bytes]
    """The large storage, by SHA-256."""
    refuses: dict[str, int]
    """What is in a path, and the status that it is answered with."""

    def answer(self, body: bool) -> None:
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self.reply(401, b"{}", body, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif status := self.refused():
            self.reply(status, b"{}", body)
        else:
            super().answer(body)

    def about(self, repository: str, files: list[Path], folder: Path) -> dict[str, Any]:
        return super().about(repository, files, folder) | {
            "private": self.private.get(repository, False),
            "sha": self.heads.get(repository, COMMIT),
        }

    def do_PUT(self) -> None:
        content = self.content()
        if status := self.refused():
            self.reply(status, b"{}", True)
        else:
            self.objects[self.path.rpartition("/")[2]] = content
            self.json({})

    def do_POST(self) -> None:
        self.asked.append(self.path)
        content, path = self.content(), self.path.partition("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.reply(401, b"{}", True, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif status := self.refused():
            self.reply(status, b"{}", True)
        elif path == "/api/repos/create":
            self.create(json.loads(content))
        elif path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            folder = self.root.joinpath(*path.split("/")[3:5])
            self.json({"files": [self.mode(folder, one["path"]) for one in json.loads(content)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self.json({"transfer": "basic", "objects": [self.place(one) for one in json.loads(content)["objects"]]})
        elif path == "/verify":
            self.json({})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[3:5]), [json.loads(line) for line in content.splitlines()])

    def create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] not in ("ann", "lab"):
            self.reply(403, b"{}", True)
        elif repository in self.heads:
            self.reply(409, b"{}", True)
        else:
            (self.root / repository).mkdir(parents=True)
            (self.root / repository / ".gitattributes").write_text("*.safetensors filter=lfs\n")
            self.private[repository] = wanted.get("visibility") == "private"
            self.heads[repository] = hashlib.sha1(repository.encode()).hexdigest()
            self.json({"url": f"{self.url()}/{repository}"})

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        head, *operations = lines
        if head["value"].get("parentCommit", self.heads[repository]) != self.heads[repository]:
            self.reply(412, b"{}", True)
            return
        done: dict[str, Any] = {
            "repository": repository,
            "message": head["value"]["summary"],
            "added": {},
            "removed": [],
        }
        for operation in operations:
            value = operation["value"]
            file = self.root / repository / value["path"]
            if operation["key"] == "deletedFile":
                file.unlink()
                done["removed"].append(value["path"])
                continue
            content = base64.b64decode(value["content"]) if "content" in value else self.objects[value["oid"]]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            done["added"][value["path"]] = content
        self.heads[repository] = hashlib.sha1(f"{self.heads[repository]}{len(self.commits)}".encode()).hexdigest()
        self.commits.append(done)
        oid = self.heads[repository]
        self.json({"commitUrl": f"{self.url()}/{repository}/commit/{oid}", "commitOid": oid})

    def mode(self, folder: Path, path: str) -> dict[str, Any]:
        """How a file is to be sent, and what the hub has under its name."""
        file, is_large, oid = folder / path, path.endswith(LARGE), None
        if file.exists():
            content = file.read_bytes()
            oid = hashlib.sha256(content).hexdigest() if is_large else git_hash(content)
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        actions = {
            "upload": {"href": f"{self.url()}/large/{wanted['oid']}"},
            "verify": {"href": f"{self.url()}/verify"},
        }
        return {**wanted, "actions": actions}

    def refused(self) -> int | None:
        return next((status for part, status in self.refuses.items() if part in self.path), None)

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def url(self) -> str:
        return f"http://{self.headers['Host']}"

    def json(self, content: Any) -> None:
        self.reply(200, json.dumps(content).encode(), True)


@contextmanager
def serving(kind: type[Hub], patch: pytest.MonkeyPatch, folder: Path, **state: Any) -> Iterator[Any]:
    """A hub of this kind in ``folder``, which huggingface_hub and transformers take for the real one."""
    handler = type("Handler", (kind,), {"root": folder / "hub", "asked": [], **state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants, hf_api
    from transformers.utils import hub as of_transformers

    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose large storage speaks a language of its own
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    patch.setattr(hf_api.api, "endpoint", url)
    patch.setattr(of_transformers, "_hf_api", None, raising=False)  # it keeps the hub that it met first
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()
