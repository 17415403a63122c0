"""The shipped ray_cluster.yaml on an account that moto plays: up, scale up, replace, scale down, down, nothing left."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import GATEWAY, NETWORK, PROJECT, Hosts, skip_reason
from tests.cluster.launcher import ENDPOINT, Launcher, documented_submit, s3_for_hosts
from tests.support.aws import EMPTY, REGION, inventory

pytestmark = [pytest.mark.integration, pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))]
pytest.importorskip("moto")

from tests.cluster.fake_cloud import FakeCloud, metadata_service, moto_on_bridge  # noqa: E402

BUCKET = "a-bucket"
IMAGE = "ami-12c6146b"
"""One that moto has."""
IMAGES = 24_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below /tmp: hosts have a /tmp of their own."""
    path = Path(tempfile.mkdtemp(prefix="irae-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def cluster_file(folder: Path) -> Path:
    """The shipped file with endpoint, addresses and sizes of this test; all else as it is."""
    text = (PROJECT / "ray_cluster.yaml").read_text()
    for old, new in {
        "  type: aws\n": "  type: aws\n  use_internal_ips: true\n",
        "ssh_user: ubuntu": "ssh_user: root",
        "m6i.xlarge": "m5.large",
        "g6.2xlarge": "m5.large",
        "resources: {}": "resources: {CPU: 1}",
        "idle_timeout_minutes: 10": "idle_timeout_minutes: 0.5",
        "ami-00000000000000000": IMAGE,
        "bash ~/irae": f"IRAE_VENV={sys.prefix} bash ~/irae",
        "ray start --head": "ray start --head --object-store-memory=150000000",
        "ray start --address": "ray start --object-store-memory=150000000 --address",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "ray_cluster.yaml"
    path.write_text(text)
    return path


def test_the_aws_file_from_setup_to_teardown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    hosts = Hosts(folder / "hosts")
    launcher = Launcher(folder / "home")
    file = cluster_file(folder)
    with s3_for_hosts(folder / "s3", launcher, BUCKET) as s3, moto_on_bridge() as moto, metadata_service() as ending:
        account = s3.env() | {"AWS_ENDPOINT_URL": moto, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
        launcher.environment |= account
        for name, value in account.items():
            monkeypatch.setenv(name, value)
        ec2 = boto3.client("ec2")
        vpc = ec2.create_vpc(CidrBlock=f"{NETWORK}.0/16")["Vpc"]["VpcId"]
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"{NETWORK}.0/24", AvailabilityZone=f"{REGION}a")
        before = inventory()
        cloud = FakeCloud(hosts, ec2, profile(account))
        try:
            step(
                launcher.run(
                    f"python -m infra.aws setup --cluster {file} --bucket {BUCKET} --vpc {vpc} --ssh-from {GATEWAY}/32"
                )
            )
            step(launcher.run(f"python -m pipeline.doctor --cluster {file}"))
            launcher.run(f"ray up -y --no-config-cache {file}")
            step("the head is up")
            check(cloud, "python -m pipeline.shard --size 32 --train-images 400 --val-images 24 --test-images 0")
            with launcher.dashboard(file):
                train_on_four(cloud, launcher, ec2, ending)
            step("scale down")
            wait_until(lambda: not cloud.workers(), 600)
            launcher.run(f"ray down -y {file}")
            wait_until(lambda: not cloud.names, 300)
            step(launcher.run(f"python -m infra.aws teardown --cluster {file} --delete-bucket {BUCKET}"))
            assert inventory() == before == EMPTY
            assert not (launcher.home / ".ssh/irae-cluster.pem").exists()
            step("nothing is left")
        finally:
            cloud.close()
    hosts.close()


def profile(account: dict[str, str]) -> str:
    """What a real instance has by its image and role: sudo, a shutdown time, no NVMe, and rights."""
    lines = [f"export {name}={value}" for name, value in account.items() if name != "AWS_EC2_METADATA_DISABLED"]
    lines.append(f"export AWS_ENDPOINT_URL_S3={ENDPOINT}")
    # As functions, because they need not be files anywhere: the set-up calls them by name.
    lines += ['sudo() { "$@"; }', 'shutdown() { echo "$@" >>~/shutdown.log; }', "lsblk() { :; }"]
    return "\n".join([*lines, "export -f sudo shutdown lsblk", ""])


def train_on_four(cloud: FakeCloud, launcher: Launcher, ec2: Any, ending: set[str]) -> None:
    """A submitted `--nodes 4` brings four spot workers; AWS preempts one in the middle and another joins."""
    step("train")
    options = (
        "--name faces --preset laptop --K 2 --L 2 --width 16 --global-batch-size 24 --sigma-255 25 "
        f"--max-images {IMAGES} --max-minutes 60 --checkpoint-minutes 0.1"
    )
    job = re.findall(r"raysubmit_\w+", launcher.run(f"{documented_submit()} {options}"))[0]
    try:
        wait_until(lambda: len(cloud.workers()) == 4, 600)
    except AssertionError:
        step(ask_job(launcher, "logs", job))
        raise
    first = set(cloud.workers())
    assert all(cloud.launched[name]["InstanceLifecycle"] == "spot" for name in first)
    wait_until(lambda: checkpoints(cloud), 600)
    preempted = sorted(first)[0]
    host = cloud.names[preempted]
    step(f"spot notice for {preempted}")
    ending.add(cloud.launched[preempted]["PrivateIpAddress"])
    wait_until(lambda: cloud.hosts.run(host, "ls /tmp/irae-preemption-0").returncode == 0, 120)
    wait_until(lambda: draining(cloud) == 1, 120)
    ec2.terminate_instances(InstanceIds=[preempted])
    wait_until(lambda: not re.search("PENDING|RUNNING", ask_job(launcher, "status", job)), 1500)
    said = ask_job(launcher, "logs", job)
    step(said[-2500:])
    assert re.search(rf"trained {IMAGES:,} images", said)
    assert "was lost; resuming from the last checkpoint" in said
    assert set(cloud.launched) - first - {i for i in cloud.names if i not in cloud.workers()}, "no replacement came"


def ask_job(launcher: Launcher, what: str, job: str) -> str:
    return launcher.run(f"RAY_AUTH_MODE=token ray job {what} --address http://localhost:8265 {job}")


def draining(cloud: FakeCloud) -> int:
    """Machines that Ray gives no more work."""
    ask = "import ray; ray.init('auto', log_to_driver=False); from ray._private.state import state as s; "
    return int(check(cloud, f'python -c "{ask}print(len(s.get_draining_nodes()))"').splitlines()[-1])


def checkpoints(cloud: FakeCloud) -> bool:
    url = f"s3://{BUCKET}/irae/runs/faces/checkpoints"
    listing = f"python -c \"from infra.storage import open_storage as o; print(o('{url}').list())\""
    return "Entry" in cloud.hosts.run(cloud.head(), listing).stdout


def check(cloud: FakeCloud, command: str) -> str:
    result: subprocess.CompletedProcess[str] = cloud.hosts.run(cloud.head(), command, timeout_s=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stderr + result.stdout


def wait_until(condition: Callable[[], object], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(1)


def step(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", flush=True)
