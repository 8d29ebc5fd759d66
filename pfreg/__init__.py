"""pfreg moves ProcessFork images (``.pfimg``) between a local store and any fsspec filesystem, verified end to end.

>>> import pfreg
>>> store = pfreg.Store("~/.processfork")                            # doctest: +SKIP
>>> image = pfreg.snapshot("work/", store=store)                     # a folder, as an image
>>> done = pfreg.push(image, "s3://bucket/agents/a", store=store)    # to any registry that fsspec reaches
>>> image = pfreg.pull("s3://bucket/agents/a", store=store)          # and back, verified
>>> pfreg.clone("s3://bucket/agents/a", "out/")                      # straight into a folder, no store
>>> pfreg.copy("s3://bucket/agents/a", "sftp://host/agents/a")       # from registry to registry
>>> pfreg.verify("s3://bucket/agents/a")                             # where it lies

Further: :func:`exists`, :func:`inspect`, :func:`prune`, :func:`checkout`. Every error is a :class:`PfregError`.
"""

from pfreg._version import __version__
from pfreg.blobs import ListingRefused
from pfreg.codec import DEFAULT_LEVEL
from pfreg.digest import Digest
from pfreg.engine import checkout, clone, copy, exists, prune, pull, push, snapshot, tags
from pfreg.errors import (
    AccessDenied,
    BadKey,
    BadName,
    BadOption,
    BadReference,
    BlobNotFound,
    Conflict,
    FileChanged,
    FolderNotFound,
    ImageNotFound,
    IntegrityError,
    IsFolder,
    LayerError,
    LimitExceeded,
    ManifestError,
    MissingDependency,
    PathNotFound,
    PfregError,
    ReadOnlyImage,
    SignatureError,
    StorageFull,
    TargetExists,
    TornImage,
    TransferError,
    TreeError,
    UnreadableFile,
    UnsupportedRegistry,
)
from pfreg.image import Image, Page, open_image
from pfreg.image_diff import Difference, diff
from pfreg.imagefs import PfimgFileSystem
from pfreg.inspection import inspect, verify
from pfreg.key_signatures import KeySigner, KeyVerifier
from pfreg.keys import ExposedKey, PrivateKey, PublicKey
from pfreg.limits import Limits
from pfreg.manifest import Manifest
from pfreg.reference import Reference, parse, register_resolver
from pfreg.results import Cloned, Copied, Inspection, LayerSize, Pruned, Pulled, Pushed, Verified
from pfreg.signing import HmacSigner, HmacVerifier, Signature, Signer, Trust, Verifier
from pfreg.store import Collected, Store
from pfreg.world_snapshot import SkippedFile, Snapshotted

__all__ = [
    "DEFAULT_LEVEL",
    "AccessDenied",
    "BadKey",
    "BadName",
    "BadOption",
    "BadReference",
    "BlobNotFound",
    "Cloned",
    "Collected",
    "Conflict",
    "Copied",
    "Difference",
    "Digest",
    "ExposedKey",
    "FileChanged",
    "FolderNotFound",
    "HmacSigner",
    "HmacVerifier",
    "Image",
    "ImageNotFound",
    "Inspection",
    "IntegrityError",
    "IsFolder",
    "KeySigner",
    "KeyVerifier",
    "LayerError",
    "LayerSize",
    "LimitExceeded",
    "Limits",
    "ListingRefused",
    "Manifest",
    "ManifestError",
    "MissingDependency",
    "Page",
    "PathNotFound",
    "PfimgFileSystem",
    "PfregError",
    "PrivateKey",
    "Pruned",
    "PublicKey",
    "Pulled",
    "Pushed",
    "ReadOnlyImage",
    "Reference",
    "Signature",
    "SignatureError",
    "Signer",
    "SkippedFile",
    "Snapshotted",
    "StorageFull",
    "Store",
    "TargetExists",
    "TornImage",
    "TransferError",
    "TreeError",
    "Trust",
    "UnreadableFile",
    "UnsupportedRegistry",
    "Verified",
    "Verifier",
    "__version__",
    "checkout",
    "clone",
    "copy",
    "diff",
    "exists",
    "inspect",
    "open_image",
    "parse",
    "prune",
    "pull",
    "push",
    "register_resolver",
    "snapshot",
    "tags",
    "verify",
]
