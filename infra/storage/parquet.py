"""Parquet from storage, read so that no thread of Arrow holds an object of Python's.

Arrow's threads may outlive the interpreter: in a command that exits at once, one that still calls a Python file or
releases a Python buffer aborts the process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage.base import Storage
from infra.storage.errors import UserError
from infra.storage.fsspec_access import filesystem
from infra.storage.retry import retry_with_backoff
from infra.storage.s3 import S3Storage

_BLOCK_BYTES = 1 << 20
"""Bytes of one range request of s3fs at least; its default of 50 MiB would download small tables whole."""


def read_table(data: bytes) -> pa.Table:
    """The table in a Parquet file's bytes, which are copied into memory of Arrow's own first."""
    buffer = pa.allocate_buffer(len(data))
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return pq.read_table(pa.BufferReader(buffer))


def read_parquet(store: Storage, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The stored table, or these columns of it; from S3 only these columns are downloaded.

    Raises FileNotFoundError when there is no such file, UserError when it is no Parquet file.
    """
    try:
        if isinstance(store, S3Storage) and columns is not None:
            return _download_columns(store, name, list(columns))
        path = store.local_path(name)
        if path is None:
            return read_table(store.get(name))
        with pq.ParquetFile(path) as file:
            return file.read(columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{store.url}/{name} is damaged or unreadable ({reason}): make it again") from error


def _download_columns(store: S3Storage, name: str, columns: list[str]) -> pa.Table:
    from s3fs.utils import FileExpired

    def read() -> pa.Table:
        files, folder = filesystem(store.url)
        with store.errors(name), files.open(f"{folder}/{name}", block_size=_BLOCK_BYTES) as file:
            return pq.ParquetFile(file, pre_buffer=False).read(columns, use_threads=False)

    return retry_with_backoff(read, attempts=3, retry_on=(FileExpired,), first_pause_s=0.1)
