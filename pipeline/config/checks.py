"""Checks of options: every problem of a command line is collected and raised at once."""

from __future__ import annotations

from infra.storage.errors import UserError
from irae.errors import IRAEError

USER_ERRORS = (UserError, IRAEError)
"""Errors that a user can fix; everything else keeps its traceback."""


def raise_problems(problems: list[str]) -> None:
    """Raise one UserError that holds every problem, a line each; nothing for an empty list."""
    if problems:
        raise UserError("\n".join(problems))


def check_minimum(problems: list[str], minimum: float, **values: float | None) -> None:
    """Add a problem for each value that is below its minimum."""
    for name, value in values.items():
        if value is not None and value < minimum:
            problems.append(f"--{name.replace('_', '-')} is {value}, but must be at least {minimum}.")
