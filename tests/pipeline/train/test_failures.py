"""The parts that keep a run alive: the watch over the workers, patience with a store, a full disk."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import StorageError
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import Trainer
from pipeline.train.watchdog import (
    HEARTBEAT_TIMEOUT_S,
    STRAGGLER_KILL_S,
    STRAGGLER_WARN_S,
    HangDetector,
    Heartbeat,
    heartbeat_thread,
)
from tests.support.datasets import make_dataset
from tests.support.training import BATCH, config_for, trainer_for


def send_heartbeats(detector: HangDetector, collectives_entered: dict[int, int], now_s: float) -> None:
    for rank, count in collectives_entered.items():
        detector.receive(Heartbeat(rank, f"process {rank}", count, "here"), now_s)


@given(st.lists(st.floats(0.1, 8), min_size=20, max_size=80), st.integers(2, 5))
def test_workers_that_move_together_raise_no_alert(pauses_s: list[float], world_size: int) -> None:
    """However long a step takes: nobody is ahead of the others by more than a look."""
    detector, now_s = HangDetector(), 0.0
    for step, pause_s in enumerate(pauses_s):
        now_s += pause_s
        send_heartbeats(detector, dict.fromkeys(range(world_size), step // 40), now_s)
        assert detector.check(now_s) == []


@given(st.integers(0, 4), st.integers(5, 6))
def test_silent_worker_is_killed_once(silent: int, world_size: int) -> None:
    detector, alerts = HangDetector(), []
    for second in range(0, 120, 2):
        ranks = [rank for rank in range(world_size) if rank != silent or second == 0]
        send_heartbeats(detector, dict.fromkeys(ranks, 0), second)
        alerts += [(second, alert) for alert in detector.check(second)]
    ((second, alert),) = alerts
    assert alert.rank == silent and alert.kill
    assert HEARTBEAT_TIMEOUT_S < second < 60
    assert f"rank {silent} (process {silent})" in alert.sentence


def test_straggler_is_warned_of_and_killed_much_later() -> None:
    detector, alerts = HangDetector(), []
    for second in range(0, 920, 2):
        send_heartbeats(detector, {0: 7, 1: 6 if second else 5, 2: 7}, second)
        alerts += [(second, alert.rank, alert.kill) for alert in detector.check(second)]
    (warned, killed) = alerts
    assert warned[1:] == (1, False) and STRAGGLER_WARN_S < warned[0] < 60
    assert killed[1:] == (1, True) and killed[0] > STRAGGLER_KILL_S


def test_after_a_long_wait_together_the_first_to_move_raises_no_alert() -> None:
    """Its heartbeat comes first, and the other one's last heartbeat is from before."""
    detector = HangDetector()
    for second in range(0, 200, 2):
        send_heartbeats(detector, {0: 7, 1: 7}, second)
        assert detector.check(second) == []
    send_heartbeats(detector, {0: 9}, 200)
    assert detector.check(200) == []
    send_heartbeats(detector, {0: 9, 1: 9}, 202)
    assert detector.check(202) == []


def test_a_suspended_detector_raises_no_alert() -> None:
    detector = HangDetector()
    send_heartbeats(detector, {0: 0, 1: 0}, 0)
    detector.check(0)
    assert detector.check(1000) == []


def test_a_new_group_is_not_taken_for_the_old_one() -> None:
    detector = HangDetector()
    send_heartbeats(detector, {0: 90, 1: 90, 2: 90}, 0)
    detector.receive(Heartbeat(0, "a new process", 0, "here"), 1)
    for second in range(2, 100, 2):
        detector.receive(Heartbeat(0, "a new process", 0, "here"), second)
        assert detector.check(second) == []


def test_heartbeats_continue_while_the_block_runs_and_hold_its_location() -> None:
    sent: list[Heartbeat] = []
    with heartbeat_thread(ProcessGroup(3, 4, torch.device("cpu")), sent.append):
        assert sent[0].rank == 3
        assert sent[0].location.startswith("pipeline/train/watchdog.py"), "the innermost line of ours"
        while len(sent) < 3:
            time.sleep(0.1)
    assert "test_heartbeats_continue" in sent[-1].location
    count = len(sent)
    time.sleep(2.5)
    assert len(sent) == count


def test_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    data = make_dataset(str(tmp_path / "data"))

    def trainer(**changes: object) -> Trainer:
        return trainer_for(config_for(data, tmp_path / "run", **changes))

    trainer(max_images=2 * BATCH).train()
    cut = trainer(max_images=4 * BATCH)
    before = cut.run.checkpoints.names()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, usual[1]))  # a write fails in the middle of a file
    try:
        with pytest.raises(StorageError) as error:
            cut.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert len(str(error.value).splitlines()) == 1
    assert cut.run.checkpoints.names() == before == ["000000000016"]
    resumed = trainer(max_images=4 * BATCH)
    assert resumed.images_seen == 2 * BATCH
    resumed.train()
    assert resumed.run.checkpoints.names()[-1] == "000000000032"
