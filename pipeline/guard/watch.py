"""The guard of a cluster's machine, so that nothing costs money unused and preemption loses no work.

- Spot preemption, announced two minutes before: the workers save a checkpoint, Ray drains the node.
- A worker without a head shuts down, or stops Ray.
- An idle cluster is terminated by its head.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

from infra.aws.cluster_file import load
from infra.aws.steps import Account
from infra.aws.teardown import terminate_instances
from infra.spot_notice import notice_file
from pipeline.guard.config import GuardConfig

logger = logging.getLogger(__name__)

POLL_S = 5.0
RAY = str(Path(sys.executable).parent / "ray")
IMDS = "http://169.254.169.254"
"""AWS's instance metadata service."""
DRAIN_DEADLINE_S = 110
"""Rest of the two minutes when the notice is seen."""


def main(config: GuardConfig) -> None:
    """Start the guard in the background, or run it until the machine shuts down."""
    if config.action == "start":
        logger.info(f"the guard runs in the background, process {start(sys.argv[2:])}")
        return
    guard = Guard(config)
    while True:
        try:
            guard.poll()
        except Exception as error:  # it must outlive any failure around it
            log(f"{type(error).__name__}: {error}")
        time.sleep(POLL_S)


def start(options: list[str]) -> int:
    """Start `run` as a daemon, replacing an older one; returns its process id."""
    files = Path.home() / ".irae_guard"
    terminate_old(files.with_suffix(".pid"))
    notice_file().unlink(missing_ok=True)
    with open(files.with_suffix(".log"), "ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.guard", "run", *options],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    files.with_suffix(".pid").write_text(str(process.pid))
    return process.pid


def terminate_old(file: Path) -> None:
    """Terminate the process of the pid file, if it is a guard."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # none was started, or it is gone
        pid = int(file.read_text())
        if b"pipeline.guard" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)


class Guard:
    """State between polls: whether a notice was seen, and when head and cluster were last seen in use."""

    def __init__(self, config: GuardConfig) -> None:
        self.config, self.noticed = config, False
        self.head_seen_s = self.used_s = time.monotonic()

    def poll(self) -> None:
        """Check notice, head and use once, and act on them."""
        if not self.noticed and has_spot_notice():
            self.noticed = True
            log("AWS preempts this machine in two minutes: requesting a checkpoint and draining the node")
            notice_file().touch()
            drain()
        if head_answers():
            self.head_seen_s = time.monotonic()
        elif time.monotonic() - self.head_seen_s > 60 * self.config.orphan_minutes:
            log(f"the head has not answered for {self.config.orphan_minutes:g} minutes: {self.config.orphan}")
            stop_orphan(self.config.orphan)
        if self.config.idle_minutes is not None:
            if is_in_use():
                self.used_s = time.monotonic()
            elif time.monotonic() - self.used_s > 60 * self.config.idle_minutes:
                log(f"the cluster has been idle for {self.config.idle_minutes:g} minutes: terminating all machines")
                terminate_cluster()


def stop_orphan(action: str) -> None:
    """Shut the machine down, or stop Ray (`ray down` leaves parts of it on your own machines) and this guard."""
    if action == "shutdown":
        subprocess.run(["sudo", "shutdown", "-h", "now"], check=True)
        return
    subprocess.run([RAY, "stop", "--force"], check=True)
    sys.exit(0)


def has_spot_notice() -> bool:
    """Whether AWS has announced the preemption of this machine. False outside AWS."""
    header = "X-aws-ec2-metadata-token"
    request = Request(f"{IMDS}/latest/api/token", method="PUT", headers={f"{header}-ttl-seconds": "60"})
    with contextlib.suppress(OSError):  # 404: no notice
        token = urlopen(request, timeout=2).read().decode()
        urlopen(Request(f"{IMDS}/latest/meta-data/spot/instance-action", headers={header: token}), timeout=2).close()
        return True
    return False


def head_address() -> str | None:
    """host:port of the head of the Ray on this machine; None when Ray does not run."""
    file = Path("/tmp/ray/ray_current_cluster")
    return file.read_text().strip() or None if file.exists() else None


def head_answers() -> bool:
    """Whether the head accepts connections."""
    if address := head_address():
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=3):
            return True
    return False


def is_in_use() -> bool:
    """Whether a job runs or waits on the cluster, or someone is logged in on the head."""
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(head_address()).list_jobs()
    logins = subprocess.run(["who"], capture_output=True, text=True).stdout.strip()
    return bool(logins) or any(not job.status.is_terminal() for job in jobs)


def drain() -> None:
    """Drain this node: Ray schedules no more work on it."""
    if address := head_address():
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
        deadline = ["--deadline-remaining-seconds", str(DRAIN_DEADLINE_S)]
        node = ["--address", address, "--node-id", node_id(address)]
        subprocess.run([RAY, "drain-node", *node, *reason, *deadline], check=True)


def node_id(address: str) -> str:
    """Ray's id of this machine's node."""
    import ray

    with ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR):
        return ray.get_runtime_context().get_node_id()


def terminate_cluster() -> None:
    """Terminate all machines of the cluster that `ray up` created, this one included."""
    config = load(Path("~/ray_bootstrap_config.yaml").expanduser())
    terminate_instances(Account(config["provider"]["region"]), config["cluster_name"])


def log(text: str) -> None:
    logger.info(f"{time.strftime('%F %T')} {text}")
