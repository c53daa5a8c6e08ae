"""DICOM tag values as plain text and numbers; they may be absent, damaged or of the wrong type."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import IGNORE, settings
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mrict_core.data.images.streams import reading
from mrict_core.errors import MrictError
from mrict_core.machine import check_memory
from mrict_core.paths import shown

META = 1024  # leading bytes that contain the transfer syntax
BLOCK, COPIES = 1 << 20, 3  # bytes; copies of the inflated file in memory
UID = re.compile(r"[0-9][0-9.]{0,63}")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Silence pydicom, whose warnings, log lines and errors quote values; invalid values are then read unchanged."""
    logger, modes = logging.getLogger("pydicom"), (settings.reading_validation_mode, settings.writing_validation_mode)
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        settings.reading_validation_mode = settings.writing_validation_mode = IGNORE
        try:
            yield
        finally:
            settings.reading_validation_mode, settings.writing_validation_mode = modes
            logger.setLevel(level)


def wrong_header(path: Path, why: str) -> MrictError:
    """Return the error for an inconsistent header; `why` must not quote a tag value."""
    return MrictError(f"{shown(path)}: {why}; expected a consistent header; export it again")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[None]:
    """Silence pydicom and turn any error from reading `path` into one line that quotes no tag."""
    with reading(path, quoting=False), hushed():
        yield


def check_deflated(path: Path) -> None:
    """Raise `UnavailableError` for a deflated file too large for memory, as pydicom inflates it whole."""
    with open(path, "rb") as file:
        start = file.read(META)
        if start[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in start:
            return
        file.seek(144 + int.from_bytes(start[140:144], "little"))  # past the meta information
        stream, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := stream.unconsumed_tail or file.read(BLOCK):
            size += len(stream.decompress(block, BLOCK))
            check_memory(COPIES * size, shown(path))


def text_of(header: pydicom.Dataset, keyword: str) -> str:
    """Return a value as text, "" if absent."""
    value = header.get(keyword)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def uid_of(header: pydicom.Dataset, keyword: str) -> str:
    """Return a UID, "" if absent or invalid."""
    uid = text_of(header, keyword)
    return uid if UID.fullmatch(uid) else ""


def whole_of(header: pydicom.Dataset, keyword: str) -> int | None:
    """Return an integer, None if absent or invalid."""
    try:
        return int(header.get(keyword))
    except (TypeError, ValueError):
        return None


def values_of(value: Any) -> list:
    """Return the values of a tag as a list: none, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, (str, bytes, int, float)) else list(value)
