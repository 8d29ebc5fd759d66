"""Buckets: files without history, kept by the Xet store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .api import paged
from .files import ranged, xet_token
from .hub import Hub
from .web import Answer, Refused, Request, Routes

__all__ = ["Bucket", "add_routes"]

_BUCKET = r"/api/buckets/(?P<name>[^/]+/[^/]+)"


@dataclass(slots=True)
class Bucket:
    """One bucket: the Xet hash and the size of each file."""

    owner: str
    private: bool
    files: dict[str, tuple[str, int]] = field(default_factory=dict)


def add_routes(hub: Hub, routes: Routes) -> None:
    """Serve buckets."""

    def add(methods: str, pattern: str, handler: Callable[..., Answer]) -> None:
        routes.add(methods, pattern, partial(handler, hub))

    add("POST", _BUCKET, create)
    add("GET", _BUCKET, about)
    add("GET", _BUCKET + r"/tree(?:/(?P<prefix>.+))?", tree)
    add("POST", _BUCKET + "/paths-info", paths_info)
    add("POST", _BUCKET + "/batch", batch)
    add("GET", _BUCKET + r"/xet-(?P<access>read|write)-token", token)
    add("GET HEAD", r"/buckets/(?P<name>[^/]+/[^/]+)/resolve/(?P<path>.+)", resolve)


def create(hub: Hub, request: Request, name: str) -> Answer:
    user = hub.user(request, needed=True)
    asked = request.json()
    if name.partition("/")[0] != user:
        raise Refused(403, "You don't have the rights to create a bucket here")
    url = f"{request.base}/buckets/{name}"
    with hub.lock:
        if name in hub.buckets:
            return Answer.of_json({"error": "This bucket exists already", "url": url}, status=409)
        hub.buckets[name] = Bucket(str(user), asked.get("visibility") == "private")
    return Answer.of_json({"url": url})


def _found(hub: Hub, request: Request, name: str, *, write: bool = False) -> Bucket:
    user = hub.user(request, needed=write)
    bucket = hub.buckets.get(name)
    if bucket is None or (bucket.private and bucket.owner != user):
        raise Refused(404 if user else 401, "Bucket not found", "RepoNotFound")
    if write and bucket.owner != user:
        raise Refused(403, "Forbidden: you do not have write access to this bucket")
    return bucket


def about(hub: Hub, request: Request, name: str) -> Answer:
    bucket = _found(hub, request, name)
    size = sum(length for _, length in bucket.files.values())
    told = {"id": name, "private": bucket.private, "size": size, "totalFiles": len(bucket.files)}
    return Answer.of_json(told | {"createdAt": "2026-01-01T00:00:00.000Z"})


def _described(bucket: Bucket, path: str) -> dict[str, Any]:
    xet_hash, size = bucket.files[path]
    return {"type": "file", "path": path, "size": size, "xetHash": xet_hash}


def tree(hub: Hub, request: Request, name: str, prefix: str = "") -> Answer:
    """List what begins with a prefix, as text and not as a folder, which is how the Hub does it."""
    bucket = _found(hub, request, name)
    told = [_described(bucket, path) for path in sorted(bucket.files) if path.startswith(prefix)]
    return paged(hub, request, told)


def paths_info(hub: Hub, request: Request, name: str) -> Answer:
    bucket = _found(hub, request, name)
    return Answer.of_json([_described(bucket, path) for path in request.json()["paths"] if path in bucket.files])


def batch(hub: Hub, request: Request, name: str) -> Answer:
    bucket = _found(hub, request, name, write=True)
    for line in request.read().splitlines():
        item = json.loads(line)
        if item["type"] == "deleteFile":
            bucket.files.pop(item["path"], None)
            continue
        size = hub.contents.xet_size(item["xetHash"])
        if size is None:
            raise Refused(422, f"no such content: {item['path']}")
        bucket.files[item["path"]] = (item["xetHash"], size)
    return Answer.of_json({"success": True, "failed": []})


def token(hub: Hub, request: Request, name: str, access: str) -> Answer:
    _found(hub, request, name, write=access == "write")
    return xet_token(hub)


def resolve(hub: Hub, request: Request, name: str, path: str) -> Answer:
    bucket = _found(hub, request, name)
    if path not in bucket.files:
        raise Refused(404, f"{path} does not exist", "EntryNotFound")
    return ranged(request, hub.contents.bridge(*bucket.files[path]))
