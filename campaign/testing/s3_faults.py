"""A proxy between a client and an S3 server that spoils requests on purpose: refuses, answers late or not at all, loses the answer.

client ── request k ──▶ FaultyProxy ── forwarded, or not ──▶ server
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit


class Fault(StrEnum):
    """What happens to a request."""

    ERROR_500 = "500"
    """The server says InternalError and did nothing."""
    SLOW_DOWN = "503"
    """The server says SlowDown and did nothing."""
    RESET = "reset"
    """The connection is reset before the server sees the request."""
    LOST_ANSWER = "lost answer"
    """The server does what was asked, and the connection is reset before it says so."""
    CUT_ANSWER = "cut answer"
    """The connection ends in the middle of the answer."""
    HANG = "hang"
    """Nothing is ever answered, and the connection stays open."""


_BODIES: Final = {
    Fault.ERROR_500: (500, "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"),
    Fault.SLOW_DOWN: (503, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
}
# Headers of one connection that mean nothing on the next one.
_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length", "server", "date", "keep-alive"})

Rule = Callable[[int, str, str], "Fault | None"]
"""Number of the request, counted from 0, its method and its path → what happens to it."""


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests to `upstream`; `rule` decides which are spoiled, and how."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.rule: Rule = lambda number, method, path: None
        self.requests: list[str] = []
        self.spoiled: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def restart(self, rule: Rule) -> None:
        """Count from 0 again, under another rule."""
        with self._lock:
            self.rule, self.requests, self.spoiled = rule, [], []

    def judge(self, method: str, path: str) -> Fault | None:
        """Count a request and say what happens to it."""
        with self._lock:
            fault = self.rule(len(self.requests), method, path)
            self.requests.append(f"{method} {path}")
            if fault is not None:
                self.spoiled.append(f"{fault}: {method} {path}")
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client has gone away."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.judge(self.command, self.path)
        if fault is Fault.HANG:
            self.server.closing.wait()
        if fault in (Fault.RESET, Fault.HANG):
            self._reset()
            return
        if fault in _BODIES:
            status, text = _BODIES[fault]
            self._answer(status, [("Content-Type", "application/xml")], text.encode(), None)
            return
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault is Fault.LOST_ANSWER:
            self._reset()
            return
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        # What HEAD answers has a length and no content.
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, headers, content[: len(content) // 2] if fault else content, length or str(len(content)))
        if fault is Fault.CUT_ANSWER:
            self._reset()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None) -> None:
        self.send_response_only(status)
        for name, value in [*headers, ("Content-Length", length or str(len(content)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        # With a linger time of zero the kernel sends RST where it would send FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy before the server at `upstream` while the block runs."""
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()


def every(fault: Fault, method: str = "", path: str = "") -> Rule:
    """Spoil each request whose method and path hold these texts."""
    return lambda number, its_method, its_path: fault if method in its_method and path in its_path else None


def once(fault: Fault, k: int) -> Rule:
    """Spoil request number k, and no other."""
    return lambda number, method, path: fault if number == k else None
