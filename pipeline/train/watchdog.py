"""Which worker hangs? Each tells every few seconds that it lives and how far it is; the command looks at all of them.

A worker is behind when others wait for it: it has come to fewer meetings (sums over all workers) than they have. A
long step, validation or checkpoint on all workers at once is no reason to worry, whatever it takes.
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
"""A worker that was not heard of for so long is ended: its machine is gone, or the process stands still."""
STRAGGLER_WARN_S = 40.0
"""A worker that others wait for so long is named."""
STRAGGLER_KILL_S = 900.0
"""A worker that others wait for so long is ended; longer than a store is waited for."""
_OWN_PAUSE_S = 10.0
_ROOT = Path(__file__).parents[2]


class Heartbeat(NamedTuple):
    """What a worker tells of itself."""

    rank: int
    process: str
    """Where it runs, such that it is told from one that takes its place."""
    collectives_entered: int
    """Sums over all workers that it has come to."""
    at: str
    """What its training is at: file, line and function."""


class Alert(NamedTuple):
    """A worker that needs attention."""

    rank: int
    sentence: str
    end: bool
    """Whether it must be ended, so that the others begin again from the last checkpoint."""


@contextlib.contextmanager
def heartbeat_thread(group: ProcessGroup, send: Callable[[Heartbeat], None]) -> Iterator[None]:
    """Send a beat now and every `HEARTBEAT_S` while the block runs in this thread."""
    thread, process = threading.get_ident(), f"process {os.getpid()} on {platform.node()}"
    ended = threading.Event()

    def beat() -> None:
        send(Heartbeat(group.rank, process, group.progress.collectives_entered, _where(thread)))

    def beat_on() -> None:
        while not ended.wait(HEARTBEAT_S):
            beat()

    beat()
    threading.Thread(target=beat_on, daemon=True, name="beat").start()
    try:
        yield
    finally:
        ended.set()


def _where(thread: int) -> str:
    """The innermost line of ours that a thread is at."""
    frame: Any = sys._current_frames().get(thread)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and "site-packages" not in path.parts[len(_ROOT.parts) :]:
            return f"{path.relative_to(_ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "?"


@dataclass
class _Member:
    beat: Heartbeat
    heard_s: float
    behind_s: float | None = None
    """Since when others wait for it; None when nobody does."""
    named: bool = False


@dataclass
class HangDetector:
    """Takes beats and says who hangs. All times are of one clock that never goes back, s."""

    members: dict[int, _Member] = field(default_factory=dict)
    looked_s: float | None = None

    def heard(self, beat: Heartbeat, now_s: float) -> None:
        """A beat has come."""
        member = self.members.get(beat.rank)
        if member and member.beat.process != beat.process:
            self.members.clear()  # a new group has begun
            member = None
        if member is None:
            self.members[beat.rank] = _Member(beat, now_s)
            return
        if beat.collectives_entered != member.beat.collectives_entered:
            member.behind_s, member.named = None, False
        member.beat, member.heard_s = beat, now_s

    def left(self, rank: int) -> None:
        """A worker has ended as it should."""
        self.members.pop(rank, None)

    def clear(self) -> None:
        """The group has ended; another one will begin."""
        self.members.clear()

    def look(self, now_s: float) -> list[Alert]:
        """Who needs attention now. To be called every few seconds."""
        if self.looked_s is not None and now_s - self.looked_s > _OWN_PAUSE_S:
            # It is we who stood still.
            for member in self.members.values():
                member.heard_s, member.behind_s = now_s, None
        self.looked_s = now_s
        furthest = max((member.beat.collectives_entered for member in self.members.values()), default=0)
        troubles = [self._trouble(member, furthest, now_s) for member in list(self.members.values())]
        return [trouble for trouble in troubles if trouble]

    def _trouble(self, member: _Member, furthest: int, now_s: float) -> Alert | None:
        rank, process, collectives_entered, at = member.beat
        name = f"rank {rank} ({process})"
        silent_s = now_s - member.heard_s
        if silent_s > HEARTBEAT_TIMEOUT_S:
            self.left(rank)
            return Alert(rank, f"{name} gives no sign of life for {silent_s:.0f} s, last seen at {at}", True)
        if collectives_entered == furthest:
            return None
        # The last beats of two workers are of different moments, so being behind counts from when it was seen.
        member.behind_s = now_s if member.behind_s is None else member.behind_s
        waited_s = now_s - member.behind_s
        if waited_s <= STRAGGLER_WARN_S:
            return None
        sentence = f"{name} keeps the others waiting for {waited_s:.0f} s, at {at}"
        if waited_s > STRAGGLER_KILL_S:
            self.left(rank)
            return Alert(rank, sentence, True)
        if member.named:
            return None
        member.named = True
        return Alert(rank, sentence, False)
