"""The guard of a cluster's machine: spot preemption, orphans, idle shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.spot_notice import notice_file
from pipeline.guard import watch as guard
from pipeline.guard.config import GuardConfig


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A metadata service of version 2; `noticed` switches the notice on."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200 if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else 400, b"secret")

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != "secret":
                self.answer(401, b"")
            elif self.path == "/latest/meta-data/spot/instance-action" and server.noticed:
                self.answer(200, b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}')
            else:
                self.answer(404, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.noticed = False
    monkeypatch.setattr(guard, "IMDS", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_spot_notice_is_seen(imds: Any) -> None:
    assert not guard.has_spot_notice()
    imds.noticed = True
    assert guard.has_spot_notice()


def test_where_there_is_no_aws_there_is_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "IMDS", f"http://127.0.0.1:{free_port()}")
    assert not guard.has_spot_notice()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_notice_is_passed_on_once(imds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers by the file, to Ray by draining."""
    monkeypatch.setattr(guard, "head_answers", lambda: True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    drained: list[bool] = []
    monkeypatch.setattr(guard, "drain", lambda: drained.append(notice_file().exists()))
    watching = guard.Guard(GuardConfig("run"))
    watching.poll()
    assert not drained and not notice_file().exists()
    imds.noticed = True
    watching.poll()
    watching.poll()
    assert drained == [True], "the checkpoint is requested first"


def test_the_guard_terminates_the_machines_of_its_cluster_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    (tmp_path / "ray_bootstrap_config.yaml").write_text("cluster_name: irae\nprovider: {region: us-west-2}\n")
    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name="us-west-2")
        for name in ("irae", "irae", "other"):
            tags = [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": name}]}]
            ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tags)
        guard.terminate_cluster()
        states = [i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert sorted(states) == ["running", "terminated", "terminated"]


def timeline(monkeypatch: pytest.MonkeyPatch, config: GuardConfig, events: dict[int, dict[str, bool]]) -> list[str]:
    """Actions of a guard that polls every minute; `events` changes the answers of head and cluster from a minute on."""
    now_s, actions = 0.0, list[str]()
    answers = {"notice": False, "head": True, "used": True}
    monkeypatch.setattr(guard.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(guard, "has_spot_notice", lambda: answers["notice"])
    monkeypatch.setattr(guard, "head_answers", lambda: answers["head"])
    monkeypatch.setattr(guard, "is_in_use", lambda: answers["used"])
    monkeypatch.setattr(guard, "stop_orphan", lambda action: actions.append(f"{action} at {now_s / 60:g}"))
    monkeypatch.setattr(guard, "terminate_cluster", lambda: actions.append(f"terminate at {now_s / 60:g}"))
    watching = guard.Guard(config)
    for minute in range(40):
        now_s = 60.0 * minute
        answers |= events.get(minute, {})
        if not actions:
            watching.poll()
    return actions


@pytest.mark.parametrize("action", ["shutdown", "ray-stop"])
def test_an_orphan_stops_when_the_head_has_been_gone_long_enough(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    config = GuardConfig("run", orphan=action, orphan_minutes=10)
    away = {"head": False}, {"head": True}
    assert timeline(monkeypatch, config, {5: away[0], 14: away[1], 20: away[0]}) == [f"{action} at 30"]
    assert timeline(monkeypatch, config, {}) == []


def test_an_idle_cluster_is_terminated_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = {3: {"used": False}, 10: {"used": True}, 12: {"used": False}}
    assert timeline(monkeypatch, GuardConfig("run", idle_minutes=15), idle) == ["terminate at 27"]
    assert timeline(monkeypatch, GuardConfig("run"), idle) == []


CLUSTER = """
import os, sys
from infra.cluster import LOOPBACK, SIMULATED_STORE_BYTES, apply_settings
apply_settings(starts_here=True)
from ray.cluster_utils import Cluster
from pipeline.guard import watch as guard
here = {"node_ip_address": LOOPBACK, "num_cpus": 1, "object_store_memory": SIMULATED_STORE_BYTES}
head = {"include_dashboard": True, "dashboard_host": LOOPBACK, "dashboard_port": int(sys.argv[1])}
cluster = Cluster(initialize_head=True, head_node_args=head | here)
guard.head_address = lambda: cluster.address
assert guard.head_answers()
assert not guard.is_in_use(), "a cluster without jobs"
node = guard.node_id(cluster.address)
import ray
ray.init(address=cluster.address, log_to_driver=False)
assert [node] == [found["NodeID"] for found in ray.nodes()]
assert guard.is_in_use(), "this driver is a job"
ray.shutdown()
cluster.shutdown()
assert not guard.head_answers()
print("all as expected")
"""


@pytest.mark.integration
def test_jobs_and_nodes_are_found_by_public_names_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real cluster of one node; in a process of its own, since Ray reads its settings at import."""
    pytest.importorskip("ray")
    (tmp_path / "who").write_text("#!/bin/sh\n")
    (tmp_path / "who").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = subprocess.run([sys.executable, "-c", CLUSTER, str(free_port())], capture_output=True, text=True)
    assert result.returncode == 0 and "all as expected" in result.stdout, result.stdout + result.stderr


@pytest.mark.integration
def test_the_background_guard_replaces_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notice_file().touch()
    first = guard.start(["--orphan-minutes", "1000"])
    while not Path(f"/proc/{first}/cmdline").read_bytes():  # its exec has not finished
        time.sleep(0.01)
    second = guard.start(["--orphan-minutes", "1000"])
    try:
        assert not notice_file().exists(), "the notice of an earlier machine"
        assert (tmp_path / ".irae_guard.pid").read_text() == str(second)
        assert os.waitpid(first, 0)[1] == signal.SIGTERM
        command = Path(f"/proc/{second}/cmdline").read_bytes().split(b"\0")
        assert command[1:-1] == [b"-m", b"pipeline.guard", b"run", b"--orphan-minutes", b"1000"]
    finally:
        guard.terminate_old(tmp_path / ".irae_guard.pid")
        os.waitpid(second, 0)
