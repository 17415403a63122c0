"""Reads runs and tables, writes the page."""

from __future__ import annotations

import json
import logging
import os
import shlex
from pathlib import Path

from infra.storage import UserError, open_storage
from pipeline.config.checks import raise_problems
from pipeline.report.config import ReportConfig
from pipeline.report.load import read_runs
from pipeline.report.page import render
from pipeline.runs.evaluations import one_line
from pipeline.runs.paper_table import PaperTable

logger = logging.getLogger(__name__)


def main(config: ReportConfig) -> None:
    """Write the page. UserError, with all problems, for runs or tables that cannot be read."""
    problems, tables, runs = [], [], []
    for path in config.table:
        try:
            tables.append(read_table(path))
        except UserError as error:
            problems.append(str(error))
    try:
        runs = read_runs(config.runs or ([] if config.table else [None]))
    except UserError as error:
        problems.append(str(error))
    raise_problems(problems)
    page = render(runs, tables, command_of(config)).encode()
    folder, _, name = (config.out if "://" in config.out else os.path.abspath(config.out)).rpartition("/")
    open_storage(folder or "/").put(name, page)
    for run in runs:
        if not run.evaluations:
            logger.info(f"{run.name} is not evaluated: `python -m pipeline.evaluate --run {shlex.quote(run.url)}`")
    logger.info(f"{config.out}: {len(page) / 1e6:.1f} MB, one file; open it in a browser")


def read_table(path: Path) -> PaperTable:
    """UserError when the file is no table of a reproduction."""
    try:
        return PaperTable.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"--table {path} cannot be read ({error.strerror}); name a table.json.") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(
            f"--table {path} is no table.json of `python -m pipeline.reproduce` ({reason}); name another file."
        ) from None


def command_of(config: ReportConfig) -> str:
    """The command line of these options."""
    table = ["--table", *map(str, config.table)] if config.table else []
    out = ["--out", config.out] if config.out != ReportConfig.out else []
    return shlex.join(["python", "-m", "pipeline.report", *config.runs, *table, *out])
