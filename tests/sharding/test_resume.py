"""Whose place it is: the lock of a running command, and what of a data set is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.storage import lease as lock_module
from infra.storage import open_storage
from infra.storage.lease import LOCKS, Lease, hold_lease
from sharding.dataset import MANIFEST, Dataset
from sharding.write.degrade import encoder_settings, parse_degradations
from sharding.write.pack import SampleSpec, build_shard, pack_shard, put_shard, record_name
from sharding.write.plan import make_plan
from sharding.write.resume import clear, find_finished_shards, reserve_destination
from tests.support.sharding import contents, make_small, small_plan, small_source

RECIPE = SampleSpec(tuple(parse_degradations(["jpeg:10"])))
ENCODERS = encoder_settings()


# ---- the lock


def test_a_second_run_is_refused_while_the_first_lives_and_nothing_stays(store_url: str) -> None:
    store = open_storage(store_url)
    with hold_lease(store) as lock:
        lock.check()
        with pytest.raises(ValueError, match=f"another run is at work on {re.escape(store_url)}"), hold_lease(store):
            raise AssertionError
        lock.check()
    with hold_lease(store), pytest.raises(KeyError), hold_lease(store.at("elsewhere")):
        raise KeyError
    assert store.list() == []


def test_of_racing_runs_exactly_one_goes_on(store_url: str) -> None:
    store = open_storage(store_url)
    barrier, ended = threading.Barrier(6), threading.Event()

    def run(_: int) -> bool:
        barrier.wait()
        try:
            with hold_lease(store):
                ended.wait(30)
                return True
        except ValueError as error:
            assert "another run" in str(error)
            return False

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(run, i) for i in range(6)]
        while sum(one.done() for one in running) < 5:
            time.sleep(0.01)
        ended.set()
        assert sorted(one.result() for one in running) == [False] * 5 + [True]
    assert store.list() == []


@pytest.mark.integration
def test_a_killed_run_s_lock_is_taken_over_at_once(store_url: str) -> None:
    store = open_storage(store_url)
    program = (
        "import os, signal, sys; from infra.storage import open_storage; from infra.storage.lease import locked\n"
        "with locked(open_storage(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, store_url])
    assert [entry.name for entry in store.list()] == [f"{LOCKS}{n:08d}.json" for n in (1, 2)]
    begin = time.monotonic()
    with hold_lease(store) as lock:
        assert time.monotonic() - begin < lock_module.LEASE_TTL_S / 2
        assert lock.number == 3
    assert store.list() == []


def _put_of_another_machine(lock: Lease, beat: int) -> None:
    content = json.loads(lock.content(beat))
    lock.store.put(lock.name, json.dumps({**content, "machine": "another", "host": "far"}).encode())


def test_another_machine_s_lock_is_watched(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "LEASE_TTL_S", 2.0)
    monkeypatch.setattr(lock_module, "_POLL_S", 0.05)
    store = open_storage(store_url)
    theirs = Lease(store, 7, "theirs")
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.2):
            number += 1
            _put_of_another_machine(theirs, number)

    _put_of_another_machine(theirs, 0)
    heartbeat_thread = threading.Thread(target=beat)
    heartbeat_thread.start()
    try:
        with pytest.raises(ValueError, match="on far"), hold_lease(store):
            raise AssertionError
    finally:
        ended.set()
        heartbeat_thread.join()
    theirs.check()
    with hold_lease(store) as ours:  # its holder gives no more sign
        assert ours.number == 8
        with pytest.raises(ValueError, match="another run has taken over"):
            theirs.check()
        _put_of_another_machine(theirs, 99)  # it wakes up, late
        ours.check()
    assert store.list() == []


def test_a_lock_that_is_released_while_it_is_watched_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_POLL_S", 0.05)
    store = open_storage(tmp_path)
    theirs = Lease(store, 1, "theirs")
    _put_of_another_machine(theirs, 0)
    timer = threading.Timer(0.3, lambda: store.delete(theirs.name))
    timer.start()
    with hold_lease(store) as ours:
        assert ours.number == 1
    timer.join()


def test_the_lock_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "RENEW_S", 0.02)
    store = open_storage(tmp_path)
    with hold_lease(store) as lock:
        first = store.get(lock.name)
        deadline_s = time.monotonic() + 20
        while store.get(lock.name) == first and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert store.get(lock.name) != first


# ---- the plan


def test_a_place_holds_one_data_set(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    other = make_plan(source.images(), {"source": source.name, "bits": 5}, 0, 6)
    with pytest.raises(ValueError, match="holds another data set .it differs in bits.; choose another --out"):
        reserve_destination(store, other, ENCODERS, overwrite=False)
    fewer = make_plan(source.images()[1:], {"source": source.name}, 0, 6)
    with pytest.raises(ValueError, match="it differs in its images"):
        reserve_destination(store, fewer, ENCODERS, overwrite=False)
    reserve_destination(store, other, ENCODERS, overwrite=True)
    with pytest.raises(ValueError, match="holds another data set"):
        reserve_destination(store, plan, ENCODERS, overwrite=False)


def test_encoders_are_not_mixed_and_a_finished_data_set_keeps_its_own(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    newer = {**ENCODERS, "libraries": {"pillow": "99"}}
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    with pytest.raises(ValueError, match="it differs in encoders"):
        reserve_destination(store, plan, newer, overwrite=False)
    make_small(store, RECIPE, source)
    reserve_destination(store, plan, newer, overwrite=False)
    reserve_destination(store, plan, newer, overwrite=True)
    assert [entry.name for entry in store.list()] == ["plan.json"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    store, plan = open_storage(tmp_path), small_plan(small_source())
    store.put("train-00000.tar", b"someone's")
    with pytest.raises(ValueError, match=r"holds shards of another origin \(train-00000.tar and so on\)"):
        reserve_destination(store, plan, ENCODERS, overwrite=False)
    store.put("notes.txt", b"")
    store.put("other.tar", b"")
    clear(store)
    assert [entry.name for entry in store.list()] == ["notes.txt", "other.tar"]


# ---- what is kept


def todo(store_url: str, deep: bool = False) -> list[str]:
    found = find_finished_shards(open_storage(store_url), small_plan(small_source()), deep)
    return [shard.name for shard in found.todo]


def test_finished_shards_of_an_interrupted_run_are_kept(store_url: str) -> None:
    store, source = open_storage(store_url), small_source()
    plan = small_plan(source)
    names = [shard.name for shard in plan.shards]
    assert todo(store_url) == names
    for shard in plan.shards[:4]:
        pack_shard(source, shard, RECIPE, store)
    assert todo(store_url) == names[4:]
    store.delete(names[0])
    store.put(names[1], store.get(names[1])[:-1] + b"!")
    store.put(record_name(names[2]), store.get(record_name(names[2]))[:-30])
    assert todo(store_url) == [*names[:3], *names[4:]] == todo(store_url, deep=True)


def test_shards_with_unusable_images_are_tried_again(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    tar, part = build_shard(source, plan.shards[0], RECIPE)
    part.bad.append({"key": "k", "file": "f", "reason": "r"})
    put_shard(tar, part, store)
    assert todo(str(tmp_path)) == [shard.name for shard in plan.shards]


def test_damaged_shards_of_a_finished_data_set_are_to_do(store_url: str) -> None:
    store, source = open_storage(store_url), small_source()
    plan = make_small(store, RECIPE, source)
    info = Dataset.open(store).info
    found = find_finished_shards(store, plan)
    assert found.todo == () and found.info == info
    assert found.sha256 == {shard["name"]: shard["sha256"] for shard in info["shards"]}
    name = plan.shards[2].name
    store.put(name, store.get(name)[:700] + b"!" + store.get(name)[701:])
    store.delete(plan.shards[4].name)
    assert todo(store_url) == [name, plan.shards[4].name] == todo(store_url, deep=True)
    store.delete(MANIFEST)
    found = find_finished_shards(store, plan)
    assert found.info is None and found.todo == plan.shards and len(found.sha256) == len(plan.shards)
    assert contents(store).keys() >= {"dataset.json"}
