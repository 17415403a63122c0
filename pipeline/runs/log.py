"""log.txt in a run's folder: the lines of its training commands, kept when the machines are gone."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from infra.storage import Storage, UserError
from pipeline.config.checks import USER_ERRORS
from pipeline.config.logs import add_handler, remove_handler

LOG = "log.txt"


class RunLog(logging.Handler):
    """Log handler of a run: its lines go to log.txt on the store every `interval_s` and at the end.

    Lines of earlier commands stay. `assert_lease_held` raises UserError when another command has taken the run over.
    A storage that is away delays nobody: a thread of its own writes, and retries. Use as a context manager: inside, it
    takes every line, and an exception that passes.
    """

    def __init__(
        self, store: Storage, interval_s: float, assert_lease_held: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
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
        add_handler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        remove_handler(self)
        if isinstance(error, USER_ERRORS):
            self.add(f"error: {error}")
        elif isinstance(error, Exception):
            self.add("".join(traceback.format_exception(error)))
        elif error:
            self.add("interrupted")
        self._ended.set()
        self._thread.join()
        self._save()

    def emit(self, record: logging.LogRecord) -> None:
        self.add(self.format(record))

    def add(self, text: str) -> None:
        """Keep a line, or several, with the time."""
        now = time.strftime("%F %T")
        lines = "".join(f"{now} {line}\n" for line in text.splitlines())
        with self._changing:
            self._text += lines.encode()

    def _save_on(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._save()

    def _save(self) -> None:
        with self._changing:
            text = self._text
        if len(text) == self._saved:
            return
        with contextlib.suppress(UserError):  # the run's end does not depend on its log
            self.assert_lease_held()
            self.store.put(LOG, text)
            self._saved = len(text)
