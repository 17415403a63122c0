"""Download of one published file over HTTP, resumed at its last byte and verified by size and MD5.

By hand for the resume: CelebA's 1.4 GB and CUB's 1.2 GB come from servers that cut connections. pooch, which is
otherwise made for this, starts again from the first byte, as do torchvision's downloads and fsspec's `get_file`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.storage import UserError
from infra.storage.retry import retry_with_backoff
from sharding.download.archives import Archive

TIMEOUT_S = 30.0
"""Longest silence of a connection."""
ATTEMPTS = 4
"""Failures in a row, each with less than `PROGRESS_BYTES` received, after which a download fails."""
PROGRESS_BYTES = 2**20
FIRST_PAUSE_S = 0.5
CHUNK_BYTES = 2**20
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that a retry may overcome."""


class DownloadError(UserError):
    """A failed download; the message is the first half of a sentence."""


class InterruptedDownload(DownloadError):
    """A failure that a retry may overcome."""


def fetch(archive: Archive, folder: Path, progress: Callable[[int], None]) -> None:
    """Download the file as NAME.part, renamed to its name once its MD5 is right.

    `progress` gets the number of bytes received so far. Raises DownloadError, and OSError for the local disk.
    """
    part = folder / f"{archive.name}.part"
    part.touch()
    if part.stat().st_size > archive.size_bytes:
        os.truncate(part, 0)
    best_bytes = 0

    def best() -> int:
        nonlocal best_bytes
        best_bytes = max(best_bytes, part.stat().st_size)
        return best_bytes // PROGRESS_BYTES

    retry_with_backoff(
        lambda: _receive(archive, part, progress),
        attempts=ATTEMPTS,
        retry_on=(InterruptedDownload,),
        first_pause_s=FIRST_PAUSE_S,
        progress=best,
    )
    if (md5 := file_md5(part)) != archive.md5:
        part.unlink()
        raise DownloadError(f"{archive.url} has the MD5 {md5}, but should have {archive.md5} (removed)")
    part.replace(folder / archive.name)


def _receive(archive: Archive, part: Path, progress: Callable[[int], None]) -> None:
    """One request for the missing bytes."""
    start = part.stat().st_size
    if start == archive.size_bytes:
        return
    headers = {"User-Agent": "irae-pipeline"} | ({"Range": f"bytes={start}-"} if start else {})
    with _network_errors(archive.url):
        answer = urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_S)
    with answer, part.open("ab") as file:
        _check_answer(answer, archive, start)
        if answer.status != 206:  # all of the file, from a server without ranges
            file.truncate(0)
        for data in _chunks(answer, archive):
            file.write(data)
            progress(file.tell())
            if file.tell() >= archive.size_bytes:
                return
        raise InterruptedDownload(
            f"{archive.url} stopped after {file.tell():,} of {archive.size_bytes:,} bytes (they are kept)"
        )


def _check_answer(answer: http.client.HTTPResponse, archive: Archive, start: int) -> None:
    """Raise DownloadError unless the answer is the archive from `start` on, or all of it."""
    if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise DownloadError(f"{archive.url} sent a web page (HTML) in place of {archive.name}")
    name, expected = "Content-Length", str(archive.size_bytes)
    if answer.status == 206:
        name, expected = "Content-Range", f"bytes {start}-{archive.size_bytes - 1}/{archive.size_bytes}"
    if (found := answer.headers[name]) not in (None, expected):
        raise DownloadError(f"{archive.url} answers with {name} {found}, but should with {expected}")


def _chunks(answer: http.client.HTTPResponse, archive: Archive) -> Iterator[bytes]:
    """The body as it arrives; an exception of the consumer is no network error."""
    with _network_errors(archive.url):
        while data := answer.read1(CHUNK_BYTES):
            yield data


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        kind = InterruptedDownload if error.code in TEMPORARY else DownloadError
        raise kind(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise InterruptedDownload(f"no answer, or only part of one, from {url} ({reason})") from error


def file_md5(path: Path) -> str:
    """MD5 of a file's content, hexadecimal."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            md5.update(data)
    return md5.hexdigest()
