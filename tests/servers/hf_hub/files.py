"""Content: what a file resolves to, uploads through LFS, and the tokens for Xet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .contents import WrongContent
from .hub import Hub, HubRepository
from .web import Answer, Refused, Request, Routes

__all__ = ["add_routes", "ranged", "xet_token"]

_PREFIX = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
_OBJECT = r"/objects/(?P<sha256>[0-9a-f]{64})"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")


def add_routes(hub: Hub, routes: Routes) -> None:
    """Serve content."""

    def add(methods: str, pattern: str, handler: Callable[..., Answer]) -> None:
        routes.add(methods, pattern, partial(handler, hub))

    add("GET HEAD", _PREFIX + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve)
    add("POST", _PREFIX + r"\.git/info/lfs/objects/batch", batch)
    repository = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
    add("GET", repository + r"/xet-(?P<access>read|write)-token(?:/(?P<revision>[^/]+))?", repository_token)
    add("GET HEAD", _OBJECT + r"/(?P<size>\d+)", download)
    add("PUT", _OBJECT, upload)
    add("PUT", _OBJECT + r"/part/(?P<number>\d+)", upload_part)
    add("POST", _OBJECT + "/complete", complete)
    add("POST", _OBJECT + "/verify", verify)


def resolve(hub: Hub, request: Request, name: str, revision: str, path: str, kind: str = "models") -> Answer:
    repository = hub.readable(request, kind[:-1], name)
    _check_gate(hub, request, repository)
    commit = hub.commit_of(repository, revision)
    entry = repository.git.entries(commit).get(path)
    headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if entry is None or not entry.is_file:
        raise Refused(404, f"{path} does not exist", "EntryNotFound", headers)
    if entry.pointer is None:
        answer = ranged(request, repository.git.blob(entry.oid))
        answer.headers |= headers | {"ETag": f'"{entry.oid}"'}
        return answer
    sha256, size = entry.pointer.sha256, entry.pointer.size
    # Another host name than ours: clients treat it as the content network, to which no token may go.
    storage = request.base.replace("127.0.0.1", "localhost")
    headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size), "ETag": f'"{sha256}"'}
    headers["Location"] = f"{storage}/objects/{sha256}/{size}"
    if xet_hash := hub.contents.xet_hash(sha256):
        token = f"{request.base}/api/{kind}/{name}/xet-read-token/{commit}"
        headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
    return Answer(302, headers=headers)


def _check_gate(hub: Hub, request: Request, repository: HubRepository) -> None:
    user = hub.user(request)
    if repository.gated and user != repository.owner:
        message = f"Access to {repository.kind} {repository.name} is restricted."
        raise Refused(403 if user else 401, message, "GatedRepo")


def batch(hub: Hub, request: Request, name: str, kind: str = "models") -> Answer:
    asked = request.json()
    if asked["operation"] != "upload":
        raise Refused(422, "the double takes uploads only")
    hub.writable(request, kind[:-1], name)
    in_parts = hub.settings.part > 0 and "multipart" in asked.get("transfers", [])
    objects = [_upload_actions(hub, request, item, in_parts) for item in asked["objects"]]
    answer = Answer.of_json({"transfer": "multipart" if in_parts else "basic", "objects": objects})
    answer.headers["Content-Type"] = "application/vnd.git-lfs+json"
    return answer


def _upload_actions(hub: Hub, request: Request, item: dict[str, Any], in_parts: bool) -> dict[str, Any]:
    """Say how an object is to be uploaded; an object without actions is there already."""
    sha256, size = item["oid"], item["size"]
    told: dict[str, Any] = {"oid": sha256, "size": size}
    if hub.contents.has(sha256):
        return told
    url = f"{request.base}/objects/{sha256}"
    upload: dict[str, Any] = {"href": url}
    if in_parts and size > hub.settings.part:
        count = -(-size // hub.settings.part)
        parts = {f"{number:05d}": f"{url}/part/{number}?signature=secret" for number in range(1, count + 1)}
        upload = {"href": f"{url}/complete", "header": {"chunk_size": str(hub.settings.part), **parts}}
    return told | {"actions": {"upload": upload, "verify": {"href": f"{url}/verify"}}}


def upload(hub: Hub, request: Request, sha256: str) -> Answer:
    return _stored(request, lambda: hub.contents.write(sha256, request.body, _taken(request)))


def upload_part(hub: Hub, request: Request, sha256: str, number: str) -> Answer:
    tag = hub.contents.write_part(sha256, int(number), request.body, _taken(request))
    return Answer(headers={"ETag": f'"{tag}"'})


def complete(hub: Hub, request: Request, sha256: str) -> Answer:
    numbers = [part["partNumber"] for part in request.json()["parts"]]
    return _stored(request, lambda: hub.contents.join_parts(sha256, numbers))


def _taken(request: Request) -> int:
    """Return how much of the body is to be read, and count it as read."""
    size, request.size = request.size, 0
    return size


def _stored(request: Request, store: Callable[[], None]) -> Answer:
    try:
        store()
    except WrongContent as error:
        raise Refused(400, f"the content is not {error}") from None
    return Answer.of_json({"success": True})


def verify(hub: Hub, request: Request, sha256: str) -> Answer:
    if not hub.contents.has(sha256):
        raise Refused(404, "no such object")
    return Answer.of_json({})


def download(hub: Hub, request: Request, sha256: str, size: str) -> Answer:
    found = hub.contents.path(sha256, int(size))
    if found is None:
        raise Refused(404, "no such object")
    answer = ranged(request, found)
    answer.headers |= {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    return answer


def ranged(request: Request, body: bytes | Path) -> Answer:
    """Return a body, or the part of it that the request asks for."""
    answer = Answer(200, body, {"Content-Type": "application/octet-stream"})
    size = answer.size
    match = _RANGE.match(request.headers.get("Range", ""))
    if match is None or not size or match.groups() == ("", ""):
        return answer
    first = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
    if first >= size:
        return Answer(416, headers={"Content-Range": f"bytes */{size}"})
    answer.status, answer.start, answer.length = 206, first, last - first + 1
    answer.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return answer


def repository_token(hub: Hub, request: Request, kind: str, name: str, access: str, revision: str = "main") -> Answer:
    if access == "write":
        hub.writable(request, kind[:-1], name)
    else:
        _check_gate(hub, request, hub.readable(request, kind[:-1], name))
    return xet_token(hub)


def xet_token(hub: Hub) -> Answer:
    """Return where the Xet store is and what opens it."""
    if not hub.settings.xet:
        raise Refused(404, "Xet is not enabled")
    url, token, expiry = hub.contents.xet_url, "xet-token", int(time.time()) + 3600
    answer = Answer.of_json({"casUrl": url, "accessToken": token, "exp": expiry})
    answer.headers |= {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
    return answer
