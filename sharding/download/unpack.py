"""Unpacking of a published archive: its folder appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from infra.storage import UserError
from sharding.download.archives import Archive

MARKER = ".unpacked"
"""File in an unpacked folder with the MD5 of its archive."""


def is_unpacked(archive: Archive, folder: Path) -> bool:
    """Whether the folder of this archive is there. Raises UserError when another one has its name."""
    assert archive.holds is not None
    target = folder / archive.holds
    if not target.exists():
        return False
    if (target / MARKER).is_file() and (target / MARKER).read_text() == archive.md5:
        return True
    raise UserError(
        f"{target} exists already, but not from {archive.name}: use it as it is by leaving out --download, or move "
        "it away."
    )


def unpack(archive: Archive, folder: Path) -> None:
    """Unpack the folder `archive.holds`. Raises UserError for an unreadable archive, OSError for a full disk."""
    assert archive.holds is not None
    path, work = folder / archive.name, folder / f".{archive.name}.unpacking"
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"unpacking {path.name} safely needs Python 3.10.12, 3.11.4 or newer: update Python.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        # Neither writes outside of `work`: shutil skips such zip members, the filter refuses such tar members.
        shutil.unpack_archive(path, work, filter=None if path.suffix == ".zip" else "data")
        if not (work / archive.holds).is_dir():
            raise UserError(f"{path} holds no folder {archive.holds}: it is not the expected archive.")
        (work / archive.holds / MARKER).write_text(archive.md5)
        os.rename(work / archive.holds, folder / archive.holds)
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): download it again.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
