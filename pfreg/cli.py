"""The command line: one command for each verb.

Rules
-----
- This is the only module that prints or exits.
- Results go to standard output, in words or, with ``--json``, as one JSON value; all else goes to standard error.
- A progress bar is drawn on a terminal only. A user's mistake is one line, never a traceback.
- Exit codes: 0 fine; 1 a mistake, something absent or out of reach; 3 a conflict; 4 integrity or signature; 70 a bug.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NoReturn

from pfreg import codec, engine, inspection
from pfreg._version import __version__
from pfreg.arguments import cid_of
from pfreg.digest import CHUNK
from pfreg.errors import (
    BadOption,
    Conflict,
    IntegrityError,
    MissingDependency,
    PfregError,
    SignatureError,
    one_line,
)
from pfreg.files import translated
from pfreg.image import Image, Listed, open_image
from pfreg.image_diff import Difference, diff
from pfreg.image_index import WORLD
from pfreg.manifest import Manifest
from pfreg.mount import mount
from pfreg.progress import Bar, human
from pfreg.reference import parse
from pfreg.results import Cloned, Copied, Inspection, Pruned, Pulled, Pushed, Verified, to_json
from pfreg.signing import Trust
from pfreg.store import GRACE, Collected, Store
from pfreg.world_snapshot import Snapshotted

__all__ = ["main"]

MISTAKE, CONFLICT, INTEGRITY, BUG, INTERRUPTED = 1, 3, 4, 70, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; the process's own by default.

    Returns
    -------
    int
        The exit code.
    """
    try:
        arguments = _parser().parse_args(argv)
        with _warnings_in_one_line():
            result = arguments.run(arguments)
        _print(result, as_json=arguments.json)
        return MISTAKE if result is False else 0
    except PfregError as e:
        _complain(str(e))
        return _code(e)
    except KeyboardInterrupt:
        _complain("interrupted; run it again to go on where it stopped")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's last flush is quiet, too
        return MISTAKE
    except Exception as e:  # noqa: BLE001 - the last resort: a bug is reported as one
        if os.environ.get("PFREG_TRACEBACK"):
            traceback.print_exc()
        _complain(f"a bug in pfreg: {type(e).__name__}: {e} (PFREG_TRACEBACK=1 shows where)")
        return BUG


def _code(error: PfregError) -> int:
    if isinstance(error, Conflict):
        return CONFLICT
    return INTEGRITY if isinstance(error, IntegrityError | SignatureError) else MISTAKE


def _complain(text: str) -> None:
    print(f"pfreg: {one_line(text)}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Exits with 1 for a mistake: argparse's 2 means something else to callers of pfreg."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(message, hint=f"{self.prog} --help")


# -- commands ----------------------------------------------------------------------------------------------------


def _snapshot(a: argparse.Namespace) -> Snapshotted:
    with _bar("snapshot", a) as bar:
        return engine.snapshot(
            a.folder,
            store=Store(a.store, level=a.level),
            agent_kind=a.agent_kind,
            messages=_json_lines(a.messages),
            effects=_json_lines(a.effects),
            env=dict(os.environ) if a.env else None,
            redact=a.redact,
            parents=a.parent,
            exclude=a.exclude,
            bad_names="skip" if a.skip_bad_names else "error",
            jobs=a.jobs,
            callback=bar,
        )


def _checkout(a: argparse.Namespace) -> Cloned:
    with _bar("checkout", a) as bar:
        return engine.checkout(
            a.cid, a.folder, store=a.store, set_id=a.set_id, links_inside=a.links_inside, jobs=a.jobs, callback=bar
        )


def _push(a: argparse.Namespace) -> Pushed:
    with _bar("push", a) as bar:
        return engine.push(
            a.cid,
            a.url,
            store=a.store,
            storage_options=_options(a.option),
            signing_key=a.sign_key,
            trusted_keys=a.trust,
            history=a.history,
            base=a.base,
            expect=a.expect,
            dry_run=a.dry_run,
            jobs=a.jobs,
            callback=bar,
        )


def _pull(a: argparse.Namespace) -> Pulled:
    with _bar("pull", a) as bar:
        return engine.pull(
            a.url,
            store=a.store,
            storage_options=_options(a.option),
            trusted_keys=a.trust,
            require_signature=a.require_signature,
            history=a.history,
            expect=a.expect,
            jobs=a.jobs,
            callback=bar,
        )


def _clone(a: argparse.Namespace) -> Cloned:
    with _bar("clone", a) as bar:
        return engine.clone(
            a.url,
            a.folder,
            storage_options=_options(a.option),
            trusted_keys=a.trust,
            require_signature=a.require_signature,
            expect=a.expect,
            set_id=a.set_id,
            links_inside=a.links_inside,
            jobs=a.jobs,
            callback=bar,
        )


def _copy(a: argparse.Namespace) -> Copied:
    with _bar("copy", a) as bar, _cluster(a.dask) as executor:
        return engine.copy(
            a.source,
            a.target,
            storage_options=_options(a.option),
            target_options=_options(a.target_option),
            trusted_keys=a.trust,
            require_signature=a.require_signature,
            history=a.history,
            base=a.base,
            expect=a.expect,
            jobs=a.jobs,
            executor=executor,
            callback=bar,
        )


def _exists(a: argparse.Namespace) -> bool:
    return engine.exists(a.url, storage_options=_options(a.option))


def _inspect(a: argparse.Namespace) -> Inspection:
    return inspection.inspect(
        a.place,
        store=a.store,
        storage_options=_options(a.option),
        trusted_keys=a.trust,
        require_signature=a.require_signature,
    )


def _verify(a: argparse.Namespace) -> Verified:
    with _bar("verify", a) as bar, _cluster(a.dask) as executor:
        return inspection.verify(
            a.place,
            store=a.store,
            deep=not a.shallow,
            storage_options=_options(a.option),
            trusted_keys=a.trust,
            require_signature=a.require_signature,
            history=a.history,
            jobs=a.jobs,
            executor=executor,
            callback=bar,
        )


def _prune(a: argparse.Namespace) -> Pruned:
    return engine.prune(
        a.url, grace=a.grace, dry_run=not a.yes, storage_options=_options(a.option), trusted_keys=a.trust
    )


def _tags(a: argparse.Namespace) -> list[str]:
    return engine.tags(a.url, storage_options=_options(a.option))


def _log(a: argparse.Namespace) -> list[Manifest]:
    return Store(a.store, create=False).images()[::-1]


def _gc(a: argparse.Namespace) -> Collected:
    return Store(a.store, create=False).gc(grace=a.grace, dry_run=not a.yes)


def _remove(a: argparse.Namespace) -> None:
    Store(a.store, create=False).remove(cid_of(a.cid))


def _ls(a: argparse.Namespace) -> list[Listed]:
    return _opened(a.place, a).ls(a.path)


def _cat(a: argparse.Namespace) -> None:
    with _opened(a.place, a).fs.open(a.path, "rb") as stream:
        shutil.copyfileobj(stream, sys.stdout.buffer, CHUNK)
    sys.stdout.buffer.flush()


def _diff(a: argparse.Namespace) -> Difference:
    return diff(_opened(a.first, a), _opened(a.second, a))


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Executor | None]:
    """Give the workers of a dask cluster, None without an address."""
    if address is None:
        yield None
        return
    if not re.search(r":[0-9]+\Z", address):
        raise BadOption(f"not the address of a scheduler: {address[:80]!r}", hint="such as tcp://host:8786")
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependency("--dask needs the package distributed", hint="pip install 'pfreg[dask]'") from None
    with translated("connect", address):
        client = Client(address, set_as_default=False)
    with client:
        yield client.get_executor()


def _mount(a: argparse.Namespace) -> None:
    image = _opened(a.place, a)
    mount(image.fs, a.folder, ready=lambda: _complain(f"{image.cid} is at {a.folder}, read-only; Ctrl-C unmounts it"))


def _opened(place: str, a: argparse.Namespace) -> Image:
    return open_image(
        place,
        store=a.store,
        storage_options=_options(a.option),
        trusted_keys=a.trust,
        require_signature=a.require_signature,
    )


# -- arguments ---------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pfreg", description="Move ProcessFork images (.pfimg) between a store and any registry.")
    parser.add_argument("--version", action="version", version=f"pfreg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_making(commands)
    _add_moving(commands)
    _add_looking(commands)
    _add_keeping(commands)
    return parser


def _add_making(commands: Any) -> None:
    """Add the commands between a folder and the store."""
    p = _command(commands, "snapshot", _snapshot, "take a folder into the store as an image", "store", "jobs")
    p.add_argument("folder", metavar="FOLDER")
    p.add_argument("--agent-kind", default="pfreg", metavar="KIND", help="whose folder it is, such as claude-code")
    p.add_argument("--messages", metavar="FILE", help="JSON lines with role and content")
    p.add_argument("--effects", metavar="FILE", help="JSON lines with tool calls")
    p.add_argument("--env", action="store_true", help="take the environment, without what looks like a secret")
    p.add_argument("--redact", action="append", default=[], metavar="REGEX", help="more variables to redact")
    p.add_argument("--parent", action="append", default=[], metavar="CID", help="an image that this one descends from")
    p.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="as in .gitignore; see .pfignore")
    p.add_argument("--skip-bad-names", action="store_true", help="leave out names that are not UTF-8")
    p.add_argument("--level", type=int, default=codec.DEFAULT_LEVEL, metavar="N", help="zstd's level (%(default)s)")

    p = _command(commands, "checkout", _checkout, "write an image's files from the store into a new folder")
    p.add_argument("cid", metavar="CID")
    _add(p, "folder", "store", "jobs")


def _add_moving(commands: Any) -> None:
    """Add the commands that move images to and from registries."""
    p = _command(commands, "push", _push, "push an image from the store to a registry")
    p.add_argument("cid", metavar="CID")
    p.add_argument("--dry-run", action="store_true", help="only tell what would be sent, and on IPFS the root's CID")
    p.add_argument("--sign-key", metavar="FILE", help="sign with this private key, Ed25519 or ECDSA P-256")
    p.add_argument("--trust", action="append", metavar="FILE", help="the public key of who else signs there")
    _add(p, "url", "store", "option", "history", "base", "expect", "jobs")

    p = _command(commands, "pull", _pull, "pull an image from a registry into the store")
    _add(p, "url", "store", "option", "trust", "signature", "history", "expect", "jobs")

    p = _command(commands, "clone", _clone, "write an image's files from a registry into a new folder")
    _add(p, "url", "folder", "option", "trust", "signature", "expect", "jobs")

    p = _command(commands, "copy", _copy, "copy an image from registry to registry")
    p.add_argument("source", metavar="SOURCE")
    p.add_argument("target", metavar="TARGET")
    _add(p, "option", "trust", "signature", "history", "base", "expect", "jobs", "dask")
    p.add_argument("--target-option", action="append", default=[], metavar="K=V", help="as -o, for the target")


def _add_looking(commands: Any) -> None:
    """Add the commands that look at an image where it lies."""
    p = _command(commands, "exists", _exists, "tell whether there is an image; exit code 1 if not")
    _add(p, "url", "option")

    p = _command(commands, "inspect", _inspect, "tell what is in an image")
    _add(p, "place", "store", "option", "trust", "signature")

    p = _command(commands, "verify", _verify, "verify an image where it lies")
    _add(p, "place", "store", "option", "trust", "signature", "history", "jobs", "dask")
    p.add_argument("--shallow", action="store_true", help="look only whether every blob is there, with a possible size")

    p = _command(commands, "ls", _ls, "list a folder inside an image, without pulling it")
    _add(p, "place")
    p.add_argument(
        "path", metavar="PATH", nargs="?", default=WORLD, help="inside the image (%(default)s); / is its top"
    )
    _add(p, "store", "option", "trust", "signature")

    p = _command(commands, "cat", _cat, "print a file inside an image, such as trace/messages.jsonl")
    _add(p, "place")
    p.add_argument("path", metavar="PATH", help="inside the image; the agent's files are below world/fs")
    _add(p, "store", "option", "trust", "signature")

    p = _command(commands, "diff", _diff, "compare two images: files, environment, messages")
    p.add_argument("first", metavar="URL|CID")
    p.add_argument("second", metavar="URL|CID")
    _add(p, "store", "option", "trust", "signature")

    p = _command(commands, "mount", _mount, "show an image as a read-only folder, until interrupted")
    _add(p, "place")
    p.add_argument("folder", metavar="FOLDER", help="empty; the agent's files are below world/fs in it")
    _add(p, "store", "option", "trust", "signature")

    _command(commands, "tags", _tags, "list the tags beside an image, where a registry has them", "url", "option")


def _add_keeping(commands: Any) -> None:
    """Add the commands that keep a registry and the store in order."""
    p = _command(commands, "prune", _prune, "remove blobs of a registry that its image does not reach")
    _add(p, "url", "option", "trust", "grace", "yes")
    _command(commands, "log", _log, "list the images of the store, newest first", "store")
    _command(commands, "gc", _gc, "remove blobs of the store that no image reaches", "store", "grace", "yes")

    p = _command(commands, "remove", _remove, "forget an image of the store; gc then frees its blobs", "store")
    p.add_argument("cid", metavar="CID")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], object], text: str, *groups: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="draw no progress bar")
    _add(parser, *groups)
    return parser


def _add(parser: argparse.ArgumentParser, *groups: str) -> None:
    for group in groups:
        _ARGUMENTS[group](parser)


def _folder(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="FOLDER", help="must not exist")
    p.add_argument("--set-id", choices=("refuse", "drop", "keep"), default="refuse", help="set-uid bits (%(default)s)")
    p.add_argument("--links-inside", action="store_true", help="refuse links that point out of the folder")


_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], object]] = {
    "url": lambda p: p.add_argument("url", metavar="URL", help="s3://bucket/prefix, ./folder, ..."),
    "place": lambda p: p.add_argument("place", metavar="URL|CID", help="a registry, or an image of the store"),
    "folder": _folder,
    "store": lambda p: p.add_argument("--store", metavar="FOLDER", help="$PF_STORE, else ~/.processfork"),
    "option": lambda p: p.add_argument(
        "-o", "--option", action="append", default=[], metavar="K=V", help="a storage option; V may be JSON"
    ),
    "trust": lambda p: p.add_argument(
        "--trust", action="append", metavar="FILE", help="only what this public key, or another, has signed"
    ),
    "signature": lambda p: p.add_argument(
        "--require-signature", action="store_true", help="refuse the published default key"
    ),
    "history": lambda p: p.add_argument("--history", type=_history, default=0, metavar="N|all", help="parents, too"),
    "base": lambda p: p.add_argument("--base", metavar="URL", help="another root there; what it has is not sent"),
    "expect": lambda p: p.add_argument("--expect", metavar="CID", help="refuse if there is another image"),
    "jobs": lambda p: p.add_argument("--jobs", type=int, metavar="N", help="threads"),
    "dask": lambda p: p.add_argument("--dask", metavar="ADDRESS", help="let the workers of this dask cluster do it"),
    "grace": lambda p: p.add_argument(
        "--grace", type=float, default=GRACE, metavar="SECONDS", help="what is younger stays (%(default)s)"
    ),
    "yes": lambda p: p.add_argument("--yes", action="store_true", help="remove; without it, only tell"),
}


def _history(text: str) -> int | str:
    return text if text == "all" else int(text)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``K=V`` storage options; a value that is JSON is taken as such."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadOption("a storage option is written NAME=VALUE")  # without the value: it may be a secret
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _json_lines(path: str | None) -> list[Any]:
    if path is None:
        return []
    try:
        with open(path, encoding="utf-8") as stream:
            return [json.loads(line) for line in stream if line.strip()]
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not JSON lines in UTF-8"
        raise BadOption(f"cannot be read: {reason}", operation="snapshot", place=path) from e


# -- output ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bar(label: str, arguments: argparse.Namespace) -> Iterator[Bar | None]:
    bar = None if arguments.quiet or arguments.json else Bar.on_terminal(label, sys.stderr)
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _print(result: object, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(result), ensure_ascii=False))
        return
    for line in _lines(result):
        print(line)


def _lines(result: object) -> Iterator[str]:
    match result:
        case Snapshotted():
            yield str(result.cid)
            yield (
                f"{result.files} files, {result.folders} folders, {result.links} links, {human(result.size)}; "
                f"{result.new_blobs} new blobs, {human(result.new_bytes)}, in {result.seconds:.2f} s"
            )
        case Pushed() | Copied():
            verb = "sent" if result.published or not result.sent else "would send"
            yield f"{result.cid} at {result.reference}" + (f" ({result.committed})" if result.committed else "")
            yield (
                f"{verb} {result.sent} blobs, {human(result.sent_bytes)}; copied {result.copied} there; "
                f"{result.skipped} were there; {result.images} images in {result.seconds:.2f} s"
            )
            if isinstance(result, Copied):
                yield from (f"source {line}" for line in _published(result.trust, result.source))
        case Pulled():
            yield f"{result.cid} ({result.trust.status}: {result.trust.by})"
            yield from _published(result.trust, result.reference)
            yield (
                f"received {result.received} blobs, {human(result.received_bytes)}; {result.skipped} were there; "
                f"{result.images} images in {result.seconds:.2f} s"
            )
        case Cloned():
            yield f"{result.cid} in {result.target}"
            yield (
                f"{result.files} files, {result.folders} folders, {result.links} links, {human(result.size)} "
                f"in {result.seconds:.2f} s"
            )
            yield from _published(result.trust, None)
        case Verified():
            yield f"{result.cid} at {result.reference}: fine"
            how = "read and verified" if result.deep else "looked up"
            yield f"{result.blobs} blobs, {human(result.stored)}, {how} in {result.seconds:.2f} s"
            yield _trust(result.trust)
            yield from _published(result.trust, result.reference)
        case Inspection():
            yield from _inspection(result)
        case Pruned() | Collected():
            verb = "would remove" if result.dry_run else "removed"
            yield f"{verb} {len(result.removed)} blobs, {human(result.freed)}; {result.kept} stay"
        case Difference():
            yield from _difference(result)
        case bool():
            yield "yes" if result else "no"
        case list():
            yield from map(_line, result)


def _line(item: object) -> str:
    match item:
        case Manifest():
            return _logged(item)
        case Listed():
            return _listed(item)
    return str(item)


def _listed(entry: Listed) -> str:
    mode = "" if entry.mode is None else f"{entry.mode:04o}"
    size = "" if entry.size is None or entry.type == "directory" else human(entry.size)
    mark = "/" if entry.type == "directory" else f" -> {entry.target}" if entry.target else ""
    return one_line(f"{mode:4} {size:>10}  {entry.name}{mark}")


def _logged(manifest: Manifest) -> str:
    parents = " ".join(parent.short for parent in manifest.parents)
    line = f"{manifest.cid} {manifest.created_at} {manifest.agent.kind}"
    return f"{line} <- {parents}" if parents else line


def _inspection(result: Inspection) -> Iterator[str]:
    manifest = result.manifest
    yield f"image    {result.cid}"
    yield f"place    {result.reference}"
    if result.commit:
        yield f"commit   {result.commit}"
    yield f"agent    {manifest.agent.kind} ({manifest.agent.fingerprint} {manifest.agent.version})"
    yield f"created  {manifest.created_at}"
    yield f"parents  {' '.join(map(str, manifest.parents)) or 'none'}"
    yield f"signed   {_trust(result.trust)}"
    yield from (f"         {line}" for line in _published(result.trust, result.reference))
    for layer in result.layers:
        yield f"  {layer.name:<15} {layer.digest.short}  {layer.blobs:>7} blobs  {human(layer.stored):>10}"
    yield f"  {'all':<15} {'':<12}  {result.blobs:>7} blobs  {human(result.stored):>10}"
    if result.missing:
        yield f"missing  {len(result.missing)} blobs, the first {result.missing[0]}"


def _difference(result: Difference) -> Iterator[str]:
    for what, changes in (("", result.files), ("env ", result.environment)):
        yield from (f"+ {what}{name}" for name in changes.added)
        yield from (f"- {what}{name}" for name in changes.removed)
        yield from (f"~ {what}{name}" for name in changes.changed)
    yield f"{result.common_messages} messages in common"
    for sign, messages in (("<", result.first_messages), (">", result.second_messages)):
        yield from (one_line(f"{sign} {m.get('role', '?')}: {m.get('content', '')}", limit=100) for m in messages)


def _trust(trust: Trust | None) -> str:
    return "no signature in a store" if trust is None else f"{trust.status} ({trust.by})"


def _published(trust: Trust | None, reference: str | None) -> Iterator[str]:
    """Tell what a key has signed beside the image; what it published elsewhere is a copy, or a substitute."""
    if trust is not None and trust.reference is not None:
        place = f"at {trust.reference}"
        if reference is not None:
            # On IPFS, where what is in an image names it, "ipfs://" is all that could be signed.
            address, signed = parse(reference).address, trust.reference
            here = address == signed or (signed.endswith("://") and address.startswith(signed))
            place = "here" if here else f"at another reference, {signed}"
        yield one_line(f"published {place}, as number {trust.sequence}, {trust.time}")


if __name__ == "__main__":
    sys.exit(main())
