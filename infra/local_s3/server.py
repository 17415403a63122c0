"""The process of a local S3 server: start, health check, stop; its folder with data, keys, ports and log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from infra.local_s3 import seaweedfs
from infra.storage import StorageError
from infra.storage.local import file_errors, new_file

REGION = "us-east-1"
START_TIMEOUT_S, STOP_TIMEOUT_S = 30, 10
_KEYS = "s3.json"
_STATE = "server.json"


class LocalS3:
    """The server of one folder. Several may run side by side, each with its own folder.

    folder: made at the first start, readable by its owner alone.
    buckets: created by `start`.
    """

    def __init__(self, folder: Path, buckets: Sequence[str] = ("irae",)) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.buckets = tuple(buckets)
        self._data = self.folder / "data"
        self._log = self.folder / "weed.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The server's URL. Raises StorageError before the first start."""
        return f"http://127.0.0.1:{self._read(_STATE)['ports']['s3']}"

    @property
    def pid(self) -> int | None:
        """Process id, None when the server does not run."""
        if not (self.folder / _STATE).exists():
            return None
        pid: int = self._read(_STATE)["pid"]
        return pid if seaweedfs.is_server(pid, self._data) else None

    def env(self) -> dict[str, str]:
        """The AWS variables of this server, with the secret key."""
        access_key, secret_key = self._keys()
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it unless it runs; returns when it answers and the buckets exist. It outlives this process.

        Raises StorageError, with the last lines of its log, when it does not answer within START_TIMEOUT_S.
        """
        with file_errors(self.folder), self._locked_folder():
            if self.pid is None:
                self._launch()
            for path in (f"/{bucket}" for bucket in self.buckets):
                if self._request("HEAD", path) != 200 and (status := self._request("PUT", path)) != 200:
                    raise StorageError(
                        f"the local S3 server did not make the bucket {path[1:]!r} (HTTP {status}): use 3 to 63 "
                        f"lower-case letters, digits and hyphens, or see {self._log}"
                    )

    def stop(self) -> bool:
        """Terminate it and wait; False when it had to be killed."""
        if self._signal(signal.SIGTERM):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """Kill it and wait."""
        if not self._signal(signal.SIGKILL):
            raise StorageError(f"process {self.pid}, the local S3 server, survives SIGKILL: look at it with ps")

    def _launch(self) -> None:
        program = seaweedfs.program()
        for attempts_left in (2, 1, 0):
            started_before = (self.folder / _STATE).exists()
            wanted = self._read(_STATE)["ports"] if started_before else {"s3": seaweedfs.PREFERRED_S3_PORT}
            ports = seaweedfs.choose_ports(wanted)
            with open(self._log, "wb") as log:
                self._process = process = subprocess.Popen(
                    [program, *seaweedfs.arguments(self._data, self.folder / _KEYS, ports)],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # Without the user's environment: weed reads settings from HOME and AWS keys.
                    env={"PATH": os.defpath, "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp")},
                )
            self._write(_STATE, {"pid": process.pid, "ports": ports})
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline_s:
                if self._request("GET", "/") == 200:
                    return
                time.sleep(0.1)
            exited = process.poll() is not None
            self.kill()
            # It exits when another program took a port since it was chosen; other ports may help.
            if not exited or not attempts_left:
                lines = self._log.read_text(errors="replace").splitlines()
                # A crash prints hundreds of lines about its threads after the one with the reason.
                errors = [line for line in lines if re.match(r"[EF]\d{4} ", line)] or lines
                raise StorageError("\n".join([f"the local S3 server did not start; {self._log} ends:", *errors[-10:]]))

    def _request(self, method: str, path: str) -> int | None:
        """The HTTP status of a signed request, None when nothing answers."""
        # Not by a client, which would also use the user's AWS profile and proxy.
        try:
            from botocore import auth, awsrequest, credentials, exceptions, httpsession
        except ImportError as error:
            raise StorageError("the local S3 server needs boto3: pip install 'irae-pipeline[s3]'") from error
        request = awsrequest.AWSRequest(method=method, url=self.endpoint + path, data=b"")
        auth.S3SigV4Auth(credentials.Credentials(*self._keys()), "s3", REGION).add_auth(request)
        try:
            return int(httpsession.URLLib3Session(timeout=(2, 10)).send(request.prepare()).status_code)
        except exceptions.BotoCoreError:
            return None

    def _signal(self, signal_number: int) -> bool:
        """Send the signal and wait; whether the process has exited."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self.pid is not None:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT_S)  # only then its ports are free
        if (self.folder / _STATE).exists():
            seaweedfs.remove_sockets(self._read(_STATE)["ports"])
        return True

    @contextlib.contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """The folder and its keys, created if missing; exclusively, for one `start` at a time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in self.folder.iterdir()}
        if names and "lock" not in names:
            raise StorageError(f"{self.folder} is not empty: choose a new folder for the local S3 server")
        self.folder.chmod(0o700)
        with FileLock(self.folder / "lock"):
            self._data.mkdir(exist_ok=True)
            (self.folder / "tmp").mkdir(exist_ok=True)
            (self.folder / ".gitignore").write_text("*\n")  # the keys must not go into a repository
            if not (self.folder / _KEYS).exists():
                keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
                actions = ["Admin", "Read", "Write", "List", "Tagging"]
                self._write(_KEYS, {"identities": [{"name": "irae", "credentials": [keys], "actions": actions}]})
            yield

    def _keys(self) -> tuple[str, str]:
        keys = self._read(_KEYS)["identities"][0]["credentials"][0]
        return keys["accessKey"], keys["secretKey"]

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError as error:
            raise StorageError(f"no local S3 server was started in {self.folder}: {command_line('start')}") from error

    def _write(self, name: str, value: Any) -> None:
        with new_file(self.folder / name) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(value).encode())


def default_folder() -> Path:
    return Path(os.environ.get("IRAE_LOCAL_S3_DIR") or ".local_s3")


def command_line(name: str, folder: Path | None = None) -> str:
    """The command line for a user, with the folder unless it is the default."""
    known = folder is None or folder == Path(os.path.abspath(default_folder()))
    return f"python -m infra.local_s3 {name}" + ("" if known else f" --dir {shlex.quote(str(folder))}")
