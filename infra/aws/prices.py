"""What machines cost, roughly: to see before `ray up` whether it is ten dollars or a thousand."""

from __future__ import annotations

from typing import Any

DATE = "2025-06"
"""When these were the list prices. They differ by region and change; the bill is right, this is not."""
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
"""On demand, Linux, us-west-2. Spot machines cost less, by how much changes every hour."""


def estimate(config: dict[str, Any]) -> str:
    """One sentence on what an hour of this cluster costs, with the head alone and with all workers."""
    types, head = config["available_node_types"], config["head_node_type"]
    unknown = {kind for node in types.values() if (kind := _kind(node)) not in USD_PER_HOUR}
    if unknown:
        return f"cost: not known for {', '.join(sorted(unknown))}; look it up before ray up."
    head_usd = USD_PER_HOUR[_kind(types[head])]
    most = config.get("max_workers", 0)
    dearest = sorted(
        (
            USD_PER_HOUR[_kind(n)]
            for name, n in types.items()
            if name != head
            for _ in range(n.get("max_workers", most))
        ),
        reverse=True,
    )[:most]
    spot = any("InstanceMarketOptions" in node["node_config"] for node in types.values())
    less = "; spot machines cost less" if spot else ""
    return (
        f"cost: {head_usd:.2f} USD an hour for the head alone, at most {head_usd + sum(dearest):.2f} with "
        f"{len(dearest)} workers (on-demand prices of {DATE}, us-west-2, without disks{less})."
    )


def _kind(node: dict[str, Any]) -> str:
    return str(node["node_config"].get("InstanceType"))
