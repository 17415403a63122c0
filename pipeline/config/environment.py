"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations

import os
from pathlib import Path


def store_url() -> str:
    """Where data sets and runs live unless a command is told otherwise: IRAE_STORE, or the current folder."""
    place = os.environ.get("IRAE_STORE", ".")
    return place if "://" in place else os.path.abspath(place)


def cache_folder() -> Path:
    """Where shards from S3 are kept on this machine: IRAE_CACHE, or ~/.cache/irae."""
    return Path(os.environ.get("IRAE_CACHE", Path.home() / ".cache" / "irae"))
