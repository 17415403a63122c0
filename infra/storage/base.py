"""The interface of storage, and the names that every kind of it can hold.

Endpoint and credentials of S3 come from boto3's standard chain alone (AWS_ENDPOINT_URL, AWS_PROFILE, an instance role
...); they are never kept in a Storage, logged or written. A Storage holds nothing but its URL: it may be pickled, used
by many threads at once and used after a fork.
"""

from __future__ import annotations

import abc
import builtins
from pathlib import Path
from typing import NamedTuple

from infra.storage.errors import StorageError

TEMPORARY_PREFIX = ".tmp-"
"""Beginning of the names of unfinished files; they are never listed, and no stored name may begin with it."""


class Entry(NamedTuple):
    """One stored file."""

    name: str
    size_bytes: int


class Storage(abc.ABC):
    """Files by name, such as `shards/train-00001.tar`, below one URL.

    Every method may raise StorageError. Writes are atomic: a reader meets the old or the new content.
    """

    url: str
    """An absolute local path, or `s3://bucket/prefix` without a slash at the end."""

    @abc.abstractmethod
    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `start`, or all; fewer where the file ends. FileNotFoundError when it is absent."""

    @abc.abstractmethod
    def put(self, name: str, data: bytes | memoryview, sha256: str | None = None) -> None:
        """Write or replace a file, confirmed by the store. S3 records the data's `sha256` for the method `sha256`."""

    @abc.abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file only if none has this name; False when there is one. Of racing writers exactly one gets True."""

    @abc.abstractmethod
    def get_file(self, name: str, path: Path) -> None:
        """Download to `path`, atomically; its folder is made. FileNotFoundError when there is no such file."""

    @abc.abstractmethod
    def size(self, name: str) -> int | None:
        """The size of a file in bytes, None when there is no such file."""

    @abc.abstractmethod
    def sha256(self, name: str) -> str | None:
        """SHA-256 of a file, hexadecimal; S3: as given to `put`, no download. None without a file or a record."""

    @abc.abstractmethod
    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """All files whose name begins with `prefix` (text, not a folder), recursively, sorted by name.

        `list("runs/")` is the content of the folder runs. Names are relative to the URL.
        """

    @abc.abstractmethod
    def folders(self, prefix: str = "") -> builtins.list[str]:
        """Bare names of the folders in the folder `prefix`, sorted; on some S3 servers empty ones stay for minutes."""

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if there is one."""

    @abc.abstractmethod
    def sweep(self) -> None:
        """Remove killed writers' unfinished files in this folder, not below. Only while nobody else writes here."""

    @abc.abstractmethod
    def local_path(self, name: str) -> Path | None:
        """The file's path on this machine's disk, to read or map; None for remote storage. It may be absent."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise StorageError, within 10 seconds, unless the URL can be reached and listed."""

    @abc.abstractmethod
    def at(self, *parts: str) -> Storage:
        """The folder below this one."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def join_url(url: str, *parts: str) -> str:
    """The URL of a folder below `url`. Raises StorageError for a part that is not a relative name."""
    names = [check_name(part.rstrip("/")) for part in parts if part]
    return "/".join([url.rstrip("/"), *names])


def check_name(name: str) -> str:
    """The name itself if every kind of storage can hold it, else StorageError."""
    for part in name.split("/"):
        # Some S3 servers take a backslash for a slash.
        odd = not part.isprintable() or "\\" in part
        if odd or part in ("", ".", "..") or part.startswith(TEMPORARY_PREFIX):
            raise StorageError(
                f"{name!r} cannot name a file or folder of a store: use printable parts without backslashes, joined by "
                f"single slashes, none of them '.', '..' or beginning with {TEMPORARY_PREFIX!r}"
            )
    return name


def folder_of(prefix: str) -> str:
    """The folder of all names that begin with `prefix`, "" for the root."""
    return check_name(prefix.rpartition("/")[0]) if "/" in prefix else ""
