"""An AWS account whose machines are hosts of this test: moto answers, and each of its instances is a host that boots.

Also the instance metadata service (IMDS) with spot notices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.cluster.hosts import BRIDGE, GATEWAY, Hosts, ip

MOTO_PORT = 5000
IMDS = "169.254.169.254"
UP, DOWN = ("pending", "running"), ("stopping", "stopped", "shutting-down", "terminated")


class FakeCloud:
    """Boots a host for each instance and switches it off with it. `ec2` is a client of moto."""

    def __init__(self, hosts: Hosts, ec2: Any, profile: str) -> None:
        self.hosts, self.ec2, self.profile = hosts, ec2, profile
        self.launched: dict[str, dict[str, Any]] = {}
        """Every instance that there ever was, as it was at its start."""
        self.names: dict[str, str] = {}
        """Instance -> host, of those that run."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def instances(self) -> list[dict[str, Any]]:
        return [i for r in self.ec2.describe_instances()["Reservations"] for i in r["Instances"]]

    def workers(self) -> list[str]:
        """Instances that run as workers."""
        return [name for name in self.names if kind_of(self.launched[name]) == "worker"]

    def head(self) -> str:
        """The head's host."""
        return next(host for name, host in self.names.items() if kind_of(self.launched[name]) == "head")

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            for instance in self.instances():
                name, state = instance["InstanceId"], instance["State"]["Name"]
                if state in UP and name not in self.names and name not in self.launched:
                    self._boot(instance)
                elif state in DOWN and name in self.names:
                    print(f"{time.strftime('%T')} {name} is off", flush=True)
                    self.hosts.remove(self.names.pop(name))

    def _boot(self, instance: dict[str, Any]) -> None:
        name, key = instance["InstanceId"], instance["KeyName"]
        pair = self.ec2.describe_key_pairs(KeyNames=[key], IncludePublicKey=True)["KeyPairs"][0]
        host = f"i{name[-7:]}"
        self.launched[name] = instance
        self.hosts.boot(host, instance["PrivateIpAddress"], pair["PublicKey"].strip() + "\n", self.profile)
        self.names[name] = host
        print(f"{time.strftime('%T')} {name} boots as {host} {instance['PrivateIpAddress']}", flush=True)


def kind_of(instance: dict[str, Any]) -> str:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}["ray-node-type"]


@contextmanager
def moto_on_bridge() -> Iterator[str]:
    """moto's server where the hosts can reach it; gives its URL."""
    from moto.ec2.responses.instances import InstanceResponse
    from moto.server import ThreadedMotoServer

    plain = InstanceResponse._get_param

    def most(self: Any, name: str, if_none: Any = None) -> Any:
        # moto starts MinCount machines; EC2 starts up to MaxCount, which Ray counts on.
        return plain(self, "MaxCount" if name == "MinCount" else name, if_none)

    InstanceResponse._get_param = most  # type: ignore[method-assign]
    server = ThreadedMotoServer(ip_address=GATEWAY, port=MOTO_PORT, verbose=False)
    server.start()
    try:
        yield f"http://{GATEWAY}:{MOTO_PORT}"
    finally:
        server.stop()
        InstanceResponse._get_param = plain  # type: ignore[method-assign]


@contextmanager
def metadata_service() -> Iterator[set[str]]:
    """IMDS for all hosts; yields the set of addresses with a spot notice."""
    ending: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200, b"token")

        def do_GET(self) -> None:
            noticed = self.path.endswith("/spot/instance-action") and self.client_address[0] in ending
            trusted = self.headers.get("X-aws-ec2-metadata-token") == "token"
            self.answer(200 if noticed and trusted else 404, b'{"action": "terminate"}')

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ip("addr", "add", f"{IMDS}/32", "dev", BRIDGE)
    server = ThreadingHTTPServer((IMDS, 80), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ending
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
