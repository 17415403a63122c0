"""python -m pipeline.doctor: is everything as it must be, here, on every machine of a cluster, or in its yaml?"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import load
from infra.aws.prices import estimate
from infra.cluster import apply_settings
from infra.storage import UserError, open_storage
from pipeline.cli import run_command
from pipeline.config.environment import store_url
from pipeline.doctor.cluster_file import check_cluster_file
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.machine import Findings, Peers, examine

logger = logging.getLogger(__name__)

THINGS = ("versions", "identity", "store", "clock", "cache", "GPU", "others")
ANSWER_S = 120.0
"""A machine that has not answered by then is counted as failed."""


def main(config: DoctorConfig) -> None:
    """ValueError, with a sentence for each problem, unless all is well."""
    problems = check_file(config.cluster) if config.cluster else check_machines(config)
    if problems:
        raise UserError("\n".join(problems))
    logger.info("all is well")


def check_file(path: Path) -> list[str]:
    """The problems of a cluster's yaml; the cost is printed."""

    problems = check_cluster_file(path)
    config = load(path)
    if config.get("provider", {}).get("type") == "aws" and config.get("available_node_types"):
        logger.info(estimate(config))
    return [f"{path}: {problem}" for problem in problems]


def check_machines(config: DoctorConfig) -> list[str]:
    """The problems of this machine or of all; a table of what was found is printed."""

    url = config.store or store_url()
    shared_file = f"{uuid.uuid4().hex}/shared"
    store, problems = write_shared_file(url, shared_file)
    try:
        if config.local or not cluster_runs():
            found, problems = [examine(socket.gethostname(), url, shared_file, {})], []
        else:
            found, more = examine_cluster(url, shared_file, config.nodes)
            problems += more
    finally:
        if store is not None:
            store.delete(shared_file)
    show(found, url)
    problems += different_versions(found)
    return problems + [f"{f.machine}: {problem}" for f in found for problem in f.problems]


def write_shared_file(url: str, name: str) -> tuple[Any, list[str]]:
    """A file that every machine must see; (the store, or None, problems)."""

    try:
        store = open_storage(url).at("doctor")
        store.check()
        store.put(name, b"the doctor was here")
    except ValueError as error:
        return None, [f"{socket.gethostname()} (this machine): {error}"]
    return store, []


def cluster_runs() -> bool:
    """Whether RAY_ADDRESS names a cluster, or this is the head that `ray up` made."""
    return bool(os.environ.get("RAY_ADDRESS")) or Path("~/ray_bootstrap_config.yaml").expanduser().exists()


def examine_cluster(url: str, shared_file: str, wanted: int | None) -> tuple[list[Findings], list[str]]:
    """Findings of every living machine, and the problems of the cluster as a whole."""

    apply_settings(starts_here=False)
    import ray

    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        raise UserError(
            "a cluster was started here, but does not answer; run `ray up` again, or look at this machine alone "
            "with --local."
        ) from None
    try:
        nodes = ray.nodes()
        alive = [node for node in nodes if node["Alive"]]
        problems = [lost_sentence(node) for node in lost(nodes)]
        with_processors = [node for node in alive if node["Resources"].get("CPU", 0) > 0]
        if wanted is not None and len(with_processors) < wanted:
            problems.append(
                f"{len(with_processors)} machine(s) with processors are there, {wanted} were asked for; raise "
                "min_workers or max_workers, or look at `ray status` for why no more come."
            )
        return ask_all(alive, url, shared_file), problems
    finally:
        ray.shutdown()


def lost(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Machines that went without being sent away, and have not come back."""
    here = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    gone = {
        node["NodeManagerAddress"]: node
        for node in nodes
        if not node["Alive"] and node["NodeManagerAddress"] not in here and not was_terminated_on_purpose(node)
    }
    return list(gone.values())


def was_terminated_on_purpose(node: dict[str, Any]) -> bool:
    """Whether the cluster ended it on purpose: idle, replaced or stopped."""
    return str(node.get("DeathReason", "")).upper() in ("1", "3", "EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")


def lost_sentence(node: dict[str, Any]) -> str:
    return (
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}) is lost: it no longer answers; switch it on and "
        "run `ray up` again, or take it out of the yaml."
    )


def ask_all(alive: list[dict[str, Any]], url: str, shared_file: str) -> list[Findings]:
    """One task on each machine, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive}
    ports = {node["NodeID"]: (node["NodeManagerAddress"], int(node["NodeManagerPort"])) for node in alive}
    task = ray.remote(num_cpus=0, max_retries=0)(examine)
    asked = {}
    for identity, name in names.items():
        peers: Peers = {names[other]: ports[other] for other in names if other != identity}
        there = NodeAffinitySchedulingStrategy(identity, soft=False)
        asked[task.options(scheduling_strategy=there).remote(name, url, shared_file, peers)] = name
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    found = []
    for reference, name in asked.items():
        findings = Findings(name)
        try:
            if reference not in ready:
                raise TimeoutError(f"no answer within {ANSWER_S:.0f} s")
            findings = ray.get(reference)
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            findings.fail("others", f"it could not be looked at ({first}); see whether Ray runs there: `ray status`.")
        found.append(findings)
    return sorted(found, key=lambda f: f.machine)


def different_versions(found: list[Findings]) -> list[str]:
    """A sentence when the machines are not alike."""
    groups: dict[str, list[str]] = {}
    for findings in found:
        if "versions" in findings.values:
            groups.setdefault(findings.values["versions"], []).append(findings.machine)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{versions} on {', '.join(machines)}" for versions, machines in sorted(groups.items()))
    return [f"Python, torch and Ray differ: {listed}. Make them equal: `ray up` installs constraints.txt everywhere."]


def show(found: list[Findings], url: str) -> None:
    """The table: a row a machine."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"store {url}")
    table.add_column("machine")
    things = [thing for thing in THINGS if any(thing in f.values for f in found)]
    for thing in things:
        table.add_column({"versions": "Python torch Ray", "others": "to the others"}.get(thing, thing))
    for findings in found:
        cells = []
        for thing in things:
            value = findings.values.get(thing, "-")
            cells.append(f"[red]{value} (!)[/red]" if thing in findings.wrong else value)
        table.add_row(findings.machine, *cells)
    Console().print(table)


if __name__ == "__main__":
    run_command(DoctorConfig, main)
