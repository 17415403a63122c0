"""An object's bytes over a bad connection: every break is mended at the byte where it happened, for a bounded time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

STALL_S = 20.0
"""A download that brings less than PROGRESS_BYTES in this time is given up."""
PROGRESS_BYTES = 256 << 10
ATTEMPT_S = 5.0
"""A connection that brings less than PROGRESS_BYTES in this time is replaced by a new one."""
_CHUNK_BYTES = 256 << 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 3.0
_TEMPORARY_CODES = ("SlowDown", "RequestTimeout", "Throttling", "TooManyRequests", "RequestLimitExceeded")
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")


class Stalled(Exception):
    """A download was given up; `cause` is the last error, None when bytes came, but too slowly."""

    def __init__(self, sentence: str, cause: Exception | None) -> None:
        super().__init__(sentence)
        self.cause = cause


class Download:
    """The bytes [start, end) of one object, written to `target`; `end` None is the object's end.

    get_object: asks the store; is given Range and IfMatch, so that no two versions of an object are mixed.
    renew: called when the credentials have expired, so that the next request looks for new ones.
    """

    def __init__(
        self,
        get_object: Callable[..., Any],
        renew: Callable[[], None],
        target: BinaryIO,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        self.get_object, self.renew, self.target = get_object, renew, target
        self.at, self.end = start, end
        self.etag: str | None = None
        self.total: int | None = None
        self._attempts = 0

    def run(self) -> None:
        """Raises Stalled after STALL_S without progress, boto3's own error when another attempt would not help."""
        from botocore.exceptions import ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError

        self._progress()
        while True:
            cause: Exception | None = None
            try:
                answer = self._attempt()
                if self.at == self.total:
                    return
            except ClientError as error:
                if past_the_end(error):
                    return
                if not self._temporary(error):
                    raise
                cause, answer = error, _answer(error)
            except (HTTPClientError, HTTPError) as error:  # before the answer came; in the middle of it
                cause, answer = error, type(error).__name__
            self._wait(answer, cause)

    def _attempt(self) -> str:
        """One request from here on; how it ended."""
        self._attempts += 1
        last = "" if self.end is None else self.end - 1
        options = {} if self.at == 0 and self.end is None else {"Range": f"bytes={self.at}-{last}"}
        if self.etag:
            options["IfMatch"] = self.etag
        answer = self.get_object(**options)
        self.etag, self.total = answer["ETag"], self.at + answer["ContentLength"]
        began_at, began = self.at, time.monotonic()
        for chunk in _chunks(answer["Body"]):
            self.target.write(chunk)
            self.at += len(chunk)
            now = time.monotonic()
            if self.at - self._progress_at >= PROGRESS_BYTES:
                self._progress()
            if self.at - began_at >= PROGRESS_BYTES:
                began_at, began = self.at, now
            elif now - began > ATTEMPT_S:
                return "bytes that came too slowly"
        return "a body that ended early"

    def _progress(self) -> None:
        self._progress_at, self._progress_s = self.at, time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def _wait(self, answer: str, cause: Exception | None) -> None:
        left_s = self._progress_s + STALL_S - time.monotonic()
        if left_s <= 0:
            of = "" if self.total is None else f" of {self.total}"
            sentence = f"stopped at byte {self.at}{of} after {self._attempts} attempts, the last answer was {answer}"
            raise Stalled(sentence, cause)
        # Many workers meet one trouble at one moment: without jitter they would come back together.
        time.sleep(min(left_s, self._pause_s * random.uniform(0.5, 1.5)))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _temporary(self, error: Any) -> bool:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _EXPIRED_CODES:
            self.renew()
            return True
        return status >= 500 or status == 429 or code in _TEMPORARY_CODES


def past_the_end(error: Any) -> bool:
    """Whether the store's answer was that the range lies behind the object's last byte."""
    return error.response.get("Error", {}).get("Code") == "InvalidRange"


def _chunks(body: Any) -> Iterator[bytes]:
    """What has arrived, as it arrives: `body.read(n)` would wait for n bytes however slowly they trickle."""
    try:
        read = getattr(body._raw_stream, "read1", body._raw_stream.read)  # urllib3 1 has no read1
        while chunk := read(_CHUNK_BYTES):
            yield chunk
    finally:
        body.close()


def _answer(error: Any) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    return f"HTTP {error.response.get('ResponseMetadata', {}).get('HTTPStatusCode', 0)} {code}"
