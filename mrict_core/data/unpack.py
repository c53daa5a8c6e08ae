"""A zip archive that came from elsewhere: everything about it is checked before a byte is written.

The dangers: names that lead out of the folder, links, files that unpack to more than the disk holds, damage.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mrict_core.errors import MrictError
from mrict_core.paths import shown

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_RATIO = 20  # unpacked to packed bytes; volumes that are already gzipped stay near 1, a bomb is in the hundreds
MAX_DEPTH, MAX_NAME = 50, 1000  # folders in each other, characters of a name: more than any disk takes everywhere
MARGIN = 64 << 20  # bytes left free on the disk
BLOCK = 1 << 20
Progress = Callable[[int, int, str], None]


def unpack(archive: Path, target: Path, folder: str, progress: Progress | None = None) -> dict[str, int]:
    """Unpack what lies under `folder/` in a zip archive to `target/folder/`; return {path: bytes} of its files.

    `target` must not exist; after any failure it does not. Members outside `folder/` are checked but left out.
    MrictError: no zip archive, damaged, encrypted, an unsafe name or link, a bomb, no room, nothing under `folder/`.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = checked_members(opened, archive, folder)
            need_space(target.parent, sum(m.file_size for m in members), f"to unpack {shown(archive)}")
            target.mkdir()
            try:
                return _write(opened, members, target, archive, progress)
            except BaseException:  # Ctrl-C too
                shutil.rmtree(target, ignore_errors=True)
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise MrictError(f"{shown(archive)}: is no sound zip archive ({error}); delete it and fetch it again") from None
    except OSError as error:
        where = shown(error.filename or target)
        raise MrictError(
            f"{where}: cannot be unpacked ({error.strerror or error}); free space, or make the folder writable, "
            "and run again"
        ) from error


def need_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise MrictError unless the disk of `folder` has `needed` bytes, and a margin, free."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise MrictError(
            f"{shown(folder)}: {readable(free)} free, {readable(needed + MARGIN)} needed {purpose}; "
            "free space or choose another folder"
        )


def readable(size: int) -> str:
    """Return a number of bytes as people read it, in powers of ten as disks are sold: 1.5 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def checked_members(opened: zipfile.ZipFile, archive: Path, folder: str) -> list[zipfile.ZipInfo]:
    """Return the files under `folder/`; MrictError when any member of the archive is unsafe, wanted or not."""
    members, seen = [], set()
    for member in opened.infolist():
        danger = _danger(member)
        if danger:
            raise MrictError(
                f"{shown(archive)}: refused, its member {member.orig_filename[:120]!r} {danger}; "
                "nothing was unpacked; report it to the publisher"
            )
        if member.is_dir():
            continue
        path = PurePosixPath(member.filename.casefold())  # where the disk folds case, A and a are one file
        if path in seen:
            raise MrictError(
                f"{shown(archive)}: refused, it holds {member.filename!r} twice; nothing was unpacked; "
                "report it to the publisher"
            )
        seen.add(path)
        if PurePosixPath(member.filename).parts[:-1][:1] == (folder,):
            members.append(member)
    for both in seen & {parent for path in seen for parent in path.parents}:
        raise MrictError(f"{shown(archive)}: refused, '{both}' is a file and a folder in it; nothing was unpacked")
    inside = sum(m.file_size for m in opened.infolist())
    size = archive.stat().st_size
    if inside > MAX_RATIO * size:
        raise MrictError(
            f"{shown(archive)}: refused, its {size} bytes unpack to {inside}, more than {MAX_RATIO} times as many; "
            "nothing was unpacked; report it to the publisher"
        )
    if not members:
        raise MrictError(f"{shown(archive)}: holds nothing under {folder}/; is it the right archive?")
    return members


def _danger(member: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member's name, kind or encoding; empty when nothing is."""
    name = member.orig_filename  # as it stands in the archive; `filename` is already cut and translated
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not name.strip("/.") or not name.isprintable():
        return "has an empty or unprintable name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if "\\" in name:
        return "has a backslash in its name"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if name.count("/") > MAX_DEPTH or len(name) > MAX_NAME:
        return f"is {name.count('/')} folders deep and {len(name)} characters long, allowed are {MAX_DEPTH}, {MAX_NAME}"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.compress_type not in METHODS:
        return f"is packed by method {member.compress_type}, expected 0 or 8"
    return ""


def _write(
    opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path, archive: Path, progress: Progress | None
) -> dict[str, int]:
    """Write the members under `target`. zipfile stops at a member's stated size and checks its CRC at the end."""
    total, done = sum(m.file_size for m in members), 0
    for member in members:
        path = target / member.filename
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as packed, open(path, "xb") as file:
                while block := packed.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    if progress:
                        progress(done, total, archive.name)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise MrictError(
                f"{shown(archive)}: its member {member.filename!r} is damaged ({error}); nothing was unpacked; "
                "delete the archive and fetch it again"
            ) from None
        if path.stat().st_size != member.file_size:
            raise MrictError(
                f"{shown(archive)}: its member {member.filename!r} has {path.stat().st_size} bytes, stated are "
                f"{member.file_size}; nothing was unpacked; delete the archive and fetch it again"
            )
    return {m.filename: m.file_size for m in members}
