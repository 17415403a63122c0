"""Logging of the small tools of infra/, which run without the pipeline."""

from __future__ import annotations

import logging
import sys


def log_to_stdout() -> None:
    """Show the lines of infra's loggers plainly on standard output, unless they have a handler."""
    logger = logging.getLogger("infra")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.setLevel(logging.INFO)
