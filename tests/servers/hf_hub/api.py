"""The Hub's JSON interface: who, repositories, branches, listings, and the commit."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

from .git import Entry, Moved, Pointer
from .hub import Hub, HubRepository
from .web import Answer, Refused, Request, Routes

__all__ = ["add_routes", "paged"]

_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>[^/]+)"
_LOOK_UP = 1000
_PREUPLOAD = 256


def add_routes(hub: Hub, routes: Routes) -> None:
    """Serve this interface."""

    def add(methods: str, pattern: str, handler: Callable[..., Answer]) -> None:
        routes.add(methods, pattern, partial(handler, hub))

    add("GET", "/api/whoami-v2", who)
    add("POST", "/api/repos/create", create)
    add("DELETE", "/api/repos/delete", delete)
    add("POST", "/api/validate-yaml", validate)
    add("GET", _REPOSITORY, about)
    add("GET", _REPOSITORY + "/revision" + _REVISION, about)
    add("GET", _REPOSITORY + "/refs", references)
    add("POST", _REPOSITORY + r"/branch/(?P<branch>[^/]+)", branch_off)
    add("GET", _REPOSITORY + "/commits" + _REVISION, history)
    add("GET", _REPOSITORY + "/tree" + _REVISION + r"(?:/(?P<path>.+))?", tree)
    add("POST", _REPOSITORY + "/paths-info" + _REVISION, paths_info)
    add("POST", _REPOSITORY + "/preupload" + _REVISION, preupload)
    add("POST", _REPOSITORY + "/commit" + _REVISION, commit)


def who(hub: Hub, request: Request) -> Answer:
    return Answer.of_json({"type": "user", "name": hub.user(request, needed=True), "auth": {}, "orgs": []})


def create(hub: Hub, request: Request) -> Answer:
    asked = request.json()
    user = hub.user(request, needed=True)
    owner, kind = asked.get("organization") or user, asked.get("type") or "model"
    if owner != user:
        raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    name = f"{owner}/{asked['name']}"
    url = f"{request.base}/{'' if kind == 'model' else kind + 's/'}{name}"
    with hub.lock:
        if (kind, name) in hub.repositories:
            return Answer.of_json({"error": f"You already created this {kind} repo", "url": url}, status=409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        hub.create(name, kind, private=private)
    return Answer.of_json({"url": url, "name": name, "id": name})


def delete(hub: Hub, request: Request) -> Answer:
    asked = request.json()
    kind, name = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
    hub.writable(request, kind, name)
    del hub.repositories[kind, name]
    return Answer.of_json({})


def validate(hub: Hub, request: Request) -> Answer:
    content = request.json()["content"]
    if content.startswith("---\n") and "\n---\n" in content[4:]:
        return Answer.of_json({"errors": [], "warnings": []})
    warning = {"message": "empty or missing yaml metadata in repo card"}
    return Answer.of_json({"errors": [], "warnings": [warning]})


def about(hub: Hub, request: Request, kind: str, name: str, revision: str = "main") -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    commit = hub.commit_of(repository, revision)
    told: dict[str, Any] = {"_id": "1", "id": name, "author": repository.owner, "sha": commit}
    if "expand" not in request.query:
        files = [{"rfilename": entry.path} for entry in repository.git.entries(commit).values() if entry.is_file]
        told |= {"private": repository.private, "gated": repository.gated, "siblings": files, "tags": []}
        told |= {"disabled": False, "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}
    return Answer.of_json(told)


def references(hub: Hub, request: Request, kind: str, name: str) -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    told: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
    for reference in repository.git.references():
        for group, prefix in (("branches", "refs/heads/"), ("tags", "refs/tags/")):
            if reference.name.startswith(prefix):
                short = reference.name.removeprefix(prefix)
                told[group].append({"name": short, "ref": reference.name, "targetCommit": reference.commit})
    return Answer.of_json(told)


def branch_off(hub: Hub, request: Request, kind: str, name: str, branch: str) -> Answer:
    repository = hub.writable(request, kind[:-1], name)
    start = hub.commit_of(repository, request.json().get("startingPoint") or "main")
    if any(reference.name == f"refs/heads/{branch}" for reference in repository.git.references()):
        raise Refused(409, f"Reference already exists: refs/heads/{branch}")
    repository.git.point(f"refs/heads/{branch}", start)
    return Answer.of_json({})


def history(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    log = repository.git.log(hub.commit_of(repository, revision))
    told = [
        {
            "id": entry.commit,
            "title": entry.title,
            "message": entry.body,
            "date": entry.date.replace("+00:00", ".000Z"),
            "authors": [{"user": entry.author}],
        }
        for entry in log
    ]
    return paged(hub, request, told)


def tree(hub: Hub, request: Request, kind: str, name: str, revision: str, path: str = "") -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    entries = repository.git.entries(hub.commit_of(repository, revision))
    folder = path.strip("/")
    if folder and (folder not in entries or entries[folder].is_file):
        raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    prefix = f"{folder}/" if folder else ""
    deep = request.query.get("recursive", "").lower() in ("true", "1")
    below = (entry for entry in entries.values() if entry.path.startswith(prefix))
    told = [hub.describe(entry) for entry in below if deep or "/" not in entry.path.removeprefix(prefix)]
    return paged(hub, request, told)


def paged(hub: Hub, request: Request, entries: list[dict[str, Any]]) -> Answer:
    """Return one page of a listing, with a link to the next one."""
    limit = min(hub.settings.page, int(request.query.get("limit", hub.settings.page)))
    begin = int(base64.urlsafe_b64decode(request.query.get("cursor", "MA==")))
    answer = Answer.of_json(entries[begin : begin + limit])
    if begin + limit < len(entries):
        cursor = base64.urlsafe_b64encode(str(begin + limit).encode()).decode()
        query = {**request.query, "cursor": cursor}
        text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        answer.headers["Link"] = f'<{request.base}{request.path}?{text}>; rel="next"'
    return answer


def paths_info(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    entries = repository.git.entries(hub.commit_of(repository, revision))
    body = request.read()
    is_json = "json" in request.headers.get("Content-Type", "")
    paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode(), max_num_fields=10 * _LOOK_UP)["paths"]
    if len(paths) > _LOOK_UP:
        raise Refused(413, "too many parameters")
    return Answer.of_json([hub.describe(entries[path]) for path in paths if path in entries])


def preupload(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Answer:
    repository = hub.writable(request, kind[:-1], name)
    commit = hub.commit_of(repository, revision)
    entries = repository.git.entries(commit)
    files = request.json()["files"]
    if len(files) > _PREUPLOAD:
        raise Refused(413, "too many files")
    ignored = _ignored(repository, entries)
    told = []
    for file in files:
        outside = repository.is_outside_git(commit, file["path"], file["size"], hub.settings.largest_inline)
        line = {"path": file["path"], "uploadMode": "lfs" if outside else "regular"}
        line["shouldIgnore"] = file["path"] in ignored
        if entry := entries.get(file["path"]):
            line["oid"] = entry.pointer.sha256 if entry.pointer else entry.oid
        told.append(line)
    return Answer.of_json({"files": told, "commitOid": commit})


def _ignored(repository: HubRepository, entries: dict[str, Entry]) -> frozenset[str]:
    """Return the paths that .gitignore names; patterns are not understood here."""
    entry = entries.get(".gitignore")
    return frozenset(repository.git.blob(entry.oid).decode().split()) if entry else frozenset()


def commit(hub: Hub, request: Request, kind: str, name: str, revision: str) -> Answer:
    repository = hub.writable(request, kind[:-1], name)
    if repository.git.resolve(f"refs/heads/{revision}") is None:
        raise Refused(400, f"Invalid branch name: {revision}")
    head = hub.commit_of(repository, revision)
    title, parent = {"summary": "", "description": ""}, None
    writes: list[tuple[str, bytes]] = []
    deletes: list[str] = []
    for line in request.read().splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                title, parent = value, value.get("parentCommit")
            case "file":
                writes.append((value["path"], _inline(hub, repository, head, value)))
            case "lfsFile":
                writes.append((value["path"], _pointer(hub, value)))
            case "deletedFile" | "deletedFolder":
                deletes.append(_present(repository, head, value["path"]))
    message = "\n\n".join(text for text in (title["summary"], title["description"]) if text)
    try:
        made = repository.git.commit(revision, message, repository.owner, writes, deletes, parent)
    except Moved:
        raise Refused(412, "A commit has happened since. Please refresh and try again.") from None
    url = f"{request.base}/{kind}/{name}/commit/{made}"
    return Answer.of_json({"success": True, "commitOid": made, "commitUrl": url, "hookOutput": ""})


def _inline(hub: Hub, repository: HubRepository, head: str, value: dict[str, str]) -> bytes:
    content = base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()
    path = value["path"]
    if len(content) > hub.settings.largest_inline:
        raise Refused(400, f"Your push was rejected because it contains too large files. Offending file: {path}")
    if content and repository.is_outside_git(head, path, len(content), hub.settings.largest_inline):
        raise Refused(400, f"Your push was rejected because it contains binary files. Offending file: {path}")
    return content


def _pointer(hub: Hub, value: dict[str, Any]) -> bytes:
    sha256 = value["oid"]
    if not hub.contents.has(sha256):
        raise Refused(400, f"an LFS pointer pointed to a file that does not exist. Offending file: {value['path']}")
    sizes = hub.contents.sizes
    if "size" in value:
        sizes[sha256] = value["size"]
    return Pointer(sha256, sizes[sha256]).to_bytes()  # a copy inside the Hub names no size


def _present(repository: HubRepository, head: str, path: str) -> str:
    if path.rstrip("/") not in repository.git.entries(head):
        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
    return path.rstrip("/")
