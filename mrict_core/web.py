"""Downloads over HTTP: resumed after an interruption, retried while a server is busy, errors in one line.

Retry-After: RFC 9110, section 10.2.3; ranges: section 14. requests reads proxies and certificates from the environment.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
from urllib3.exceptions import InvalidHeader, NameResolutionError
from urllib3.util import Retry

from mrict_core import __version__
from mrict_core.errors import MrictError
from mrict_core.files import unwritable

AGENT = f"mrict_core/{__version__} (research software: CT from MRI; python-requests/{requests.__version__})"
CONNECT_S, READ_S = 10.0, 60.0
TRIES = 6  # in a row without progress
MIN_GAIN = 1 << 20  # bytes; less is no progress
LONGEST_WAIT_S = 300.0  # if a server asks for more, the user decides when to retry
BUSY = (408, 429, 500, 502, 503, 504)
BLOCK = 1 << 16  # bytes; the most that is lost when a connection breaks
Progress = Callable[[int, int, str], None]  # bytes done, total bytes, step
T = TypeVar("T")


class TryAgain(Exception):
    """A try failed for a reason that may pass; `wait_s`: the wait that the server asked for, if any."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Web:
    """A patient HTTP client. `say` gets a line for every wait."""

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        timeout_s: tuple[float, float] = (CONNECT_S, READ_S),
    ) -> None:
        self.say = say or (lambda line: None)
        self.sleep = sleep
        self.timeout_s = timeout_s
        self.answered = False  # once a server has answered, a failing name lookup is retried
        self.session = requests.Session()
        # Zenodo slows down anonymous clients. `identity`: ranges count bytes of the file itself.
        self.session.headers.update({"User-Agent": AGENT, "Accept-Encoding": "identity"})

    def json(self, url: str) -> Any:
        """Return the json at a URL."""

        def attempt() -> Any:
            with self._get(url, {"Accept": "application/json"}) as answer:
                try:
                    return answer.json()
                except requests.JSONDecodeError as error:
                    raise MrictError(f"{url}: the answer is not json ({error}); check the address") from None
                except requests.RequestException as error:
                    raise TryAgain(f"the connection broke ({_reason(error)})") from None

        return self._patiently(url, attempt)

    def fetch(self, url: str, part: Path, size: int | None = None, progress: Progress | None = None) -> None:
        """Download a file to `part`, resuming from its present size; after an error it stays for the next call.

        `size`: expected bytes; None: the server's. Checksums are left to the caller.
        """
        self._patiently(url, lambda: self._resume(url, part, size, progress), lambda: _size(part))

    def _resume(self, url: str, part: Path, size: int | None, progress: Progress | None) -> None:
        """Append the missing bytes to `part`; restart if the server cannot resume."""
        have = _size(part)
        if have == size:
            return
        with self._get(url, {"Range": f"bytes={have}-"} if have else {}) as answer:
            start, total = _range(answer)
            if size not in (None, total) and total is not None:
                raise MrictError(f"{url}: the server has {total} bytes, expected {size}; try again later, or a mirror")
            total = total if size is None else size
            if have and have == total:
                return
            if start not in (0, have):
                part.unlink(missing_ok=True)
                raise TryAgain("the server cannot resume the download")
            if have and not start:
                self.say(f"{part.stem}: the server sends the whole file again; restarting")
            have = start
            try:
                with open(part, "ab" if start else "wb") as file:
                    for block in answer.iter_content(BLOCK):
                        have += len(block)
                        if total is not None and have > total:
                            raise MrictError(f"{url}: the server sends more than {total} bytes; try a mirror")
                        file.write(block)
                        if progress:
                            progress(have, total or have, "fetch")
            except requests.RequestException as error:  # a subclass of OSError
                raise TryAgain(f"the connection broke after {_size(part)} bytes ({_reason(error)})") from None
            except OSError as error:
                raise unwritable(part, error) from error
            if total is not None and have < total:
                raise TryAgain(f"the server stopped after {have} of {total} bytes")

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        """Send one request; return answers 200, 206 and 416, raise TryAgain or MrictError for the rest."""
        try:
            answer = self.session.get(url, headers=headers, stream=True, timeout=self.timeout_s)
        except requests.exceptions.SSLError as error:
            raise MrictError(
                f"{url}: no trusted connection ({_reason(error)}); check the address, the clock and the certificates "
                "of this machine (REQUESTS_CA_BUNDLE sets others)"
            ) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if not self.answered and isinstance(_root(error), NameResolutionError):
                raise MrictError(
                    f"{url}: server or proxy name cannot be found ({_reason(error)}); check the "
                    "address and the network; the partial download is kept"
                ) from None
            raise TryAgain(f"no connection ({_reason(error)})") from None
        except requests.RequestException as error:
            raise MrictError(f"{url}: cannot be requested ({_reason(error)}); check the address") from None
        self.answered, status = True, answer.status_code
        if status in (200, 206, 416):
            return answer
        answer.close()
        if status in BUSY:
            wait_s = None
            with contextlib.suppress(InvalidHeader):
                wait_s = Retry().get_retry_after(answer)
            raise TryAgain(f"the server answers {status} {answer.reason}", wait_s)
        if status in (404, 410):
            raise MrictError(f"{url}: not found (status {status}); check the address, or whether it was moved")
        raise MrictError(
            f"{url}: the server answers {status} {answer.reason}, expected 200; check the address and your access"
        )

    def _patiently(self, url: str, attempt: Callable[[], T], position: Callable[[], int] = lambda: 0) -> T:
        """Repeat `attempt` while it raises TryAgain, until TRIES in a row have not advanced `position`."""
        fruitless = 0
        while True:
            before = position()
            try:
                return attempt()
            except TryAgain as problem:
                fruitless = 1 if position() - before >= MIN_GAIN else fruitless + 1
                wait_s = 2.0 ** (fruitless - 1) if problem.wait_s is None else problem.wait_s
                end = f"gave up after {TRIES} tries; check the network and run again" if fruitless == TRIES else ""
                if wait_s > LONGEST_WAIT_S:
                    end = f"the server asks to wait {wait_s:.0f} s; run again after that"
                if end:
                    raise MrictError(f"{url}: {problem}; {end}, the partial download is kept") from None
                self.say(f"{problem}; next try in {wait_s:.0f} s")
                self.sleep(wait_s)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _range(answer: requests.Response) -> tuple[int | None, int | None]:
    """Return an answer's first byte and the size of the whole file; None: not stated."""
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
    first, total = match.groups() if match else (None, None)
    return first and int(first), int(total) if total and total != "*" else None


def _root(error: Exception) -> Exception:
    """Return an error's innermost cause; the outer ones repeat the address and the call."""
    while True:
        causes = (getattr(error, "reason", None), getattr(error, "original_error", None), *error.args)
        inner = next((cause for cause in causes if isinstance(cause, Exception)), None)
        if inner is None:
            return error
        error = inner


def _reason(error: Exception) -> str:
    root = _root(error)
    text = str(root.args[-1] if root.args else root) or type(root).__name__
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(text.split()))[:200]
