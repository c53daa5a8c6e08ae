"""Unpack a foreign zip archive; everything is checked before a byte is written.

The dangers: names that point outside the folder, links, zip bombs, damage.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from mrict_core.errors import MrictError
from mrict_core.files import unwritable
from mrict_core.paths import shown
from mrict_core.web import Progress

MAX_RATIO = 20  # unpacked to packed bytes; gzipped volumes stay near 1, a bomb has hundreds
MAX_NAME = 1000  # characters
MARGIN = 64 << 20  # bytes left free on the disk
BLOCK = 1 << 20


def unpack(archive: Path, target: Path, folder: str, progress: Progress | None = None) -> dict[str, int]:
    """Unpack `folder/` of a zip archive to the empty folder `target`; return {path in the archive: bytes}.

    After a failure `target` holds a part: remove it. MrictError for damaged or encrypted archives, unsafe names or
    links, a bomb, a full disk, and nothing under `folder/`.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened, archive, folder)
            total, done = sum(m.file_size for m in members), 0
            need_space(target.parent, total, f"to unpack {shown(archive)}")
            for member in members:
                path = target / Path(member.filename).relative_to(folder)
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as packed, open(path, "xb") as file:
                    while block := packed.read(BLOCK):  # zipfile stops at the stated size and checks the CRC
                        file.write(block)
                        done += len(block)
                        if progress:
                            progress(done, total, "unpack")
                if path.stat().st_size != member.file_size:
                    raise EOFError(f"{member.filename!r} is {path.stat().st_size} bytes long, not {member.file_size}")
            return {m.filename: m.file_size for m in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:  # Runtime: encrypted, methods
        raise MrictError(f"{shown(archive)}: not a sound zip archive ({error}); delete it and fetch it again") from None
    except OSError as error:
        raise unwritable(Path(error.filename or target), error) from error


def need_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise MrictError unless the disk of `folder` has `needed` bytes, and a margin, free."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise MrictError(
            f"{shown(folder)}: {readable(free)} free, {readable(needed + MARGIN)} needed {purpose}; "
            "free space or choose another folder"
        )


def readable(size: int) -> str:
    """Return a number of bytes in decimal units, such as 1.5 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _checked(opened: zipfile.ZipFile, archive: Path, folder: str) -> list[zipfile.ZipInfo]:
    """Return the files under `folder/`; MrictError if any member of the archive is unsafe."""
    for member in opened.infolist():
        if danger := _danger(member):
            raise MrictError(
                f"{shown(archive)}: refused, its member {member.orig_filename[:120]!r} {danger}; "
                "nothing was unpacked; report it to the publisher"
            )
    members = [m for m in opened.infolist() if m.filename.startswith(f"{folder}/") and not m.is_dir()]
    names = [Path(member.filename.casefold()) for member in members]  # on case-insensitive disks A and a are one file
    twice = len(names) > len(set(names)) or not {p for name in names for p in name.parents}.isdisjoint(names)
    inside, size = sum(m.file_size for m in opened.infolist()), archive.stat().st_size
    if twice or inside > MAX_RATIO * size:
        what = "two of its members have the same name" if twice else f"its {size} bytes unpack to {inside}"
        raise MrictError(f"{shown(archive)}: refused, {what}; nothing was unpacked; report it to the publisher")
    if not members:
        raise MrictError(f"{shown(archive)}: holds nothing under {folder}/; is it the right archive?")
    return members


def _danger(member: zipfile.ZipInfo) -> str:
    """Return what is unsafe about a member, else ""."""
    name = member.orig_filename  # `filename` is already cut and translated
    leads_out = re.match(r"/|[A-Za-z]:", name) or ".." in name.split("/") or "\\" in name
    if leads_out or not name.strip("/.") or not name.isprintable() or len(name) > MAX_NAME:
        return "has an unsafe name"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    return ""
