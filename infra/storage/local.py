"""Storage in a local folder, with atomic writes: a temporary file is renamed."""

from __future__ import annotations

import builtins
import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from infra.storage.base import TEMPORARY_PREFIX, Entry, Storage, check_name, folder_of, join_url
from infra.storage.errors import StorageError

_COPY_BYTES = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


class FileStorage(Storage):
    """A folder of this machine; it need not exist before the first put."""

    def __init__(self, folder: Path) -> None:
        self._root = Path(os.path.abspath(folder.expanduser()))
        self.url = str(self._root)

    def at(self, *parts: str) -> FileStorage:
        return FileStorage(Path(join_url(self.url, *parts)))

    def get(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        assert start >= 0 and (size is None or size >= 0), (start, size)
        with self._open(name) as source:
            source.seek(start)
            return source.read(-1 if size is None else size)

    def put(self, name: str, data: bytes | memoryview, sha256: str | None = None) -> None:
        path = self._path(name)
        with file_errors(path), new_file(path) as target:
            target.write(data)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with file_errors(path):
            try:
                # A hard link is the one step that publishes whole content and fails where the name exists.
                with new_file(path, publish=_link) as target:
                    target.write(data)
            except FileExistsError:
                return False
        return True

    def get_file(self, name: str, path: Path) -> None:
        with self._open(name) as source, file_errors(path), new_file(path) as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        with file_errors(path):
            return path.stat().st_size if path.is_file() else None

    def sha256(self, name: str) -> str | None:
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError), self._open(name) as source:
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
            return digest.hexdigest()
        return None

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        folder = self._root / folder_of(prefix)
        with file_errors(folder):
            entries = [Entry(path.relative_to(self._root).as_posix(), size) for path, size in _walk(folder)]
        return sorted(entry for entry in entries if entry.name.startswith(prefix))

    def folders(self, prefix: str = "") -> builtins.list[str]:
        folder = self._path(prefix.removesuffix("/")) if prefix else self._root
        if not folder.is_dir():
            return []
        with file_errors(folder):
            # A folder without a file does not exist on S3, so it does not here.
            return sorted(child.name for child in folder.iterdir() if child.is_dir() and any(_walk(child)))

    def delete(self, name: str) -> None:
        path = self._path(name)
        if path.is_dir():
            return
        with file_errors(path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            self._remove_empty(path.parent)

    def sweep(self) -> None:
        with file_errors(self._root):
            for path in self._root.glob(f"{TEMPORARY_PREFIX}*"):
                path.unlink(missing_ok=True)

    def local_path(self, name: str) -> Path:
        return self._path(name)

    def check(self) -> None:
        with file_errors(self._root):
            nearest = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
            if not nearest.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(nearest))
            os.scandir(nearest).close()
            if nearest != self._root and not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "not writable", str(nearest))

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _open(self, name: str) -> BinaryIO:
        path = self._path(name)
        with file_errors(path):
            try:
                return open(path, "rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise FileNotFoundError(f"{path} does not exist") from None

    def _remove_empty(self, folder: Path) -> None:
        """As on S3, no folder is empty."""
        while folder != self._root and self._root in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # not empty, or already removed
                return
            folder = folder.parent


@contextlib.contextmanager
def new_file(path: Path, publish: Callable[[Path, Path], None] = os.replace) -> Iterator[BinaryIO]:
    """A file that is published at `path`, whole and flushed to the disk, unless the block raises."""
    temporary, handle = _open_temporary(path.parent)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Translate errors of the operating system into StorageErrors that say what to do; FileNotFoundError passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        where = error.filename or path
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            sentence = f"permission denied for {where}: change its owner or mode, or choose another folder"
        elif error.errno in _NO_SPACE:
            sentence = f"no space left for {path}: free some, or choose another disk"
        elif isinstance(error, NotADirectoryError):
            sentence = f"{where} needs a folder where there is a file: move the file away, or choose another folder"
        elif isinstance(error, IsADirectoryError):
            sentence = f"{where} is a folder where a file is needed: move it away, or choose another name"
        else:
            sentence = f"{where} cannot be used ({error.strerror or error}): choose another folder"
        raise StorageError(sentence) from error


def _open_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    path = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    for attempts_left in reversed(range(10)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return path, open(path, "xb")
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder)) from None
        except FileNotFoundError:  # a delete removed the still empty folder in between
            if not attempts_left:
                raise
    raise AssertionError("unreachable")


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StorageError(
            f"the disk of {path} has no hard links, so two writers cannot be kept apart: choose another folder"
        ) from error


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every finished file below a folder and its size in bytes; none when the folder is absent."""
    for parent, _, names in os.walk(folder, followlinks=True, onerror=_raise_unless_absent):
        for name in names:
            path = Path(parent, name)
            if not name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    yield path, path.stat().st_size


def _raise_unless_absent(error: OSError) -> None:
    # By default os.walk skips a folder that it may not read, and files would silently be missing from a list.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
