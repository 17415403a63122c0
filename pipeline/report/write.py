"""python -m pipeline.report: one page on some runs, and on tables of a reproduction, to be opened in any browser."""

from __future__ import annotations

import logging
import os
import shlex

from infra.storage import UserError, open_storage
from pipeline.cli import run_command
from pipeline.report.config import ReportConfig
from pipeline.report.load import read_runs
from pipeline.report.page import render
from pipeline.report.paper_tables import read_table

logger = logging.getLogger(__name__)


def main(config: ReportConfig) -> None:
    """Read the runs' folders, write the page."""

    problems: list[str] = []
    tables, runs = [], []
    for path in config.table:
        try:
            tables.append(read_table(path))
        except ValueError as error:
            problems.append(str(error))
    try:
        runs = read_runs(config.runs or ([] if config.table else [None]))
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    page = render(runs, tables, command_of(config)).encode()
    folder, _, name = (config.out if "://" in config.out else os.path.abspath(config.out)).rpartition("/")
    open_storage(folder or "/").put(name, page)
    for run in runs:
        if not run.evaluations:
            logger.info(f"{run.name} is not evaluated: `python -m pipeline.evaluate --run {shlex.quote(run.url)}`")
    logger.info(f"{config.out}: {len(page) / 1e6:.1f} MB, one file; open it in a browser")


def command_of(config: ReportConfig) -> str:
    """What was typed."""
    words = ["python", "-m", "pipeline.report", *config.runs]
    if config.table:
        words += ["--table", *(str(path) for path in config.table)]
    return shlex.join([*words, *(["--out", config.out] if config.out != ReportConfig.out else [])])


if __name__ == "__main__":
    run_command(ReportConfig, main)
