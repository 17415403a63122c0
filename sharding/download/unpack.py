"""A published archive -> the folder in it, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from infra.storage import UserError
from sharding.download.archives import Archive

MARKER = ".unpacked"
"""In the unpacked folder: the MD5 of its archive. Written before the folder gets its name."""


def is_unpacked(archive: Archive, folder: Path) -> bool:
    """Whether the folder of this very archive is there, whole. ValueError when another one has its name."""
    assert archive.holds is not None
    target = folder / archive.holds
    if not target.exists():
        return False
    if (target / MARKER).is_file() and (target / MARKER).read_text() == archive.md5:
        return True
    raise UserError(
        f"{target} is there already, but not from {archive.name}: use it as it is by leaving out --download, or move "
        "it away."
    )


def unpack(archive: Archive, folder: Path) -> None:
    """Unpack the archive in `folder` there; only the folder `archive.holds` is kept.

    What an interrupted call left is removed first. ValueError for an unsafe or unexpected content, OSError for a
    full disk.
    """
    assert archive.holds is not None
    path, work = folder / archive.name, folder / f".{archive.name}.unpacking"
    if work.exists():
        shutil.rmtree(work)
    work.mkdir()
    try:
        if path.suffix == ".zip":
            _unpack_zip(path, work)
        else:
            _unpack_tar(path, work)
        if not (work / archive.holds).is_dir():
            raise UserError(f"{path} holds no folder {archive.holds}: it is not the archive that was expected.")
        (work / archive.holds / MARKER).write_text(archive.md5)
        os.rename(work / archive.holds, folder / archive.holds)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): get it anew.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack_tar(path: Path, work: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"unpacking {path.name} safely needs Python 3.10.12 or newer: update Python.")
    with tarfile.open(path, "r:gz") as tar:
        tar.extractall(work, filter="data")


def _unpack_zip(path: Path, work: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # zipfile would mend such names; nothing honest has them.
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise zipfile.BadZipFile(f"{name!r} leads out of the folder")
        archive.extractall(work)
