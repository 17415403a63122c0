"""python -m pipeline.tune.trial_driver: drives the training workers of one trial. JSON lines: config in, metrics out.

A process of its own, since a worker of Ray cannot be a driver. It exits when its standard input closes, that is with
the worker that started it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Any

from infra.cluster import apply_settings
from pipeline.config.checks import USER_ERRORS
from pipeline.config.logs import configure_logging
from pipeline.config.train import train_config


def main() -> None:
    configure_logging(logging.StreamHandler(sys.stderr))
    config = train_config(json.loads(sys.stdin.readline()))
    threading.Thread(target=exit_with_input, daemon=True).start()
    apply_settings(starts_here=False)
    from pipeline.train.ray_workers import run_on_ray  # which imports Ray

    try:
        run_on_ray(config, send, lambda: None)
    except USER_ERRORS as error:
        send({"error": str(error)})


def send(message: dict[str, Any]) -> None:
    """One JSON line to the worker that started this process."""
    print(json.dumps(message), flush=True)


def exit_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
