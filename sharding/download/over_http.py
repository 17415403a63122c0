"""One published file over HTTP: resumed where it stopped, and named only when its MD5 is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharding.download.archives import Archive

TIMEOUT_S = 30.0
ATTEMPTS = 4
"""In a row that bring less than `MIN_GAIN_BYTES`: then the download fails, to be resumed by the next call."""
MIN_GAIN_BYTES = 2**20
FIRST_WAIT_S = 0.5
"""Before the second attempt; doubled for each further one."""
CHUNK_BYTES = 2**20


class FetchFailed(Exception):
    """Why a file cannot be had: the first half of a sentence."""


class _Interrupted(FetchFailed):
    """The same, but another attempt may do better."""


class _Part:
    """The file that grows beside its later name, and its MD5."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a+b")
        self.file.seek(0)
        self.md5 = md5_of(self.file)
        self.size_bytes = self.file.tell()

    def restart(self) -> None:
        self.file.truncate(0)
        self.md5, self.size_bytes = _md5(), 0

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self.md5.update(data)
        self.size_bytes += len(data)


def fetch(archive: Archive, folder: Path, progress: Callable[[int], None]) -> None:
    """Download the file; it gets its name when it is whole and its MD5 is right, until then it is NAME.part.

    `progress` is told the bytes that are there. Raises FetchFailed, and OSError when the disk does not take it.
    """
    path = part_path(archive, folder)
    part = _Part(path)
    with part.file:
        if part.size_bytes > archive.size_bytes:
            part.restart()
        _receive_all(archive, part, progress)
        part.file.flush()
        os.fsync(part.file.fileno())
    if part.md5.hexdigest() != archive.md5:
        path.unlink()
        raise FetchFailed(f"{archive.url} has the MD5 {part.md5.hexdigest()}, but should have {archive.md5} (removed)")
    os.replace(path, folder / archive.name)


def _receive_all(archive: Archive, part: _Part, progress: Callable[[int], None]) -> None:
    """Attempt after attempt, until the part has its size; waits longer and longer while hardly anything comes."""
    failures, best_bytes = 0, part.size_bytes
    while part.size_bytes < archive.size_bytes:
        try:
            _receive(archive, part, progress)
        except _Interrupted:
            failures = 0 if part.size_bytes >= best_bytes + MIN_GAIN_BYTES else failures + 1
            best_bytes = max(best_bytes, part.size_bytes)
            if failures == ATTEMPTS:
                raise
            time.sleep(FIRST_WAIT_S * 2**failures / 2)


def _receive(archive: Archive, part: _Part, progress: Callable[[int], None]) -> None:
    """One request, for what is missing."""
    headers = {"User-Agent": "irae-pipeline"}
    if part.size_bytes:
        headers["Range"] = f"bytes={part.size_bytes}-"
    with _network_errors(archive.url):
        try:
            answer = urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            too_few = f"{part.size_bytes:,} bytes or fewer, but should have {archive.size_bytes:,} (removed)"
            part.restart()
            raise FetchFailed(f"{archive.url} has {too_few}") from error
    with answer:
        start = _check_answer(answer, archive, part)
        for data in _chunks(answer, archive, start):
            if start == 0 and part.size_bytes:
                part.restart()  # the server knows no ranges
            start += len(data)
            part.append(data)
            progress(part.size_bytes)
    if part.size_bytes < archive.size_bytes:
        raise _Interrupted(
            f"{archive.url} ended after {part.size_bytes:,} of {archive.size_bytes:,} bytes (what came is kept)"
        )


def _check_answer(answer: http.client.HTTPResponse, archive: Archive, part: _Part) -> int:
    """The byte with which the answer begins; FetchFailed when it is not the file that was asked for."""
    with _network_errors(archive.url):
        first = answer.peek(64)[:64].lstrip().lower()
    is_html = answer.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    if is_html or first.startswith((b"<!doctype html", b"<html")):
        raise FetchFailed(f"{archive.url} sent a web page (HTML) in place of {archive.name}")
    start, total = 0, answer.headers["Content-Length"]
    if answer.status == 206:
        numbers = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers["Content-Range"] or "")
        if not numbers or int(numbers[1]) != part.size_bytes:
            raise FetchFailed(f"{archive.url} sent another range than asked for ({answer.headers['Content-Range']})")
        start, total = int(numbers[1]), numbers[2]
    if total and total.isdecimal() and int(total) != archive.size_bytes:
        raise FetchFailed(f"{archive.url} has {int(total):,} bytes, but should have {archive.size_bytes:,}")
    return start


def _chunks(answer: http.client.HTTPResponse, archive: Archive, start: int) -> Iterator[bytes]:
    """The body, as it comes; never more than the file should have."""
    while start < archive.size_bytes:
        with _network_errors(archive.url):
            data = answer.read1(min(CHUNK_BYTES, archive.size_bytes - start))
        if not data:
            return
        start += len(data)
        yield data


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        again = error.code >= 500 or error.code in (408, 425, 429)
        raise (_Interrupted if again else FetchFailed)(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise _Interrupted(f"no answer, or only part of one, from {url} ({reason})") from error


def part_path(archive: Archive, folder: Path) -> Path:
    """Where the begin of an interrupted download lies."""
    return folder / f"{archive.name}.part"


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def md5_of(file: Any) -> Any:
    """MD5 of what follows in the file."""
    md5 = _md5()
    while data := file.read(CHUNK_BYTES):
        md5.update(data)
    return md5
