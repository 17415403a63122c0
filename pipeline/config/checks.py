"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations


def raise_problems(problems: list[str]) -> None:
    """Raise one ValueError that holds every problem."""
    if problems:
        raise ValueError("\n".join(problems))


def check_minimum(problems: list[str], minimum: float, **values: float | None) -> None:
    """Note each value that is below its minimum."""
    for name, value in values.items():
        if value is not None and value < minimum:
            problems.append(f"--{name.replace('_', '-')} is {value}, but must be at least {minimum}.")
