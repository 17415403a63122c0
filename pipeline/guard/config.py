"""Options of `python -m pipeline.guard`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class GuardConfig:
    """Watch this machine of a cluster: spot preemption, a head that is gone, an idle cluster."""

    action: tyro.conf.Positional[Literal["start", "run"]]
    """start: in the background, replacing an older guard; run: in the foreground."""
    orphan: Literal["shutdown", "ray-stop"] = "shutdown"
    """Action of a worker whose head is gone: shut the machine down, or only stop Ray (on your own machines)."""
    orphan_minutes: float = 10.0
    """Minutes without an answer of the head before that action."""
    idle_minutes: float | None = None
    """On the head: minutes without a job or a login before the whole cluster is terminated. Default: never."""
