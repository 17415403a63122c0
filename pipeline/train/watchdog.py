"""Heartbeats of the workers, and detection of the worker that hangs.

A worker is a straggler when others wait for it: it has entered fewer collectives than they have. A long step,
validation or checkpoint on all workers at once is none, whatever it takes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.train.distributed import ProcessGroup

HEARTBEAT_S = 2.0
HEARTBEAT_TIMEOUT_S = 30.0
"""Age of the last heartbeat at which a worker is killed: its machine is lost, or its process hangs."""
STRAGGLER_WARN_S = 40.0
"""Time that others wait for a worker before a warning names it."""
STRAGGLER_KILL_S = 900.0
"""Time that others wait for a worker before it is killed; longer than the deadline of storage retries."""
_OWN_PAUSE_S = 10.0
_ROOT = Path(__file__).parents[2]


class Heartbeat(NamedTuple):
    """State of a worker."""

    rank: int
    process: str
    """Process and machine, different for a restarted worker."""
    collectives_entered: int
    location: str
    """File, line and function that its training is in."""


class Alert(NamedTuple):
    """A worker that hangs or keeps others waiting."""

    rank: int
    sentence: str
    kill: bool
    """Whether to kill it, so that the group restarts from the last checkpoint."""


@contextlib.contextmanager
def heartbeat_thread(group: ProcessGroup, send: Callable[[Heartbeat], None]) -> Iterator[None]:
    """Send a heartbeat now and every `HEARTBEAT_S` while the block runs in this thread."""
    thread, process = threading.get_ident(), f"process {os.getpid()} on {platform.node()}"
    done = threading.Event()

    def send_heartbeat() -> None:
        send(Heartbeat(group.rank, process, group.collectives_entered, _location(thread)))

    def send_heartbeats() -> None:
        while not done.wait(HEARTBEAT_S):
            send_heartbeat()

    send_heartbeat()
    threading.Thread(target=send_heartbeats, daemon=True, name="heartbeat").start()
    try:
        yield
    finally:
        done.set()


def _location(thread: int) -> str:
    """Innermost line of this project that a thread is in."""
    frame: Any = sys._current_frames().get(thread)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and "site-packages" not in path.parts[len(_ROOT.parts) :]:
            return f"{path.relative_to(_ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "?"


@dataclass
class _Worker:
    heartbeat: Heartbeat
    received_s: float
    straggling_since_s: float | None = None
    """None when nobody waits for it."""
    is_warned: bool = False


@dataclass
class HangDetector:
    """Heartbeats to alerts. All times are of one monotonic clock, s."""

    workers: dict[int, _Worker] = field(default_factory=dict)
    checked_s: float | None = None

    def receive(self, heartbeat: Heartbeat, now_s: float) -> None:
        worker = self.workers.get(heartbeat.rank)
        if worker and worker.heartbeat.process != heartbeat.process:
            self.workers.clear()  # the group was restarted
            worker = None
        if worker is None:
            self.workers[heartbeat.rank] = _Worker(heartbeat, now_s)
            return
        if heartbeat.collectives_entered != worker.heartbeat.collectives_entered:
            worker.straggling_since_s, worker.is_warned = None, False
        worker.heartbeat, worker.received_s = heartbeat, now_s

    def check(self, now_s: float) -> list[Alert]:
        """Workers that need attention now. Call it every few seconds."""
        if self.checked_s is not None and now_s - self.checked_s > _OWN_PAUSE_S:
            for worker in self.workers.values():  # this process was suspended, not the workers
                worker.received_s, worker.straggling_since_s = now_s, None
        self.checked_s = now_s
        furthest = max((worker.heartbeat.collectives_entered for worker in self.workers.values()), default=0)
        alerts = [self._alert(worker, furthest, now_s) for worker in list(self.workers.values())]
        return [alert for alert in alerts if alert]

    def _alert(self, worker: _Worker, furthest: int, now_s: float) -> Alert | None:
        rank, process, collectives_entered, location = worker.heartbeat
        name = f"rank {rank} ({process})"
        age_s = now_s - worker.received_s
        if age_s > HEARTBEAT_TIMEOUT_S:
            self.workers.pop(rank)
            return Alert(rank, f"{name} has sent no heartbeat for {age_s:.0f} s, last seen at {location}", True)
        if collectives_entered == furthest:
            return None
        # Heartbeats of two workers are of different moments, so straggling counts from when it was seen.
        worker.straggling_since_s = now_s if worker.straggling_since_s is None else worker.straggling_since_s
        waited_s = now_s - worker.straggling_since_s
        if waited_s <= STRAGGLER_WARN_S:
            return None
        sentence = f"{name} keeps the others waiting for {waited_s:.0f} s, at {location}"
        if waited_s > STRAGGLER_KILL_S:
            self.workers.pop(rank)
            return Alert(rank, sentence, True)
        if worker.is_warned:
            return None
        worker.is_warned = True
        return Alert(rank, sentence, False)
