"""A folder of verified files that all processes of a machine share, up to a limit; the least recently used go first.

    <name>                  a whole file; it appears by renaming
    <name>.lock             held (flock) by the process that fetches it, while the others wait
    <name>.<bytes>.part/    what is being fetched, and how much room is set aside for it

The kernel gives a killed process's locks back, so what it left is known by a lock that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from infra.storage import UserError

POLL_S = 0.02
WAIT_S = 25.0
"""A process that fetches for others is given up when its file does not grow for this long."""
_NOTE_BYTES = 1 << 16


class Cache:
    """Files by name, memory-mapped. Safe for many threads and processes on one machine.

    limit_bytes: of all files together. Default: IRAE_CACHE_BYTES, or 80 % of what is free or held here already.
    A file in use stays readable when it is removed; its room is free once nobody maps it any more.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the cache folder {folder} cannot be made ({error.strerror}); choose another.") from error
        self.sweep()
        self.limit_bytes = limit_bytes or _limit_from_environment() or self._default_limit()

    def map(self, name: str, size_bytes: int, fetch: Callable[[Path], None]) -> np.ndarray:
        """The file's bytes, read-only uint8 (size_bytes,).

        When it is not here, one process calls `fetch`, which writes and verifies it at the path given. ValueError from
        `fetch` is raised in every process that waited for it.
        """
        if size_bytes > self.limit_bytes:
            raise UserError(
                f"the cache {self.folder} may hold {self.limit_bytes:,} bytes, but one file has {size_bytes:,}; raise "
                "IRAE_CACHE_BYTES or free some of the disk."
            )
        path = self.folder / name
        while True:
            mapped = self._held(path, size_bytes)
            if mapped is not None:
                return mapped
            with _only_one(path.with_name(f"{name}.lock"), lambda: self._fetched_bytes(name)) as ours:
                # Another process may have brought it between the look and the lock.
                if ours and (mapped := self._held(path, size_bytes)) is None:
                    mapped = self._fetch(path, size_bytes, fetch)
            if mapped is not None:
                return mapped

    def holds(self, name: str) -> bool:
        return (self.folder / name).exists()

    def sweep(self) -> None:
        """Remove what killed processes left half done."""
        names = {path.name.removesuffix(".lock") for path in self.folder.glob("*.lock")}
        names |= {path.name.rsplit(".", 2)[0] for path in self.folder.glob("*.*.part")}
        for name in names:
            with _lock_if_free(self.folder / f"{name}.lock") as ours:
                if ours:
                    self._remove_parts(name)

    def _held(self, path: Path, size_bytes: int) -> np.ndarray | None:
        try:
            mapped = map_file(path)
        except (FileNotFoundError, ValueError):  # ValueError: empty
            return None
        if len(mapped) != size_bytes:
            return None
        with contextlib.suppress(FileNotFoundError):  # just removed; what is mapped stays
            os.utime(path)
        return mapped

    def _fetch(self, path: Path, size_bytes: int, fetch: Callable[[Path], None]) -> np.ndarray:
        part = self._evict_lru_and_reserve(path, size_bytes)
        try:
            fetch(part / path.name)
            mapped = map_file(part / path.name)
            assert len(mapped) == size_bytes, (len(mapped), size_bytes)
            os.replace(part / path.name, path)
            return mapped
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _evict_lru_and_reserve(self, path: Path, size_bytes: int) -> Path:
        """Remove the least recently used files until this one fits; its folder counts as taken from now on."""
        self._remove_parts(path.name)
        with self._folder_lock():
            files, taken_bytes = [], size_bytes
            for entry in os.scandir(self.folder):
                if entry.name.endswith(".part"):
                    taken_bytes += int(entry.name.rsplit(".", 2)[1])
                elif not entry.name.endswith(".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
                        taken_bytes += status.st_size
            for _, held_bytes, oldest in sorted(files):
                if taken_bytes <= self.limit_bytes:
                    break
                Path(oldest).unlink(missing_ok=True)
                taken_bytes -= held_bytes
            part = path.with_name(f"{path.name}.{size_bytes}.part")
            part.mkdir()
            return part

    def _remove_parts(self, name: str) -> None:
        for part in self.folder.glob(f"{name}.*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def _fetched_bytes(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):  # the other process is done
            return sum(file.stat().st_size for file in self.folder.glob(f"{name}.*.part/*"))
        return 0

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[None]:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _default_limit(self) -> int:
        held_bytes = sum(path.stat().st_size for path in self.folder.glob("*.tar"))
        return int(0.8 * (shutil.disk_usage(self.folder).free + held_bytes))


def map_file(path: Path) -> np.ndarray:
    """A file's bytes, memory-mapped, read-only uint8. ValueError when it is empty."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _limit_from_environment() -> int | None:
    text = os.environ.get("IRAE_CACHE_BYTES")
    if text is None:
        return None
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"IRAE_CACHE_BYTES is {text!r}, but must be a number of bytes above 0, such as 50000000000.")
    return int(text)


@contextlib.contextmanager
def _only_one(path: Path, progress: Callable[[], int]) -> Iterator[bool]:
    """True: the lock is ours. False: another one had it until now, so look again whether its work is done.

    An error of the holder is written into the lock file before the file is removed: who waits for it holds the same
    file and reads it there, and raises it as well, instead of trying for as long again.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(handle, path, progress)
        if not _is_at(handle, path):
            note = os.pread(handle, _NOTE_BYTES, 0).decode(errors="replace")
            if note:
                raise UserError(note)
            yield False
            return
        try:
            os.ftruncate(handle, 0)  # a process killed at this very point may have left its note
            yield True
        except ValueError as error:
            os.pwrite(handle, str(error).encode()[:_NOTE_BYTES], 0)
            raise
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _wait_for(handle: int, path: Path, progress: Callable[[], int]) -> None:
    done, since = -1, time.monotonic()
    while not _try_lock(handle):
        if (now_done := progress()) != done:
            done, since = now_done, time.monotonic()
        if time.monotonic() - since > WAIT_S:
            raise UserError(
                f"another process on this machine holds {path} and fetches nothing for {WAIT_S:.0f} s (stopped at byte "
                f"{done}); end it."
            )
        time.sleep(POLL_S)


@contextlib.contextmanager
def _lock_if_free(path: Path) -> Iterator[bool]:
    """Whether the lock is ours; the file is removed afterwards if so."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        ours = _try_lock(handle) and _is_at(handle, path)
        yield ours
        if ours:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False
