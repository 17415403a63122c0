"""The machine from which a user types `ray up`: a home folder with keys and a token, and an S3 that hosts can reach."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local_s3.server import LocalS3
from tests.cluster.hosts import GATEWAY, PROJECT

S3_PORT = 8333
STORE = "s3://irae/cluster"
ENDPOINT = f"http://{GATEWAY}:{S3_PORT}"


class Launcher:
    """Runs commands as a user would, with HOME in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in (".ssh", ".ray", ".aws"):
            (home / name).mkdir(parents=True, mode=0o700)
        key = home / ".ssh/id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.public_key = (home / ".ssh/id_ed25519.pub").read_text()
        self.environment = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "LANG": "C.UTF-8",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.run("ray get-auth-token --generate")

    def run(self, command: str, timeout_s: float = 900) -> str:
        """A command in the project's folder; its output. AssertionError when it fails."""
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout[-6000:]}"
        return result.stdout

    @contextmanager
    def dashboard(self, file: Path) -> Iterator[None]:
        """`ray dashboard` in another terminal, while the block runs."""
        command = ["bash", "-c", f"RAY_AUTH_MODE=token ray dashboard {file}"]
        process = subprocess.Popen(
            command, cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for_port("127.0.0.1", 8265, 120)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def documented_submit() -> str:
    """The one line of docs/how-to/cluster.md that submits a training."""
    (line,) = re.findall(
        r"`(RAY_AUTH_MODE=token ray job submit [^`]*)`", (PROJECT / "docs/how-to/cluster.md").read_text()
    )
    assert line.endswith(" --no-wait -- python -m pipeline.train --nodes 4")
    return line


def wait_for_port(address: str, port: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection((address, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline_s, f"nothing answers at {address}:{port}"
            time.sleep(0.5)


@contextmanager
def s3_for_hosts(folder: Path, launcher: Launcher, bucket: str = "irae") -> Iterator[LocalS3]:
    """The local S3 server, reachable at ENDPOINT; the launcher's ~/.aws/credentials hold its keys."""
    server = LocalS3(folder, (bucket,))
    server.start()
    port = server.endpoint.rpartition(":")[2]
    forward = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.forward", GATEWAY, str(S3_PORT), "127.0.0.1", port], cwd=PROJECT
    )
    try:
        keys = server.env()
        (launcher.home / ".aws/credentials").write_text(
            f"[default]\naws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
        )
        yield server
    finally:
        forward.terminate()
        forward.wait()
        server.kill()
