"""One run at a time on a data set's place: a lock on the store that outlives no run by more than seconds.

The lock is a file lock/NUMBER.json, made by `put_new`, which of many racing writers lets one through. Its holder
rewrites it every few seconds. Whoever finds a lock whose process is dead (same machine), or which has not changed for
`LEASE_TTL_S` (another machine), makes the next NUMBER; the highest number holds. A holder that was only paused finds that
before it puts its next shard, and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.storage.base import Storage
from infra.storage.errors import UserError

LOCKS = "lock/"
RENEW_S = 2.0
"""A holder rewrites its lock this often."""
LEASE_TTL_S = 15.0
"""A lock of another machine that stays unchanged for so long has no holder any more."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Lease:
    """The lock as its holder has it; travels by pickling."""

    store: Storage
    number: int
    run: str
    """Random text that tells this run from others."""

    @property
    def name(self) -> str:
        return f"{LOCKS}{self.number:08d}.json"

    def check(self) -> None:
        """ValueError when another run has taken the place over."""
        if _numbers(self.store)[-1:] != [self.number]:
            raise UserError(
                f"another run has taken over {self.store.url}, because this one gave no sign of life for {LEASE_TTL_S:.0f} "
                "s; it goes on there."
            )

    def content(self, beat: int) -> bytes:
        return json.dumps({"run": self.run, **_process(), "beat": beat}).encode()


@contextlib.contextmanager
def hold_lease(store: Storage) -> Iterator[Lease]:
    """Hold the place while the block runs. ValueError when another run holds it.

    Waits up to `LEASE_TTL_S` to see whether a lock that another machine left has a holder.
    """
    lock = _acquire(store)
    ended = threading.Event()
    heartbeat_thread = threading.Thread(target=_beat, args=(lock, ended), daemon=True, name="lock")
    heartbeat_thread.start()
    try:
        yield lock
    finally:
        ended.set()
        heartbeat_thread.join()
        with contextlib.suppress(ValueError):  # a lock that stays is taken over by the next run
            for number in _numbers(store):
                if number <= lock.number:
                    store.delete(replace(lock, number=number).name)


def _acquire(store: Storage) -> Lease:
    while True:
        number = max(_numbers(store), default=0)
        if number and not _is_abandoned(store, Lease(store, number, "").name):
            continue
        lock = Lease(store, number + 1, secrets.token_hex(8))
        if store.put_new(lock.name, lock.content(0)):
            lock.check()
            return lock


def _is_abandoned(store: Storage, name: str) -> bool:
    """True when the lock has no holder any more, False when it was released; ValueError when it has a holder."""
    first = now = _read(store, name)
    here = _process()
    deadline_s = time.monotonic() + LEASE_TTL_S
    while now is not None and time.monotonic() < deadline_s:
        if now != first or (now["machine"] == here["machine"] and _is_alive(now["pid"], now["started"])):
            raise UserError(
                f"another run is at work on {store.url} (process {now['pid']} on {now['host']}); wait until it has "
                "ended, or end it, or choose another --out."
            )
        if now["machine"] == here["machine"]:
            return True
        time.sleep(_POLL_S)
        now = _read(store, name)
    return now is not None


def _beat(lock: Lease, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(RENEW_S):
        beat += 1
        # A store that cannot be reached for a while is the business of whoever puts shards there.
        with contextlib.suppress(ValueError):
            lock.check()
            lock.store.put(lock.name, lock.content(beat))


def _numbers(store: Storage) -> list[int]:
    names = (entry.name[len(LOCKS) :].removesuffix(".json") for entry in store.list(LOCKS))
    return sorted(int(name) for name in names if name.isdecimal())


def _read(store: Storage, name: str) -> dict[str, Any] | None:
    try:
        return json.loads(store.get(name))
    except FileNotFoundError:
        return None


def _process() -> dict[str, Any]:
    """This process, such that no other one anywhere is mistaken for it."""
    return {
        "host": platform.node(),
        "machine": f"{platform.node()} {_text('/proc/sys/kernel/random/boot_id')} {_pid_namespace()}",
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _is_alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's process, so it lives
        pass
    return _started(pid) == started


def _started(pid: int) -> str:
    """When a process of this machine began, which tells it from a later one with its number; "" where unknown.

    Also "" for one that has ended and was not yet waited for.
    """
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
