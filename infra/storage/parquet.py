"""Parquet in memory, read so that no thread of Arrow ever holds on to an object of Python's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def read_table(data: bytes) -> pa.Table:
    """The table in a Parquet file's bytes.

    They are copied into memory of Arrow's own first. Its threads would otherwise call a Python file, or let go of a
    Python buffer, when they please: in a command that ends at once, after the interpreter, which aborts the process.
    """
    buffer = pa.allocate_buffer(len(data))
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return pq.read_table(pa.BufferReader(buffer))
