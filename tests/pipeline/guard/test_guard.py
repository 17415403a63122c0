"""The guard of a cloud machine: what it hears, and what it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.spot_notice import notice_file
from pipeline.guard import watch as guard
from pipeline.guard.config import GuardConfig


@pytest.fixture
def imds() -> Iterator[Any]:
    """A metadata service of version 2; `noticed` says whether the end is near."""

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
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_spot_notice_is_heard(imds: Any) -> None:
    assert not guard.spot_notice(imds.url)
    imds.noticed = True
    assert guard.spot_notice(imds.url)


def test_where_there_is_no_aws_there_is_no_notice(imds: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert not guard.spot_notice(url)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_notice_is_passed_on_once(imds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers by the file, to Ray by draining."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    drained: list[bool] = []
    monkeypatch.setattr(guard, "drain", lambda: drained.append(notice_file().exists()))
    watching = guard.Guard(GuardConfig("run"), imds.url)
    watching.look()
    assert not drained and not notice_file().exists()
    imds.noticed = True
    watching.look()
    watching.look()
    assert drained == [True], "the checkpoint is asked for first"


def test_the_guard_ends_the_machines_of_its_cluster_and_no_others(
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
        guard.end_cluster()
        states = [i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert sorted(states) == ["running", "terminated", "terminated"]
