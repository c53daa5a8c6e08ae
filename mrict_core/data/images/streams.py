"""Read voxels: never more than the header says, every checksum verified, one copy in memory."""

from __future__ import annotations

import bz2
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal import igzip, isal_zlib

from mrict_core.data.images.headers import Header
from mrict_core.errors import MrictError, UnavailableError, passing
from mrict_core.files import unavailable
from mrict_core.machine import check_memory
from mrict_core.paths import shown

BLOCK = 1 << 21  # bytes
GZIP = b"\x1f\x8b"
DEFLATE_MOST = 1032  # largest expansion of one byte of a deflate stream


class DamagedError(ValueError):
    """Bytes that contradict the header."""


def damaged(path: Path, why: str) -> MrictError:
    """Return the error for unreadable bytes."""
    return MrictError(f"{shown(path)}: cannot be read ({why}); it is damaged or cut short: copy or export it again")


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def unchanged(path: Path, state_of: Callable[[Path], Any] = _state, since: Any = None) -> Iterator[None]:
    """Raise `UnavailableError` at the end if `path` was replaced meanwhile: what was read is then worthless.

    `state_of` identifies a file; `since` is an earlier state (None: that at the start).
    """

    def state() -> Any:
        with contextlib.suppress(OSError, MrictError):
            return state_of(path)
        return None

    before = since or state()
    try:
        yield
    finally:
        if before and state() != before:
            raise UnavailableError(
                f"{shown(path)}: was replaced or removed while it was read; expected an unchanged file; run again"
            )


@contextlib.contextmanager
def reading(path: Path, quoting: bool = True) -> Iterator[None]:
    """Turn any error in reading `path` into one line: `UnavailableError` if the content is not at fault.

    Without `quoting` the line repeats nothing of the content.
    """
    try:
        with unchanged(path):
            yield
    except MrictError:
        raise
    except Exception as error:  # damaged bytes make readers raise nearly anything
        if passing(error):
            raise unavailable(path, error) from None
        said = " ".join(str(error).replace(str(path), path.name).split())[:160] if quoting else ""
        raise damaged(path, said or type(error).__name__) from None


def check_size(header: Header) -> None:
    """Raise if the file is too short, or too long, for the voxels in its header."""
    there = header.data.stat().st_size - header.start
    if header.encoding == "raw" and there != header.size:
        raise DamagedError(f"{there} bytes of voxels, the header says {header.size}")
    if header.encoding in ("gzip", "zlib") and header.size + header.skip > DEFLATE_MOST * max(there, 0):
        raise DamagedError(f"{there} bytes cannot hold the {header.size} that the header says")


def read_voxels(header: Header) -> np.ndarray:
    """Return the voxels as float32 (nx, ny, nz), scaled; raise unless stream and header agree to the byte."""
    check_size(header)
    check_memory(4 * header.voxels + 8 * BLOCK, shown(header.path))
    array = np.empty(header.voxels, np.float32)
    slope, intercept = header.scale
    item, done, rest = header.dtype.itemsize, 0, b""
    quiet = np.errstate(over="ignore", invalid="ignore")
    with unchanged(header.data), open(header.data, "rb") as file, quiet:
        file.seek(header.start)
        for block in _after(_blocks(file, header.encoding), header.skip):
            block = rest + block if rest else block
            count = len(block) // item
            if len(block) > (array.size - done) * item:
                raise DamagedError(f"more than the {header.size} bytes of voxels that the header says")
            values = np.frombuffer(block, header.dtype, count)
            array[done : done + count] = values if header.scale == (1, 0) else values * slope + intercept
            done, rest = done + count, block[count * item :]
    if done < array.size:
        raise DamagedError(f"{done} voxels, the header says {array.size}")
    return array.reshape(header.shape, order="F")


def _blocks(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the rest of a file, decompressed; a wrong checksum at the end of a stream raises."""
    if encoding == "zlib" and file.peek(2)[:2] != GZIP:  # MetaImage: usually zlib
        yield from _zlib_blocks(file)
        return
    openers = {"raw": lambda: file, "bzip2": lambda: bz2.BZ2File(file)}
    opened = openers.get(encoding, lambda: igzip.IGzipFile(fileobj=file))()
    while block := opened.read(BLOCK):
        yield block


def _zlib_blocks(file: BinaryIO) -> Iterator[bytes]:
    decoder = isal_zlib.decompressobj()
    while not decoder.eof:
        packed = decoder.unconsumed_tail or file.read(BLOCK)
        block = decoder.decompress(packed, BLOCK)
        if not packed and not block and not decoder.eof:
            raise EOFError("the compressed stream is cut short")
        yield block
    if (decoder.unused_data + file.read(BLOCK)).strip(b"\0"):
        raise DamagedError("bytes after the end of the compressed stream")


def _after(blocks: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """Yield the blocks without their first `skip` bytes."""
    for block in blocks:
        yield block[skip:]
        skip = max(0, skip - len(block))
