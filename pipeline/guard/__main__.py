"""`python -m pipeline.guard`: spot preemption and idle shutdown on machines of a cloud cluster."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.guard.config import GuardConfig


def run(config: GuardConfig) -> None:
    from pipeline.guard.watch import main

    main(config)


if __name__ == "__main__":
    run_command(GuardConfig, run)
