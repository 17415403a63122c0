"""The lease: one holder, takeover of an expired one, and the fencing token that stops a paused holder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.storage import UserError, open_storage
from infra.storage import lease as lease_module
from infra.storage.lease import LEASES, RENEW_S, Lease, hold_lease


def test_a_second_run_is_refused_while_the_first_lives_and_nothing_stays(store_url: str) -> None:
    store = open_storage(store_url)
    with hold_lease(store) as lease:
        lease.check()
        with pytest.raises(UserError, match=f"another run is at work on {re.escape(store_url)}"), hold_lease(store):
            raise AssertionError
        lease.check()
    with hold_lease(store), pytest.raises(KeyError), hold_lease(store.at("elsewhere")):
        raise KeyError
    assert store.list() == []


def test_of_racing_runs_exactly_one_holds_the_lease(store_url: str) -> None:
    store = open_storage(store_url)
    barrier, finish = threading.Barrier(6), threading.Event()

    def run(_: int) -> bool:
        barrier.wait()
        try:
            with hold_lease(store):
                finish.wait(30)
                return True
        except UserError as error:
            assert "another run" in str(error)
            return False

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(run, i) for i in range(6)]
        while sum(one.done() for one in running) < 5:
            time.sleep(0.01)
        finish.set()
        assert sorted(one.result() for one in running) == [False] * 5 + [True]
    assert store.list() == []


@pytest.mark.integration
def test_the_lease_of_a_killed_run_is_taken_over_without_waiting(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_storage(store_url)
    program = (
        "import os, signal, sys; from infra.storage import open_storage; from infra.storage.lease import hold_lease\n"
        "with hold_lease(open_storage(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, store_url])
    assert [entry.name for entry in store.list()] == [f"{LEASES}{token:08d}.json" for token in (1, 2)]
    monkeypatch.setattr(lease_module, "_POLL_S", "waiting is an error")
    with hold_lease(store) as lease:
        assert lease.fencing_token == 3
    assert store.list() == []


def _content_of_another_machine(lease: Lease, **changes: Any) -> bytes:
    return json.dumps({**json.loads(lease.content(0)), "machine": "another", "host": "far", **changes}).encode()


@contextmanager
def _renewed_by_another_machine(lease: Lease) -> Iterator[None]:
    stopped = threading.Event()

    def renew() -> None:
        renewals = 0
        while not stopped.wait(0.2):
            renewals += 1
            lease.store.put(lease.name, _content_of_another_machine(lease, renewals=renewals))

    lease.store.put(lease.name, _content_of_another_machine(lease))
    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        yield
    finally:
        stopped.set()
        renewing.join()


def test_the_lease_of_another_machine_expires_without_renewal(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_TTL_S", 2.0)
    monkeypatch.setattr(lease_module, "_POLL_S", 0.05)
    store = open_storage(store_url)
    theirs = Lease(store, 7, "theirs")
    with (
        _renewed_by_another_machine(theirs),
        pytest.raises(UserError, match="at work on .* on far"),
        hold_lease(store),
    ):
        raise AssertionError
    theirs.check()
    with hold_lease(store) as ours:
        assert ours.fencing_token == 8
        with pytest.raises(UserError, match="another run has taken over"):
            theirs.check()
        store.put(theirs.name, _content_of_another_machine(theirs, renewals=99))  # a paused holder, late
        ours.check()
    assert store.list() == []


def test_a_lock_of_an_older_version_is_respected_and_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files have the same names, and \"beat\" for \"renewals\"."""
    monkeypatch.setattr(lease_module, "LEASE_TTL_S", 0.2)
    store = open_storage(tmp_path)
    ours = json.loads(Lease(store, 1, "old").content(0))
    old = {key: value for key, value in ours.items() if key != "renewals"} | {"beat": 3}
    store.put("lock/00000001.json", json.dumps(old).encode())
    with pytest.raises(UserError, match="another run is at work"), hold_lease(store):  # this process lives
        raise AssertionError
    for gone in ({"pid": 2**22 + 1}, {"machine": "another"}):
        store.put("lock/00000001.json", json.dumps(old | gone).encode())
        with hold_lease(store) as lease:
            assert lease.fencing_token == 2


def test_a_lease_released_while_it_is_watched_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_storage(tmp_path)
    theirs = Lease(store, 1, "theirs")
    store.put(theirs.name, _content_of_another_machine(theirs))
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: (store.delete(theirs.name), sleep(s)))
    with hold_lease(store) as ours:
        assert ours.fencing_token == 1


def test_the_holder_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 3 * RENEW_S < lease_module.LEASE_TTL_S, "two failed renewals lose no lease"
    monkeypatch.setattr(lease_module, "RENEW_S", 0.02)
    store = open_storage(tmp_path)
    with hold_lease(store) as lease:
        first = store.get(lease.name)
        while store.get(lease.name) == first:
            time.sleep(0.01)
