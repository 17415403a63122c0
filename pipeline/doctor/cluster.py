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
from infra.storage import Storage, UserError, open_storage
from pipeline.config.environment import store_url
from pipeline.doctor.cluster_file import check_cluster_file
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.machine import MachineReport, Peers, check_machine

logger = logging.getLogger(__name__)

CHECKS = ("versions", "identity", "store", "clock", "cache", "GPU", "others")
"""Columns of the table."""
REPORT_TIMEOUT_S = 120.0
"""Time after which a machine without a report has failed."""


def main(config: DoctorConfig) -> None:
    """Raise UserError, a sentence for each problem, if there are any."""
    problems = check_file(config.cluster) if config.cluster else check_machines(config)
    if problems:
        raise UserError("\n".join(problems))
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
    url = config.store or store_url()
    shared_file = f"{uuid.uuid4().hex}/shared"
    store, problems = write_shared_file(url, shared_file)
    try:
        if config.local or not has_cluster():
            reports, problems = [check_machine(socket.gethostname(), url, shared_file, {})], []
        else:
            reports, more = check_cluster(url, shared_file, config.nodes)
            problems += more
    finally:
        if store is not None:
            store.delete(shared_file)
    print_table(reports, url)
    problems += version_differences(reports)
    return problems + [f"{report.machine}: {problem}" for report in reports for problem in report.problems]


def write_shared_file(url: str, name: str) -> tuple[Storage | None, list[str]]:
    """A file that every machine must see: its store, None when it cannot be written, and the problems."""
    try:
        store = open_storage(url).at("doctor")
        store.check()
        store.put(name, b"pipeline.doctor")
    except UserError as error:
        return None, [f"{socket.gethostname()} (this machine): {error}"]
    return store, []


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
        problems = [lost_sentence(node) for node in lost_nodes(nodes)]
        working = sum(node["Resources"].get("CPU", 0) > 0 for node in alive)
        if expected is not None and working < expected:
            problems.append(
                f"{working} of {expected} machine(s) with processors run; raise min_workers or max_workers, or see "
                "`ray status` for why no more start."
            )
        return reports_of(alive, url, shared_file), problems
    finally:
        ray.shutdown()


def lost_nodes(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dead nodes that were not terminated on purpose and whose machine has not come back."""
    alive = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    dead = [node for node in nodes if not node["Alive"] and not was_terminated_on_purpose(node)]
    return list({node["NodeManagerAddress"]: node for node in dead if node["NodeManagerAddress"] not in alive}.values())


def was_terminated_on_purpose(node: dict[str, Any]) -> bool:
    """Whether the cluster itself terminated the node: idle, replaced or stopped."""
    return str(node.get("DeathReason", "")).upper() in ("1", "3", "EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")


def lost_sentence(node: dict[str, Any]) -> str:
    return (
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}) is lost: it no longer answers; switch it on and "
        "run `ray up` again, or remove it from the yaml."
    )


def reports_of(alive: list[dict[str, Any]], url: str, shared_file: str) -> list[MachineReport]:
    """One task on each machine, concurrently."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive}
    addresses = {node["NodeID"]: (node["NodeManagerAddress"], int(node["NodeManagerPort"])) for node in alive}
    task = ray.remote(num_cpus=0, max_retries=0)(check_machine)
    tasks = {}
    for node_id, name in names.items():
        peers: Peers = {names[other]: addresses[other] for other in names if other != node_id}
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        tasks[task.options(scheduling_strategy=there).remote(name, url, shared_file, peers)] = name
    ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=REPORT_TIMEOUT_S)
    reports = []
    for reference, name in tasks.items():
        report = MachineReport(name)
        try:
            if reference not in ready:
                raise TimeoutError(f"no report within {REPORT_TIMEOUT_S:.0f} s")
            report = ray.get(reference)
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            report.fail("others", f"the checks could not run ({first}); see whether Ray runs there: `ray status`.")
        reports.append(report)
    return sorted(reports, key=lambda report: report.machine)


def version_differences(reports: list[MachineReport]) -> list[str]:
    """A sentence when the machines have different versions."""
    groups: dict[str, list[str]] = {}
    for report in reports:
        if "versions" in report.values:
            groups.setdefault(report.values["versions"], []).append(report.machine)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{versions} on {', '.join(machines)}" for versions, machines in sorted(groups.items()))
    return [f"Python, torch and Ray differ: {listed}. Make them equal: `ray up` installs constraints.txt everywhere."]


def print_table(reports: list[MachineReport], url: str) -> None:
    """A row for each machine."""
    table = Table(title=f"store {url}")
    table.add_column("machine")
    checks = [check for check in CHECKS if any(check in report.values for report in reports)]
    for check in checks:
        table.add_column({"versions": "Python torch Ray", "others": "to the others"}.get(check, check))
    for report in reports:
        values = [(check, report.values.get(check, "-")) for check in checks]
        marked = (f"[red]{value} (!)[/red]" if check in report.failed else value for check, value in values)
        table.add_row(report.machine, *marked)
    Console().print(table)
