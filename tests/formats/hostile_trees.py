"""Trees that must not be written to a disk, each named by what is wrong with it.

``MALFORMED`` ones are no ``fs.tree.v1`` at all. ``UNSAFE`` ones are, and could leave their target, contradict
themselves, or lie. ``FOLDING`` ones are dangerous only where names fold, ``WINDOWS`` ones only there.
"""

from __future__ import annotations

from typing import Any

from tests.formats.images import compact, d

CONTENT = b"content of a file"
OTHER = b"the content of another file"
TARGETS = (b"a", b"..", b"/etc/passwd", b"../../outside", b"sub", b"a\0b", b"", b"x" * 4096)
BLOBS = (CONTENT, OTHER, *TARGETS)
"""Everything that an entry below names, so that no tree fails for a blob that is missing."""


def file(path: Any, **fields: Any) -> dict[str, Any]:
    return {"path": path, "mode": "0644", "size": len(CONTENT), "kind": "file", "blob": d(CONTENT), **fields}


def folder(path: Any, **fields: Any) -> dict[str, Any]:
    return {"path": path, "mode": "0755", "size": 0, "kind": "dir", **fields}


def link(path: Any, target: str = "a", **fields: Any) -> dict[str, Any]:
    text = target.encode("utf-8", "surrogatepass")
    made = {"path": path, "mode": "0777", "size": len(text), "kind": "symlink", "blob": d(text), "link_target": target}
    return {**made, **fields}


def without(entry: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != field}


def tree(*entries: Any) -> bytes:
    return compact({"kind": "fs.tree.v1", "entries": list(entries)})


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"entries",
    "no UTF-8": tree(file("a")).replace(b'"a"', b'"\xff"'),
    "a list": b"[]",
    "no kind": b'{"entries":[]}',
    "another kind": b'{"kind":"fs.tree.v2","entries":[]}',
    "no entries": b'{"kind":"fs.tree.v1"}',
    "entries that are an object": b'{"kind":"fs.tree.v1","entries":{}}',
    "two lists of entries": b'{"kind":"fs.tree.v1","entries":[],"entries":[]}',
    "an entry that is text": tree("a"),
    "an entry that is null": tree(None),
    "an entry that is a list": tree(["a"]),
    "an entry with two paths": tree(file("a")).replace(b'"path":"a"', b'"path":"a","path":"../a"'),
    "no path": tree(without(file("a"), "path")),
    "a path that is null": tree(file(None)),
    "a path that is a number": tree(file(7)),
    "a path that is a list": tree(file(["a"])),
    "an unknown kind": tree(file("a", kind="fifo")),
    "a kind of device": tree(file("a", kind="block")),
    "a hard link": tree(file("a", kind="hardlink", link_target="/etc/passwd")),
    "a kind in upper case": tree(file("a", kind="FILE")),
    "a kind that is null": tree(file("a", kind=None)),
    "a kind that is a list": tree(file("a", kind=["file"])),
    "a mode that is a number": tree(file("a", mode=420)),
    "a mode of three digits": tree(file("a", mode="644")),
    "a mode of five digits": tree(file("a", mode="10644")),
    "a mode that is not octal": tree(file("a", mode="0698")),
    "a mode with a prefix": tree(file("a", mode="0o44")),
    "a mode with a sign": tree(file("a", mode="-644")),
    "a mode with a newline": tree(file("a", mode="0644\n")),
    "a mode in other digits": tree(file("a", mode="\u0660\u0666\u0664\u0664")),
    "a mode that is a list": tree(file("a", mode=["0644"])),
    "no size": tree(without(file("a"), "size")),
    "a size that is text": tree(file("a", size="17")),
    "a size that is negative": tree(file("a", size=-1)),
    "a size that is a fraction": tree(file("a", size=17.0)),
    "a size that is true": tree(file("a", size=True)),
    "a size that is null": tree(file("a", size=None)),
    "a size of thirty digits": tree(file("a", size=10**30)),
    "a file without a blob": tree(without(file("a"), "blob")),
    "a file whose blob is null": tree(file("a", blob=None)),
    "a blob in upper case": tree(file("a", blob="sha256:" + d(CONTENT)[7:].upper())),
    "a blob that is short": tree(file("a", blob=d(CONTENT)[:-1])),
    "a blob without a prefix": tree(file("a", blob=d(CONTENT)[7:])),
    "a blob that is a path": tree(file("a", blob="sha256:../../../etc/passwd")),
    "a blob that is a number": tree(file("a", blob=1)),
    "a folder with a blob": tree(folder("a", blob=d(CONTENT))),
    "a folder with a link's target": tree(folder("a", link_target="b")),
    "a file with a link's target": tree(file("a", link_target="/etc/passwd")),
    "a link without a target": tree(without(link("l"), "link_target")),
    "a link without a blob": tree(without(link("l"), "blob")),
    "a link whose target is a number": tree(link("l", link_target=1)),
    "a path with a lone surrogate": tree(file("a\ud800")),
    "a target with a lone surrogate": tree(link("l", "\udcff")),
}

UNSAFE: dict[str, bytes] = {
    "a path up": tree(file("../escape")),
    "a path up, later": tree(folder("sub"), file("sub/../../escape")),
    "a path up, at the end": tree(folder("sub/..")),
    "a path up, alone": tree(folder("..")),
    "a path up that comes back": tree(folder("sub"), file("sub/../inside")),
    "a dot": tree(folder(".")),
    "a dot in the middle": tree(file("sub/./a")),
    "a dot at the front": tree(file("./a")),
    "an absolute path": tree(file("/tmp/escape")),
    "an absolute folder": tree(folder("/")),
    "two slashes at the front": tree(file("//host/share/a")),
    "an empty path": tree(file("")),
    "an empty component": tree(file("sub//a")),
    "a slash at the end": tree(file("a/")),
    "a folder with a slash at the end": tree(folder("sub/")),
    "a NUL": tree(file("a\0b")),
    "a NUL that hides a suffix": tree(file("good.txt\0/../../x")),
    "a drive": tree(file("C:/Windows/a")),
    "a drive with a backslash": tree(file("c:\\Windows\\a")),
    "a drive alone": tree(folder("C:")),
    "a share": tree(file("\\\\host\\share\\a")),
    "the same file twice": tree(file("a"), file("a")),
    "the same folder twice": tree(folder("a"), folder("a")),
    "a file and a folder of one name": tree(file("a"), folder("a")),
    "a file and a link of one name": tree(link("a", "sub"), file("a")),
    "a file below a file": tree(file("a"), file("a/b")),
    "a file below a file that comes later": tree(file("a/b"), file("a")),
    "a file below a link": tree(link("l", "../../outside"), file("l/a")),
    "a file below a link that comes later": tree(file("l/a"), link("l", "../../outside")),
    "a file far below a link": tree(link("l", ".."), folder("l/x"), file("l/x/y/z")),
    "a folder below a link": tree(folder("sub"), link("l", "sub"), folder("l/inner")),
    "a link below a link": tree(link("l", ".."), link("l/m", "/etc/passwd")),
    "a link below a file": tree(file("a"), link("a/l")),
    "a set-uid file": tree(file("a", mode="4755")),
    "a set-gid file": tree(file("a", mode="2755")),
    "a file with every bit": tree(file("a", mode="7777")),
    "a set-uid folder": tree(folder("sub", mode="4755")),
    "a folder of some bytes": tree(folder("sub", size=4096)),
    "one blob of two sizes": tree(file("a"), file("b", size=len(CONTENT) + 1)),
    "a file and a link that disagree about a blob": tree(file("a", blob=d(b"a"), size=2), link("l", "a")),
    "a link of another size than its target": tree(link("l", "a", size=2)),
    "a link whose blob is not its target": tree(link("l", "a", blob=d(b".."), size=1)),
    "a link that shows one target and stores another": tree(link("l", "/etc/passwd", blob=d(b"a"))),
    "a link to nothing": tree(link("l", "")),
    "a link with a NUL": tree(link("l", "a\0b")),
    "a link that is too long": tree(link("l", "x" * 4096)),
    "a name that is too long": tree(file("n" * 256)),
    "a name of too many bytes": tree(file("\u00e9" * 128)),
    "a path that is too long": tree(file("/".join(["n" * 200] * 21))),
    ".git in other case": tree(folder(".GIT"), file(".GIT/config")),
    ".git in mixed case": tree(file(".gIt/hooks/post-checkout", mode="0755")),
    ".git with a character that HFS+ ignores": tree(file(".g\u200cit/config")),
    ".git with a byte order mark": tree(file("\ufeff.git/config")),
    ".git with a dot at its end": tree(file(".git./config")),
    ".git with a space at its end": tree(file(".git /config")),
    ".git as a short name": tree(file("GIT~1/config")),
    ".git as a stream": tree(file(".git::$INDEX_ALLOCATION/config")),
    ".git with a backslash": tree(file(".git\\config")),
    ".git in full-width letters": tree(file("\uff0egit/config")),
    ".git further down": tree(file("vendor/lib/.Git/config")),
}

LYING: dict[str, bytes] = {
    "a file of more bytes than its blob": tree(file("a", size=len(CONTENT) + 1)),
    "a file of fewer bytes than its blob": tree(file("a", size=len(CONTENT) - 1)),
    "a file of no bytes with a blob that has some": tree(file("a", size=0)),
    "a small file that says it is huge": tree(file("a", size=1 << 40)),
    "a huge size beside an honest file": tree(file("a"), file("b", blob=d(OTHER), size=(1 << 63) - 1)),
}
"""Well-formed and harmless by themselves; only their blobs show that they lie."""

FOLDING: dict[str, bytes] = {
    "names that differ in case": tree(file("README"), file("readme")),
    "folders that differ in case": tree(file("Sub/a"), file("sub/b")),
    "a link and a folder that differ in case": tree(link("L", "../../outside"), file("l/a")),
    "names that differ in normal form": tree(file("\u00e9"), file("e\u0301")),
    "a sharp s": tree(file("stra\u00dfe"), file("strasse")),
}

WINDOWS: dict[str, bytes] = {
    "a device": tree(file("sub/NUL")),
    "a device with a suffix": tree(file("com1.txt")),
    "a device with blanks": tree(file("aux .txt")),
    "a device with an odd digit": tree(file("lpt\u00b2")),
    "a console": tree(file("CON")),
    "a backslash": tree(file("a\\..\\b")),
    "a colon": tree(file("a:stream")),
    "a wildcard": tree(file("a*")),
    "a pipe": tree(file("a|b")),
    "a control character": tree(file("a\x01")),
    "a dot at the end": tree(file("a.")),
    "a space at the end": tree(file("a /b")),
}

HARMLESS: dict[str, bytes] = {
    "nothing": tree(),
    "a file in a folder that is only implied": tree(file("implied/folder/a")),
    "entries in any order": tree(file("z/b"), folder("z"), file("a")),
    "a folder after what is in it": tree(file("s/a"), folder("s", mode="0700")),
    "an empty folder": tree(folder("empty")),
    "names that only look dangerous": tree(file("..."), file("..a"), file("a.."), file("-rf"), file("a b"), file("~")),
    "names that fold on other systems": tree(file("A"), file("a")),
    "git's own files": tree(file(".git/config"), file(".gitignore"), file(".github/x"), file("git"), file("digit~1")),
    "a newline in a name": tree(file("a\nb"), file("\u001b[31mred")),
    "a backslash in a name": tree(file("back\\slash")),
    "a colon in a name": tree(file("12:30")),
    "links that point anywhere": tree(link("up", "../../outside"), link("abs", "/etc/passwd"), link("self", "self")),
    "a link to a folder beside it": tree(folder("sub"), file("sub/a"), link("l", "sub")),
    "the longest name": tree(file("n" * 255), file("\u00e9" * 127)),
    "a sticky folder, and a set-gid one": tree(folder("t", mode="1777"), folder("g", mode="2775")),
    "no rights at all": tree(file("a", mode="0000"), folder("s", mode="0500"), file("s/b", mode="0400")),
    "unknown fields": tree({**file("a"), "xattrs": {"user.x": "y"}, "mtime": 1.5}),
    "neither mode nor kind": tree(without(without(file("a"), "mode"), "kind")),
    "an equal file twice": tree(file("a"), file("b"), file("c", blob=d(OTHER), size=len(OTHER))),
}
"""The other side: what must not be refused, or the tests above could pass by refusing everything."""
