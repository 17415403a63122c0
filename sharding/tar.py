"""Shards byte by byte: USTAR archives as `tarfile` writes them, and .npy members whose pixels can be memory-mapped.

The headers are written by hand because it was measured: `tarfile.addfile` for each member held sharding at 0.64 of the
codecs' own rate, headers from a template raised it to 0.74, and the buffer below to 0.83 (docs/log.md, "What sharding
costs beside its codecs").
"""

from __future__ import annotations

import functools
import io
import tarfile

import numpy as np

BLOCK_BYTES = 512
MAX_NAME_BYTES = 100
NPY_HEADER_BYTES = 128
"""Offset of the pixels in `npy_bytes`."""
CAPACITY_BYTES = 40 << 20
"""Initial size of a tar's buffer: a shard of the default size and a quarter more."""
_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_EMPTY_SUM = sum(_EMPTY_HEADER[:124]) + sum(_EMPTY_HEADER[135:148]) + 8 * ord(" ") + sum(_EMPTY_HEADER[156:])


class Tar:
    """An archive in one reusable buffer: fresh memory is slow, and so is growth by small steps."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._buffer = memoryview(bytearray(CAPACITY_BYTES))

    def clear(self) -> None:
        """Remove all members; invalidates what `finish` returned."""
        self.size_bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its content."""
        offset = self.size_bytes + BLOCK_BYTES
        end = offset + len(data)
        after = end + -len(data) % BLOCK_BYTES
        self._reserve(after)
        self._buffer[offset - BLOCK_BYTES : offset] = tar_header(name, len(data))
        self._buffer[offset:end] = data
        self._buffer[end:after] = bytes(after - end)
        self.size_bytes = after
        return offset

    def finish(self) -> memoryview:
        """The whole archive with its end; a view of the buffer, valid until the next `add` or `clear`."""
        end = self.size_bytes + tar_end(self.size_bytes)
        self._reserve(end)
        self._buffer[self.size_bytes : end] = bytes(end - self.size_bytes)
        return self._buffer[:end]

    def _reserve(self, size_bytes: int) -> None:
        if size_bytes > len(self._buffer):
            self._buffer = memoryview(bytearray(self._buffer) + bytes(size_bytes))


def member_name(key: str, field_name: str, extension: str) -> str:
    """Name of a sample's field in the tar, as WebDataset splits it."""
    return f"{key}.{field_name}.{extension}"


def tar_header(name: str, size_bytes: int) -> bytes:
    """The 512 bytes before a member's content, equal to those of `tarfile` (USTAR, date and owner zero)."""
    encoded, digits = name.encode(), b"%011o" % size_bytes
    assert len(encoded) <= MAX_NAME_BYTES and len(digits) == 11, (name, size_bytes)
    # Name at 0, size at 124, sum of all bytes at 148 (in which the sum's own 8 bytes count as blanks).
    total = b"%06o\0 " % (_EMPTY_SUM + sum(encoded) + sum(digits))
    name_field = encoded.ljust(MAX_NAME_BYTES, b"\0")
    return b"".join((name_field, _EMPTY_HEADER[100:124], digits, _EMPTY_HEADER[135:148], total, _EMPTY_HEADER[156:]))


def tar_end(content_bytes: int) -> int:
    """Number of zero bytes that end a tar of `content_bytes`: two blocks, then up to a full record."""
    return 2 * BLOCK_BYTES + -(content_bytes + 2 * BLOCK_BYTES) % tarfile.RECORDSIZE


def npy_bytes(array: np.ndarray) -> bytes:
    """A uint8 array of up to 4 axes as a .npy file (version 1.0) with its pixels at `NPY_HEADER_BYTES`."""
    assert array.dtype == np.uint8, array.dtype
    return b"".join((npy_header(array.shape), np.ascontiguousarray(array).data))


@functools.lru_cache(maxsize=16)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """The `NPY_HEADER_BYTES` before the pixels of a uint8 array."""
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_1_0(header, fields)
    assert header.tell() == NPY_HEADER_BYTES, "stored data sets depend on numpy's padding"
    return header.getvalue()
