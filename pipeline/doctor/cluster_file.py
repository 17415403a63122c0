"""Problems of a cluster's yaml, found without network: Ray's own validation, and five mistakes that cost money.

Ray's schema ignores everything inside node_config, and whatever is valid but expensive or open to strangers.
"""

from __future__ import annotations

import copy
import ipaddress
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import PLACEHOLDERS, load, store_of

MAX_IDLE_MINUTES = 120


def check_cluster_file(path: Path) -> list[str]:
    """A sentence for each problem of the file. Raises UserError when it cannot be read."""
    config = load(path)
    if error := ray_validation_error(config):
        return [*_placeholders(path), f"Ray refuses it: {error}; correct that entry."]
    problems = [*_placeholders(path), *_store(config), *_open_dashboard(config)]
    is_aws = config["provider"].get("type") == "aws"
    return [*problems, *_lifetime(config), *_open_ssh(config)] if is_aws else problems


def ray_validation_error(config: dict[str, Any]) -> str | None:
    """The first error of `ray up`'s own validation, None when the config is valid.

    By private names of Ray: its public `ray.autoscaler.sdk` starts clusters, but does not validate a file.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's, Ray's and KeyErrors of its preparation
        first = str(getattr(error, "message", "") or error).strip().splitlines()[0].rstrip(".")
        where = ".".join(str(part) for part in getattr(error, "path", ()))
        return f"{first} (at {where})" if where else first
    return None


def _placeholders(path: Path) -> Iterator[str]:
    lines = [line.split("#")[0] for line in path.read_text().splitlines()]
    for text in (*PLACEHOLDERS.values(), "192.0.2."):
        if numbers := [str(n) for n, line in enumerate(lines, 1) if text in line]:
            yield f"{text} still stands in line {', '.join(numbers)}; fill it in (for AWS, infra.aws setup does)."


def _store(config: dict[str, Any]) -> Iterator[str]:
    """Results that are lost with the machines."""
    if "IRAE_STORE=" not in str(config.get("setup_commands")):
        yield "no setup command sets IRAE_STORE; without a common store, results are lost with the machines: set it."
    elif store_of(config) is None and config["provider"].get("type") == "aws":
        yield "IRAE_STORE is no s3:// URL, so that results would be lost with the machines; name a bucket."


def _open_dashboard(config: dict[str, Any]) -> Iterator[str]:
    """Strangers who run jobs."""
    if re.search(r"--dashboard-host[= ]['\"]?(0\.0\.0\.0|::)", " ".join(config.get("head_start_ray_commands", []))):
        yield (
            "the dashboard, which runs any submitted command, listens on all addresses; write "
            "--dashboard-host=127.0.0.1 and open it with `ray dashboard`."
        )


def _open_ssh(config: dict[str, Any]) -> Iterator[str]:
    """Strangers who log in."""
    for name, node in config["available_node_types"].items():
        if "SecurityGroupIds" not in node["node_config"] and "NetworkInterfaces" not in node["node_config"]:
            yield (
                f"{name}: without SecurityGroupIds Ray makes a group with ssh open to the world; name the group made "
                "by infra.aws setup."
            )
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        ranges = [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]
        for text in filter(None, (r.get("CidrIp") or r.get("CidrIpv6") for r in ranges)):
            if ipaddress.ip_network(text, strict=False).prefixlen == 0:
                port = rule.get("FromPort", "every port")
                yield f"security_group opens port {port} to the world ({text}); give your own address instead."


def _lifetime(config: dict[str, Any]) -> Iterator[str]:
    """Machines and disks that nobody uses."""
    idle = config.get("idle_timeout_minutes", 5)
    if idle > MAX_IDLE_MINUTES:
        yield f"idle_timeout_minutes is {idle}: workers cost that long without work; 10 is enough."
    if config["provider"].get("cache_stopped_nodes", True):
        yield "cache_stopped_nodes is on, so that the disks of stopped machines keep costing money; set it to false."
    if not any("shutdown" in command for command in config.get("setup_commands") or ()):
        yield "no time to live: nothing terminates a forgotten cluster; copy the `sudo shutdown -h +1440` line."
        return
    for name, node in config["available_node_types"].items():
        if node["node_config"].get("InstanceInitiatedShutdownBehavior") != "terminate":
            yield (
                f"{name}: InstanceInitiatedShutdownBehavior is not terminate, so that the time to live only stops the "
                "machine and its disk keeps costing money; set it."
            )
