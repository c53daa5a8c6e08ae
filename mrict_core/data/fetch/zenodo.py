"""The files of a Zenodo record. API: https://developers.zenodo.org (records)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from mrict_core.errors import MrictError
from mrict_core.web import Web

ADDRESS = "https://zenodo.org"
MIRROR = "MRICT_ZENODO_URL"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a record; `size` in bytes, `md5` in hexadecimal digits."""

    name: str
    size: int
    md5: str
    url: str


class Zenodo(Web):
    """A server with Zenodo's API: `url`, else the mirror in MRICT_ZENODO_URL, else zenodo.org."""

    def __init__(self, url: str = "", **options: Any) -> None:
        self.url = (url or os.environ.get(MIRROR) or ADDRESS).rstrip("/")
        if not re.match(r"https?://[^/\s]", self.url):
            raise MrictError(f"'{self.url}' is not a server's address; give http://… or https://… (--url or {MIRROR})")
        super().__init__(**options)

    def files(self, record: int) -> tuple[RemoteFile, ...]:
        """Return the files of a record, in its order; MrictError if it is missing or not in Zenodo's format."""
        url = f"{self.url}/api/records/{record}"
        answer = self.json(url)
        entries = answer.get("files") if isinstance(answer, dict) else None
        if not isinstance(entries, list) or not entries:
            raise MrictError(f"{url}: the record lists no files; is it restricted, or not a record of Zenodo?")
        return tuple(_file(entry, url) for entry in entries)


def _file(entry: Any, url: str) -> RemoteFile:
    try:
        name, size, address = entry["key"], entry["size"], entry["links"]["self"]
        kind, _, digest = entry["checksum"].partition(":")
        known = kind == "md5" and re.fullmatch(r"[0-9a-f]{32}", digest) and type(size) is int and size >= 0
        if not known or not name.isprintable():
            raise ValueError
        return RemoteFile(name, size, digest, urljoin(url, address))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MrictError(
            f"{url}: an entry of its files is {str(entry)[:120]}; expected key, size, checksum md5:… and "
            "links.self; check the address"
        ) from None
