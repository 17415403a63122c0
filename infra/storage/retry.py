"""Retry with exponential backoff, jitter and a deadline: the one loop behind every retry of the project."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from infra.storage.base import Storage
from infra.storage.errors import StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_DEADLINE_S = 300.0
"""Default deadline: the longest outage of a store that a training survives."""


def retry_with_backoff(
    action: Callable[[], T],
    store: Storage | None = None,
    *,
    deadline_s: float | None = None,
    attempts: int | None = None,
    retry_on: tuple[type[Exception], ...] = (StorageError,),
    first_pause_s: float = 1.0,
    longest_pause_s: float = 10.0,
    progress: Callable[[], object] = lambda: None,
) -> T:
    """The result of an idempotent action, retried while it raises one of `retry_on`; else its last error.

    store: the store that the action uses. A local one is not retried (a full disk stays full); the first failure and
        the recovery are logged.
    deadline_s: from the start, or the last progress, to the last attempt; default `RETRY_DEADLINE_S`.
    attempts: failures in a row without progress after which the error is raised; default: no limit.
    first_pause_s: pause after the first failure; it doubles up to `longest_pause_s`, less up to half of it at random.
    progress: called after a failure; a value that differs from the last one restarts deadline, pauses and count.
    """
    deadline_s = RETRY_DEADLINE_S if deadline_s is None else deadline_s
    started_s = progressed_s = time.monotonic()
    position, failures, pause_s, warned = progress(), 0, first_pause_s, False
    while True:
        try:
            result = action()
            break
        except retry_on as error:
            failures += 1
            last_position, position = position, progress()
            if position != last_position:
                progressed_s, failures, pause_s = time.monotonic(), 0, first_pause_s
            left_s = progressed_s + deadline_s - time.monotonic()
            if left_s <= 0 or failures == attempts or (store and store.local_path("x")):
                raise
            if store and not warned:
                logger.warning(f"{error}; retrying for {deadline_s / 60:.0f} min, nothing is lost meanwhile")
                warned = True
        # Many workers fail at the same moment: without jitter they would retry at the same moment.
        time.sleep(min(left_s, pause_s * random.uniform(0.5, 1)))
        pause_s = min(2 * pause_s, longest_pause_s)
    if store and warned:
        logger.warning(f"{store.url} is reachable again after {time.monotonic() - started_s:.0f} s")
    return result
