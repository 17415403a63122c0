"""`python -m pipeline.tune`: a search over K, L, learning rate and schedule; its `best` and its `dashboard`."""

from __future__ import annotations

import dataclasses
import sys

from pipeline.cli import exit_code_of, parse, run_command
from pipeline.config.options import defaults
from pipeline.tune.config import BestConfig, DashboardConfig, TuneConfig, base_defaults


def run() -> None:
    """Parse on top of the preset, then search."""
    arguments = sys.argv[1:]
    config = parse(TuneConfig, arguments, default=base_defaults(arguments))
    if config.base.preset == "auto":
        config = dataclasses.replace(config, base=config.base.with_options(preset=defaults(arguments).preset))
    from infra.cluster import apply_settings, ray_address

    apply_settings(starts_here=ray_address(config.base.cluster.nodes) is None)  # before `search` imports Ray
    from pipeline.tune.search import main

    main(config)


def run_best(config: BestConfig) -> None:
    from pipeline.tune.best import write_best

    write_best(config)


def run_dashboard(config: DashboardConfig) -> None:
    from pipeline.tune.dashboard import serve

    serve(config)


if __name__ == "__main__":
    if sys.argv[1:2] == ["best"]:
        run_command(BestConfig, run_best, skip=1)
    elif sys.argv[1:2] == ["dashboard"]:
        run_command(DashboardConfig, run_dashboard, skip=1)
    else:
        sys.exit(exit_code_of(run))
