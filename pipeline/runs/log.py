"""log.txt in a run's folder: the lines of its training commands, kept when the machines are gone."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from infra.storage import Storage

LOG = "log.txt"


class RunLog:
    """Takes lines; they go to the store every `interval_s` and at the end, after those of earlier commands.

    `assert_lease_held` raises ValueError when the run is another command's. A store that is away delays nobody: a thread of its
    own writes, and tries again later. Use as a context manager; an exception that passes is noted.
    """

    def __init__(
        self, store: Storage, interval_s: float, assert_lease_held: Callable[[], object] = lambda: None
    ) -> None:
        self.store, self.interval_s, self.assert_lease_held = store, interval_s, assert_lease_held
        try:
            self._text = store.get(LOG)
        except FileNotFoundError:
            self._text = b""
        self._saved = len(self._text)
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._save_on, daemon=True, name="log")

    def __enter__(self) -> RunLog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, ValueError):  # the user's, in sentences
            self.add(f"error: {error}")
        elif isinstance(error, Exception):
            self.add("".join(traceback.format_exception(error)))
        elif error:
            self.add("interrupted")
        self._ended.set()
        self._thread.join()
        self._save()

    def add(self, text: str) -> None:
        """Keep a line, or several, with the time."""
        now = time.strftime("%F %T")
        lines = "".join(f"{now} {line}\n" for line in text.splitlines())
        with self._changing:
            self._text += lines.encode()

    def say(self, text: str) -> None:
        """Print it and keep it."""
        print(text)
        self.add(text)

    def _save_on(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._save()

    def _save(self) -> None:
        with self._changing:
            text = self._text
        if len(text) == self._saved:
            return
        with contextlib.suppress(ValueError):  # the run's end does not depend on its log
            self.assert_lease_held()
            self.store.put(LOG, text)
            self._saved = len(text)
