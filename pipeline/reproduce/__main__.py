"""`python -m pipeline.reproduce`: the paper's tables, trained and evaluated here, beside the paper's numbers."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.reproduce.config import ReproduceConfig


def run(config: ReproduceConfig) -> None:
    from pipeline.reproduce.launch import main

    main(config)


if __name__ == "__main__":
    run_command(ReproduceConfig, run)
