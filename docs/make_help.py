"""Write docs/help/COMMAND.txt, the --help of every command: `make help-texts`. A test compares them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELP = ROOT / "docs/help"
sys.path.insert(0, str(ROOT))

from pipeline.__main__ import COMMANDS  # noqa: E402

SUB_COMMANDS = ("shard verify", "shard inspect", "tune best", "tune dashboard")
PROGRAMS = (
    "infra.local_s3",
    "infra.local_s3 start",
    "infra.aws",
    "infra.aws setup",
    "infra.aws teardown",
    "infra.aws policy",
)
"""Programs outside `irae`: `python -m infra.local_s3 ...`."""
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PATH": "", "PYTHONPATH": str(ROOT)}
"""Fixed width, no colours, no GPU (which the defaults depend on and nvidia-smi in PATH shows)."""


def help_text(command: str) -> str:
    """Output of --help, without blanks at the ends of lines."""
    words = [*([] if command in PROGRAMS else ["pipeline"]), *command.split()]
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("IRAE_")}, **ENVIRONMENT}
    result = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines()) + "\n"


def help_texts() -> dict[str, str]:
    """File name -> text, for every command."""
    commands = [*COMMANDS, *SUB_COMMANDS, *PROGRAMS]
    with ThreadPoolExecutor(2) as threads:
        texts = threads.map(help_text, commands)
    return {f"{command.replace(' ', '-')}.txt": text for command, text in zip(commands, texts, strict=True)}


if __name__ == "__main__":
    texts = help_texts()
    HELP.mkdir(exist_ok=True)
    for old in HELP.glob("*.txt"):
        old.unlink()
    for name, text in texts.items():
        (HELP / name).write_text(text)
