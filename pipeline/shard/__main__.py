"""`python -m pipeline.shard`: photographs to WebDataset shards and a manifest; `verify` and `inspect` a data set."""

from __future__ import annotations

import sys

from pipeline.cli import run_command
from pipeline.shard.config import InspectConfig, ShardConfig, VerifyConfig


def run(config: ShardConfig) -> None:
    from pipeline.shard.make import main

    main(config)


def run_verify(config: VerifyConfig) -> None:
    from pipeline.shard.inspect import verify_main

    verify_main(config)


def run_inspect(config: InspectConfig) -> None:
    from pipeline.shard.inspect import inspect

    inspect(config)


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        run_command(VerifyConfig, run_verify, skip=1)
    elif sys.argv[1:2] == ["inspect"]:
        run_command(InspectConfig, run_inspect, skip=1)
    else:
        run_command(ShardConfig, run)
