"""python -m pipeline.search.team: drives the workers of one trial. JSON: its configuration comes in, rows go out.

A process of its own, since a worker of Ray cannot become a driver. It ends when its standard input does: with the
worker that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from pipeline.training.config import train_config


def main() -> None:
    from pipeline.training.ray_train import run

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
