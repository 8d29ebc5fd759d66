"""S3 through s3fs, with keys taken for what they are.

Rules
-----
- Looking a key up is one HEAD. s3fs itself goes on to list what is below an absent one, which costs a request for each,
  and fails for who may not list.
- A write on a condition answers with the ETag of what was written.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from pfreg.filesystems.s3_swap import Swapping

__all__ = ["S3KeysFileSystem"]

_CONTESTED = (404, 409, 412)  # gone; written to by somebody else just now; something else


class S3KeysFileSystem(Swapping, S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs for who knows the keys; options and all else are its own."""

    cachable = False

    def __init__(self, *args: Any, library: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # `library` has been obeyed; fsspec's configuration brings it here again

    async def _info(
        self, path: str, bucket: Any = None, key: Any = None, refresh: bool = False, version_id: Any = None
    ) -> dict[str, Any]:
        """Return name, size, time and ETag of an object, by one request."""
        bucket, key, version = self.split_path(self._strip_protocol(path))
        if not key:
            found: dict[str, Any] = await super()._info(path, refresh=refresh)
            return found
        asked = {"VersionId": version_id or version} if version_id or version else {}
        answer = await self._call_s3("head_object", self.kwargs, Bucket=bucket, Key=key, **asked)
        return {
            "name": f"{bucket}/{key}",
            "size": answer["ContentLength"],
            "type": "file",
            "LastModified": answer.get("LastModified", ""),
            "ETag": answer.get("ETag", ""),
        }

    def version(self, path: str) -> str | None:
        """Return the ETag of an object, None where there is none."""
        try:
            return str(self.info(path)["ETag"])
        except FileNotFoundError:
            return None

    async def _swap(self, path: str, data: bytes, *, version: str | None) -> str:
        bucket, key, _ = self.split_path(self._strip_protocol(path))
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            answer = await self._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as e:
            status = _status(e)
            if status in _CONTESTED and not (status == 404 and version is None):
                raise FileExistsError(path) from e
            raise
        return str(answer["ETag"])

    swap = sync_wrapper(_swap)


def _status(e: OSError) -> int | None:
    """Return the HTTP status behind an error of s3fs."""
    if not isinstance(e.__cause__, ClientError):
        return None
    return int(e.__cause__.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
