"""Options of `pipeline.report`. Imports nothing heavy: `--help` prints from this class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.config.checks import raise_problems


@dataclass(frozen=True)
class ReportConfig:
    """One page on some runs: figures, curves, images with a slider, the inverse, how to repeat them.

    Runs that were evaluated on the same images are compared with each other.
    """

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """URLs or names of runs. Default: the only one below IRAE_STORE/runs; with --table, none."""
    table: tuple[Path, ...] = ()
    """table.json files of `pipeline.reproduce`, shown with the paper's figures beside."""
    out: str = "report.html"
    """Path or URL of the page: a file, or s3://bucket/name.html."""

    def __post_init__(self) -> None:
        if not self.out.endswith(".html"):
            raise_problems([f"--out {self.out} must end in .html."])
