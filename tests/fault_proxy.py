"""A bad connection to an S3 server: passes requests on, and spoils some of them, decided by a seed.

    with FaultProxy(endpoint, Faults(share=0.2, kinds=("500", "cut_request")), seed=1) as proxy:
        ...  # with AWS_ENDPOINT_URL = proxy.url

The n-th request always meets the same fate; `proxy.met` counts what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

CODES = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "slow_down": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
}
"""Answers instead of the server's."""
CUTS = ("cut_request", "cut_answer")
"""Resets after some bytes of the body: on the way to the server, or back."""
KINDS = (*CODES, *CUTS, "trickle")
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Faults:
    """What happens, and how often."""

    share: float = 0.0
    """Of the requests that are spoilt."""
    kinds: tuple[str, ...] = ("500", "503", "slow_down", "cut_request", "cut_answer")
    """One of `KINDS` each, drawn evenly."""
    most_bytes: int = 1 << 20
    """A cut comes after 1 to so many bytes, small numbers as often as large ones, or earlier at a request's end."""
    trickle_bytes_per_s: int = 100_000
    in_a_row: int = 3
    """After so many spoilt requests one is good, so that a client that tries often enough succeeds."""
    at_most: int | None = None
    """So many faults, and then a good connection."""


class FaultProxy:
    """Listens on 127.0.0.1 in a thread of its own, between `with` and its end. `faults` may be changed meanwhile."""

    def __init__(self, endpoint: str, faults: Faults | None = None, seed: int = 0) -> None:
        address = urlsplit(endpoint)
        self._server = (address.hostname or "127.0.0.1", address.port or 80)
        self.faults = faults or Faults()
        self.met: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._row = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="fault-proxy")

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.url = "http://{}:{}".format(*self._listener.sockets[0].getsockname()[:2])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _fate(self) -> tuple[str, int]:
        """What happens to this request, and after how many bytes."""
        kind = self._random.choice(self.faults.kinds) if self._random.random() < self.faults.share else "good"
        after_bytes = round(self.faults.most_bytes ** self._random.random())
        spoilt = self.met.total() - self.met["good"]
        if self.faults.at_most is not None and spoilt >= self.faults.at_most:
            kind = "good"
        self._row = 0 if kind == "good" or self._row >= self.faults.in_a_row else self._row + 1
        kind = kind if self._row else "good"
        self.met[kind] += 1
        return kind, after_bytes

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, then the connection is closed: a client opens another."""
        kind = "good"
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            kind, after_bytes = self._fate()
            if kind in CODES:
                await self._answer(reader, writer, head, *CODES[kind])
            else:
                await self._pass_on(reader, writer, head, kind, after_bytes)
        if kind in CUTS:
            _reset(writer)
        else:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, status: int, code: str
    ) -> None:
        if b"100-continue" not in head.lower():  # else the client waits for an answer before it sends the body
            await reader.readexactly(_body_bytes(head))
        body = f"<Error><Code>{code}</Code><Message>made by the test</Message></Error>".encode()
        if head.startswith(b"HEAD"):
            body = b""
        writer.write(b"HTTP/1.1 %d Fault\r\nContent-Type: application/xml\r\n" % status)
        writer.write(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, kind: str, after_bytes: int
    ) -> None:
        there = min(after_bytes, _body_bytes(head)) if kind == "cut_request" else None
        back = after_bytes if kind == "cut_answer" else None
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        try:
            server_writer.write(head[:-2] + b"Connection: close\r\n\r\n")
            delay = _CHUNK_BYTES / 16 / self.faults.trickle_bytes_per_s if kind == "trickle" else 0.0
            sending = asyncio.create_task(_pump(reader, server_writer, _body_bytes(head), there))
            await _pump(server_reader, writer, None, back, delay)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        finally:
            _reset(server_writer)


async def _pump(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    total: int | None,
    cut_after: int | None = None,
    delay_s: float = 0.0,
) -> None:
    """Pass bytes on, `total` of them or until the end. A cut resets the target."""
    passed = 0
    while True:
        if cut_after is not None and passed >= cut_after:
            return _reset(target)
        if passed == total:
            return None
        limit = min(x for x in (total, cut_after, passed + _CHUNK_BYTES) if x is not None) - passed
        data = await source.read(min(limit, _CHUNK_BYTES // 16) if delay_s else limit)
        if not data:
            return None
        target.write(data)
        await target.drain()
        passed += len(data)
        await asyncio.sleep(delay_s)


def _body_bytes(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once with a reset, as a router does that has lost the connection."""
    opened = writer.get_extra_info("socket")
    if opened is not None and opened.fileno() >= 0:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
