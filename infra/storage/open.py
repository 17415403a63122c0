"""Places for data sets and runs: a local folder or `s3://bucket/prefix`, behind one small interface.

    store = open_storage("s3://team/irae")
    store.at("runs", "first").put("config.json", b"{}")

Endpoint and credentials of S3 come from boto3's standard chain alone (AWS_ENDPOINT_URL, AWS_PROFILE, an instance role
...); they are never kept in a Storage, logged or written. A Storage holds nothing but its URL: it may be pickled, used
by many threads at once and used on after a fork.
"""

from __future__ import annotations

import re
from pathlib import Path

from infra.storage.base import Storage
from infra.storage.errors import StorageError


def open_storage(url: str | Path) -> Storage:
    """The place at a local path, a `file://` URL or an `s3://` URL. Touches nothing; see Storage.check.

    Raises StorageError for a URL of another kind.
    """
    text = str(url)
    if re.match(r"s3:/", text):
        from infra.storage.s3 import S3Storage

        return S3Storage(text)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if not text or (scheme and scheme[1] != "file"):
        raise StorageError(f"{text!r} is not a place that can be used: give a local folder or s3://bucket/prefix")
    from infra.storage.local import FileStorage

    return FileStorage(Path(text.removeprefix("file://")))
