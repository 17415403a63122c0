"""What all commands share."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import StorageError, UserError
from irae.errors import IRAEError
from pipeline import cli
from pipeline.config.logs import RankFilter


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
    assert "the same command resumes from here" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [UserError, StorageError, IRAEError])
def test_error_of_a_user_is_printed_line_by_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise kind("first.\nsecond.")

    assert cli.exit_code_of(action) == 2
    assert capsys.readouterr().err == "error: first.\nerror: second.\n"


def test_any_other_error_keeps_its_traceback() -> None:
    """A ValueError of numpy or torch is a defect, not a user's mistake."""
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.exit_code_of(lambda: np.zeros(6).reshape(4, 2) and None)


@dataclass(frozen=True)
class Options:
    model: str = "irae"
    """Network."""


@pytest.mark.parametrize("words", [["--system", "unet"], ["--system=unet"]])
def test_a_former_option_is_answered_with_the_present_one(words: list[str]) -> None:
    with pytest.raises(UserError, match="--system is now --model"):
        cli.parse(Options, words)
    assert cli.parse(Options, ["--model", "unet"]).model == "unet"


@given(rank=st.integers(0, 63), level=st.sampled_from([logging.INFO, logging.WARNING, logging.ERROR]))
def test_rank_filter_passes_rank_0_and_warnings_of_all(rank: int, level: int) -> None:
    record = logging.LogRecord("pipeline.train", level, "", 0, "the storage is away", None, None)
    assert RankFilter(rank).filter(record) == (rank == 0 or level >= logging.WARNING)
    assert record.getMessage() == ("" if level < logging.WARNING else f"rank {rank}: ") + "the storage is away"


def test_information_goes_to_standard_output_and_warnings_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pipeline.somewhere")
    logger.info("100% of {it}")
    logger.warning("careful")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("100% of {it}\n", "careful\n")
