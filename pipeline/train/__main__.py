"""`python -m pipeline.train`: a data set to a trained run, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import sys

from pipeline.cli import exit_code_of, parse
from pipeline.config.options import defaults
from pipeline.config.train import TrainConfig


def run() -> None:
    """Parse on top of the preset, then train."""
    arguments = sys.argv[1:]
    config = parse(TrainConfig, arguments, default=defaults(arguments))
    if config.preset == "auto":
        config = dataclasses.replace(config, preset=defaults(arguments).preset)
    from pipeline.train.launch import main

    main(config)


if __name__ == "__main__":
    sys.exit(exit_code_of(run))
