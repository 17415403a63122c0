"""A lease with a fencing token: one run at a time writes to a folder of a store.

The lease is the file lock/TOKEN.json with the highest token. `put_new` creates it, so that one of many racing runs
wins, and its holder renews it every `RENEW_S`. It has expired when its process is dead (same machine) or it was not
renewed for `LEASE_TTL_S` (another machine); the next run then creates TOKEN + 1. A paused holder finds that token
before its next write, and stops.
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

LEASES = "lock/"
RENEW_S = 2.0
"""Interval at which a holder renews its lease."""
LEASE_TTL_S = 15.0
"""Time without renewal after which a lease of another machine has expired."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Lease:
    """The lease as its holder has it; travels by pickling."""

    store: Storage
    fencing_token: int
    run: str
    """Random text that no other run has."""

    @property
    def name(self) -> str:
        return f"{LEASES}{self.fencing_token:08d}.json"

    def check(self) -> None:
        """Raise UserError unless this is the highest token."""
        if _tokens(self.store)[-1:] != [self.fencing_token]:
            raise UserError(
                f"another run has taken over {self.store.url}, because this one did not renew its lease for "
                f"{LEASE_TTL_S:.0f} s; it resumes the work there."
            )

    def content(self, renewals: int) -> bytes:
        return json.dumps({"run": self.run, **_process(), "renewals": renewals}).encode()


@contextlib.contextmanager
def hold_lease(store: Storage) -> Iterator[Lease]:
    """Hold the folder's lease in the block. UserError when another run holds it, found within `LEASE_TTL_S`."""
    lease, released = _acquire(store), threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, released), daemon=True, name="lease")
    renewing.start()
    try:
        yield lease
    finally:
        released.set()
        renewing.join()
        with contextlib.suppress(UserError):  # a lease that stays will expire
            for token in _tokens(store):
                if token <= lease.fencing_token:
                    store.delete(replace(lease, fencing_token=token).name)


def _acquire(store: Storage) -> Lease:
    while True:
        token = max(_tokens(store), default=0)
        if token and not _has_expired(Lease(store, token, "")):
            continue
        lease = Lease(store, token + 1, secrets.token_hex(8))
        if store.put_new(lease.name, lease.content(0)):
            lease.check()
            return lease


def _has_expired(lease: Lease) -> bool:
    """True when the lease has expired, False when it was released. Raises UserError when it has a holder."""
    first = now = _read(lease)
    here = _process()
    deadline_s = time.monotonic() + LEASE_TTL_S
    while now is not None and time.monotonic() < deadline_s:
        is_here = now["machine"] == here["machine"]
        if now != first or (is_here and _is_alive(now["pid"], now["started"])):
            raise UserError(
                f"another run is at work on {lease.store.url} (process {now['pid']} on {now['host']}); wait until it "
                "has finished, or stop it, or choose another --out."
            )
        if is_here:
            return True
        time.sleep(_POLL_S)
        now = _read(lease)
    return now is not None


def _renew(lease: Lease, released: threading.Event) -> None:
    renewals = 0
    while not released.wait(RENEW_S):
        renewals += 1
        # During an outage of the store nothing is written either, and after it the holder checks its token.
        with contextlib.suppress(UserError):
            lease.check()
            lease.store.put(lease.name, lease.content(renewals))


def _tokens(store: Storage) -> list[int]:
    names = (entry.name[len(LEASES) :].removesuffix(".json") for entry in store.list(LEASES))
    return sorted(int(name) for name in names if name.isdecimal())


def _read(lease: Lease) -> dict[str, Any] | None:
    try:
        return json.loads(lease.store.get(lease.name))
    except FileNotFoundError:
        return None


def _process() -> dict[str, Any]:
    """Identity of this process, unique over machines, containers and reboots."""
    return {
        "host": platform.node(),
        "machine": f"{platform.node()} {_text('/proc/sys/kernel/random/boot_id')} {_pid_namespace()}",
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def _is_alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, so it lives
        pass
    return _start_time(pid) == started


def _start_time(pid: int) -> str:
    """Start time of a process, which its id alone does not identify, clock ticks; "" for a zombie or without /proc."""
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
