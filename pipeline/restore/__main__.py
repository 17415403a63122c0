"""`python -m pipeline.restore IN OUT`: restore one image, or a folder of them, with a trained run."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.restore.config import RestoreConfig


def run(config: RestoreConfig) -> None:
    from pipeline.restore.restoring import main

    main(config)


if __name__ == "__main__":
    run_command(RestoreConfig, run)
