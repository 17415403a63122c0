"""Locations from environment variables."""

from __future__ import annotations

import os
from pathlib import Path


def store_url() -> str:
    """Root of data sets and runs: IRAE_STORE, or the current folder."""
    url = os.environ.get("IRAE_STORE", ".")
    return url if "://" in url else os.path.abspath(url)


def cache_folder() -> Path:
    """Local cache of shards from S3: IRAE_CACHE, or ~/.cache/irae."""
    return Path(os.environ.get("IRAE_CACHE", Path.home() / ".cache" / "irae"))
