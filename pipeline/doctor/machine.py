"""The checks of one machine. On a cluster they run there, as a Ray task."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.storage import UserError, open_storage
from infra.storage.probe import MIN_VALID_S, probe
from infra.versions import differing, installed_versions
from pipeline.config.environment import cache_folder

Peers = dict[str, tuple[str, int]]
"""Machine -> host and port of its Ray, which answers while Ray runs there."""
SPEED_BYTES = 16 << 20
MIN_CACHE_GB = 5.0
MAX_CLOCK_SKEW_S = 30.0
"""Largest difference between the clocks of machine and store. S3 refuses requests beyond 15 minutes."""


@dataclass
class MachineReport:
    """Results of the checks of a machine: a short value each, and a sentence for each problem."""

    machine: str
    values: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    """Checks with a problem."""

    def fail(self, check: str, sentence: str, value: str = "no") -> None:
        """Add a problem."""
        self.values.setdefault(check, value)
        self.failed.add(check)
        self.problems.append(sentence)


def check_machine(machine: str, store_url: str, shared_file: str, peers: Peers) -> MachineReport:
    """Run all checks on this machine; never raises. The caller has just written `shared_file` to the store."""
    report = MachineReport(machine)
    checks: list[tuple[str, Callable[[], None]]] = [
        ("versions", lambda: check_versions(report)),
        ("store", lambda: check_store(report, store_url, shared_file)),
        ("cache", lambda: check_cache(report)),
        ("GPU", lambda: check_gpus(report)),
        ("others", lambda: check_peers(report, peers)),
    ]
    for name, check in checks:
        try:
            check()
        except UserError as error:
            report.fail(name, str(error))
        except Exception as error:
            report.fail(name, f"the check of {name} failed with {type(error).__name__}: {error}")
    return report


def check_versions(report: MachineReport) -> None:
    """Python and the packages of constraints.txt."""
    installed = installed_versions()
    report.values["versions"] = " ".join(installed[name] for name in ("python", "torch", "ray"))
    for sentence in differing():
        report.fail("versions", sentence)


def check_store(report: MachineReport, url: str, shared_file: str) -> None:
    """Identity, clock, rights and speed."""
    found = probe(url)
    report.values["identity"] = f"{found.identity} {found.region}".strip()
    if found.expires_soon:
        report.fail("identity", f"the keys expire within {MIN_VALID_S / 60:.0f} minutes; log in again.")
    if found.ahead_s is not None:
        report.values["clock"] = f"{found.ahead_s:+.0f} s"
        if abs(found.ahead_s) > MAX_CLOCK_SKEW_S:
            sentence = f"the clock is {found.ahead_s:+.0f} s off the store's; turn on time synchronisation."
            report.fail("clock", sentence)
    check_access(report, url, shared_file)


def check_access(report: MachineReport, url: str, shared_file: str) -> None:
    """Put, get, list and delete of SPEED_BYTES, and the file that all machines must see."""
    store = open_storage(url).at("doctor")
    name = f"{uuid.uuid4().hex}/speed"
    data = uuid.uuid4().bytes * (SPEED_BYTES // 16)
    try:
        started = time.perf_counter()
        store.put(name, data)
        put_s, started = time.perf_counter() - started, time.perf_counter()
        held = store.get(name)
        get_s = time.perf_counter() - started
        if held != data or [entry.name for entry in store.list(name)] != [name]:
            report.fail("store", f"{store.url} returned other data than were written; check the store's disks.")
        report.values["store"] = f"put {SPEED_BYTES / 2**20 / put_s:.0f}, get {SPEED_BYTES / 2**20 / get_s:.0f} MiB/s"
    finally:
        store.delete(name)
    if store.size(name) is not None:
        report.fail("store", f"{store.url}: a deleted file still exists; allow s3:DeleteObject.")
    if store.size(shared_file) is None:
        report.fail(
            "store",
            f"{url} is not the same store as on the machine of the command; use s3:// (with the same AWS_ENDPOINT_URL "
            "everywhere) or a folder that all machines share.",
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
            report.fail("GPU", "nvidia-smi fails; reinstall the NVIDIA driver, or reboot.")
            return
        shown = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    report.values["GPU"] = f"{len(shown)} x {shown[0]}" if shown else "none"
    if len(shown) != usable:
        sentence = f"the driver shows {len(shown)} GPU(s), torch can use {usable}; install torch for its CUDA version."
        report.fail("GPU", sentence)


def check_peers(report: MachineReport, peers: Peers) -> None:
    """Connection time to each other machine, ms."""
    times_ms = []
    for name, (host, port) in peers.items():
        try:
            times_ms.append(statistics.median(connect_ms(host, port) for _ in range(3)))
        except OSError as error:
            reason = error.strerror or error
            report.fail("others", f"cannot reach {name} at {host}:{port} ({reason}); open all ports between them.")
    if times_ms:
        report.values.setdefault("others", f"{max(times_ms):.1f} ms at most")


def connect_ms(host: str, port: int) -> float:
    """Time to open a TCP connection, ms. Raises OSError when there is none within 3 s."""
    started = time.perf_counter()
    with socket.create_connection((host, port), timeout=3):
        return (time.perf_counter() - started) * 1e3
