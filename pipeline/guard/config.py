"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class GuardConfig:
    """Watch this machine of a cluster on AWS: spot notices, a head that is gone, a cluster that nobody uses."""

    action: tyro.conf.Positional[Literal["start", "run"]]
    """start: in the background, in the place of an older one; run: here."""
    orphan: Literal["shutdown", "ray-stop"] = "shutdown"
    """What a worker does when its head is gone: end the machine, or only Ray on it (for machines of your own)."""
    orphan_minutes: float = 10.0
    """How long the head must have been gone."""
    idle_minutes: float | None = None
    """On the head: end the whole cluster after this time without a running command. Default: never."""
