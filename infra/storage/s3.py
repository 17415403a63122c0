"""Storage on S3 and on what speaks S3, by boto3."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from infra.storage.base import Entry, Storage, check_name, folder_of, join_url
from infra.storage.errors import StorageError
from infra.storage.local import file_errors, new_file
from infra.storage.s3_download import ATTEMPT_S, Download, Stalled
from infra.storage.s3_errors import user_error

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 30
_ATTEMPTS = 5
# check() must answer within 10 s, the search for credentials included: 2 attempts of 2 s or 3 s and a short pause.
_CHECK = {"connect_timeout": 2, "read_timeout": 3, "retries": {"mode": "standard", "total_max_attempts": 2}}
# A download makes its own attempts: it goes on at the byte where the last one ended.
_DOWNLOAD = {"read_timeout": ATTEMPT_S, "retries": {"mode": "standard", "total_max_attempts": 1}}
# Up to here a file is one request with a Content-MD5, above it goes up in parts.
_MULTIPART_BYTES = 32 << 20
_PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 8
_MOST_PARTS = 10_000
_WRITER = "irae-writer"
_SHA256 = "irae-sha256"

_making = threading.Lock()


def _renew_lock() -> None:
    # Another thread may have held it at the moment of the fork, and does not exist in the child.
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class S3Storage(Storage):
    """A prefix of a bucket. The bucket must exist."""

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url, re.DOTALL)
        if not match:
            raise StorageError(
                f"{url!r} is not an S3 place: write s3://bucket/prefix with a bucket of 3 to 63 lower-case letters, "
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
        with self._errors(name):
            if size == 0:  # a range header cannot say this
                _client().head_object(**self._object(name))
                return b""
            content = io.BytesIO()
            self._download(name, content, start, None if size is None else start + size)
            return content.getvalue()

    def put(self, name: str, data: bytes | memoryview, sha256: str | None = None) -> None:
        # S3 compares the content with the MD5, so that what it holds is what the SHA-256 beside it was made of.
        metadata = {_SHA256: sha256} if sha256 else {}
        with self._errors(name):
            _client().put_object(**self._object(name), Body=bytes(data), ContentMD5=_md5(data), Metadata=metadata)

    def put_new(self, name: str, data: bytes) -> bool:
        writer = uuid.uuid4().hex
        options = {"Body": data, "ContentMD5": _md5(data), "IfNoneMatch": "*", "Metadata": {_WRITER: writer}}
        with self._errors(name):
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    _client().put_object(**self._object(name), **options)
                    return True
                except _client().exceptions.ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return self._was_written_by(name, writer)
                    if status != 409 or not attempts_left:  # 409: another writer is at it; ask again who won
                        raise
        raise AssertionError("unreachable")

    def put_file(self, name: str, path: Path) -> None:
        size_bytes = path.stat().st_size
        if size_bytes <= _MULTIPART_BYTES:
            self.put(name, path.read_bytes())
            return
        with self._errors(name):
            _upload_parts(path, size_bytes, self._object(name))

    def get_file(self, name: str, path: Path) -> None:
        with file_errors(path), new_file(path) as target, self._errors(name):
            self._download(name, target)

    def size(self, name: str) -> int | None:
        try:
            with self._errors(name):
                return int(_client().head_object(**self._object(name))["ContentLength"])
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str | None:
        try:
            with self._errors(name):
                return _client().head_object(**self._object(name))["Metadata"].get(_SHA256)
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        folder_of(prefix)
        with self._errors(prefix):
            pages = self._pages(Prefix=self._prefix + prefix)
            found = [Entry(item["Key"], item["Size"]) for page in pages for item in page.get("Contents", ())]
        # Some programs mark a folder by an empty object whose key ends in a slash.
        kept = [Entry(key[len(self._prefix) :], size) for key, size in found if not key.endswith("/")]
        return sorted(kept)

    def folders(self, prefix: str = "") -> builtins.list[str]:
        folder = self._prefix + (check_name(prefix.removesuffix("/")) + "/" if prefix else "")
        with self._errors(prefix):
            pages = self._pages(Prefix=folder, Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return sorted(key[len(folder) : -1] for key in found)

    def delete(self, name: str) -> None:
        with self._errors(name):
            _client().delete_object(**self._object(name))

    def sweep(self) -> None:
        pass  # a request that is cut off leaves nothing

    def local_path(self, name: str) -> None:
        return None

    def check(self) -> None:
        with self._errors():
            _client(quick=True).list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _download(self, name: str, target: BinaryIO, start: int = 0, end: int | None = None) -> None:
        place = self._object(name)
        get_object = lambda **options: _client(download=True).get_object(**place, **options)  # noqa: E731
        Download(get_object, _make_client.cache_clear, target, start, end).run()

    def _pages(self, **options: str) -> Any:
        return _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **options)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_name(name)}

    def _was_written_by(self, name: str, writer: str) -> bool:
        """Whether a 412 was the answer to our own retry: the first answer was lost, but the file is ours."""
        try:
            with self._errors(name):
                return bool(_client().head_object(**self._object(name))["Metadata"].get(_WRITER) == writer)
        except FileNotFoundError:  # another writer's, deleted since
            return False

    @contextlib.contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        endpoint = ""
        try:
            endpoint = _client().meta.endpoint_url
            yield
        except (StorageError, FileNotFoundError):
            raise
        except Stalled as error:
            place = f"{self.url}/{name}"
            reason = error.cause and user_error(error.cause, place, self._bucket, endpoint)
            sentence = reason or f"{place}: the S3 server {endpoint} does not send the file: look at it and the network"
            raise StorageError(f"{sentence} ({error})") from error.cause
        except Exception as error:
            translated = user_error(error, f"{self.url}/{name}".rstrip("/"), self._bucket, endpoint)
            if translated is None:
                raise
            raise translated from error


def _client(quick: bool = False, download: bool = False) -> Any:
    """The client of this process for the AWS variables of now; made anew after a fork and when one has changed."""
    # A hash, so that no secret stands in a local variable that a traceback may show.
    aws_variables = hash(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _making:  # sixteen threads that each make one take seconds
        return _make_client(os.getpid(), aws_variables, quick, download)


@functools.lru_cache(maxsize=8)
def _make_client(pid: int, aws_variables: int, quick: bool, download: bool) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StorageError("s3:// places need boto3: pip install 'irae-pipeline[s3]'") from error
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"mode": "adaptive", "total_max_attempts": _ATTEMPTS},
        "max_pool_connections": 32,
        # Many stores that speak S3 reject the newer checksums; uploads carry a Content-MD5 instead.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    options = defaults | (_CHECK if quick else {}) | (_DOWNLOAD if download else {})
    try:
        return boto3.session.Session().client("s3", config=Config(**options))
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise StorageError(f"{error}: AWS_ENDPOINT_URL must look like http://127.0.0.1:8333") from error


def _upload_parts(path: Path, size_bytes: int, place: dict[str, str]) -> None:
    """Upload a large file. By hand, because boto3's own way sends no checksum that every server verifies."""
    client = _client()
    part_bytes = max(_PART_BYTES, -(-size_bytes // _MOST_PARTS))
    upload = place | {"UploadId": client.create_multipart_upload(**place)["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        with open(path, "rb") as source:
            source.seek((number - 1) * part_bytes)
            data = source.read(part_bytes)
        answer = client.upload_part(**upload, PartNumber=number, Body=data, ContentMD5=_md5(data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
            sent = list(threads.map(send, range(1, -(-size_bytes // part_bytes) + 1)))
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what matters
            client.abort_multipart_upload(**upload)
        raise


def _md5(data: bytes | memoryview) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
