"""Download of one S3 object over a bad connection: resumed at the byte where it broke, with bounded stalls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from infra.storage.retry import retry_with_backoff
from infra.storage.s3_errors import BUSY_CODES, EXPIRED_CODES, code_and_status

STALL_S = 20.0
"""Time after which a download without progress fails."""
PROGRESS_BYTES = 256 << 10
"""Bytes that count as progress."""
ATTEMPT_S = 5.0
"""Time after which a connection without progress is replaced by a new one."""


class Interrupted(Exception):
    """An attempt, or a whole download, that failed; its cause, if any, is the error of the connection or of S3."""


@dataclass
class Download:
    """The bytes from `position` to `end` (None: the end) of one object, written to `target`."""

    get_object: Callable[..., Any]
    """Requests the object; is passed Range and IfMatch, so that no two versions of it are mixed."""
    renew: Callable[[], None]
    """Called when the credentials have expired, so that the next request looks for new ones."""
    target: BinaryIO
    position: int = 0
    end: int | None = None
    total: int | None = None
    """Size of the object, bytes; None before the first answer."""
    etag: str | None = None
    attempts: int = 0

    def run(self) -> None:
        """Raises Interrupted after STALL_S without progress, boto3's own error when another attempt would not help."""
        try:
            retry_with_backoff(
                self._attempt,
                deadline_s=STALL_S,
                retry_on=(Interrupted,),
                first_pause_s=0.1,
                longest_pause_s=3.0,
                progress=lambda: self.position // PROGRESS_BYTES,
            )
        except Interrupted as error:
            of = "" if self.total is None else f" of {self.total}"
            where = f"stopped at byte {self.position}{of} after {self.attempts} attempts"
            raise Interrupted(f"{where}, the last answer was {error}") from error.__cause__

    def _attempt(self) -> None:
        """One request for the bytes from `position` on."""
        from botocore.exceptions import ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError

        self.attempts += 1
        try:
            self._receive()
        except ClientError as error:
            code, status = code_and_status(error)
            if code == "InvalidRange":  # it lies behind the object's last byte
                return
            if code in EXPIRED_CODES:
                self.renew()
            elif status < 500 and status != 429 and code not in (*BUSY_CODES, "RequestTimeout"):
                raise
            raise Interrupted(f"HTTP {status} {code}") from error
        except (HTTPClientError, HTTPError) as error:  # before the answer; in the middle of it
            raise Interrupted(type(error).__name__) from error

    def _receive(self) -> None:
        last = "" if self.end is None else self.end - 1
        options = {} if self.position == 0 and self.end is None else {"Range": f"bytes={self.position}-{last}"}
        if self.etag:
            options["IfMatch"] = self.etag
        answer = self.get_object(**options)
        self.etag, self.total = answer["ETag"], self.position + answer["ContentLength"]
        progressed_at, progressed_s = self.position, time.monotonic()
        for chunk in received_chunks(answer["Body"]):
            self.target.write(chunk)
            self.position += len(chunk)
            if self.position - progressed_at >= PROGRESS_BYTES:
                progressed_at, progressed_s = self.position, time.monotonic()
            elif time.monotonic() - progressed_s > ATTEMPT_S:
                raise Interrupted("bytes that came too slowly")
        if self.position < self.total:
            raise Interrupted("a body that ended early")


def received_chunks(body: Any) -> Iterator[bytes]:
    """The body as it arrives.

    By a private name of botocore: its public `read(n)` blocks until n bytes have come, however slowly they trickle, and
    only urllib3's response below it has `read1`.
    """
    try:
        while chunk := body._raw_stream.read1(PROGRESS_BYTES):
            yield chunk
    finally:
        body.close()
