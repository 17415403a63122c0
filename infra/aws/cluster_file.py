"""The part of ray_cluster.yaml that must agree with the AWS account."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.storage import UserError

PLACEHOLDERS = {
    "bucket": "YOUR-BUCKET",
    "image": "ami-00000000000000000",
    "security group": "sg-00000000000000000",
}
"""Placeholders of the shipped file, which `setup` fills in."""
_STORE = re.compile(r"\bIRAE_STORE=[\"']?s3://([^/\s\"']+)(?:/([^\s\"']*))?")


@dataclass(frozen=True)
class ClusterFile:
    """Names that the file and the account share."""

    path: Path
    cluster: str
    region: str
    bucket: str
    prefix: str
    """Folder of data sets and runs in the bucket; "" for all of it."""
    head_profile: str
    worker_profile: str
    key_name: str
    instance_types: tuple[str, ...]

    @property
    def group(self) -> str:
        """Name of the security group."""
        return f"{self.cluster}-cluster"


def read_cluster_file(path: Path) -> ClusterFile:
    """The file's names. Raises UserError, a line for each problem, when infra.aws cannot work with it."""
    config = load(path)
    store, provider = store_of(config), config.get("provider") or {}
    machines = {
        name: node.get("node_config") or {} for name, node in (config.get("available_node_types") or {}).items()
    }
    profiles = {name: (machine.get("IamInstanceProfile") or {}).get("Name") for name, machine in machines.items()}
    head, workers = profiles.pop(config.get("head_node_type"), None), {*profiles.values()}
    problems = []
    if store is None:
        problems.append(f"{path}: no setup command sets IRAE_STORE=s3://...; copy the line of the shipped file.")
    if provider.get("type") != "aws":
        problems.append(f"{path}: provider.type is {provider.get('type')!r}; infra.aws is for clusters on aws.")
    if not head or len(workers) != 1 or None in workers:
        problems.append(
            f"{path}: the head needs an IamInstanceProfile with a Name, and all workers the same one; copy the "
            "lines of the shipped file."
        )
    if problems:
        raise UserError("\n".join(problems))
    assert store
    region = provider["region"]
    return ClusterFile(
        path=path,
        cluster=config["cluster_name"],
        region=region,
        bucket=store[0],
        prefix=store[1],
        head_profile=str(head),
        worker_profile=str(workers.pop()),
        key_name=(provider.get("key_pair") or {}).get("key_name") or f"ray-autoscaler_{region}",
        instance_types=tuple(sorted({machine["InstanceType"] for machine in machines.values()})),
    )


def load(path: Path) -> dict[str, Any]:
    """The parsed file. Raises UserError when there is none, or it is no yaml."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; run this in the project's folder, or name it with --cluster FILE."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no yaml: {' '.join(str(error).split())}; fix that line.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings; start from the shipped file.")
    return config


def store_of(config: dict[str, Any]) -> tuple[str, str] | None:
    """(bucket, prefix) of the IRAE_STORE in the setup commands; None without an s3:// URL."""
    for command in config.get("setup_commands") or ():
        if match := _STORE.search(command):
            return match[1], (match[2] or "").strip("/")
    return None


def fill_in(path: Path, values: dict[str, str]) -> None:
    """Replace the placeholders by the values; everything else, comments included, is kept."""
    text = path.read_text()
    for name, value in values.items():
        text = text.replace(PLACEHOLDERS[name], value)
    path.write_text(text)
