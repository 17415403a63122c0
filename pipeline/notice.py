"""The word from a machine to the workers on it that it will end in a moment: a file in its temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def notice_file() -> Path:
    """Where it is, for all processes of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"irae-machine-ends-{os.getuid()}"


def machine_is_ending() -> bool:
    """Whether the machine was told that it will be taken away. A worker on it then asks for a checkpoint."""
    return notice_file().exists()
