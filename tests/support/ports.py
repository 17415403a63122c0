"""Ports for servers that a test stops and starts again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

PORTS = range(20_000, 22_000)
"""Below the ports that systems lend to outgoing connections, and beside those of Ray's workers."""
LOOPBACK = "127.0.0.1"


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free TCP port that no other test takes meanwhile, even while nothing listens on it.

    The UDP port of the same number, which stays bound, is the reservation.
    """
    for port in PORTS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation, socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                reservation.bind((LOOPBACK, port))
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            probe.close()
            yield port
            return
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
