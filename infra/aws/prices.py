"""A rough price of a cluster, to see before `ray up` whether it is ten dollars or a thousand."""

from __future__ import annotations

from typing import Any

DATE = "2025-06"
"""Month of these list prices, which differ by region and change."""
USD_PER_HOUR = {
    "c6i.xlarge": 0.17, "c6i.2xlarge": 0.34, "c6i.4xlarge": 0.68,
    "m5.large": 0.096, "m5.xlarge": 0.192, "m5.2xlarge": 0.384, "m5.4xlarge": 0.768,
    "m6i.large": 0.096, "m6i.xlarge": 0.192, "m6i.2xlarge": 0.384, "m6i.4xlarge": 0.768,
    "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.4xlarge": 1.204, "g4dn.12xlarge": 3.912,
    "g5.xlarge": 1.006, "g5.2xlarge": 1.212, "g5.4xlarge": 1.624, "g5.8xlarge": 2.448, "g5.12xlarge": 5.672,
    "g5.48xlarge": 16.288,
    "g6.xlarge": 0.805, "g6.2xlarge": 0.978, "g6.4xlarge": 1.323, "g6.8xlarge": 2.014, "g6.12xlarge": 4.602,
    "g6.48xlarge": 13.35,
}  # fmt: skip
"""Instance type -> on-demand price in us-west-2, Linux. Spot prices are lower and change every hour."""


def estimate(config: dict[str, Any]) -> str:
    """The hourly price of a cluster file's head alone and with all workers, in one sentence."""
    types, head = config["available_node_types"], config["head_node_type"]
    kinds = {name: str(node["node_config"].get("InstanceType")) for name, node in types.items()}
    unknown = sorted(set(kinds.values()) - set(USD_PER_HOUR))
    if unknown:
        return f"cost: not known for {', '.join(unknown)}; look it up before ray up."
    most = config.get("max_workers", 0)
    workers = [
        USD_PER_HOUR[kinds[name]]
        for name, node in types.items()
        for _ in range(node.get("max_workers", most) if name != head else 0)
    ]
    dearest, head_usd = sorted(workers, reverse=True)[:most], USD_PER_HOUR[kinds[head]]
    spot = any("InstanceMarketOptions" in node["node_config"] for node in types.values())
    less = "; spot machines cost less" if spot else ""
    return (
        f"cost: {head_usd:.2f} USD an hour for the head alone, at most {head_usd + sum(dearest):.2f} with "
        f"{len(dearest)} workers (on-demand prices of {DATE}, us-west-2, without disks{less})."
    )
