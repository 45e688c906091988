"""A loopback stand-in of the Hugging Face hub, for the real client: repositories, commits, LFS uploads, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

TOKEN = "hf_stand_in_token_0123456789"
_LFS_BYTES = 10_000  # larger files go through LFS, as on the real hub


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()

    @property
    def revisions(self) -> set[str]:
        return {"main", self.sha}


@dataclass
class Hub:
    """State of the stand-in: `repositories` by "dataset/owner/name" or "model/owner/name"."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse: int | None = None  # status code of every write
    downloads: list[str] = field(default_factory=list)  # files that were asked for

    def application(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def authorised(request: Request, call_next: Any) -> Response:
            if request.url.path.startswith("/lfs/"):
                return await call_next(request)
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _error(401, "Invalid credentials", "RepoNotFound")
            if self.refuse and request.method == "POST":
                return _error(self.refuse, "You are refused by the stand-in", "")
            return await call_next(request)

        @app.post("/api/repos/create")
        async def create(request: Request) -> Response:
            body = await request.json()
            name = f"{body.get('organization') or 'someone'}/{body['name']}"
            key = f"{body.get('type') or 'model'}/{name}"
            if key in self.repositories:
                return JSONResponse({"error": "You already created this repo", "url": self._page(key)}, 409)
            private = body.get("visibility") == "private" or bool(body.get("private"))
            self.repositories[key] = Repository(private)
            return JSONResponse({"url": self._page(key), "name": name, "id": name})

        @app.post("/api/validate-yaml")
        async def validate() -> dict[str, Any]:
            return {"errors": [], "warnings": []}

        @app.get("/api/{kind}s/{owner}/{name}")
        @app.get("/api/{kind}s/{owner}/{name}/revision/{revision}")
        async def info(kind: str, owner: str, name: str, revision: str = "main") -> Response:
            repository = self.repositories.get(f"{kind}/{owner}/{name}")
            if repository is None:
                return _error(404, "Repository not found", "RepoNotFound")
            if revision not in repository.revisions:
                return _error(404, "Revision not found", "RevisionNotFound")
            siblings = [
                {"rfilename": path, "size": len(data)} for path, data in sorted(repository.files.items())
            ]
            found = {
                "id": f"{owner}/{name}",
                "private": repository.private,
                "sha": repository.sha,
                "siblings": siblings,
            }
            return JSONResponse({**found, "tags": [], "downloads": 0, "likes": 0})

        @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
        async def resolve(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
            repository = self.repositories.get(f"model/{owner}/{name}")
            if repository is not None and revision not in repository.revisions:
                return _error(404, "Revision not found", "RevisionNotFound")
            return self._file(request, repository, path)

        @app.get("/api/datasets/{owner}/{name}/tree/{revision}")
        @app.get("/api/datasets/{owner}/{name}/tree/{revision}/{folder:path}")
        async def tree(owner: str, name: str, revision: str, folder: str = "") -> Response:
            repository = self.repositories[f"dataset/{owner}/{name}"]
            return JSONResponse([_entry(path, data) for path, data in sorted(repository.files.items()) if path.startswith(folder)])  # fmt: skip

        @app.post("/api/datasets/{owner}/{name}/paths-info/{revision}")
        async def paths_info(request: Request, owner: str, name: str, revision: str) -> Response:
            files = self.repositories[f"dataset/{owner}/{name}"].files
            asked = parse_qs((await request.body()).decode()).get("paths", [])
            return JSONResponse([_entry(path, files[path]) for path in asked if path in files])

        @app.api_route("/datasets/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
        async def resolve_data(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
            return self._file(request, self.repositories[f"dataset/{owner}/{name}"], path)

        @app.post("/api/{kind}s/{owner}/{name}/preupload/{revision}")
        async def preupload(request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
            files = (await request.json())["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > _LFS_BYTES else "regular", "shouldIgnore": False, "oid": None}
                for f in files
            ]  # fmt: skip
            return JSONResponse({"files": modes})

        @app.post("/{prefix:path}.git/info/lfs/objects/batch")
        async def batch(request: Request, prefix: str) -> Response:
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    **(
                        {}  # no actions: it is there already
                        if one["oid"] in self.blobs
                        else {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}", "header": {}}}}
                    ),
                }
                for one in (await request.json())["objects"]
            ]
            return JSONResponse({"transfer": "basic", "objects": objects})

        @app.put("/lfs/{oid}")
        async def put(request: Request, oid: str) -> Response:
            data = await request.body()
            if hashlib.sha256(data).hexdigest() != oid:
                return Response("hash mismatch", 400)
            self.blobs[oid] = data
            return Response()

        @app.post("/api/{kind}s/{owner}/{name}/commit/{revision}")
        async def commit(request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
            repository = self.repositories[f"{kind}/{owner}/{name}"]
            for line in (await request.body()).splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    repository.commits.append(value["summary"])
                elif item["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    repository.files[value["path"]] = self.blobs[value["oid"]]
                elif item["key"] == "deletedFile":
                    repository.files.pop(value["path"], None)
            page = self._page(f"{kind}/{owner}/{name}")
            return JSONResponse(
                {"success": True, "commitUrl": f"{page}/commit/{repository.sha}", "commitOid": repository.sha}
            )

        return app

    def _file(self, request: Request, repository: Repository | None, path: str) -> Response:
        """A file, or the part of it that the client asks for."""
        data = repository.files.get(path) if repository else None
        if repository is None or data is None:
            return _error(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": repository.sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}  # fmt: skip
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if request.method == "GET":
            self.downloads.append(f"part of {path}" if wanted else path)
        if wanted is None:
            return Response(data, headers=headers, media_type="application/octet-stream")
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], 206, headers, "application/octet-stream")

    def _page(self, key: str) -> str:
        kind, _, name = key.partition("/")
        return f"{self.url}/datasets/{name}" if kind == "dataset" else f"{self.url}/{name}"


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _error(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The stand-in on a free loopback port, until the block ends."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(hub.application(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the hub stand-in did not start")
        time.sleep(0.02)
    hub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(10)
