"""An HTTP proxy before an S3 server that injects faults into a share of the answers, chosen by a seed.

Requests are forwarded unchanged, so that their signatures stay valid. Every answer closes its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

FAULTS = ("500", "503", "expired", "reset", "trickle")
"""500 InternalError, 503 SlowDown, 403 ExpiredToken, a reset within the body, a trickling body."""
UPLOAD_FAULTS = ("500", "503", "cut_request", "reset")
"""cut_request: a reset within the request's body."""
ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Service Unavailable", "SlowDown"),
    "expired": ("403 Forbidden", "ExpiredToken"),
}
BLOCK_BYTES = 1 << 16
TRICKLE_BYTES, TRICKLE_S = 256, 0.05


class FaultProxy:
    """Context manager; `endpoint` is its URL while it runs.

    share: probability of a fault for the requests that `affects` (method, path) selects.
    kinds: of FAULTS or UPLOAD_FAULTS, or "silent": the connection stays open without an answer.
    max_faults: faults in total; None: no limit. max_consecutive: faults in a row before one request is let through.
    trickle_blocks: blocks of an answer that trickle before the rest comes at once; None: all.
    share, kinds and max_faults may be changed while it runs.
    """

    def __init__(
        self,
        upstream: str,
        *,
        seed: int = 0,
        share: float = 0.5,
        kinds: Sequence[str] = FAULTS,
        max_faults: int | None = None,
        trickle_blocks: int | None = 4,
        max_consecutive: int | None = None,
        affects: Callable[[str, str], bool] = lambda method, path: method == "GET",
    ) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname, address.port)
        self._random = random.Random(seed)
        self.share, self.kinds, self.max_faults, self.affects = share, kinds, max_faults, affects
        self.max_consecutive, self._consecutive = max_consecutive, 0
        self.trickle_blocks = trickle_blocks
        self.injected: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> FaultProxy:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _choose(self, method: str, path: str) -> str | None:
        is_limited = self.max_faults is not None and self.injected.total() >= self.max_faults
        if is_limited or not self.affects(method, path):
            return None
        if self._random.random() >= self.share or self._consecutive == self.max_consecutive:
            self._consecutive = 0
            return None
        self._consecutive += 1
        kind = self._random.choice(self.kinds)
        self.injected[kind] += 1
        return kind

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client or the server closed the connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path = head.split(b" ", 2)[:2]
        fault = self._choose(method.decode(), path.decode())
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault in ANSWERS:
            await self._take_body(head, reader)
            writer.write(error_answer(*ANSWERS[fault]))
            await writer.drain()
            return
        if fault == "cut_request":
            await self._cut_request(head, reader, writer)
            return
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        sending = asyncio.create_task(self._send(head, reader, up_writer))
        try:
            await self._pass_back(up_reader, writer, fault)
        finally:
            sending.cancel()
            up_writer.close()

    async def _take_body(self, head: bytes, reader: asyncio.StreamReader) -> None:
        """Read the request's body; a client that waits for "100 Continue" sends none before an answer."""
        if b"100-continue" not in head.lower():
            await reader.readexactly(body_bytes(head))

    async def _cut_request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a part of the request, then reset both connections."""
        _, up_writer = await asyncio.open_connection(*self._upstream)
        up_writer.write(head)
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if size_bytes := body_bytes(head):
            up_writer.write(await reader.readexactly(self._random.randint(1, size_bytes)))
            await up_writer.drain()
        reset(up_writer)
        reset(writer)

    async def _send(self, head: bytes, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        """Forward the request and its body; upstream closes the connection after its answer."""
        first, rest = head.split(b"\r\n", 1)
        kept = [line for line in rest.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
        upstream.write(b"\r\n".join([first, *kept, b"Connection: close", b"", b""]))
        with contextlib.suppress(OSError):
            while data := await reader.read(BLOCK_BYTES):
                upstream.write(data)
                await upstream.drain()

    async def _pass_back(self, source: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str | None) -> None:
        head = await source.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            writer.write(head)
            head = await source.readuntil(b"\r\n\r\n")
        writer.write(head)
        passed = 0
        break_at = self._random.randrange(1, BLOCK_BYTES) if fault == "reset" else None
        blocks = 0
        while data := await source.read(TRICKLE_BYTES if self._trickles(fault, blocks) else BLOCK_BYTES):
            if self._trickles(fault, blocks):
                await asyncio.sleep(TRICKLE_S)
            blocks += 1
            if break_at is not None and passed + len(data) >= break_at:
                writer.write(data[: break_at - passed])
                await writer.drain()
                reset(writer)
                return
            writer.write(data)
            await writer.drain()
            passed += len(data)

    def _trickles(self, fault: str | None, blocks: int) -> bool:
        return fault == "trickle" and (self.trickle_blocks is None or blocks < self.trickle_blocks)


def body_bytes(head: bytes) -> int:
    """Size of a request's body, by its header."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def error_answer(status: str, code: str) -> bytes:
    """An error answer of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as a crash does: RST, no FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
