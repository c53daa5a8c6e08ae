"""HTTP with manners: who we are, time-outs, patience with busy servers and bad lines, errors in one line.

Retry-After: RFC 9110, section 10.2.3. Proxies and certificates come from the environment, as requests reads it.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import requests

from mrict_core import __version__
from mrict_core.errors import MrictError

AGENT = f"mrict_core/{__version__} (research software: CT from MRI; python-requests/{requests.__version__})"
CONNECT_S, READ_S = 10.0, 60.0
TRIES = 6  # in a row that bring nothing
MIN_GAIN = 1 << 20  # bytes; a try that brought less counts as one that brought nothing
LONGEST_WAIT_S = 300.0  # a server that asks for more is busy for today: the user decides when to come back
BUSY = (408, 429, 500, 502, 503, 504)
T = TypeVar("T")


class TryAgain(Exception):
    """A try that failed for a reason that may pass; `wait_s` is what the server asked for, None when it did not."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class PatientClient:
    """Asks servers over HTTP. `say` gets one line for every wait; `sleep` waits that many seconds."""

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        timeout_s: tuple[float, float] = (CONNECT_S, READ_S),
    ) -> None:
        self.say = say or (lambda line: None)
        self.sleep = sleep
        self.timeout_s = timeout_s
        self.answered = False  # a name that has been found once is worth waiting for, one that never was is not
        self.session = requests.Session()
        # Zenodo slows down clients that do not say who they are. `identity`: ranges count bytes of the file itself.
        self.session.headers.update({"User-Agent": AGENT, "Accept-Encoding": "identity"})

    def get(self, url: str, headers: dict[str, str], stream: bool) -> requests.Response:
        """Send one request; answers 200, 206 and 416 come back, the rest is TryAgain or MrictError."""
        try:
            answer = self.session.get(url, headers=headers, stream=stream, timeout=self.timeout_s)
        except requests.exceptions.SSLError as error:
            raise MrictError(
                f"{url}: no trusted connection ({reason_of(error)}); check the address, the clock and the certificates "
                "of this machine (REQUESTS_CA_BUNDLE names others)"
            ) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if not self.answered and any(isinstance(cause, socket.gaierror) for cause in _causes(error)):
                raise MrictError(
                    f"{url}: the server's name cannot be found, or that of the proxy ({reason_of(error)}); check the "
                    "address and the network; what was fetched is kept"
                ) from None
            raise TryAgain(f"no connection ({reason_of(error)})") from None
        except requests.RequestException as error:
            raise MrictError(f"{url}: cannot be asked for ({reason_of(error)}); check the address") from None
        self.answered, status = True, answer.status_code
        if status in (200, 206, 416):
            return answer
        answer.close()
        if status in BUSY:
            raise TryAgain(f"the server answers {status} {answer.reason}", _retry_after(answer))
        if status in (404, 410):
            raise MrictError(f"{url}: not found (status {status}); check the address, or whether the record was moved")
        raise MrictError(
            f"{url}: the server answers {status} {answer.reason}, expected 200; check the address and your access"
        )

    def patiently(self, url: str, attempt: Callable[[], T], position: Callable[[], int] = lambda: 0) -> T:
        """Repeat `attempt` while it asks for it and, of the last TRIES, one has moved `position` on."""
        fruitless = 0
        while True:
            before = position()
            try:
                return attempt()
            except TryAgain as problem:
                fruitless = 1 if position() - before >= MIN_GAIN else fruitless + 1
                wait_s = 2.0 ** (fruitless - 1) if problem.wait_s is None else problem.wait_s
                if fruitless == TRIES:
                    raise MrictError(
                        f"{url}: {problem}; gave up after {TRIES} tries; check the network and run again, "
                        "what was fetched is kept"
                    ) from None
                if wait_s > LONGEST_WAIT_S:
                    raise MrictError(
                        f"{url}: {problem} and asks to wait {wait_s:.0f} s; run again after that, "
                        "what was fetched is kept"
                    ) from None
                self.say(f"{problem}; next try in {wait_s:.0f} s")
                self.sleep(wait_s)


def _retry_after(answer: requests.Response) -> float | None:
    """Return the seconds that a server asks to wait: a number, or a date; None when it asks for nothing sensible."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, from the outside in."""
    while error is not None:
        yield error
        inner = [getattr(error, "reason", None), *error.args[:1], error.__cause__, error.__context__]
        error = next((cause for cause in inner if isinstance(cause, BaseException)), None)


def reason_of(error: Exception) -> str:
    """Return the innermost cause's words: the outer ones repeat the address and the whole call."""
    while isinstance(getattr(error, "reason", None), Exception) or (
        error.args and isinstance(error.args[0], Exception)
    ):
        error = error.reason if isinstance(getattr(error, "reason", None), Exception) else error.args[0]
    text = str(error.args[-1] if error.args else error) or type(error).__name__
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(text.split()))[:200]
