"""Published archives to a folder that a source reads. Interrupted downloads resume; existing archives are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from infra.storage import UserError
from sharding.download.archives import ARCHIVES, Archive
from sharding.download.over_http import DownloadError, fetch, file_md5
from sharding.download.unpack import is_unpacked, unpack


def download(
    source_name: str,
    folder: Path,
    progress: Callable[[int], None] = lambda done_bytes: None,
    table: Mapping[str, Sequence[Archive]] = ARCHIVES,
) -> Path:
    """Fetch and unpack the published archives of a source into `folder`; returns the root for `open_source`.

    Unpacked archives, archives (put there by anyone; their MD5 must be right) and partial downloads in the folder are
    used. `progress` gets the number of bytes that are there. Raises UserError: unknown source, no network, a wrong
    file, a full disk, another download into the folder.
    """
    if source_name not in table:
        raise UserError(f"there is nothing to download for {source_name}: only for {', '.join(sorted(table))}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock", blocking=False):
            _fetch_all(table[source_name], folder, progress)
    except Timeout:
        raise UserError(f"another download into {folder} is running: wait for it, then repeat.") from None
    except OSError as error:  # the network's are DownloadError by now
        raise UserError(
            f"{error.filename or folder} cannot be used ({error.strerror or error}): fix that, or choose another "
            "folder."
        ) from error
    return folder


def _fetch_all(archives: Sequence[Archive], folder: Path, progress: Callable[[int], None]) -> None:
    packed = [archive for archive in archives if archive.holds and not is_unpacked(archive, folder)]
    missing = [a for a in archives if (a in packed or not a.holds) and not _exists(a, folder)]
    existing_bytes = sum(archive.size_bytes for archive in archives if archive not in missing)
    for number, archive in enumerate(missing):
        try:
            fetch(archive, folder, partial(_add, progress, existing_bytes))
        except DownloadError as error:
            names = ", ".join(a.name for a in missing[number:])
            raise UserError(
                f"{error}: repeat the command later, or download {names} by hand from {archive.page} and put it into "
                f"{folder} before."
            ) from error
        existing_bytes += archive.size_bytes
    for archive in packed:
        unpack(archive, folder)


def _add(progress: Callable[[int], None], existing_bytes: int, received_bytes: int) -> None:
    progress(existing_bytes + received_bytes)


def _exists(archive: Archive, folder: Path) -> bool:
    """Whether the archive's file is in the folder. Raises UserError when it is another file."""
    path = folder / archive.name
    if not path.exists():
        return False
    if path.stat().st_size != archive.size_bytes:
        wrong = f"has {path.stat().st_size:,} bytes, but should have {archive.size_bytes:,}"
    elif (md5 := file_md5(path)) != archive.md5:
        wrong = f"has the MD5 {md5}, but should have {archive.md5}"
    else:
        return True
    raise UserError(f"{path} {wrong}: move it away, and it is downloaded, or put the right one there.")
