"""What is wrong with a cluster's yaml, found without network or account: each mistake as a sentence.

Ray's own check (its schema) passes over everything inside node_config, and over what is valid but not wanted.
"""

from __future__ import annotations

import copy
import difflib
import ipaddress
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import load, store_of
from infra.aws.known import instance_types, regions
from infra.versions import wanted_versions

PLACEHOLDERS = ("YOUR-BUCKET", "YOUR-REGISTRY", "ami-00000000000000000", "sg-00000000000000000", "192.0.2.")
"""Stand in the shipped files where only the user knows what belongs there."""


def check_cluster_file(path: Path) -> list[str]:
    """Every problem of the file, a sentence each; none when it is fine. ValueError when it cannot be read at all."""
    config = load(path)
    problems = [*_placeholders(path), *_schema(config)]
    if any("Ray does not take it" in problem for problem in problems):
        return problems  # what follows relies on the schema
    problems += [*_workers(config), *_start_commands(config), *_versions(config), *_mounts(config, path)]
    provider = config["provider"]
    if provider.get("type") == "aws":
        problems += [*_places(provider), *_machines(config), *_open_to_the_world(config), *_costs(config)]
    elif provider.get("type") == "local":
        problems += _addresses(provider)
    return problems


def _placeholders(path: Path) -> Iterator[str]:
    lines = [line.split("#")[0] for line in path.read_text().splitlines()]
    for text in PLACEHOLDERS:
        numbers = [str(n) for n, line in enumerate(lines, 1) if text in line]
        if numbers:
            advice = "fill it in" if text[:4] not in ("ami-", "sg-0", "YOUR") else "fill it in, or let infra.aws setup"
            yield f"{text} still stands in line {', '.join(numbers)}; {advice}."


def _schema(config: dict[str, Any]) -> Iterator[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's, Ray's and KeyErrors of its preparation
        first = str(getattr(error, "message", "") or error).strip().splitlines()[0].rstrip(".")
        where = ".".join(str(part) for part in getattr(error, "path", ()))
        yield f"Ray does not take it: {first}{f' (at {where})' if where else ''}; correct that entry."


def _workers(config: dict[str, Any]) -> Iterator[str]:
    types = config.get("available_node_types", {})
    most = config.get("max_workers", 2)
    workers = {name: node for name, node in types.items() if name != config.get("head_node_type")}
    reachable = sum(node.get("max_workers", most) for node in workers.values())
    if types and reachable < most:
        yield (
            f"max_workers is {most}, but the node types stop at {reachable} together; raise max_workers of the node "
            "type as well."
        )


def _start_commands(config: dict[str, Any]) -> Iterator[str]:
    heads, workers = config.get("head_start_ray_commands", []), config.get("worker_start_ray_commands", [])
    start = " ".join(command for command in heads if "ray start" in command)
    if heads and "--autoscaling-config" not in start:
        yield "no worker will come; add --autoscaling-config=~/ray_bootstrap_config.yaml to the head's ray start."
    if re.search(r"--dashboard-host[= ]['\"]?(0\.0\.0\.0|::)", start):
        yield (
            "the dashboard listens on all addresses, and runs what it is told; write --dashboard-host=127.0.0.1 and "
            "look at it with `ray dashboard`."
        )
    if workers and "$RAY_HEAD_IP" not in " ".join(workers):
        yield "worker_start_ray_commands: ray start lacks --address=$RAY_HEAD_IP:6379; the workers never join the head."
    if heads and not any(re.search(r"\bray stop\b", command) for command in heads):
        yield "head_start_ray_commands begin without `ray stop`; a second ray up would fail, so put it first."


def _versions(config: dict[str, Any]) -> Iterator[str]:

    wanted = wanted_versions()
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    text = "\n".join(command for name in lists for command in config.get(name) or ())
    for name, version in re.findall(r"\b([a-z0-9-]+)(?:\[[a-z0-9,-]*\])?==([0-9][\w.]*)", text):
        if name in wanted and wanted[name] != version:
            yield f"the set-up installs {name}=={version}, constraints.txt says {wanted[name]}; use -c constraints.txt."
    image = (config.get("docker") or {}).get("image") or ""
    if (match := re.search(r"/ray[\w-]*:(\d+\.\d+\.\d+)", image)) and match[1] != wanted["ray"]:
        yield f"the image {image} has Ray {match[1]}, constraints.txt says {wanted['ray']}; take the image of that."


def _mounts(config: dict[str, Any], path: Path) -> Iterator[str]:
    for source in (config.get("file_mounts") or {}).values():
        if Path(source).expanduser().exists():
            continue
        if source.endswith("auth_token"):
            yield f"there is no {source}, the token that lets us in; make it with `ray get-auth-token --generate`."
        else:
            yield f"file_mounts: there is no {source} on this machine; correct the path, or take the line away."
    key = config.get("auth", {}).get("ssh_private_key")
    if key and not Path(key).expanduser().exists():
        yield f"auth: there is no {key} on this machine; make the key with ssh-keygen, or name the right one."
    if "IRAE_STORE=" not in str(config.get("setup_commands")):
        yield "no setup command sets IRAE_STORE; without a common store, results end with the machines: set it."
    elif store_of(config) is None and config["provider"].get("type") == "aws":
        yield "IRAE_STORE is no s3:// place, so that results would end with the machines; name a bucket."


def _places(provider: dict[str, Any]) -> Iterator[str]:

    region = provider.get("region", "")
    if region not in regions():
        yield f"there is no region {region!r}{_nearest(region, regions())}."
        return
    zones = [zone.strip() for zone in provider.get("availability_zone", "").split(",") if zone.strip()]
    for zone in zones:
        if not re.fullmatch(re.escape(region) + "[a-z]", zone):
            yield f"zone {zone!r} is not one of region {region}; write {region}a, {region}b or the like."
    if len(zones) == 1:
        yield f"only the zone {zones[0]} is named, where machines may run out; name several, with commas."


def _machines(config: dict[str, Any]) -> Iterator[str]:

    for name, node in config["available_node_types"].items():
        kind = node["node_config"].get("InstanceType", "")
        if kind not in instance_types():
            yield f"{name}: there is no instance type {kind!r}{_nearest(kind, instance_types())}."
        if "IamInstanceProfile" not in node["node_config"]:
            rights = "full rights on EC2 and S3" if name == config["head_node_type"] else "no right to read the store"
            yield f"{name}: without IamInstanceProfile it gets {rights}; name the profile made by infra.aws setup."
        image = node["node_config"].get("ImageId", "")
        if not re.fullmatch(r"ami-[0-9a-f]{8,17}", image):
            yield f"{name}: ImageId is {image!r}; without an exact image, machines differ; name one (ami-...)."


def _open_to_the_world(config: dict[str, Any]) -> Iterator[str]:
    for name, node in config["available_node_types"].items():
        if "SecurityGroupIds" not in node["node_config"] and "NetworkInterfaces" not in node["node_config"]:
            yield (
                f"{name}: without SecurityGroupIds Ray makes a group with ssh open to the world; name the group made "
                "by infra.aws setup."
            )
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        ranges = [r.get("CidrIp") or "" for r in rule.get("IpRanges", [])]
        ranges += [r.get("CidrIpv6") or "" for r in rule.get("Ipv6Ranges", [])]
        for text in ranges:
            if text and ipaddress.ip_network(text, strict=False).prefixlen == 0:
                port = rule.get("FromPort", "every port")
                yield f"security_group opens port {port} to the world ({text}); give your own address instead."


def _costs(config: dict[str, Any]) -> Iterator[str]:
    idle = config.get("idle_timeout_minutes", 5)
    if idle > 120:
        yield f"idle_timeout_minutes is {idle}: workers cost that long without work; 10 is enough."
    if config["provider"].get("cache_stopped_nodes", True):
        yield "cache_stopped_nodes is on, so that the disks of ended machines go on costing; set it to false."
    ends = any("shutdown" in command for command in config.get("setup_commands") or ())
    if not ends:
        yield "no time to live: nothing ends a forgotten cluster; take over the `sudo shutdown -h +1440` line."
    for name, node in config["available_node_types"].items():
        if ends and node["node_config"].get("InstanceInitiatedShutdownBehavior") != "terminate":
            yield (
                f"{name}: InstanceInitiatedShutdownBehavior is not terminate, so that the time to live only stops the "
                "machine and its disk goes on costing; set it."
            )


def _addresses(provider: dict[str, Any]) -> Iterator[str]:
    head, workers = provider.get("head_ip"), provider.get("worker_ips") or []
    if head in workers:
        yield f"head_ip {head} is also among worker_ips; the head works as well, so take it out there."
    twice = sorted({ip for ip in workers if workers.count(ip) > 1})
    if twice:
        yield f"worker_ips names {', '.join(twice)} twice; take one away."


def _nearest(text: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(text, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; look it up in AWS's list"
