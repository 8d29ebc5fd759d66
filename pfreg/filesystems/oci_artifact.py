"""Artifacts as wholes: read one, publish one, tag one again, delete one, list the tags.

Rules
-----
- A tag is resolved by the one GET that also reads its manifest; everything after it goes by digest.
- A manifest is put last, and its blobs are in the registry by then. If the registry says that it lost some meanwhile,
  they are sent again where that is possible.
- Deleting a tag deletes no other: where a registry deletes only manifests, which takes every tag of one along, a
  manifest with several tags stays.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from pfreg.digest import Digest
from pfreg.errors import (
    ImageNotFound,
    IntegrityError,
    LimitExceeded,
    ManifestError,
    TransferError,
    UnsupportedRegistry,
)
from pfreg.filesystems.oci_answers import Unavailable, read_bounded, read_errors
from pfreg.filesystems.oci_auth import origin
from pfreg.filesystems.oci_client import OciClient, Request
from pfreg.filesystems.oci_manifest import (
    INDEX,
    MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Index,
    build_index,
    build_manifest,
    merge_shards,
    read_manifest,
    read_tags,
    shard,
)
from pfreg.filesystems.oci_path import ArtifactName
from pfreg.filesystems.oci_transfer import pull_scope, push_scope

__all__ = ["Artifact", "delete_artifact", "list_tags", "publish", "read_artifact", "tag_artifact"]

Resend = Callable[[str], Awaitable[bool]]

_ROUNDS = 5
_MAX_TAG_PAGES = 1000
_TAGS_A_PAGE = 1000
_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?')


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says.

    Parameters
    ----------
    digest : str
        Of the manifest, or of the index of its shards.
    files : mapping of str to Descriptor
        By path.
    """

    digest: str
    files: Mapping[str, Descriptor]
    folders: Mapping[str, Mapping[str, Descriptor | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        folders: dict[str, dict[str, Descriptor | None]] = {"": {}}
        for path, descriptor in self.files.items():
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, {})[name] = descriptor
            while folder:
                folder, _, name = folder.rpartition("/")
                if name in folders.setdefault(folder, {}):
                    break
                folders[folder][name] = None
        object.__setattr__(self, "folders", folders)


async def read_artifact(client: OciClient, name: ArtifactName) -> Artifact:
    """Read the manifest of an artifact, and those of its shards if it has any.

    Raises
    ------
    ImageNotFound
        If there is none.
    IntegrityError
        If it does not match the digest in `name`, or is no artifact of files.
    AccessDenied, TransferError
        As the registry and the network have it.
    """
    raw, media_type = await _get_manifest(client, name, name.reference)
    digest = str(Digest.of(raw))
    if name.digest and name.digest != digest:
        problem = f"the tag names {digest}, not the digest beside it" if name.tag else "the manifest is another one"
        raise IntegrityError(problem, operation="read manifest", place=str(name), hint="name it by its digest alone")
    content = read_manifest(raw, media_type=media_type, place=str(name))
    if not isinstance(content, Index):
        return Artifact(digest, content)
    parts = []
    for described in content.shards:
        raw, media_type = await _get_manifest(client, name, described.digest)
        part = read_manifest(raw, media_type=media_type, place=str(name))
        if str(Digest.of(raw)) != described.digest or len(raw) != described.size or isinstance(part, Index):
            raise ManifestError(
                "a shard is not the one that the index names", operation="read manifest", place=str(name)
            )
        parts.append(part)
    return Artifact(digest, merge_shards(parts, place=str(name)))


async def _get_manifest(client: OciClient, name: ArtifactName, reference: str) -> tuple[bytes, str]:
    url = client.url(name.repository, f"manifests/{reference}")
    accept = {"Accept": f"{MANIFEST}, {INDEX}"}
    request = Request("GET", url, "read manifest", str(name), pull_scope(name.repository), (200, 404), accept)
    async with await client.send(request) as response:
        if response.status == 404:
            raise ImageNotFound("there is no such artifact", operation="read manifest", place=str(name))
        raw = await read_bounded(response, MAX_MANIFEST)
        return raw, response.headers.get("Content-Type", "").partition(";")[0].strip()


async def publish(
    client: OciClient,
    name: ArtifactName,
    files: Mapping[str, Descriptor],
    *,
    shard_layers: int,
    resend: Resend,
) -> str:
    """Put the manifest that makes `files` the artifact `name`.

    Parameters
    ----------
    client : OciClient
        The registry.
    name : ArtifactName
        With a tag.
    files : mapping of str to Descriptor
        All blobs are in the repository.
    shard_layers : int
        Cut into shards of so many layers if there are more; 0 for never.
    resend : callable
        Sends the blob of a digest once more if it is not there; False if it cannot.

    Returns
    -------
    str
        The digest of the manifest, or of the index.

    Raises
    ------
    LimitExceeded
        If a manifest would be larger than registries take.
    AccessDenied, TransferError
        As the registry and the network have it.
    """
    parts = shard(files, layers=shard_layers) if shard_layers else [files]
    manifests = [build_manifest(part) for part in parts]
    index = build_index(manifests) if len(parts) > 1 else b""
    if max(map(len, (*manifests, index))) > MAX_MANIFEST:
        raise LimitExceeded(f"the manifest is larger than {MAX_MANIFEST} bytes", operation="publish", place=str(name))
    if not index:
        await _put_manifest(client, name, manifests[0], media_type=MANIFEST, resend=resend)
        return str(Digest.of(manifests[0]))
    await _put_shards(client, name, manifests, index, resend)
    return str(Digest.of(index))


async def _put_shards(
    client: OciClient, name: ArtifactName, manifests: Sequence[bytes], index: bytes, resend: Resend
) -> None:
    by_digest = {str(Digest.of(manifest)): manifest for manifest in manifests}

    async def put_shard(digest: str) -> bool:
        if digest in by_digest:
            part = replace(name, tag=None, digest=digest)
            await _put_manifest(client, part, by_digest[digest], media_type=MANIFEST, resend=resend)
        return digest in by_digest

    for digest in by_digest:
        await put_shard(digest)
    await _put_manifest(client, name, index, media_type=INDEX, resend=put_shard)


async def _put_manifest(
    client: OciClient,
    name: ArtifactName,
    raw: bytes,
    *,
    media_type: str,
    resend: Resend,
) -> None:
    url, scopes = client.url(name.repository, f"manifests/{name.reference}"), push_scope(name.repository)
    headers = {"Content-Type": media_type}
    request = Request("PUT", url, "publish", str(name), scopes, (201, 400, 404), headers, lambda: raw)
    patience = client.patience()
    for _ in range(_ROUNDS):
        async with await client.send(request) as response:
            if response.status == 201:
                stored = response.headers.get("Docker-Content-Digest")
                if stored is not None and stored != str(Digest.of(raw)):
                    raise IntegrityError("the registry stored another manifest", operation="publish", place=str(name))
                return
            errors = await read_errors(response)
        lost = [_digest_in(detail) for code, detail in errors if code == "MANIFEST_BLOB_UNKNOWN"]
        if not lost:
            codes = " ".join(code for code, _ in errors)
            problem = f"the registry refuses the manifest: {response.status} {codes}".rstrip()
            raise TransferError(problem, operation="publish", place=str(name))
        hint = "push again; if that fails too, push to another tag of the repository, which sends what is missing"
        failure = Unavailable("the registry lost blobs that it had", operation="publish", place=str(name), hint=hint)
        if not all([await resend(digest) for digest in lost]):
            raise failure
        await patience.wait(failure)
    raise failure


def _digest_in(detail: Any) -> str:
    """Return the digest in the detail of an error: registries write it plain, or as a field."""
    fields: dict[str, Any] = detail if isinstance(detail, dict) else {"digest": detail}
    digest = fields.get("digest") or fields.get("Digest")
    return digest if isinstance(digest, str) else ""


async def tag_artifact(client: OciClient, source: ArtifactName, target: ArtifactName) -> str:
    """Make the tag of `target` name the artifact `source` of the same repository; return its digest.

    Raises
    ------
    ImageNotFound
        If there is no `source`.
    AccessDenied, TransferError
        As the registry and the network have it.
    """

    async def cannot(_: str) -> bool:
        return False

    artifact = await read_artifact(client, source)
    raw, media_type = await _get_manifest(client, source, artifact.digest)
    if str(Digest.of(raw)) != artifact.digest:
        raise IntegrityError("the manifest is another one", operation="copy", place=str(source))
    await _put_manifest(client, target, raw, media_type=media_type, resend=cannot)
    return artifact.digest


async def list_tags(client: OciClient, name: ArtifactName) -> list[str]:
    """Return the tags of a repository, sorted.

    Raises
    ------
    ImageNotFound
        If there is no such repository.
    TransferError
        If the registry lists without end, or as the network has it.
    """
    url = client.url(name.repository, f"tags/list?{urlencode({'n': _TAGS_A_PAGE})}")
    place, scopes = f"{name.host}/{name.repository}", pull_scope(name.repository)
    tags: set[str] = set()
    for _ in range(_MAX_TAG_PAGES):
        request = Request("GET", url, "list tags", place, scopes, (200, 404))
        async with await client.send(request) as response:
            if response.status == 404:
                raise ImageNotFound("there is no such repository", operation="list tags", place=place)
            page = read_tags(await read_bounded(response, MAX_MANIFEST), place=place)
            following = _NEXT.search(response.headers.get("Link", ""))
            tags.update(page)
            if not following or not page:
                return sorted(tags)
            url = client.resolve(following[1], response, request)
        if origin(url) != client.origin:
            raise TransferError("the next page of the tags is on another host", operation="list tags", place=place)
    raise TransferError(f"more than {_MAX_TAG_PAGES} pages of tags", operation="list tags", place=place)


async def delete_artifact(client: OciClient, name: ArtifactName) -> None:
    """Delete a tag, or the manifest of a digest with all its tags. The blobs are left to the registry's own collector.

    Raises
    ------
    ImageNotFound
        If there is no such artifact.
    UnsupportedRegistry
        If the registry deletes nothing, or could delete this tag only together with others.
    AccessDenied, TransferError
        As the registry and the network have it.
    """
    digest = str(Digest.of((await _get_manifest(client, name, name.reference))[0]))
    if name.tag:
        if await _delete(client, name, name.tag):
            return
        others = [tag for tag in await list_tags(client, name) if tag != name.tag]
        shared = [tag for tag in others if await _digest_of_tag(client, replace(name, tag=tag, digest=None)) == digest]
        if shared:
            raise UnsupportedRegistry(
                f"the registry deletes manifests, not tags, and this one also is {', '.join(shared[:5])}",
                operation="delete",
                place=str(name),
                hint=f"to delete all of them: {name.host}/{name.repository}@{digest}",
            )
    if not await _delete(client, name, digest):
        hint = "docker-registry: storage.delete.enabled"
        raise UnsupportedRegistry("the registry deletes nothing", operation="delete", place=str(name), hint=hint)


async def _delete(client: OciClient, name: ArtifactName, reference: str) -> bool:
    url = client.url(name.repository, f"manifests/{reference}")
    scopes = (f"repository:{name.repository}:delete,pull",)
    async with await client.send(Request("DELETE", url, "delete", str(name), scopes, (202, 400, 404, 405))) as response:
        if response.status == 404:
            raise ImageNotFound("there is no such artifact", operation="delete", place=str(name))
        return response.status == 202


async def _digest_of_tag(client: OciClient, name: ArtifactName) -> str | None:
    try:
        return str(Digest.of((await _get_manifest(client, name, name.reference))[0]))
    except ImageNotFound:
        return None  # deleted since the tags were listed
