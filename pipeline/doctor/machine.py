"""The checks of one machine. On a cluster they run there, as a Ray task."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import create_connection
from statistics import median
from timeit import repeat, timeit

from infra.storage import UserError, open_storage
from infra.storage.probe import MIN_VALID_S, probe
from infra.versions import differing, installed_versions
from pipeline.config.environment import cache_folder

SPEED_BYTES = 16 << 20
MIN_CACHE_GB = 5.0
MAX_CLOCK_SKEW_S = 30.0
"""Largest difference between the clocks of machine and store. S3 refuses requests beyond 15 minutes."""


@dataclass
class MachineReport:
    """The checks of a machine: their subject, and their results by the column of the table."""

    machine: str
    store_url: str = ""
    shared_file: str = ""
    """File that the caller has just written to the store."""
    peers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Other machine -> host and port of its Ray, which answers while Ray runs there."""
    values: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    """Columns with a problem."""

    def fail(self, column: str, problem: str) -> None:
        self.values.setdefault(column, "no")
        self.failed.add(column)
        self.problems.append(problem)


def check_machine(report: MachineReport) -> MachineReport:
    """Run all checks on this machine; never raises."""
    for column, check in CHECKS.items():
        try:
            check(report)
        except UserError as error:
            report.fail(column, str(error))
        except Exception as error:
            report.fail(column, f"the check of {column} failed with {type(error).__name__}: {error}")
    return report


def check_versions(report: MachineReport) -> None:
    """Python and the packages of constraints.txt."""
    installed = installed_versions()
    report.values[VERSIONS] = " ".join(installed[name] for name in ("python", "torch", "ray"))
    for sentence in differing():
        report.fail(VERSIONS, sentence)


def check_store(report: MachineReport) -> None:
    """Identity, clock, rights and speed."""
    found = probe(report.store_url)
    report.values["identity"] = f"{found.identity} {found.region}".strip()
    if found.expires_soon:
        report.fail("identity", f"the keys expire within {MIN_VALID_S / 60:.0f} minutes; log in again.")
    if found.ahead_s is not None:
        skew = report.values["clock"] = f"{found.ahead_s:+.0f} s"
        if abs(found.ahead_s) > MAX_CLOCK_SKEW_S:
            report.fail("clock", f"the clock is {skew} off the store's; turn on time synchronisation.")
    check_access(report)


def check_access(report: MachineReport) -> None:
    """Put, get, list and delete of SPEED_BYTES, and the file that all machines must see."""
    store, name = open_storage(report.store_url).at("doctor"), f"{uuid.uuid4().hex}/speed"
    data = uuid.uuid4().bytes * (SPEED_BYTES // 16)
    try:
        put_s = timeit(lambda: store.put(name, data), number=1)
        started = time.perf_counter()
        held = store.get(name)
        get_s = time.perf_counter() - started
        report.values["store"] = f"put {SPEED_BYTES / 2**20 / put_s:.0f}, get {SPEED_BYTES / 2**20 / get_s:.0f} MiB/s"
        if held != data or [entry.name for entry in store.list(name)] != [name]:
            report.fail("store", f"{store.url} returned other data than were written; check the store's disks.")
    finally:
        store.delete(name)
    if store.size(name) is not None:
        report.fail("store", f"{store.url}: a deleted file still exists; allow s3:DeleteObject.")
    if store.size(report.shared_file) is None:
        report.fail(
            "store",
            f"{report.store_url} is not the same store as on the machine of the command; use s3:// (with the same "
            "AWS_ENDPOINT_URL everywhere) or a folder that all machines share.",
        )


def check_cache(report: MachineReport) -> None:
    """Free space on the disk of the shard cache."""
    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(nearest).free / 1e9
    report.values["cache"] = f"{free_gb:,.0f} GB free"
    if free_gb < MIN_CACHE_GB:
        report.fail("cache", f"only {free_gb:.1f} GB are free at {folder}; free some, or change IRAE_CACHE.")


def check_gpus(report: MachineReport) -> None:
    """The driver's GPUs against those of torch."""
    import torch

    shown: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=30)
        if result.returncode:
            raise UserError("nvidia-smi fails; reinstall the NVIDIA driver, or reboot.")
        shown = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    report.values["GPU"] = f"{len(shown)} x {shown[0]}" if shown else "none"
    if len(shown) != usable:
        sentence = f"the driver shows {len(shown)} GPU(s), torch can use {usable}; install torch for its CUDA version."
        report.fail("GPU", sentence)


def check_peers(report: MachineReport) -> None:
    """Time to open a TCP connection to each other machine."""
    times_s = []
    for name, address in report.peers.items():
        try:
            times_s.append(median(repeat(lambda: create_connection(address, timeout=3).close(), number=1)))  # noqa: B023
        except OSError as error:
            where = f"{name} at {address[0]}:{address[1]} ({error.strerror or error})"
            report.fail(PEERS, f"cannot reach {where}; open all ports between them.")
    if times_s:
        report.values.setdefault(PEERS, f"{1e3 * max(times_s):.1f} ms at most")


VERSIONS, PEERS = "Python torch Ray", "to the others"
CHECKS: dict[str, Callable[[MachineReport], None]] = {
    VERSIONS: check_versions,
    "store": check_store,
    "cache": check_cache,
    "GPU": check_gpus,
    PEERS: check_peers,
}
"""Column of the table -> its check; that of the store fills those of identity and clock, too."""
