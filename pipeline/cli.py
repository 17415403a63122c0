"""Parsing, exit codes, errors as sentences, and a progress line that also suits a log file."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.config.checks import USER_ERRORS, raise_problems
from pipeline.config.logs import PROGRESS, configure_logging, console

logger = logging.getLogger(__name__)
T = TypeVar("T")
PositionalPath = tyro.conf.Positional[Path]
PositionalText = tyro.conf.Positional[str]
RENAMED_OPTIONS = {
    "--system": "--model",
    "--systems": "--models",
    "--global-batch": "--global-batch-size",
    "--micro-batch": "--micro-batch-size",
    "--remainder": "--drop-last (without it, an epoch's last images begin the next epoch)",
    "--window-shards": "--shuffle-window-shards",
    "--partitions": "--num-canonical-partitions",
    "--deep": "--checksum",
    "--start": "--init",
    "--against": "--second-objective",
    "--host": "`ssh -L 8080:127.0.0.1:8080 MACHINE`: the dashboard listens on 127.0.0.1 alone",
    "--tensorboard": "a command of its own: `tensorboard --logdir SEARCH/trials`",
    "--no-tensorboard": "the default; leave it out",
}
"""Former spellings, each with what to type instead."""
PROGRAM_PREFIX = "python -m pipeline."
"""How usage lines name the program, before the command's name; `irae` sets its own."""
LOG_INTERVAL_S = 10.0
"""Least time between two progress lines in a log file."""


def run_command(config_class: type[T], main: Callable[[T], None], default: T | None = None, skip: int = 0) -> None:
    """Parse the command line into the config and run; a user's error is printed as it is, exit code 2.

    `skip` words of the command line come before the options: the name of a sub-command.
    """
    sys.exit(exit_code_of(lambda: main(parse(config_class, sys.argv[1 + skip :], default, sys.argv[1 : 1 + skip]))))


def parse(
    config_class: type[T], arguments: Sequence[str], default: T | None = None, sub_command: Sequence[str] = ()
) -> T:
    """Command line to config. `--help` ends the process here."""
    raise_problems(
        [f"{old} is now {new}." for a in arguments for old, new in RENAMED_OPTIONS.items() if a.split("=")[0] == old]
    )
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__").removeprefix("pipeline.") if spec else None
    program = " ".join([f"{PROGRAM_PREFIX}{name}", *sub_command]) if name else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(config_class, args=list(arguments), prog=program, config=(tyro.conf.FlagCreatePairsOff,), **options)


def exit_code_of(action: Callable[[], None]) -> int:
    """Exit code of the action: 0, 2 for a user's error, 130 when interrupted. Other exceptions pass with traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a log file, lines stay in order with those of stderr
    configure_logging()
    signal.signal(signal.SIGINT, _note_interrupt)
    try:
        action()
    except USER_ERRORS as error:
        if os.environ.get("IRAE_DEBUG"):
            raise
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from here.", file=sys.stderr)
        return 130
    return 0


_interrupted = threading.Event()


def _note_interrupt(signal_number: int, frame: object) -> None:
    """Ctrl-C. Noted as well as raised: a library's callback that it happens to meet would swallow it."""
    _interrupted.set()
    raise KeyboardInterrupt


class ProgressLine:
    """A progress bar on a terminal, a line every ten seconds elsewhere and in log files. Use as a context manager."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.bar: Progress | None = None
        self.logged_at = time.monotonic()
        self.first: tuple[float, float] | None = None

    def __enter__(self) -> ProgressLine:
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task(self.title, total=self.total, text="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: float, text: str = "") -> None:
        """Show `done` of `total`, in `unit`. Raises KeyboardInterrupt when one was swallowed before."""
        if _interrupted.is_set() and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        self.first = self.first or (done, time.monotonic())
        if self.bar:
            self.bar.update(self.task, completed=done, text=text)
        if time.monotonic() - self.logged_at >= LOG_INTERVAL_S:
            self.logged_at = time.monotonic()
            share = f" of {self.total:,.0f}" if self.total else ""
            left = self._left(done)
            logger.info("%s: %s%s %s %s%s", self.title, f"{done:,.0f}", share, self.unit, text, left, extra=PROGRESS)

    def _left(self, done: float) -> str:
        """The time that the rest will take at the speed since the first update."""
        first_done, first_at = self.first or (done, 0.0)
        if not self.total or done <= first_done:
            return ""
        left_s = int((time.monotonic() - first_at) * (self.total - done) / (done - first_done))
        return f", {left_s // 60}:{left_s % 60:02d} left"
