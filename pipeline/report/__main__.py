"""`python -m pipeline.report`: one HTML page on some runs and reproduced tables."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.report.config import ReportConfig


def run(config: ReportConfig) -> None:
    from pipeline.report.write import main

    main(config)


if __name__ == "__main__":
    run_command(ReportConfig, run)
