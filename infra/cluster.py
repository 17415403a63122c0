"""Ray: connect to a cluster, or start a small one on this machine, with safe settings."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOCAL_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it, some sockets listen on all interfaces
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for a health check: 0.05 s instead of 1 to 2
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(nodes: int) -> Iterator[list[int]]:
    """Be connected to Ray; gives the processors of each node, most first. ValueError when there are too few nodes.

    One node without RAY_ADDRESS: Ray is started on this machine, on the loopback interface alone, and ends with us.
    """
    address = os.environ.get("RAY_ADDRESS") or ("auto" if nodes > 1 else None)
    apply_settings(starts_here=address is None)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": bool(os.environ.get("IRAE_DEBUG")), "logging_level": logging.WARNING}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
    except ConnectionError:
        raise ValueError(
            f"--nodes {nodes} needs a running cluster and none was found here; start one with `ray up "
            "ray_cluster.yaml` and run the command on its head, or leave out --nodes to train on this machine."
        ) from None
    try:
        processors = sorted((int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]), reverse=True)
        able = [count for count in processors if count > 0]
        if len(able) < nodes:
            raise ValueError(
                f"--nodes {nodes} was asked for, but the cluster has {len(able)} with processors to train on; "
                "add nodes (max_workers in ray_cluster.yaml) or ask for fewer."
            )
        yield able[:nodes]
    finally:
        ray.shutdown()


def apply_settings(starts_here: bool) -> None:
    """Ray reads its environment when it is imported. A Ray of our own lets in only those who know its random token."""
    assert "ray" not in sys.modules, "Ray was imported before its settings were made"
    for name, value in LOCAL_SETTINGS.items():
        os.environ.setdefault(name, value)
    if starts_here and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16))
