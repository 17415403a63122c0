"""The checks of a cluster: of its yaml, of every machine, and of their differences."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.aws.cluster_file import load
from infra.aws.prices import estimate
from infra.cluster import apply_settings
from infra.storage import UserError, open_storage
from pipeline.config.checks import raise_problems
from pipeline.config.environment import store_url
from pipeline.doctor.cluster_file import check_cluster_file
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.machine import PEERS, VERSIONS, MachineReport, check_machine

logger = logging.getLogger(__name__)

REPORT_TIMEOUT_S = 120.0
"""Time after which a machine without a report has failed."""
ON_PURPOSE = {"1", "3", "EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE"}
"""Ray's reasons for the death of a node that the cluster itself terminated: idle, replaced or stopped."""


def main(config: DoctorConfig) -> None:
    """Raise UserError, a sentence for each problem, if there are any."""
    raise_problems(check_file(config.cluster) if config.cluster else check_machines(config))
    logger.info("all is well")


def check_file(path: Path) -> list[str]:
    """The problems of a cluster's yaml; logs its price."""
    problems = check_cluster_file(path)
    config = load(path)
    if config.get("provider", {}).get("type") == "aws" and config.get("available_node_types"):
        logger.info(estimate(config))
    return [f"{path}: {problem}" for problem in problems]


def check_machines(config: DoctorConfig) -> list[str]:
    """The problems of this machine, or of all machines of the cluster; prints the table."""
    url, shared_file = config.store or store_url(), f"{uuid.uuid4().hex}/shared"
    store = open_storage(url).at("doctor")
    try:
        store.check()
        store.put(shared_file, b"pipeline.doctor")
        problems = []
    except UserError as error:
        problems = [f"{socket.gethostname()} (this machine): {error}"]
    is_written = not problems
    try:
        if config.local or not has_cluster():
            reports, problems = [check_machine(MachineReport(socket.gethostname(), url, shared_file))], []
        else:
            reports, more = check_cluster(url, shared_file, config.nodes)
            problems += more
    finally:
        if is_written:
            store.delete(shared_file)
    print_table(reports, url)
    problems += version_differences(reports)
    return problems + [f"{report.machine}: {problem}" for report in reports for problem in report.problems]


def has_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, or this is the head that `ray up` created."""
    return bool(os.environ.get("RAY_ADDRESS")) or Path("~/ray_bootstrap_config.yaml").expanduser().exists()


def check_cluster(url: str, shared_file: str, expected: int | None) -> tuple[list[MachineReport], list[str]]:
    """The reports of all live machines, and the problems of the cluster as a whole."""
    apply_settings(starts_here=False)
    import ray

    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        raise UserError(
            "a cluster was started here, but does not answer; run `ray up` again, or check this machine alone with "
            "--local."
        ) from None
    try:
        nodes = ray.nodes()
        alive = [node for node in nodes if node["Alive"]]
        problems = lost_machines(nodes)
        working = sum(node["Resources"].get("CPU", 0) > 0 for node in alive)
        if expected is not None and working < expected:
            problems.append(
                f"{working} of {expected} machine(s) with processors run; raise min_workers or max_workers, or see "
                "`ray status` for why no more start."
            )
        return reports_of(alive, url, shared_file), problems
    finally:
        ray.shutdown()


def lost_machines(nodes: list[dict[str, Any]]) -> list[str]:
    """A sentence for each machine whose node died otherwise than on purpose and that has not come back."""
    alive = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    lost = {
        node["NodeManagerAddress"]: node["NodeManagerHostname"]
        for node in nodes
        if not node["Alive"] and str(node.get("DeathReason", "")).upper() not in ON_PURPOSE
    }
    return [
        f"{name} ({address}) is lost: it no longer answers; switch it on and run `ray up` again, or remove it from the "
        "yaml."
        for address, name in lost.items()
        if address not in alive
    ]


def reports_of(alive: list[dict[str, Any]], url: str, shared_file: str) -> list[MachineReport]:
    """One task on each machine, concurrently."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive}
    addresses = {names[node["NodeID"]]: (node["NodeManagerAddress"], int(node["NodeManagerPort"])) for node in alive}
    task = ray.remote(num_cpus=0, max_retries=0)(check_machine)
    tasks = []
    for node_id, name in names.items():
        peers = {other: address for other, address in addresses.items() if other != name}
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        tasks.append(task.options(scheduling_strategy=there).remote(MachineReport(name, url, shared_file, peers)))
    ray.wait(tasks, num_returns=len(tasks), timeout=REPORT_TIMEOUT_S)
    reports = []
    for name, reference in zip(names.values(), tasks, strict=True):
        try:
            reports.append(ray.get(reference, timeout=0))
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            reports.append(MachineReport(name))
            reports[-1].fail(PEERS, f"no report of the checks ({first}); see whether Ray runs there: `ray status`.")
    return sorted(reports, key=lambda report: report.machine)


def version_differences(reports: list[MachineReport]) -> list[str]:
    """A sentence when the machines have different versions."""
    versions = {report.machine: report.values[VERSIONS] for report in reports if VERSIONS in report.values}
    groups = {value: [name for name in versions if versions[name] == value] for value in sorted({*versions.values()})}
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{value} on {', '.join(machines)}" for value, machines in groups.items())
    return [f"Python, torch and Ray differ: {listed}. Make them equal: `ray up` installs constraints.txt everywhere."]


def print_table(reports: list[MachineReport], url: str) -> None:
    """A row for each machine, a column for each check."""
    columns = list(dict.fromkeys(column for report in reports for column in report.values))
    table = Table("machine", *columns, title=f"store {url}")
    for report in reports:
        values = {column: report.values.get(column, "-") for column in columns}
        table.add_row(report.machine, *(f"[red]{v} (!)[/red]" if c in report.failed else v for c, v in values.items()))
    Console().print(table)
