"""What infra.aws must know of ray_cluster.yaml."""

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
"""What stands in the shipped file until `setup` fills it in."""
_STORE = re.compile(r"\bIRAE_STORE=[\"']?(s3://([^/\s\"']+)(?:/([^\s\"']*))?)")


@dataclass(frozen=True)
class ClusterFile:
    """The names that the file and the account must agree on."""

    path: Path
    cluster: str
    region: str
    bucket: str
    prefix: str
    """Below it lie data sets and runs; "" for the whole bucket."""
    head_profile: str
    worker_profile: str
    key_name: str
    instance_types: tuple[str, ...]

    @property
    def group(self) -> str:
        """Name of the security group."""
        return f"{self.cluster}-cluster"


def read_cluster_file(path: Path) -> ClusterFile:
    """ValueError, in one sentence a problem, when the file is not one that infra.aws can work with."""
    config = load(path)
    problems: list[str] = []
    store = store_of(config)
    if store is None:
        problems.append(f"{path}: no setup command sets IRAE_STORE=s3://...; take over the line of the shipped file.")
    provider = config.get("provider") or {}
    if provider.get("type") != "aws":
        problems.append(f"{path}: provider.type is {provider.get('type')!r}; infra.aws is for clusters on aws.")
    types = config.get("available_node_types") or {}
    profiles = {
        name: ((node.get("node_config") or {}).get("IamInstanceProfile") or {}).get("Name")
        for name, node in types.items()
    }
    head = config.get("head_node_type")
    head_profile = profiles.pop(head, None)
    workers = set(profiles.values())
    if not head_profile or len(workers) != 1 or None in workers:
        problems.append(
            f"{path}: the head needs an IamInstanceProfile with a Name, and all workers one together; take over the "
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
        head_profile=str(head_profile),
        worker_profile=str(workers.pop()),
        key_name=(provider.get("key_pair") or {}).get("key_name") or f"ray-autoscaler_{region}",
        instance_types=tuple(sorted({node["node_config"]["InstanceType"] for node in types.values()})),
    )


def load(path: Path) -> dict[str, Any]:
    """The file as it stands. ValueError when there is none, or it is no yaml."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no {path}; run this in the project's folder, or say --cluster FILE.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no yaml: {' '.join(str(error).split())}; mend that line.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings; begin with the shipped file.")
    return config


def store_of(config: dict[str, Any]) -> tuple[str, str] | None:
    """(bucket, prefix) of the IRAE_STORE that the set-up commands give to every machine."""
    for command in config.get("setup_commands") or ():
        if match := _STORE.search(command):
            return match[2], (match[3] or "").strip("/")
    return None


def fill_in(path: Path, values: dict[str, str]) -> None:
    """Put the values in the place of the placeholders; everything else, comments included, stays as it is."""
    text = path.read_text()
    for name, value in values.items():
        text = text.replace(PLACEHOLDERS[name], value)
    path.write_text(text)
