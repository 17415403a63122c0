"""Training whose workers, command, store or node are killed or stopped: it resumes, to the same bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.local_s3.server import LocalS3
from pipeline.train import ray_messages as messages
from pipeline.train import watchdog
from tests.support.datasets import TRAIN_IMAGES as EPOCH
from tests.support.datasets import VAL_IMAGES, make_dataset
from tests.support.training import TrainingCommand, command_line, final_files, strike

RESUMING = "resuming from"


@pytest.mark.slow
def test_3_kills(own_s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign(own_s3_server, tmp_path, monkeypatch, ["server", "worker", "command"], away_s=[2])


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_20_kills(own_s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is away for a minute, too."""
    kinds = ["worker", "command", "server"] * 7
    random.Random(0).shuffle(kinds)
    campaign(own_s3_server, tmp_path, monkeypatch, kinds[:20], away_s=[0, 60, 5])


def campaign(
    server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: list[str], away_s: list[float]
) -> None:
    """One run with all the kills, at random instants, and one without any: the same final bytes."""
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "cache"))
    data, piece = make_dataset("s3://irae/data"), 6 * EPOCH
    arguments = ["--data", data, "--workers-per-node", "2", "--max-images", str(piece * (len(kinds) + 1))]
    arguments += ["--lr-schedule", "constant"]  # the paper's would end so long a run of so little to learn
    undisturbed = TrainingCommand(tmp_path / "undisturbed.log", *arguments, "--out", "s3://irae/undisturbed")
    undisturbed.finish(600)
    training = TrainingCommand(tmp_path / "disturbed.log", *arguments, "--out", "s3://irae/disturbed")
    endpoint = server.endpoint
    chance, pauses_s = random.Random(len(kinds)), iter(away_s * len(kinds))
    try:
        for number, kind in enumerate(kinds):
            training.wait_for_images(piece * number + chance.randrange(1, 4) * EPOCH)
            time.sleep(chance.random() * 0.3)
            before, resumptions = training.images_saved(), training.said.count(RESUMING)
            if kind == "server":
                server.kill()
                time.sleep(next(pauses_s))
                server.start()
                assert server.endpoint == endpoint
            elif kind == "worker":
                strike(chance.choice(training.workers()))
            else:
                training.end()
                training.start()  # at once, whatever the first one has left behind
            if kind != "server":  # those that were killed may leave a last checkpoint or two behind
                training.wait(lambda resumptions=resumptions: training.said.count(RESUMING) > resumptions)
            training.wait(lambda before=before: training.images_saved() > before)
            print(f"kill {number} of the {kind} at {before:,} images")
        said = training.finish()
    finally:
        training.end()
    assert final_files("s3://irae/disturbed") == final_files("s3://irae/undisturbed")
    restarts = said.count(f"{RESUMING} the last checkpoint")
    assert restarts >= kinds.count("worker")
    assert said.count(RESUMING) - restarts == kinds.count("command"), said


def test_hanging_worker_is_named_and_killed(data: str, tmp_path: Path) -> None:
    assert watchdog.HEARTBEAT_TIMEOUT_S + watchdog.HEARTBEAT_S + messages._CHECK_S < 60, "within a minute"
    assert watchdog.STRAGGLER_WARN_S + watchdog.HEARTBEAT_S + messages._CHECK_S < 60
    arguments = ["--data", data, "--workers-per-node", "2", "--max-images", str(20 * EPOCH)]
    training = TrainingCommand(tmp_path / "log", *arguments, "--out", str(tmp_path / "run"), heartbeat_timeout_s=6)
    try:
        training.wait_for_images(EPOCH)
        victim = training.workers()[0]
        strike(victim, signal.SIGSTOP)
        said = training.finish()
    finally:
        training.end()
    named = [line for line in said.splitlines() if f"process {victim} on" in line]
    assert len(named) == 1 and "has sent no heartbeat" in named[0], said
    assert training.images_saved() == 20 * EPOCH


@pytest.mark.slow
def test_four_nodes_of_which_one_is_lost(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It resumes with three, and every image is seen as often as it should be."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "only-for-this-test-" + "0" * 16)
    arguments = ["--data", data, "--nodes", "4", "--simulate-nodes", "--max-images", str(30 * EPOCH)]
    training = TrainingCommand(tmp_path / "log", *arguments, "--out", str(tmp_path / "run"))
    try:
        training.wait_for_images(2 * EPOCH)
        assert len(training.workers()) == 4
        nodes = training.simulated_nodes()
        assert len(nodes) == 3
        a_fifth_node_is_missed(training, nodes)
        for pid in nodes[-1]:
            strike(pid)
        training.wait(lambda: "resuming from the last checkpoint" in training.said)
        lost_at = training.images_saved()
        training.wait_for_images(lost_at + EPOCH)
        workers = len(training.workers())
        training.finish()
    finally:
        training.end()
    assert workers == 3
    rows = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    epochs = [row["images_seen"] for row in rows if row["val_psnr_db"]]
    assert epochs == list(range(EPOCH, 30 * EPOCH + 1, EPOCH)), "each epoch is there once, and whole"
    assert all(row["val_images"] == VAL_IMAGES for row in rows if row["val_psnr_db"])


def a_fifth_node_is_missed(training: TrainingCommand, nodes: list[list[int]]) -> None:
    (gcs,) = set(re.findall(r"--gcs-address=(\S+?)\0", command_line(nodes[0][0])))
    code = (
        "from infra.cluster import ray_session; from infra.logs import log_to_stdout\n"
        "log_to_stdout()\nwith ray_session(5, wait_s=1.5): pass"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "RAY_ADDRESS": gcs}, capture_output=True, text=True
    )
    assert "waiting for nodes: 4 of 5 are there, 0:0" in result.stdout
    assert "UserError: --nodes 5 was requested, but 1 did not start within 0.025 min; there: " in result.stderr


def test_one_command_at_a_time(data: str, tmp_path: Path) -> None:
    """A second one is refused; after the first one is killed, the same command resumes at once."""
    arguments = ["--data", data, "--no-ray", "--out", str(tmp_path / "run"), "--max-images"]
    first = TrainingCommand(tmp_path / "first.log", *arguments, str(1_000_000))
    try:
        first.wait_for_images(EPOCH)
        second = subprocess.run(first.command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert second.stderr.splitlines() == [
            line for line in second.stderr.splitlines() if "another run is at work on" in line
        ], "one sentence"
        assert f"process {first.process.pid} on" in second.stderr
    finally:
        first.end()
    reached = first.images_saved()
    third = TrainingCommand(tmp_path / "third.log", *arguments, str(reached + EPOCH))
    said = third.finish()
    assert f"resuming from {reached:,} images" in said
    assert not list((tmp_path / "run").glob("lock/*")), "the lock is released at the end"
