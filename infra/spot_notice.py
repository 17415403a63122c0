"""Notice of a spot preemption from the guard of a machine to the workers on it: a file in the temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def notice_file() -> Path:
    """The file, the same for all processes of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"irae-preemption-{os.getuid()}"


class PreemptionNotice:
    """A worker's view of the notice."""

    def __init__(self) -> None:
        self._seen = False

    def poll(self) -> bool:
        """True once, when the notice has come: the worker then requests a checkpoint."""
        if self._seen or not notice_file().exists():
            return False
        self._seen = True
        return True
