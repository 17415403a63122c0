"""Sessions of Ray: connect to a cluster, or start Ray on this machine, with safe settings."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from infra.storage import UserError

logger = logging.getLogger(__name__)

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it, some sockets listen on all interfaces
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for a health check: 0.05 s instead of 1 to 2
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # wait for a lost node before training without it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment variables of Ray, unless they are set."""
LOOPBACK = "127.0.0.1"
SIMULATED_STORE_BYTES = 100 << 20
"""Shared memory of a simulated node."""
_POLL_S = 1.0
_LOG_INTERVAL_S = 10.0


class Node(NamedTuple):
    """A node of the cluster."""

    gpus: int
    processors: int
    name: str


@contextmanager
def ray_session(
    nodes: int = 1, *, at_least: int | None = None, wait_s: float = 0.0, simulate: bool = False
) -> Iterator[list[Node]]:
    """A connection to Ray; yields the nodes to work on, the largest first.

    Waits up to `wait_s` for `nodes` nodes, which an autoscaler may still be starting. Raises UserError when there are
    fewer than `at_least` (default: all) then.
    For one node without RAY_ADDRESS, Ray is started on this machine, on the loopback interface alone, until the block
    ends. `simulate`: all nodes are started on this machine.
    """
    address = ray_address(nodes)
    apply_settings(starts_here=simulate or address is None)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": bool(os.environ.get("IRAE_DEBUG")), "logging_level": logging.WARNING}
    simulated = _simulated_cluster(nodes) if simulate else None
    try:
        where = simulated.address if simulated else address
        context = ray.init(where, **quiet) if where else ray.init("local", include_dashboard=False, **quiet)
        if context.dashboard_url:
            logger.info(f"Ray's dashboard: http://{context.dashboard_url}")
        yield _wait_for_nodes(nodes, nodes if at_least is None else at_least, wait_s)
    except ConnectionError:
        raise UserError(
            f"--nodes {nodes} needs a running cluster and none was found here; start one with `ray up "
            "ray_cluster.yaml` and run the command on its head, simulate one with --simulate-nodes, or leave out "
            "--nodes to train on this machine."
        ) from None
    finally:
        ray.shutdown()
        if simulated:
            simulated.shutdown()


def ray_address(nodes: int) -> str | None:
    """Address of the cluster to connect to; None: Ray is started on this machine."""
    return os.environ.get("RAY_ADDRESS") or ("auto" if nodes > 1 else None)


def apply_settings(starts_here: bool) -> None:
    """Set Ray's environment variables, which it reads when it is imported; once set, they may be applied again.

    `starts_here`: Ray is started by this process, and admits only processes that know its random token.
    """
    settings = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    if starts_here and "RAY_AUTH_TOKEN" not in os.environ:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    assert not settings or "ray" not in sys.modules, "Ray was imported before its settings were made"
    os.environ.update(settings)


def _simulated_cluster(nodes: int) -> Any:
    """`nodes` Ray nodes on this machine, which share its processors and exit with this process."""
    from ray.cluster_utils import Cluster

    here: dict[str, Any] = {"node_ip_address": LOOPBACK, "object_store_memory": SIMULATED_STORE_BYTES}
    here["num_cpus"] = max(1, (os.cpu_count() or 1) // nodes)
    cluster = Cluster(initialize_head=True, head_node_args={"dashboard_host": LOOPBACK, **here})
    for _ in range(nodes - 1):
        cluster.add_node(**here)
    return cluster


def _wait_for_nodes(nodes: int, at_least: int, wait_s: float) -> list[Node]:
    """The largest `nodes` nodes; missing ones are requested from the autoscaler."""
    from ray.autoscaler.sdk import request_resources

    deadline_s, logged_s, requested = time.monotonic() + wait_s, float("-inf"), False
    try:
        while len(able := _able_nodes()) < nodes and (left_s := deadline_s - time.monotonic()) > 0:
            # Bundles as large as the largest node so far, so that no two fit on one.
            largest = able[0] if able else Node(0, 1, "")
            bundle = {"CPU": largest.processors} | ({"GPU": largest.gpus} if largest.gpus else {})
            request_resources(bundles=[bundle] * nodes)
            requested = True
            if time.monotonic() - logged_s >= _LOG_INTERVAL_S:
                logged_s = time.monotonic()
                minutes, seconds = divmod(int(left_s), 60)
                logger.info(f"waiting for nodes: {len(able)} of {nodes} are there, {minutes}:{seconds:02d} left")
            time.sleep(min(_POLL_S, left_s))
    finally:
        if requested:  # a standing request would keep idle nodes alive for ever; those with workers stay without it
            request_resources(bundles=[])
    if len(able) < at_least:
        there = ", ".join(f"{node.name} with {node.processors} processors" for node in able) or "none"
        raise UserError(
            f"--nodes {nodes} was requested, but {nodes - len(able)} did not start within {wait_s / 60:g} min; there: "
            f"{there}. Add nodes (max_workers in ray_cluster.yaml), wait longer (--wait-for-nodes), or request fewer "
            "(--nodes, --min-nodes)."
        )
    if len(able) < nodes:
        logger.info(f"continuing with {len(able)} of {nodes} nodes")
    return able[:nodes]


def _able_nodes() -> list[Node]:
    """Live nodes with processors, the largest first."""
    import ray

    alive = [(node["Resources"], node["NodeManagerHostname"]) for node in ray.nodes() if node["Alive"]]
    found = [Node(int(has.get("GPU", 0)), int(has.get("CPU", 0)), name) for has, name in alive]
    return sorted((node for node in found if node.processors), reverse=True)
