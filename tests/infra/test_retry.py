"""Retry with backoff: what is retried, for how long, and what the log says."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local_s3.server import LocalS3
from infra.storage import StorageError, open_storage, retry
from infra.storage.retry import retry_with_backoff


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.pauses_s = 0.0, list[float]()
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s


def _failing(times: int) -> list[int]:
    return list(range(times, -1, -1))


def _action(left: list[int]) -> str:
    if left.pop(0):
        raise StorageError("no answer")
    return "done"


@given(failures=st.integers(0, 12), first_s=st.floats(0.01, 2), longest_s=st.floats(2, 20))
def test_pauses_double_up_to_the_longest_with_jitter(failures: int, first_s: float, longest_s: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        left = _failing(failures)
        result = retry_with_backoff(lambda: _action(left), first_pause_s=first_s, longest_pause_s=longest_s)
    assert result == "done" and len(clock.pauses_s) == failures
    for i, pause_s in enumerate(clock.pauses_s):
        whole_s = min(longest_s, first_s * 2**i)
        assert whole_s / 2 <= pause_s <= whole_s


@given(deadline_s=st.floats(0.1, 100))
def test_the_last_attempt_is_at_the_deadline(deadline_s: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        with pytest.raises(StorageError):
            retry_with_backoff(lambda: _action([1]), deadline_s=deadline_s)
        assert clock.now_s == pytest.approx(deadline_s)


@given(attempts=st.integers(1, 6), gains=st.lists(st.booleans(), max_size=12))
def test_progress_restarts_the_count_of_attempts(attempts: int, gains: list[bool]) -> None:
    position, in_a_row, calls = 0, 0, iter([*gains, *[False] * attempts])

    def fail() -> None:
        nonlocal position, in_a_row
        gained = next(calls)
        position += gained
        in_a_row = 0 if gained else in_a_row + 1
        raise StorageError("interrupted")

    with pytest.MonkeyPatch.context() as monkeypatch:
        Clock(monkeypatch)
        with pytest.raises(StorageError):
            retry_with_backoff(fail, attempts=attempts, deadline_s=1e6, progress=lambda: position)
    assert in_a_row == attempts


def test_progress_restarts_the_deadline_and_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, position = Clock(monkeypatch), 0

    def fail() -> None:
        nonlocal position
        position += clock.now_s < 100
        raise StorageError("interrupted")

    with pytest.raises(StorageError):
        retry_with_backoff(fail, deadline_s=5.0, progress=lambda: position)
    assert clock.now_s == pytest.approx(100 + 5, abs=1.0)
    assert max(pause_s for pause_s in clock.pauses_s[:100]) <= 1.0


@pytest.mark.parametrize("kind", [StorageError, ValueError, RuntimeError])
def test_local_stores_and_other_errors_are_not_retried(tmp_path: Path, kind: type[Exception]) -> None:
    for store, error in ((open_storage(tmp_path), kind), (None, OSError)):
        calls = []

        def fail(error: type[Exception] = error) -> None:
            calls.append(error)  # noqa: B023
            raise error("no")

        with pytest.raises(error):
            retry_with_backoff(fail, store)
        assert len(calls) == 1


def test_an_outage_of_the_store_is_survived_and_logged(
    own_s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from infra.storage import s3

    monkeypatch.setitem(s3._CLIENT, "retries", {"total_max_attempts": 1})  # botocore's own retries are not the subject
    store = open_storage("s3://irae/folder")
    own_s3_server.kill()

    def start(pause_s: float) -> None:
        own_s3_server.start()

    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=time.monotonic, sleep=start))
    caplog.set_level(logging.WARNING)
    retry_with_backoff(lambda: store.put("a", b"1"), store)
    assert store.get("a") == b"1"
    failed, recovered = caplog.messages
    assert "cannot be reached" in failed and "retrying for 5 min" in failed
    assert "s3://irae/folder is reachable again" in recovered
