"""Files of a Zenodo record: the list by its API, and one file with resume.

API: https://developers.zenodo.org (records). Validators and ranges: RFC 9110, sections 8.8, 13 and 14.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests

from mrict_core.data.web import CONNECT_S, READ_S, PatientClient, TryAgain, reason_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown
from mrict_core.runtime import read_json, write_json

ADDRESS = "https://zenodo.org"
MIRROR = "MRICT_ZENODO_URL"
BLOCK = 1 << 16  # bytes; what is lost at most when a connection breaks off
SOURCE = "source.json"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a record; `size` in bytes, `md5` as 32 hexadecimal digits."""

    name: str
    size: int
    md5: str
    url: str


class Zenodo(PatientClient):
    """A server that speaks Zenodo's API: `url`, else the mirror in MRICT_ZENODO_URL, else zenodo.org."""

    def __init__(
        self,
        url: str = "",
        say: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        timeout_s: tuple[float, float] = (CONNECT_S, READ_S),
    ) -> None:
        self.url = (url or os.environ.get(MIRROR) or ADDRESS).rstrip("/")
        if not re.match(r"https?://[^/\s]", self.url):
            raise MrictError(f"'{self.url}' is no address of a server; give http://… or https://… (--url or {MIRROR})")
        super().__init__(say, sleep, timeout_s)

    def files(self, record: int) -> tuple[RemoteFile, ...]:
        """Return the files of a record, in its order; MrictError when it is not there or not as Zenodo writes it."""
        url = f"{self.url}/api/records/{record}"

        def attempt() -> object:
            with self.get(url, {"Accept": "application/json"}, stream=False) as answer:
                try:
                    return answer.json()
                except requests.JSONDecodeError as error:
                    raise MrictError(
                        f"{url}: the answer is not json ({error}); expected a record of Zenodo; check the address"
                    ) from None

        return _parse(self.patiently(url, attempt), url)

    def fetch(self, remote: RemoteFile, folder: Path, progress: Progress | None = None) -> Path:
        """Bring `remote` into `folder` as `<name>.part`, on from where an earlier call stopped; return its path.

        Its size is right when this returns; its checksum is the caller's to verify. The part stays after every
        error, so that the next call goes on; bytes of another version of the file are thrown away.
        """
        part, source = folder / f"{remote.name}.part", folder / SOURCE
        identity = {"size": remote.size, "md5": remote.md5}
        if part.exists() and not identity.items() <= _read_source(source).items():
            self.say(f"{shown(part)} is of another version of the file; starting anew")
            _discard(part, source)
        if _size(part) > remote.size:
            self.say(f"{shown(part)} is longer than the file; starting anew")
            _discard(part, source)
        if not part.exists():
            _create(part, source, identity)
        if _size(part) < remote.size:
            self.patiently(remote.url, lambda: self._go_on(remote, part, source, progress), lambda: _size(part))
        return part

    def _go_on(self, remote: RemoteFile, part: Path, source: Path, progress: Progress | None) -> None:
        """Ask for what is missing of `part` and append it; start anew where the server cannot go on."""
        known, offset = _read_source(source), _size(part)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and known.get("etag", "").startswith('"'):  # weak validators ("W/…") are not allowed here
            headers["If-Range"] = known["etag"]
        with self.get(remote.url, headers, stream=True) as answer:
            if answer.status_code == 416 or (answer.status_code == 206 and not _continues(answer, known, offset)):
                _discard(part, source)
                _create(part, source, {"size": remote.size, "md5": remote.md5})
                raise TryAgain("the file on the server has changed, or it cannot go on where we stopped")
            total = _total(answer)
            if total is not None and total != remote.size:
                raise MrictError(
                    f"{remote.url}: the server has {total} bytes, the record says {remote.size}; "
                    "try again later, or another mirror"
                )
            if answer.status_code == 200:
                if offset:
                    self.say(f"{remote.name}: the server sends the whole file again; starting anew")
                _discard(part, source)
                _create(part, source, {"size": remote.size, "md5": remote.md5, **_validators(answer)})
            _append(answer, part, remote, progress)


def _parse(record: object, url: str) -> tuple[RemoteFile, ...]:
    """Return the files in a record's json; MrictError says what is odd."""
    entries = record.get("files") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not entries:
        raise MrictError(f"{url}: the record lists no files; is it restricted, or no record of Zenodo?")
    found = []
    for entry in entries:
        try:
            name, size, url_of_file = entry["key"], entry["size"], entry["links"]["self"]
            kind, _, digest = entry["checksum"].partition(":")
            known = kind == "md5" and re.fullmatch(r"[0-9a-f]{32}", digest) and type(size) is int and size >= 0
            if not known or not name.isprintable():
                raise ValueError
            found.append(RemoteFile(name, size, digest, urljoin(url, url_of_file)))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MrictError(
                f"{url}: an entry of its files is {str(entry)[:120]}; expected key, size, checksum md5:… and "
                "links.self; check the address"
            ) from None
    return tuple(found)


def _append(answer: requests.Response, part: Path, remote: RemoteFile, progress: Progress | None) -> None:
    """Append an answer's body to `part`, never beyond the size of `remote`."""
    have = _size(part)
    try:
        with open(part, "ab") as file:
            for block in answer.iter_content(BLOCK):
                if have + len(block) > remote.size:
                    raise MrictError(
                        f"{remote.url}: the server sends more than the {remote.size} bytes that the record says; "
                        "try again later, or another mirror"
                    )
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, remote.size, remote.name)
    except requests.RequestException as error:  # before OSError, which it is one of
        raise TryAgain(f"the connection broke off after {have} of {remote.size} bytes ({reason_of(error)})") from None
    except OSError as error:
        raise MrictError(
            f"{shown(part)}: cannot be written ({error.strerror or error}); free space and run again, it goes on there"
        ) from error
    if have < remote.size:
        raise TryAgain(f"the server stopped after {have} of {remote.size} bytes")


def _continues(answer: requests.Response, known: dict, offset: int) -> bool:
    """Say whether a 206 answer starts at `offset` of the same file that the first bytes are of."""
    starts = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    same = all(known.get(key, value) == value for key, value in _validators(answer).items())
    return bool(starts) and int(starts[1]) == offset and same


def _validators(answer: requests.Response) -> dict[str, str]:
    """Return what tells one version of a file from the next: ETag and Last-Modified, where the server sends them."""
    named = (("etag", "ETag"), ("last_modified", "Last-Modified"))
    return {key: answer.headers[header] for key, header in named if header in answer.headers}


def _total(answer: requests.Response) -> int | None:
    """Return the whole file's size as the answer's headers tell it, None when they do not."""
    if answer.status_code == 206:
        match = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
        return int(match[1]) if match else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _create(part: Path, source: Path, identity: dict) -> None:
    """Make an empty part; the note of what it is of comes first: a part without one is not trusted."""
    try:
        write_json(source, identity)
        part.touch()
    except OSError as error:
        raise MrictError(f"{shown(part)}: cannot be written ({error.strerror}); make the folder writable") from None


def _discard(part: Path, source: Path) -> None:
    part.unlink(missing_ok=True)
    source.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _read_source(source: Path) -> dict:
    """Return the note beside a part; a lost or damaged one is empty: the part is then not trusted."""
    with contextlib.suppress(MrictError):
        note = read_json(source)
        return note if isinstance(note, dict) else {}
    return {}
