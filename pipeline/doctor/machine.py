"""What `python -m pipeline.doctor` looks at on one machine. Runs there, as a Ray task on a cluster."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.storage import open_storage
from infra.storage.probe import probe
from infra.versions import differing, installed_versions
from pipeline.config.environment import cache_folder

Peers = dict[str, tuple[str, int]]
"""Machine -> an address and port of it that answers while Ray runs there."""
SPEED_BYTES = 16 << 20
LEAST_CACHE_GB = 5.0
MOST_SKEW_S = 30.0
"""S3 refuses requests from a clock that is 15 minutes off; a clock that is kept is never this far."""
LEAST_VALID_S = 3600.0


@dataclass
class Findings:
    """What was found on a machine: a short text for each thing, and a sentence for each that is wrong."""

    machine: str
    values: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    """The things that have a problem."""

    def fail(self, thing: str, sentence: str, value: str = "no") -> None:
        """Note a problem."""
        self.values.setdefault(thing, value)
        self.wrong.add(thing)
        self.problems.append(sentence)


def examine(machine: str, store_url: str, shared_file: str, peers: Peers) -> Findings:
    """Look at this machine; never raises. `shared_file` was just written to the store by the one who asks."""
    findings = Findings(machine)
    checks: list[tuple[str, Callable[[], None]]] = [
        ("versions", lambda: check_versions(findings)),
        ("store", lambda: check_store(findings, store_url, shared_file)),
        ("cache", lambda: check_cache(findings)),
        ("GPU", lambda: check_gpus(findings)),
        ("others", lambda: check_peers(findings, peers)),
    ]
    for thing, check in checks:
        try:
            check()
        except ValueError as error:
            findings.fail(thing, str(error))
        except Exception as error:
            findings.fail(thing, f"the look at {thing} failed with {type(error).__name__}: {error}")
    return findings


def check_versions(findings: Findings) -> None:
    """Python, torch and Ray are shown; all that matter are compared with constraints.txt."""

    installed = installed_versions()
    findings.values["versions"] = " ".join(installed[name] for name in ("python", "torch", "ray"))
    for sentence in differing():
        findings.fail("versions", sentence)


def check_store(findings: Findings, url: str, shared_file: str) -> None:
    """Who we are, list, get, put and delete, the clock, and how fast."""

    found = probe(url)
    findings.values["identity"] = f"{found.identity} {found.region}".strip()
    if found.expires_in_s is not None and found.expires_in_s < LEAST_VALID_S:
        findings.fail("identity", f"the keys are valid for {found.expires_in_s / 60:.0f} more minutes; log in again.")
    if found.ahead_s is not None:
        findings.values["clock"] = f"{found.ahead_s:+.0f} s"
        if abs(found.ahead_s) > MOST_SKEW_S:
            findings.fail(
                "clock", f"the clock is {found.ahead_s:+.0f} s off the store's; turn on time synchronisation."
            )
    use_store(findings, url, shared_file)


def use_store(findings: Findings, url: str, shared_file: str) -> None:
    """Write, read, list and delete, at the size of a small shard."""

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
            findings.fail("store", f"{store.url}: what was read is not what was written; look at the store's disks.")
        findings.values["store"] = f"put {SPEED_BYTES / 2**20 / put_s:.0f}, get {SPEED_BYTES / 2**20 / get_s:.0f} MiB/s"
    finally:
        store.delete(name)
    if store.size(name) is not None:
        findings.fail("store", f"{store.url}: a deleted file is still there; allow s3:DeleteObject.")
    if store.size(shared_file) is None:
        findings.fail(
            "store",
            f"{url} is another place here than on the machine that asks; use s3:// (with the same AWS_ENDPOINT_URL "
            "everywhere) or a folder that all machines share.",
        )


def check_cache(findings: Findings) -> None:
    """Room on the disk where shards are kept."""
    folder = cache_folder()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free_gb = shutil.disk_usage(nearest).free / 1e9
    findings.values["cache"] = f"{free_gb:,.0f} GB free"
    if free_gb < LEAST_CACHE_GB:
        findings.fail("cache", f"only {free_gb:.1f} GB are free at {folder}; free some, or set IRAE_CACHE elsewhere.")


def check_gpus(findings: Findings) -> None:
    """What the driver shows must be what torch can use."""
    import torch

    shown: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=30)
        if result.returncode:
            findings.fail("GPU", "nvidia-smi does not answer; install the NVIDIA driver anew, or reboot.")
            return
        shown = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    findings.values["GPU"] = f"{len(shown)} x {shown[0]}" if shown else "none"
    if len(shown) != usable:
        findings.fail(
            "GPU",
            f"the driver shows {len(shown)} GPU(s), torch can use {usable}; install torch for its CUDA version.",
        )


def check_peers(findings: Findings, peers: Peers) -> None:
    """The time to open a connection to each other machine, ms."""
    times_ms = []
    for name, (address, port) in peers.items():
        try:
            times_ms.append(statistics.median(connect_ms(address, port) for _ in range(3)))
        except OSError as error:
            findings.fail(
                "others",
                f"cannot reach {name} at {address}:{port} ({error.strerror or error}); open all ports between them.",
            )
    if times_ms:
        findings.values.setdefault("others", f"{max(times_ms):.1f} ms at most")


def connect_ms(address: str, port: int) -> float:
    """Milliseconds that a TCP connection takes. OSError when there is none within 3 s."""
    started = time.perf_counter()
    with socket.create_connection((address, port), timeout=3):
        return (time.perf_counter() - started) * 1e3
