"""python -m pipeline.tune.trial_driver: drives the workers of one trial. JSON: its configuration comes in, rows go out.

A process of its own, since a worker of Ray cannot become a driver. It ends when its standard input does: with the
worker that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from pipeline.config.train import train_config
from pipeline.train.ray_workers import run


def main() -> None:

    config = train_config(json.loads(sys.stdin.readline()))
    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        run(config, say, note, lambda: None)
    except ValueError as error:
        say({"error": str(error)})


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
