"""Logging of all commands: one handler on the terminal or pipe, one that keeps a run's log.txt, a filter by rank.

Every module has `logger = logging.getLogger(__name__)`. INFO and below go to standard output, WARNING and above to
standard error.
"""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

ROOMS = ("irae", "sharding", "infra", "pipeline", "__main__")
"""Packages whose loggers are shown."""
PROGRESS = {"progress": True}
"""`extra` of a line that only repeats what a progress bar shows: kept in files, not printed beside the bar."""
console = Console(stderr=True)
"""The terminal: progress bars and lines share it."""


class StreamHandler(logging.Handler):
    """Plain lines: INFO to standard output, WARNING and above to standard error, as they are at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr if record.levelno >= logging.WARNING or is_progress(record) else sys.stdout
            print(self.format(record), file=stream, flush=True)
        except Exception:
            self.handleError(record)


class PlainRichHandler(RichHandler):
    """Lines on a terminal, above a progress bar if there is one."""

    def __init__(self) -> None:
        super().__init__(console=console, show_time=False, show_level=False, show_path=False, markup=False)
        self.highlighter = None  # type: ignore[assignment]
        self.addFilter(lambda record: not is_progress(record))


class RankFilter(logging.Filter):
    """On a worker: passes INFO of rank 0, and WARNING and above of every rank, with the rank in front."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING and self.rank != 0:
            return False
        if record.levelno >= logging.WARNING and not str(record.msg).startswith("rank "):
            record.msg = f"rank {self.rank}: {record.msg}"
        return True


def is_progress(record: logging.LogRecord) -> bool:
    return bool(getattr(record, "progress", False))


def configure_logging(handler: logging.Handler | None = None) -> None:
    """Show the rooms' lines on standard output and error, or give them to this handler. Only the first call counts."""
    if logging.getLogger(ROOMS[0]).handlers:
        return
    add_handler(handler or (PlainRichHandler() if sys.stdout.isatty() and console.is_terminal else StreamHandler()))


def add_handler(handler: logging.Handler) -> None:
    """Give the handler every line of the rooms too."""
    for name in ROOMS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)


def remove_handler(handler: logging.Handler) -> None:
    for name in ROOMS:
        logging.getLogger(name).removeHandler(handler)
