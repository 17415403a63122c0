"""Storage on S3 and on servers that speak its protocol, by boto3."""

from __future__ import annotations

import base64
import builtins
import contextlib
import functools
import hashlib
import io
import os
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from infra.storage.base import Entry, Storage, check_name, folder_of, join_url
from infra.storage.errors import StorageError
from infra.storage.local import file_errors, new_file
from infra.storage.retry import retry_with_backoff
from infra.storage.s3_download import ATTEMPT_S, Download, Interrupted
from infra.storage.s3_errors import ConflictError, user_error

ATTEMPTS = 5
CONFIG = {
    "connect_timeout": 3,
    "read_timeout": 30,
    # Many stores that speak S3 reject the newer checksums; uploads carry a Content-MD5 instead.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
"""botocore's settings for every client, of s3fs too; timeouts in s."""
_CLIENT: dict[str, Any] = CONFIG | {
    "max_pool_connections": 32,
    "retries": {"mode": "adaptive", "total_max_attempts": ATTEMPTS},
}
# check() must answer within 10 s, the search for credentials included: 2 attempts of 2 s or 3 s and a short pause.
_CHECK = {"connect_timeout": 2, "read_timeout": 3, "retries": {"mode": "standard", "total_max_attempts": 2}}
# A download retries by itself, from the byte that it has reached.
_DOWNLOAD = {"read_timeout": ATTEMPT_S, "retries": {"mode": "standard", "total_max_attempts": 1}}
_WRITER = "irae-writer"
_SHA256 = "irae-sha256"

_making = threading.Lock()


def _renew_lock() -> None:
    # Another thread may have held it at the moment of the fork, and does not exist in the child.
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class S3Storage(Storage):
    """A prefix of a bucket. The bucket must exist."""

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url, re.DOTALL)
        if not match:
            raise StorageError(
                f"{url!r} is not an S3 URL: write s3://bucket/prefix with a bucket of 3 to 63 lower-case letters, "
                "digits, dots and hyphens"
            )
        self._bucket: str = match[1]
        prefix = (match[2] or "").rstrip("/")
        self._prefix = f"{check_name(prefix)}/" if prefix else ""
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def at(self, *parts: str) -> S3Storage:
        return S3Storage(join_url(self.url, *parts))

    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        assert start >= 0 and (size is None or size >= 0), (start, size)
        with self.errors(name):
            if size == 0:  # a range header cannot say this
                s3_client().head_object(**self._object(name))
                return b""
            content = io.BytesIO()
            self._download(name, content, start, None if size is None else start + size)
            return content.getvalue()

    def put(self, name: str, data: bytes | memoryview, sha256: str | None = None) -> None:
        # The server verifies the MD5, so that the stored content is the one whose SHA-256 stands beside it.
        metadata = {_SHA256: sha256} if sha256 else {}
        with self.errors(name):
            s3_client().put_object(**self._object(name), Body=bytes(data), ContentMD5=_md5(data), Metadata=metadata)

    def put_new(self, name: str, data: bytes) -> bool:
        writer = uuid.uuid4().hex
        options = {"Body": data, "ContentMD5": _md5(data), "IfNoneMatch": "*", "Metadata": {_WRITER: writer}}

        def put() -> bool:
            with self.errors(name):
                try:
                    s3_client().put_object(**self._object(name), **options)
                    return True
                except s3_client().exceptions.ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                        # The file is ours if this answers botocore's retry of a write whose first answer was lost.
                        head = self._head(name)
                        return head is not None and head["Metadata"].get(_WRITER) == writer
                    raise

        return retry_with_backoff(put, attempts=ATTEMPTS, retry_on=(ConflictError,), first_pause_s=0.1)

    def get_file(self, name: str, path: Path) -> None:
        with file_errors(path), new_file(path) as target, self.errors(name):
            self._download(name, target)

    def size(self, name: str) -> int | None:
        head = self._head(name)
        return None if head is None else int(head["ContentLength"])

    def sha256(self, name: str) -> str | None:
        head = self._head(name)
        return None if head is None else head["Metadata"].get(_SHA256)

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        folder_of(prefix)
        with self.errors(prefix):
            pages = self._pages(Prefix=self._prefix + prefix)
            found = [Entry(item["Key"], item["Size"]) for page in pages for item in page.get("Contents", ())]
        # Some programs mark a folder by an empty object whose key ends in a slash.
        kept = [Entry(key[len(self._prefix) :], size) for key, size in found if not key.endswith("/")]
        return sorted(kept)

    def folders(self, prefix: str = "") -> builtins.list[str]:
        folder = self._prefix + (check_name(prefix.removesuffix("/")) + "/" if prefix else "")
        with self.errors(prefix):
            pages = self._pages(Prefix=folder, Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return sorted(key[len(folder) : -1] for key in found)

    def delete(self, name: str) -> None:
        with self.errors(name):
            s3_client().delete_object(**self._object(name))

    def sweep(self) -> None:
        pass  # an interrupted request leaves nothing

    def local_path(self, name: str) -> None:
        return None

    def check(self) -> None:
        with self.errors():
            s3_client(quick=True).list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _download(self, name: str, target: BinaryIO, start: int = 0, end: int | None = None) -> None:
        key = self._object(name)
        get_object = lambda **options: s3_client(download=True).get_object(**key, **options)  # noqa: E731
        Download(get_object, _make_client.cache_clear, target, start, end).run()

    def _pages(self, **options: str) -> Any:
        return s3_client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **options)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_name(name)}

    def _head(self, name: str) -> dict[str, Any] | None:
        """Size and metadata of a file, None when there is no such file."""
        with contextlib.suppress(FileNotFoundError), self.errors(name):
            return s3_client().head_object(**self._object(name))
        return None

    @contextlib.contextmanager
    def errors(self, name: str = "") -> Iterator[None]:
        """Translate errors of boto3 and s3fs about the file into StorageError or FileNotFoundError."""
        endpoint = ""
        try:
            endpoint = s3_client().meta.endpoint_url
            yield
        except StorageError:
            raise
        except Interrupted as error:
            url = f"{self.url}/{name}"
            cause = error.__cause__
            reason = user_error(cause, url, self._bucket, endpoint) if isinstance(cause, Exception) else None
            sentence = reason or f"{url}: the S3 server {endpoint} does not send the file: look at it and the network"
            raise StorageError(f"{sentence} ({error})") from cause
        except Exception as error:
            translated = user_error(error, f"{self.url}/{name}".rstrip("/"), self._bucket, endpoint)
            if translated is None:
                raise
            raise translated from error


def s3_client(quick: bool = False, download: bool = False) -> Any:
    """The boto3 client of this process for the present AWS variables; a new one after a fork or a change of them."""
    with _making:  # clients created by 16 threads at once take seconds
        return _make_client(client_key(), quick, download)


def client_key() -> tuple[int, int]:
    """Process and AWS variables for which a client is valid. Hashed, since tracebacks may show local variables."""
    return os.getpid(), hash(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))


@functools.lru_cache(maxsize=8)
def _make_client(key: tuple[int, int], quick: bool, download: bool) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StorageError("s3:// URLs need boto3: pip install 'irae-pipeline[s3]'") from error
    options = _CLIENT | (_CHECK if quick else {}) | (_DOWNLOAD if download else {})
    try:
        return boto3.session.Session().client("s3", config=Config(**options))
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise StorageError(f"{error}: AWS_ENDPOINT_URL must look like http://127.0.0.1:8333") from error


def _md5(data: bytes | memoryview) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
