"""The shipped infra/onprem.yaml on four hosts: `ray up`, shard, train, lose a machine, `ray down`, nothing left."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.storage import open_storage
from pipeline.runs.folder import Run
from sharding import Dataset
from tests.cluster.hosts import NETWORK, PROJECT, Hosts, skip_reason
from tests.cluster.launcher import ENDPOINT, STORE, Launcher, documented_submit, s3_for_hosts

pytestmark = [pytest.mark.integration, pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))]

HOSTS = {"head": f"{NETWORK}.10", "worker-1": f"{NETWORK}.11", "worker-2": f"{NETWORK}.12", "worker-3": f"{NETWORK}.13"}
BATCH = 24
IMAGES = 21_000
"""Images that the training must see, every one of them counted: three times the 7,000 faces."""


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
        submit = documented_submit().replace("--no-wait ", "").replace("pipeline.train", "pipeline.doctor")
        with launcher.dashboard(file):
            assert "all is well" in launcher.run(submit)
        step("shard")
        check(hosts.run("head", f"RAY_ADDRESS=auto python -m pipeline.shard {source()}"))
        step("train")
        train_while_a_machine_is_lost(hosts)
        assert_every_image_was_seen()
        report = hosts.run("head", "python -m pipeline.doctor")
        assert report.returncode == 2, report.stdout + report.stderr
        assert f"worker-3 ({HOSTS['worker-3']}) is lost" in report.stderr
        step(report.stderr)
        step("ray down")
        launcher.run(f"ray down -y {file}")
    nothing_is_left(hosts)
    hosts.close()


def nothing_is_left(hosts: Hosts) -> None:
    """`ray down` stops the head; the guards stop Ray on the others when the head has been gone for a minute."""
    deadline_s = time.monotonic() + 400
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
    return "--source synthetic --size 32 --train-images 7000 --val-images 60 --test-images 0"


def check(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


def wait_for_nodes(hosts: Hosts, count: int) -> None:
    """`ray up` returns when the head is up; the doctor is green when all are."""
    deadline_s = time.monotonic() + 600
    while True:
        report = hosts.run("head", f"python -m pipeline.doctor --nodes {count}")
        if report.returncode == 0:
            step(report.stdout)
            assert all(name in report.stdout for name in HOSTS)
            return
        assert time.monotonic() < deadline_s, report.stdout + report.stderr
        time.sleep(3)


def train_while_a_machine_is_lost(hosts: Hosts) -> None:
    """A worker is powered off in the middle of an epoch; the training resumes from the checkpoint and completes."""
    command = (
        f"python -m pipeline.train --name faces --nodes 4 --preset laptop --K 2 --L 2 --width 16 "
        f"--global-batch-size {BATCH} --max-images {IMAGES} --max-minutes 60 --checkpoint-minutes 0.05 --sigma-255 25"
    )
    results: list[subprocess.CompletedProcess[str]] = []
    training = threading.Thread(target=lambda: results.append(hosts.run("head", command, timeout_s=1500)))
    training.start()
    while training.is_alive() and not checkpoints():
        time.sleep(0.1)
    assert training.is_alive(), results
    hosts.power_off("worker-3")
    run, reached = Run(open_storage(f"{STORE}/runs/faces")), int(checkpoints()[-1])
    step(f"worker-3 was powered off; the newest checkpoint is of {reached:,} images")
    assert 0 < reached < IMAGES and reached not in epoch_ends(run), "in mid-epoch"
    training.join()
    step(check(results[0])[-3000:])
    assert "was lost; resuming from the last checkpoint" in results[0].stderr
    step("log.txt:\n" + run.store.get("log.txt").decode())
    for line in results[0].stderr.splitlines()[-3:]:
        assert line in run.store.get("log.txt").decode()


def checkpoints() -> list[str]:
    """Names of the checkpoints now."""
    return Run(open_storage(f"{STORE}/runs/faces")).checkpoints.names()


def epoch_ends(run: Run) -> list[int]:
    """Images seen after the step that completes each epoch."""
    data = (run.read_json("config.json") or {})["data"]["url"]
    epoch = Dataset.open(open_storage(data)).split_sizes["train"]
    return [-(-n // BATCH) * BATCH for n in range(epoch, IMAGES + 1, epoch)]


def assert_every_image_was_seen() -> None:
    """No image is missing and none is counted twice: each epoch is there once and whole, up to the end."""
    run = Run(open_storage(f"{STORE}/runs/faces"))
    assert json.loads(run.store.get("metrics.json"))["images_seen"] == int(checkpoints()[-1]) == IMAGES
    rows = pq.read_table(io.BytesIO(run.store.get("metrics.parquet"))).to_pylist()
    seen = [row["images_seen"] for row in rows]
    assert seen == sorted(set(seen)), "what was done twice counts once"
    validated = [row for row in rows if row["val_psnr_db"]]
    assert [row["images_seen"] for row in validated] == epoch_ends(run)
    assert len({row["val_images"] for row in validated}) == 1
    step(f"validated at {epoch_ends(run)}, {validated[0]['val_images']:.0f} images each")
