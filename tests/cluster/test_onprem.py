"""The shipped infra/onprem.yaml on four hosts: `ray up`, shard, train, lose a machine, `ray down`, nothing left."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.storage import open_storage
from tests.cluster.hosts import NETWORK, PROJECT, Hosts, skip_reason
from tests.cluster.launcher import ENDPOINT, STORE, Launcher, s3_for_hosts

pytestmark = pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))

HOSTS = {"head": f"{NETWORK}.10", "worker-1": f"{NETWORK}.11", "worker-2": f"{NETWORK}.12", "worker-3": f"{NETWORK}.13"}
IMAGES = 600
"""Images that the training must see, every one of them counted."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below /tmp: hosts have a /tmp of their own."""
    path = Path(tempfile.mkdtemp(prefix="irae-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def cluster_file(folder: Path, launcher: Launcher) -> Path:
    """The shipped file with addresses, key, store and sizes of this test; all else as it is."""
    text = (PROJECT / "infra/onprem.yaml").read_text()
    for old, new in {
        "http://192.0.2.1:8333": ENDPOINT,
        "192.0.2.": f"{NETWORK}.",
        "ssh_user: ubuntu": "ssh_user: root",
        "~/.ssh/id_ed25519": str(launcher.home / ".ssh/id_ed25519"),
        "s3://YOUR-BUCKET/irae": STORE,
        "bash ~/irae": f"IRAE_VENV={sys.prefix} bash ~/irae",
        "ray start ": "ray start --num-cpus=1 --object-store-memory=150000000 ",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "onprem.yaml"
    path.write_text(text)
    return path


def test_a_cluster_of_four_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(folder / "hosts")
    launcher = Launcher(folder / "home")
    file = cluster_file(folder, launcher)
    for name, address in HOSTS.items():
        hosts.boot(name, address, launcher.public_key)
    with s3_for_hosts(folder / "s3", launcher) as s3:
        for name, value in s3.env().items():
            monkeypatch.setenv(name, value)
        launcher.run(f"python -m pipeline.doctor --cluster {file}")
        step("ray up")
        launcher.run(f"ray up -y --no-config-cache {file}")
        wait_for_nodes(hosts, 4)
        step("a job by `ray job submit`")
        submit = "RAY_ADDRESS=http://127.0.0.1:8265 ray job submit -- python -m pipeline.doctor --nodes 4"
        assert "all is well" in check(hosts.run("head", submit))
        step("shard")
        check(hosts.run("head", f"RAY_ADDRESS=auto python -m pipeline.shard {source()}"))
        step("train")
        train_while_a_machine_is_lost(hosts)
        assert_every_image_was_seen()
        report = hosts.run("head", "python -m pipeline.doctor")
        assert report.returncode == 2, report.stdout + report.stderr
        assert f"worker-3 ({HOSTS['worker-3']}) is lost" in report.stderr
        step("ray down")
        launcher.run(f"ray down -y {file}")
    nothing_is_left(hosts)
    hosts.close()


def nothing_is_left(hosts: Hosts) -> None:
    """`ray down` stops the head; the guards end Ray on the others when the head is gone for a minute."""
    deadline_s = time.monotonic() + 150
    while any(left := {name: hosts.running(name) for name in HOSTS}.values()):
        assert time.monotonic() < deadline_s, left
        time.sleep(2)
    step("no process is left")


def step(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", flush=True)


def source() -> str:
    """Real faces where the tests have them, generated images otherwise."""
    data = os.environ.get("IRAE_TEST_DATA")
    faces = Path(data, "celeba") if data else None
    if faces and faces.is_dir():
        return f"--source celeba --root {faces} --size 32"
    return "--source synthetic --size 32 --train-images 600 --val-images 60 --test-images 0"


def check(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


def wait_for_nodes(hosts: Hosts, count: int) -> None:
    """`ray up` returns when the head is up; the doctor is green when all are."""
    deadline_s = time.monotonic() + 240
    while True:
        report = hosts.run("head", f"python -m pipeline.doctor --nodes {count}")
        if report.returncode == 0:
            step(report.stdout)
            assert all(name in report.stdout for name in HOSTS)
            return
        assert time.monotonic() < deadline_s, report.stdout + report.stderr
        time.sleep(3)


def train_while_a_machine_is_lost(hosts: Hosts) -> None:
    """A worker is powered off as soon as the first checkpoint is on the store; the same command still ends well."""
    command = (
        "python -m pipeline.train --name faces --nodes 4 --preset laptop --K 2 --L 2 --width 16 --global-batch 24 "
        f"--max-images {IMAGES} --checkpoint-minutes 0.05 --sigma-255 25"
    )
    results: list[subprocess.CompletedProcess[str]] = []
    training = threading.Thread(target=lambda: results.append(hosts.run("head", command, timeout_s=900)))
    training.start()
    run = open_storage(f"{STORE}/runs/faces/checkpoints")
    while training.is_alive() and not run.list():
        time.sleep(0.5)
    assert training.is_alive(), results
    step("power off worker-3")
    hosts.power_off("worker-3")
    training.join()
    step(check(results[0])[-3000:])


def assert_every_image_was_seen() -> None:
    """The run counted each image once: steps without a gap, each of the whole batch, up to the end."""
    run = open_storage(f"{STORE}/runs/faces")
    metrics = json.loads(run.get("metrics.json"))
    assert metrics["images_seen"] == -(-IMAGES // 24) * 24, metrics
    newest = [int(re.findall(r"\d+", entry.name)[0]) for entry in run.list("checkpoints/")]
    assert max(newest) == metrics["images_seen"]
