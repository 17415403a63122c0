"""One shard of the plan to one tar on the store, with the rows that the manifest will hold of it.

The tar is a plain WebDataset shard: members `<key>.clean.npy`, `<key>.jpeg10.jpg` and so on, uncompressed, in the
plan's order, with every date and owner zero, so that the same input gives the same bytes on any machine. The pixels of
an image lie in it as they are in memory: a reader that knows the offset maps them and decodes nothing.
"""

from __future__ import annotations

import tarfile

from sharding.write.plan import SHARD_BYTES

BLOCK_BYTES = 512
LONGEST_NAME = 100
_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)


class Tar:
    """A tar that grows in one buffer. The buffer is made with room for a usual shard, since to let it grow bit by bit
    is slow; and it can be used again, since fresh memory is slow as well."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._buffer = memoryview(bytearray(SHARD_BYTES * 5 // 4))

    def clear(self) -> None:
        """Begin anew; what `finish` gave before is lost."""
        self.size_bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; where its content begins."""
        offset = self.size_bytes + BLOCK_BYTES
        end = offset + len(data)
        after = end + -len(data) % BLOCK_BYTES
        self._make_room(after)
        self._buffer[offset - BLOCK_BYTES : offset] = tar_header(name, len(data))
        self._buffer[offset:end] = data
        self._buffer[end:after] = bytes(after - end)
        self.size_bytes = after
        return offset

    def finish(self) -> memoryview:
        """The whole tar with its end: no copy, so it changes with the next member."""
        end = self.size_bytes + tar_end(self.size_bytes)
        self._make_room(end)
        self._buffer[self.size_bytes : end] = bytes(end - self.size_bytes)
        return self._buffer[:end]

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > len(self._buffer):
            self._buffer = memoryview(bytearray(self._buffer) + bytes(size_bytes))


def member_name(key: str, field_name: str, extension: str) -> str:
    """What a field is called in the tar."""
    return f"{key}.{field_name}.{extension}"


def tar_header(name: str, size_bytes: int) -> bytes:
    """The block before a member's content: what tarfile writes for it (USTAR), at a tenth of the time."""
    encoded, digits = name.encode(), b"%011o" % size_bytes
    assert len(encoded) <= LONGEST_NAME and len(digits) == 11, (name, size_bytes)
    # Name at 0, size at 124, sum of all bytes at 148 (in which the sum's own 8 bytes count as blanks).
    total = _EMPTY_SUM + sum(encoded) + sum(digits)
    return b"".join(
        (
            encoded.ljust(LONGEST_NAME, b"\0"),
            _EMPTY_HEADER[100:124],
            digits,
            _EMPTY_HEADER[135:148],
            b"%06o\0 " % total,
            _EMPTY_HEADER[156:],
        )
    )


_EMPTY_SUM = sum(_EMPTY_HEADER[:124]) + sum(_EMPTY_HEADER[135:148]) + 8 * ord(" ") + sum(_EMPTY_HEADER[156:])


def tar_end(content_bytes: int) -> int:
    """Zeros that end a tar of so many bytes: two blocks, and then as many as fill a record."""
    return 2 * BLOCK_BYTES + -(content_bytes + 2 * BLOCK_BYTES) % tarfile.RECORDSIZE
