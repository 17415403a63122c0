"""A store that cannot be reached for a while: waited for, instead of ending a training of hours."""

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
"""How long a store may stay away."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 10.0


def retry_with_backoff(action: Callable[[], T], store: Storage, deadline_s: float | None = None) -> T:
    """The action's result; tried again while it raises StorageError, for so long (default: `RETRY_DEADLINE_S`). It must bear
    being repeated.

    A local store is not waited for: a full disk stays full. The first failure, and that it is over, are noted.
    """
    deadline_s = RETRY_DEADLINE_S if deadline_s is None else deadline_s
    begun_s, pause_s, failed = time.monotonic(), _FIRST_PAUSE_S, False
    while True:
        try:
            result = action()
        except StorageError as error:
            left_s = begun_s + deadline_s - time.monotonic()
            if left_s <= 0 or store.local_path("x") is not None:
                raise
            if not failed:
                logger.warning(f"{error}; trying again for {deadline_s / 60:.0f} min, nothing is lost meanwhile")
            failed = True
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            if failed:
                logger.warning(f"{store.url} is there again after {time.monotonic() - begun_s:.0f} s")
            return result
