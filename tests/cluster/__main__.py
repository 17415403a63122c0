"""`python -m tests.cluster`: the tests of whole clusters, shut off from the rest of the machine.

Everything runs in a network and a PID namespace: no packet leaves, and the kernel kills all processes
afterwards. Where that is impossible, it prints the reason and exits with 0.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cluster.hosts import INSIDE, missing

SHUT_OFF = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PROBE = [*SHUT_OFF, "bash", "-c", "ip link add bridge0 type bridge && ip link add port0 type veth peer name port1"]


def main() -> int:
    reason = missing()
    if reason is None and subprocess.run(PROBE, capture_output=True).returncode:
        reason = "the system does not allow new namespaces or networks in them, even to root"
    if reason:
        print(f"cluster tests skipped: {reason}")
        return 0
    # ip keeps its network namespaces in /run, which must not be the real one. bash buries the orphans.
    script = f'mount -t tmpfs tmpfs /run; "{sys.executable}" -m pytest tests/cluster --timeout 1800 "$@"; exit $?'
    environment = os.environ | {INSIDE: "1"}
    return subprocess.run([*SHUT_OFF, "bash", "-c", script, "bash", *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
