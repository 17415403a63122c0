"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DoctorConfig:
    """Look at this machine, or at every machine of the cluster that runs here; each problem with what to do.

    Exit code 0 when all is well, 2 otherwise.
    """

    cluster: Path | None = None
    """Look at this yaml instead, without network: what is wrong with it, and what an hour costs."""
    store: str | None = None
    """The place to try. Default: IRAE_STORE."""
    nodes: int | None = None
    """Machines with processors that there must be. Default: as many as there are."""
    local: bool = False
    """Look at this machine alone, also when a cluster runs."""
