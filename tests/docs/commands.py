"""Commands run as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def irae(line: str, folder: Path, code: Path) -> None:
    """`irae LINE` in `folder`, with the packages of `code`; fails with its output when the exit code is not 0."""
    environment = {**os.environ, "PYTHONPATH": str(code), "IRAE_CACHE": str(folder / "cache")}
    environment.pop("IRAE_STORE", None)
    command = [sys.executable, "-m", "pipeline", *line.split()]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
