"""Hosts on one machine, for tests of `ray up`: each a set of namespaces with sshd as its first process.

A host has its own processes, network, /tmp, /root, /run and /dev/shm, and shares the rest of the file system. Power off
is one signal: all its processes die with the first one. Needs root and Linux; run it inside `unshare` (as `make
cluster-test` does), so that nothing can be left on the real machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

INSIDE = "IRAE_INSIDE_NAMESPACE"
"""Set where the tests run apart from the real machine."""
BRIDGE = "irae0"
NETWORK = "10.78.0"
GATEWAY = f"{NETWORK}.1"
HERE = Path(__file__).parent
PROJECT = HERE.parent.parent


def missing() -> str | None:
    """Why hosts cannot be made here; None when they can."""
    if sys.platform != "linux":
        return "hosts are made of Linux namespaces"
    if os.geteuid() != 0:
        return "making hosts needs root"
    programs = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter", "ps")
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        return f"these programs are not installed: {', '.join(absent)} (Debian: iproute2 openssh-server procps rsync)"
    return None


def skip_reason() -> str | None:
    """Why a test of hosts cannot run in this process; None when it can."""
    if not os.environ.get(INSIDE):
        return "for `make cluster-test`, which shuts it off from the rest of the machine"
    return missing()


class Hosts:
    """Hosts on one bridge. `folder` must not lie below /root, /run or /tmp, which a host has of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outer: dict[str, subprocess.Popen[bytes]] = {}
        self.addresses: dict[str, str] = {}
        ip("link", "set", "lo", "up")
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")

    def boot(self, name: str, address: str, public_key: str, profile: str = "") -> None:
        """Switch a host on. `profile` is shell text that each of its shells runs first."""
        home = self.folder / name
        (home / "root/.ssh").mkdir(parents=True, exist_ok=True)
        (home / "run/sshd").mkdir(parents=True, exist_ok=True)
        (home / "root/.ssh/authorized_keys").write_text(public_key)
        bashrc = home / "root/.bashrc"
        if not bashrc.exists():
            bashrc.write_text(profile)
            (home / "root/.profile").write_text(". ~/.bashrc\n")
        (home / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        key = home / "run/hostkey"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (home / "run/sshd_config").write_text(SSHD.format(address=address))
        if name not in self.addresses:
            self._plug_in(name, address)
        self._start(name)

    def power_off(self, name: str) -> None:
        """As if the plug were pulled: every process dies at once, and nothing answers any more."""
        outer = self._outer.pop(name)
        for child in _children(outer.pid):
            os.kill(child, signal.SIGKILL)
        outer.kill()
        outer.wait()
        # A dead machine sends no farewell: without this, the kernel would still close its connections politely.
        ip("-n", name, "link", "set", "eth0", "down")

    def power_on(self, name: str) -> None:
        """Switch it on again with the same disk."""
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "replace", "default", "via", GATEWAY)
        self._start(name)

    def remove(self, name: str) -> None:
        """Power off and unplug."""
        if name in self._outer:
            self.power_off(name)
        ip("netns", "del", name)
        del self.addresses[name]

    def close(self) -> None:
        for name in list(self.addresses):
            self.remove(name)
        ip("link", "del", BRIDGE)

    def running(self, name: str) -> list[str]:
        """Command lines of the host's processes, without sshd."""
        if name not in self._outer:
            return []
        (first,) = _children(self._outer[name].pid)
        shown = subprocess.run(
            ["nsenter", "-t", str(first), "-a", "ps", "-e", "-o", "pid=,args="],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.strip() for line in shown.stdout.splitlines()]
        return [line for line in lines if "sshd" not in line and "ps -e -o" not in line]

    def run(self, name: str, command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """A command in a login shell of the host, as a user would type it there."""
        (first,) = _children(self._outer[name].pid)
        environment = {"HOME": "/root", "PATH": os.defpath, "TERM": "dumb", "COLUMNS": "200", "LANG": "C.UTF-8"}
        full = ["nsenter", "-t", str(first), "-a", "--wd=/root", "bash", "-c", f". ~/.bashrc; cd ~/irae; {command}"]
        return subprocess.run(full, env=environment, capture_output=True, text=True, timeout=timeout_s)

    def _plug_in(self, name: str, address: str) -> None:
        number = address.rpartition(".")[2]
        ip("netns", "add", name)
        ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"port{number}", "master", BRIDGE, "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", GATEWAY)
        self.addresses[name] = address

    def _start(self, name: str) -> None:
        home = self.folder / name
        log = open(home / "sshd.log", "ab")  # noqa: SIM115
        namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
        init = ["bash", str(HERE / "host.sh"), str(home), name, *kept_folders()]
        self._outer[name] = subprocess.Popen(
            ["ip", "netns", "exec", name, *namespaces, *init],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "LANG": "C.UTF-8"},
        )
        log.close()
        self._wait_for_sshd(name)

    def _wait_for_sshd(self, name: str) -> None:
        import socket

        deadline_s = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection((self.addresses[name], 22), timeout=1):
                    return
            except OSError:
                if time.monotonic() > deadline_s or self._outer[name].poll() is not None:
                    raise AssertionError((self.folder / name / "sshd.log").read_text()) from None
                time.sleep(0.1)


SSHD = """Port 22
ListenAddress {address}
HostKey /run/hostkey
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxSessions 50
MaxStartups 50
Subsystem sftp internal-sftp
"""


def kept_folders() -> list[str]:
    """Python and its packages, where the host's own folders would hide them."""
    wanted = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent}
    return sorted(str(path) for path in wanted if str(path).startswith(("/root/", "/tmp/", "/run/")))


def ip(*arguments: str) -> None:
    """The program ip."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
