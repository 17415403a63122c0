"""The word from a machine to the workers on it that it will end in a moment: a file in its temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def notice_file() -> Path:
    """Where it is, for all processes of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"irae-machine-ends-{os.getuid()}"


class PreemptionNotice:
    """Listens for it, once."""

    def __init__(self) -> None:
        self._heard = False

    def poll(self) -> bool:
        """Whether this is the first time that it is there: a worker then asks for a checkpoint."""
        if self._heard or not notice_file().exists():
            return False
        self._heard = True
        return True
