"""python -m pipeline.guard: on every machine of a cluster, so that nothing runs for nothing.

- A spot machine that is about to be taken back (AWS says so two minutes before) asks its workers for a checkpoint and
  tells Ray to give it no more work.
- A worker whose head is gone ends itself, or Ray on it.
- The head ends the whole cluster when nobody has used it for a while.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import load
from infra.aws.steps import Account
from infra.aws.teardown import end_machines
from infra.spot_notice import notice_file
from pipeline.cli import run_command
from pipeline.guard.config import GuardConfig

logger = logging.getLogger(__name__)

POLL_S = 5.0
IMDS = "http://169.254.169.254"
NOTICE_S = 110
"""Of the two minutes, what is left when the notice is seen."""


def main(config: GuardConfig) -> None:
    """Start it in the background, or keep watch until the machine ends."""
    if config.action == "start":
        logger.info(f"watching in the background: {start(sys.argv[2:])}")
        return
    guard = Guard(config)
    while True:
        try:
            guard.look()
        except Exception as error:  # it must outlive whatever goes wrong around it
            logger.info(f"{time.strftime('%F %T')} {type(error).__name__}: {error}")
        time.sleep(POLL_S)


def start(options: list[str]) -> int:
    """Start `run` apart from this terminal; returns its process number."""
    place = Path.home() / ".irae_guard"
    end_old(place.with_suffix(".pid"))
    notice_file().unlink(missing_ok=True)
    with open(place.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.guard", "run", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    place.with_suffix(".pid").write_text(str(process.pid))
    return process.pid


def end_old(file: Path) -> None:
    """End the guard whose number the file holds, if it is one."""
    if not file.exists():
        return
    line = Path(f"/proc/{file.read_text()}/cmdline")
    if line.exists() and b"pipeline.guard" in line.read_bytes():
        os.kill(int(file.read_text()), 15)


class Guard:
    """One look after another; what was seen before is remembered."""

    def __init__(self, config: GuardConfig, imds: str = IMDS) -> None:
        self.config, self.imds = config, imds
        self.noticed = False
        self.head_seen_at = self.used_at = time.monotonic()

    def look(self) -> None:
        """Look once and do what follows from it."""
        if not self.noticed and spot_notice(self.imds):
            self.noticed = True
            say("AWS takes this machine back in two minutes: a checkpoint is asked for, no more work is taken")
            notice_file().touch()
            drain()
        if head_answers():
            self.head_seen_at = time.monotonic()
        elif minutes_since(self.head_seen_at) > self.config.orphan_minutes:
            say(f"the head has not answered for {self.config.orphan_minutes:g} minutes: {self.config.orphan}")
            end_orphan(self.config.orphan)
        if self.config.idle_minutes is not None:
            if in_use():
                self.used_at = time.monotonic()
            elif minutes_since(self.used_at) > self.config.idle_minutes:
                say(f"nobody has used the cluster for {self.config.idle_minutes:g} minutes: all machines end")
                end_cluster()


def end_orphan(how: str) -> None:
    """End the machine, or Ray on it and this guard: after `ray down`, parts of Ray stay on machines of one's own."""
    if how == "shutdown":
        subprocess.run(["sudo", "shutdown", "-h", "now"], check=True)
        return
    subprocess.run([str(Path(sys.executable).parent / "ray"), "stop", "--force"], check=True)
    sys.exit(0)


def spot_notice(imds: str) -> bool:
    """Whether AWS has announced the end of this machine. False where there is no AWS."""
    try:
        ask = urllib.request.Request(
            f"{imds}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        token = urllib.request.urlopen(ask, timeout=2).read().decode()
        header = {"X-aws-ec2-metadata-token": token}
        ask = urllib.request.Request(f"{imds}/latest/meta-data/spot/instance-action", headers=header)
        urllib.request.urlopen(ask, timeout=2).close()
    except (urllib.error.URLError, OSError):  # 404: no notice
        return False
    return True


def head_address() -> str | None:
    """Where Ray on this machine has its head, as address:port; None when Ray does not run."""
    file = Path("/tmp/ray/ray_current_cluster")
    return file.read_text().strip() or None if file.exists() else None


def head_answers() -> bool:
    """Whether the head takes connections."""
    address = head_address()
    if address is None:
        return False
    name, _, port = address.rpartition(":")
    try:
        socket.create_connection((name, int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def in_use() -> bool:
    """Whether a command runs on the cluster, or somebody is logged in on the head."""
    jobs = gcs_client().get_all_job_info(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
    running = [job for job in jobs.values() if not job.is_dead]
    users = [job for job in running if not job.config.ray_namespace.startswith("_ray_internal")]
    logged_in = subprocess.run(["who"], capture_output=True, text=True).stdout.strip()
    return bool(users or logged_in)


def drain() -> None:
    """Tell Ray that this machine will go, so that it gets no more work."""
    address = head_address()
    node = this_node()
    if address is None or node is None:
        return
    deadline = ["--deadline-remaining-seconds", str(NOTICE_S)]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "drain-node", "--address", address, "--node-id", node, *reason, *deadline], check=True)


def this_node() -> str | None:
    """Ray's number of this machine; None when Ray does not know it."""
    own = set(subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split())
    for identity, info in gcs_client().get_all_node_info(timeout=10).items():
        if info.state == 0 and info.node_manager_address in own:
            return str(identity.hex())
    return None


def gcs_client() -> Any:
    """A client of Ray's head that is no job of its own."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=head_address())


def end_cluster() -> None:
    """Terminate all machines of the cluster that `ray up` told this head about, this one included."""

    config = load(Path("~/ray_bootstrap_config.yaml").expanduser())
    end_machines(Account(config["provider"]["region"]), config["cluster_name"])


def minutes_since(moment_s: float) -> float:
    return (time.monotonic() - moment_s) / 60


def say(text: str) -> None:
    logger.info(f"{time.strftime('%F %T')} {text}")


if __name__ == "__main__":
    run_command(GuardConfig, main)
