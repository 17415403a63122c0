"""Options of `python -m pipeline.doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DoctorConfig:
    """Check this machine, or every machine of the cluster that runs here; each problem with its remedy.

    Exit code 0 without problems, 2 otherwise.
    """

    cluster: Path | None = None
    """Check this cluster yaml instead, without network: problems, and the price of an hour."""
    store: str | None = None
    """URL of the store to check. Default: IRAE_STORE."""
    nodes: int | None = None
    """Expected number of machines with processors. Default: any."""
    local: bool = False
    """Check this machine alone, also when a cluster runs."""
