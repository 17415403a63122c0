"""Published archives -> a folder that a source reads. Resumed where it stopped; an archive that is there is used."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from infra.storage import UserError
from sharding.download.archives import ARCHIVES, Archive
from sharding.download.over_http import FetchFailed, fetch, md5_of, part_path
from sharding.download.unpack import is_unpacked, unpack

Progress = Callable[[int, "int | None"], None]
UNPACKED_SHARE = 1.4
"""Disk space of an unpacked archive of JPEGs, in its own size: small files waste half a block each."""


def download(
    source_name: str,
    folder: Path,
    progress: Progress = lambda done_bytes, total_bytes: None,
    table: Mapping[str, Sequence[Archive]] = ARCHIVES,
) -> Path:
    """Fetch and unpack the published archives of a source into `folder`; returns the root for `open_source`.

    What is in the folder already is used: unpacked archives, archives (whoever put them there; their MD5 must be
    right), and the begin of an interrupted download. `progress` is told the bytes that are there and the bytes of
    all files together. Raises ValueError with one sentence: no such archives, no network, a wrong file, no space.
    """
    if source_name not in table:
        raise UserError(f"there is nothing to download for {source_name}: only for {', '.join(sorted(table))}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            _fetch_all(table[source_name], folder, progress)
    except OSError as error:  # the network's are FetchFailed by now
        raise UserError(
            f"{error.filename or folder} cannot be used ({error.strerror or error}): mend that, or choose another "
            "folder."
        ) from error
    return folder


def _fetch_all(archives: Sequence[Archive], folder: Path, progress: Progress) -> None:
    packed = [archive for archive in archives if archive.holds and not is_unpacked(archive, folder)]
    missing = [a for a in archives if (a in packed or not a.holds) and not _is_there(a, folder)]
    _check_space(missing, packed, folder)
    total_bytes = sum(archive.size_bytes for archive in archives)
    there_bytes = total_bytes - sum(archive.size_bytes for archive in missing)
    for number, archive in enumerate(missing):
        try:
            fetch(archive, folder, partial(_shifted, progress, there_bytes, total_bytes))
        except FetchFailed as error:
            names = ", ".join(a.name for a in missing[number:])
            raise UserError(
                f"{error}: repeat the command later, or get {names} by hand from {archive.page} and put it into "
                f"{folder} before."
            ) from error
        there_bytes += archive.size_bytes
    for archive in packed:
        unpack(archive, folder)


def _shifted(progress: Progress, there_bytes: int, total_bytes: int, done_bytes: int) -> None:
    progress(there_bytes + done_bytes, total_bytes)


def _is_there(archive: Archive, folder: Path) -> bool:
    """Whether the file itself is in the folder. ValueError when it is another one."""
    path = folder / archive.name
    if not path.exists():
        return False
    if path.stat().st_size != archive.size_bytes:
        wrong = f"has {path.stat().st_size:,} bytes, but should have {archive.size_bytes:,}"
    else:
        with path.open("rb") as file:
            md5 = md5_of(file).hexdigest()
        if md5 == archive.md5:
            return True
        wrong = f"has the MD5 {md5}, but should have {archive.md5}"
    raise UserError(f"{path} {wrong}: move it away, and it is downloaded, or put the right one there.")


def _check_space(missing: Sequence[Archive], packed: Sequence[Archive], folder: Path) -> None:
    begun_bytes = sum(path.stat().st_size for path in (part_path(a, folder) for a in missing) if path.exists())
    needed = sum(a.size_bytes for a in missing) - begun_bytes + sum(UNPACKED_SHARE * a.size_bytes for a in packed)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB for the download and what is in it, but {free / 1e9:.1f} GB are "
            "free: free some, or choose another folder."
        )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One download at a time into a folder; a killed one holds no lock."""
    with open(folder / ".download.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another download into {folder} is under way: wait for it, then repeat.") from error
        yield
