"""Every error that pfreg raises.

Rules
-----
- There is one root, :class:`PfregError`. Each concrete error also inherits the built-in exception that a caller would
  catch without knowing pfreg (a missing blob is a :class:`FileNotFoundError`, a malformed reference a
  :class:`ValueError`).
- An error says which operation failed, at which place, what is wrong, and what to do, as attributes as well as in its
  one-line text. Nobody needs to take the text apart.
- No error holds a credential. Places are references and paths, which cannot contain any (see ``reference.py``).
- Errors survive pickling, so that they can cross from a worker process.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "BadKey",
    "BadName",
    "BadOption",
    "BadReference",
    "BlobNotFound",
    "Conflict",
    "FileChanged",
    "FolderNotFound",
    "ImageNotFound",
    "IntegrityError",
    "IsFolder",
    "LayerError",
    "LimitExceeded",
    "ManifestError",
    "MissingDependency",
    "PathNotFound",
    "PfregError",
    "ReadOnlyImage",
    "SignatureError",
    "StorageFull",
    "TargetExists",
    "TornImage",
    "TransferError",
    "TreeError",
    "UnreadableFile",
    "UnsupportedRegistry",
]


class PfregError(Exception):
    """The root of all errors of pfreg.

    Parameters
    ----------
    problem : str
        What is wrong, in words that stand alone.
    operation : str, optional
        What was being done: ``"push"``, ``"read manifest"``, ...
    place : str, optional
        Where: a reference, a path, a path inside an image.
    hint : str, optional
        What the user can do about it.
    """

    def __init__(self, problem: str, *, operation: str = "", place: str = "", hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.operation = operation
        self.place = place
        self.hint = hint

    def __str__(self) -> str:
        where = " ".join(part for part in (self.operation, self.place) if part)
        text = f"{where}: {self.problem}" if where else self.problem
        return one_line(f"{text} ({self.hint})" if self.hint else text)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.operation, self.place, self.hint)


def _rebuild(kind: type[PfregError], problem: str, operation: str, place: str, hint: str) -> PfregError:
    return kind(problem, operation=operation, place=place, hint=hint)


def one_line(text: str, *, limit: int = 600) -> str:
    """Return `text` on one printable line of at most `limit` characters, for hostile names must not forge log lines."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


class BadReference(PfregError, ValueError):
    """A reference (``s3://bucket/prefix``, ...) is malformed; raised before any network is touched."""


class BadOption(PfregError, ValueError):
    """An argument of a call or of the command line has no meaning."""


class BadKey(PfregError, ValueError):
    """A key is missing, unreadable, too large, or of another kind than what is expected."""


class MissingDependency(PfregError, ImportError):
    """A filesystem needs a package that is not installed; the hint names the extra."""


class UnsupportedRegistry(PfregError, NotImplementedError):
    """The filesystem behind a reference cannot do what is asked, such as writing to a read-only one."""


class ImageNotFound(PfregError, FileNotFoundError):
    """There is no image at a place: no ``manifest.json``, or the store lacks the CID."""


class FolderNotFound(PfregError, FileNotFoundError):
    """A folder to be read, or to be written into, is not there, or is no folder."""


class BlobNotFound(PfregError, FileNotFoundError):
    """A blob that an image reaches is absent."""


class PathNotFound(PfregError, FileNotFoundError):
    """There is nothing under this path inside an image, or only a link that leads nowhere."""


class IsFolder(PfregError, IsADirectoryError):
    """A path inside an image is a folder, and a file was asked for."""


class ReadOnlyImage(PfregError, OSError):
    """Somebody wants to write into an image, which is immutable."""


class AccessDenied(PfregError, PermissionError):
    """The registry or the operating system refused access. Never read as "absent"."""


class TargetExists(PfregError, FileExistsError):
    """A folder is to be written and is there already."""


class Conflict(PfregError, FileExistsError):
    """The place holds another image than ``expect=`` said, or somebody else published first."""


class TransferError(PfregError, OSError):
    """The registry failed: the network, the server, a timeout."""


class StorageFull(PfregError, OSError):
    """No space, or no quota, is left where bytes were written."""


class IntegrityError(PfregError, ValueError):
    """Bytes are not what their digest, their frame or their format says."""


class LimitExceeded(IntegrityError):
    """Something from outside is larger or deeper than :class:`pfreg.Limits` allows."""


class ManifestError(IntegrityError):
    """The bytes of a manifest are no valid manifest."""


class LayerError(IntegrityError):
    """A layer blob is no valid layer of its kind."""


class TreeError(LayerError):
    """A file tree could leave its target, contradicts itself, or cannot be written as it is."""


class TornImage(IntegrityError):
    """Manifest and signature kept changing while they were read, or belong to two different images."""


class SignatureError(PfregError, ValueError):
    """A signature is missing, malformed, of another manifest, or made with a key that is not trusted."""


class UnreadableFile(PfregError, PermissionError):
    """A file of the tree that is snapshotted cannot be read."""


class FileChanged(PfregError, OSError):
    """A file kept changing while it was read for a snapshot."""


class BadName(PfregError, ValueError):
    """A file name is not UTF-8, and so cannot be written into an image."""
