"""A local server with the part of Zenodo's API that `download` uses, and configurable faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """The fault of one answer; defaults are sound."""

    status: int = 0  # this status and no body
    headers: dict[str, str] = field(default_factory=dict)
    stop_after: int | None = None  # bytes of the body, then the connection breaks off
    ranges: bool = True  # False: 200 and the whole file, whatever range was asked for
    shift: int = 0  # the range starts so many bytes later than asked
    chunked: bool = False  # no Content-Length; the body, cut at `stop_after`, ends as if it were whole
    extra: bytes = b""  # sent after the body
    late: Callable[[], object] | None = None  # called before anything is answered
    wait: Callable[[], object] | None = None  # called after the first `stop_after` bytes, before the connection breaks
    body: bytes | None = None  # instead of the record's json


class Shop(ThreadingHTTPServer):
    """Record 7260705 with `files`; `faults` and `api_faults` are used up by one request each, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def reset(self, **files: bytes) -> None:
        self.files = {name.replace("_", "."): content for name, content in files.items()}
        self.checksums: dict[str, str] = {}  # instead of the true ones
        self.faults: deque[Fault] = deque()
        self.api_faults: deque[Fault] = deque()
        self.etags = True
        self.requests: list[tuple[str, dict[str, str]]] = []

    def record(self) -> dict:
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": "md5:" + self.checksums.get(name, hashlib.md5(content).hexdigest()),
                "links": {"self": f"{self.url}/api/records/7260705/files/{name}/content"},
            }
            for name, content in self.files.items()
        ]
        return {"id": 7260705, "files": entries}

    def ranges(self) -> list[str]:
        """Return the Range header of every request for a file, "" where none was sent."""
        return [headers.get("Range", "") for path, headers in self.requests if "/files/" in path]

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        shop = self.server
        shop.requests.append((self.path, dict(self.headers)))
        match = re.fullmatch(r"/api/records/7260705(?:/files/([^/]+)/content)?", self.path)
        if not match or (match[1] and match[1] not in shop.files):
            self._answer(404, b"{}")
        elif match[1]:
            self._file(shop.files[match[1]], shop.faults.popleft() if shop.faults else Fault())
        else:
            fault = shop.api_faults.popleft() if shop.api_faults else Fault()
            body = json.dumps(shop.record()).encode() if fault.body is None else fault.body
            self._answer(fault.status or 200, body, fault.headers, fault)

    def _file(self, content: bytes, fault: Fault) -> None:
        if fault.status:
            self._answer(fault.status, b"", fault.headers)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag} if self.server.etags else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and fault.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked[1]) + fault.shift
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, content[start:], headers | fault.headers, fault)
        else:
            self._answer(200, content, headers | fault.headers, fault)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: Fault | None = None
    ) -> None:
        fault = fault or Fault()
        if fault.late:
            fault.late()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            piece = body[: fault.stop_after] + fault.extra
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: fault.stop_after])
        if fault.wait:
            self.wfile.flush()
            fault.wait()
        if fault.stop_after is not None:
            self.close_connection = True
