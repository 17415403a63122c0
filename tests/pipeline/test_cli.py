"""What all commands share."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from pipeline import cli


@pytest.fixture(autouse=True)
def own_handler(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Leave the test run's own Ctrl-C as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
    cli._interrupted.clear()


def test_an_interrupt_that_a_library_swallows_ends_the_command_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        with cli.ProgressLine("working", 10, "pieces") as line:
            for piece in range(10):
                with contextlib.suppress(KeyboardInterrupt):  # as a callback of a library does
                    if piece == 3:
                        os.kill(os.getpid(), signal.SIGINT)
                line.update(piece)
        raise AssertionError("it went on to its end")

    assert cli.exit_code_of(action) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_error_of_a_user_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise ValueError("first.\nsecond.")

    assert cli.exit_code_of(action) == 2
    assert capsys.readouterr().err == "error: first.\nerror: second.\n"
