"""Forwards TCP connections: `python -m tests.cluster.forward ADDRESS PORT TO_ADDRESS TO_PORT`.

The local S3 server listens on loopback alone; this lets the hosts of a test reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 18):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()


async def serve(address: str, port: int, to_address: str, to_port: int) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(to_address, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    server = await asyncio.start_server(forward, address, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
