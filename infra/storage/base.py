"""Places for data sets and runs: a local folder or `s3://bucket/prefix`, behind one small interface.

    store = open_storage("s3://team/irae")
    store.at("runs", "first").put("config.json", b"{}")

Endpoint and credentials of S3 come from boto3's standard chain alone (AWS_ENDPOINT_URL, AWS_PROFILE, an instance role
...); they are never kept in a Storage, logged or written. A Storage holds nothing but its URL: it may be pickled, used
by many threads at once and used on after a fork.
"""

from __future__ import annotations

import abc
import builtins
from pathlib import Path
from typing import NamedTuple

from infra.storage.errors import StorageError

# Files that are being written begin with this; they are never listed, and no name may begin with it.
TEMPORARY_PREFIX = ".tmp-"


class Entry(NamedTuple):
    """One stored file."""

    name: str
    size_bytes: int


class Storage(abc.ABC):
    """A place that holds files by name, such as `shards/train-00001.tar`.

    Every method may raise StorageError. A file is only ever seen whole: a reader meets the old or the new content.
    """

    url: str
    """Where it is: an absolute local path, or `s3://bucket/prefix` without a slash at the end."""

    @abc.abstractmethod
    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """The bytes from `start`, `size` of them or up to the end, fewer where the file ends before.

        Raises FileNotFoundError when there is no such file.
        """

    @abc.abstractmethod
    def put(self, name: str, data: bytes | memoryview, sha256: str | None = None) -> None:
        """Write a file whole, over an older one if there is one; returns once the store has confirmed it.

        `sha256`, of the data, is recorded on S3 for the method `sha256`.
        """

    @abc.abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file only if none has this name; False when there is one. Of many racing writers one gets True."""

    @abc.abstractmethod
    def get_file(self, name: str, path: Path) -> None:
        """Download to `path` (its folder is made), which changes only when all of it has arrived.

        Raises FileNotFoundError when there is no such file.
        """

    @abc.abstractmethod
    def size(self, name: str) -> int | None:
        """The size of a file in bytes, None when there is no such file."""

    @abc.abstractmethod
    def sha256(self, name: str) -> str | None:
        """The SHA-256 of a file's content as hexadecimal digits; on S3 as `put` was told it, without a download.

        None when there is no such file, or S3 has no record.
        """

    @abc.abstractmethod
    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """All files whose name begins with `prefix` (text, not a folder), in all folders below, sorted by name.

        `list("runs/")` is what lies in the folder runs. Names are relative to this place.
        """

    @abc.abstractmethod
    def folders(self, prefix: str = "") -> builtins.list[str]:
        """Bare names of the folders that lie directly in the folder `prefix`, sorted.

        A folder begins with its first file and ends with its last one, on some S3 servers minutes after it.
        """

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; it is fine when there is none."""

    @abc.abstractmethod
    def sweep(self) -> None:
        """Remove what writers that were killed have left half done directly in this folder, not in those below.

        Only for who knows that nobody writes here now.
        """

    @abc.abstractmethod
    def local_path(self, name: str) -> Path | None:
        """Where the file is on this machine's disk, to be read or memory-mapped; None when it is not on a disk.

        The file may be absent.
        """

    @abc.abstractmethod
    def check(self) -> None:
        """Raise StorageError, within 10 seconds, unless the place can be reached and listed."""

    @abc.abstractmethod
    def at(self, *parts: str) -> Storage:
        """The folder below this one."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def join_url(url: str, *parts: str) -> str:
    """The URL of a place below `url`. Raises StorageError for a part that is not a relative name."""
    names = [check_name(part.rstrip("/")) for part in parts if part]
    return "/".join([url.rstrip("/"), *names])


def check_name(name: str) -> str:
    """The name itself if both kinds of storage can hold it, else StorageError."""
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
    """The folder that holds all names beginning with `prefix`, "" for the place itself."""
    return check_name(prefix.rpartition("/")[0]) if "/" in prefix else ""
