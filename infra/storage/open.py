"""A URL or path opened as the Storage of its kind."""

from __future__ import annotations

import re
from pathlib import Path

from infra.storage.base import Storage
from infra.storage.errors import StorageError
from infra.storage.local import FileStorage
from infra.storage.s3 import S3Storage


def open_storage(url: str | Path) -> Storage:
    """The storage at a local path, `file://` or `s3://` URL; touches nothing. Raises StorageError for another URL."""
    text = str(url)
    if text.startswith("s3:/"):
        return S3Storage(text)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if not text or (scheme and scheme[1] != "file"):
        raise StorageError(f"{text!r} is not a URL of a store: give a local folder or s3://bucket/prefix")
    return FileStorage(Path(text.removeprefix("file://")))
