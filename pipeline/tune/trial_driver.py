"""python -m pipeline.tune.trial_driver: drives the workers of one trial. JSON: its configuration comes in, rows go out.

A process of its own, since a worker of Ray cannot become a driver. It ends when its standard input does: with the
worker that started it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Any

from pipeline.config.logs import configure_logging
from pipeline.config.train import train_config
from pipeline.train.ray_workers import run


def main() -> None:

    configure_logging(logging.StreamHandler(sys.stderr))
    config = train_config(json.loads(sys.stdin.readline()))
    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        run(config, send, lambda: None)
    except ValueError as error:
        send({"error": str(error)})


def send(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
