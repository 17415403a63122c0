"""A TCP proxy between a client and a server of this machine, which may change or count what passes."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any


class TcpProxy(socketserver.ThreadingTCPServer):
    """Forwards bytes to a server; the two functions may change them, or return None to close the connection."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), None)  # type: ignore[arg-type]
        self.server_port = int(endpoint.rpartition(":")[2])
        self.request_fault: Callable[[bytes], bytes | None] = lambda data: data
        self.answer_fault: Callable[[bytes], bytes | None] = lambda data: data
        self.bytes_sent = 0
        """Bytes of answers that have passed."""
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: Any, client_address: object) -> None:
        with socket.create_connection(("127.0.0.1", self.server_port)) as server:
            ways = [
                (request, server, lambda data: self.request_fault(data)),
                (server, request, self._answer),
            ]
            threads = [threading.Thread(target=self._forward, args=way) for way in ways]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _answer(self, data: bytes) -> bytes | None:
        self.bytes_sent += len(data)
        return self.answer_fault(data)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, fault: Callable[[bytes], bytes | None]) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and (changed := fault(data)) is not None:
                target.sendall(changed)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
