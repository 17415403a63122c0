"""A cache folder of verified files that all processes of a machine share: bounded, least recently used evicted first.

    <name>                  a whole file; appears by renaming
    <name>.<bytes>.part/    a download in progress, and the bytes that are reserved for it
    locks/<name>            locked by the process that fetches the file, while the others wait

The kernel releases the locks of a killed process, so a .part folder whose lock is free is abandoned.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from infra.storage import UserError

POLL_S = 0.02
STALL_S = 25.0
"""Longest time that a process waits for another one's download that receives nothing."""


class Cache:
    """Files by name, memory-mapped. Safe for many threads and processes on one machine.

    limit_bytes: of all files together. Default: IRAE_CACHE_BYTES, or 80 % of the bytes that are free or cached here.
    An evicted file stays readable while it is mapped; its disk space is freed with the last mapping.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the cache folder {folder} cannot be made ({error.strerror}); choose another.") from error
        self.sweep()
        self.limit_bytes = limit_bytes or _limit_from_environment() or self._default_limit()

    def map(self, name: str, size_bytes: int, fetch: Callable[[Path], None]) -> np.ndarray:
        """The file's bytes, read-only uint8 (size_bytes,).

        When it is not cached, one process at a time calls `fetch`, which writes and verifies it at the given path.
        Raises UserError when it exceeds the limit or another process's download stalls, and what `fetch` raises.
        """
        if size_bytes > self.limit_bytes:
            raise UserError(
                f"the cache {self.folder} may hold {self.limit_bytes:,} bytes, but one file has {size_bytes:,}; raise "
                "IRAE_CACHE_BYTES or free some of the disk."
            )
        path = self.folder / name
        mapped = _map_whole(path, size_bytes)
        if mapped is None:
            with self._exclusive(name):
                mapped = _map_whole(path, size_bytes)  # another process may have fetched it meanwhile
                if mapped is None:
                    mapped = self._fetch(path, size_bytes, fetch)
        return mapped

    def contains(self, name: str) -> bool:
        return (self.folder / name).exists()

    def sweep(self) -> None:
        """Remove the partial downloads of killed processes."""
        for part in self.folder.glob("*.part"):
            with contextlib.suppress(Timeout), FileLock(self._lock_path(part.name.rsplit(".", 2)[0]), blocking=False):
                shutil.rmtree(part, ignore_errors=True)

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
        """Remove the least recently used files until this one fits; its .part folder reserves the bytes."""
        for abandoned in self._parts(path.name):
            shutil.rmtree(abandoned, ignore_errors=True)
        with FileLock(self._lock_path("eviction")):
            files, taken_bytes = [], size_bytes
            for entry in os.scandir(self.folder):
                if entry.name.endswith(".part"):
                    taken_bytes += int(entry.name.rsplit(".", 2)[1])
                elif entry.is_file():
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
                        taken_bytes += status.st_size
            for _, freed_bytes, oldest in sorted(files):
                if taken_bytes <= self.limit_bytes:
                    break
                Path(oldest).unlink(missing_ok=True)
                taken_bytes -= freed_bytes
            part = path.with_name(f"{path.name}.{size_bytes}.part")
            part.mkdir()
            return part

    def _exclusive(self, name: str) -> AbstractContextManager[object]:
        """The file's lock. Raises UserError when the process that holds it receives nothing for `STALL_S`."""
        received_bytes, since = -1, time.monotonic()

        def stalled() -> bool:
            nonlocal received_bytes, since
            if (now_bytes := self._received_bytes(name)) != received_bytes:
                received_bytes, since = now_bytes, time.monotonic()
            return time.monotonic() - since > STALL_S

        try:
            return FileLock(self._lock_path(name)).acquire(poll_interval=POLL_S, cancel_check=stalled)
        except Timeout:
            raise UserError(
                f"another process on this machine fetches {self.folder / name} and received nothing for {STALL_S:.0f} "
                f"s (stopped at byte {received_bytes}); stop it, or wait until its store answers again."
            ) from None

    def _received_bytes(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):  # the other process has just finished
            return sum(file.stat().st_size for part in self._parts(name) for file in part.iterdir())
        return 0

    def _parts(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"{name}.*.part"))

    def _lock_path(self, name: str) -> Path:
        return self.folder / "locks" / name

    def _default_limit(self) -> int:
        cached_bytes = sum(path.stat().st_size for path in self.folder.glob("*.tar"))
        return int(0.8 * (shutil.disk_usage(self.folder).free + cached_bytes))


def map_file(path: Path) -> np.ndarray:
    """A file's bytes, memory-mapped, read-only uint8. Raises mmap's ValueError when it is empty."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _map_whole(path: Path, size_bytes: int) -> np.ndarray | None:
    """The mapped file, marked as just used; None when it is absent or has another size."""
    try:
        mapped = map_file(path)
    except (FileNotFoundError, ValueError):
        return None
    if len(mapped) != size_bytes:
        return None
    with contextlib.suppress(FileNotFoundError):  # evicted just now; the mapping stays valid
        os.utime(path)
    return mapped


def _limit_from_environment() -> int | None:
    text = os.environ.get("IRAE_CACHE_BYTES")
    if text is None:
        return None
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"IRAE_CACHE_BYTES is {text!r}, but must be a number of bytes above 0, such as 50000000000.")
    return int(text)
