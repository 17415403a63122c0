"""Trainings in this process, in worker processes and as commands, and ways to disturb those."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from infra.storage import StorageError, open_storage
from pipeline.config.train import TrainConfig
from pipeline.runs.folder import Run
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import Trainer
from pipeline.train.prepare import Training

SMALL = ["--preset", "standard", "--K", "2", "--width", "8", "--global-batch-size", "8", "--precision", "float32"]
WITH_TIMEOUT = (
    "import sys, pipeline.train.watchdog as w; w.HEARTBEAT_TIMEOUT_S = {timeout_s}; "
    "from pipeline import cli; from pipeline.train import __main__ as door; sys.exit(cli.exit_code_of(door.run))"
)
BATCH = 8


def config_for(data: str, out: Path, **changes: Any) -> TrainConfig:
    """A small training of 20 steps, with other options by their names."""
    options: dict[str, Any] = {
        "preset": "test",
        "data": data,
        "out": str(out),
        "K": 2,
        "L": 2,
        "width": 8,
        "global_batch_size": BATCH,
        "max_images": 20 * BATCH,
        "precision": "float32",
        "ray": False,
    }
    return TrainConfig().with_options(**{**options, **changes})


def trainer_for(config: TrainConfig, log_metrics: Callable[[dict[str, Any]], None] = lambda row: None) -> Trainer:
    """A trainer in this process, on the CPU."""
    return Trainer(Training.open(config), ProcessGroup(0, 1, torch.device("cpu")), log_metrics)


def weights_hash(trainer: Trainer) -> str:
    digest = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def worker(rank: int, world_size: int, config: TrainConfig, folder: Path) -> None:
    """One of several real processes: records hashes of its weights before and after, and its metrics."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world_size)
    rows: list[dict[str, Any]] = []
    trainer = Trainer(Training.open(config), ProcessGroup.current(torch.device("cpu")), rows.append)
    if rank:  # only the first one's weights may count
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.add_(rank)
    trainer.broadcast_weights()
    before = weights_hash(trainer)
    trainer.train()
    result = {"before": before, "after": weights_hash(trainer), "rows": rows, "images_seen": trainer.images_seen}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def run_workers(world_size: int, config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(r, world_size, config, folder)) for r in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [json.loads((folder / f"{r}.json").read_text()) for r in range(world_size)]


def train_alone(config: TrainConfig) -> Trainer:
    trainer = trainer_for(config)
    trainer.train()
    return trainer


class TrainingCommand:
    """The command of a run, which may be started repeatedly; its output is appended to a file."""

    def __init__(self, log: Path, *arguments: str, heartbeat_timeout_s: float | None = None) -> None:
        self.log, self.url = log, arguments[arguments.index("--out") + 1]
        program = ["-m", "pipeline.train"]
        if heartbeat_timeout_s:
            program = ["-c", WITH_TIMEOUT.format(timeout_s=heartbeat_timeout_s)]
        self.command = [sys.executable, *program, *SMALL, *arguments]
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self, timeout_s: float = 200) -> str:
        """Wait for it to end well; what it said."""
        code = self.process.wait(timeout_s)
        assert code == 0, self.said
        return self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self, what: Callable[[], object], timeout_s: float = 150) -> None:
        """Until it is so, while the command runs."""
        deadline_s = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, f"it ended too early:\n{self.said}"
            assert time.monotonic() < deadline_s, f"waited too long:\n{self.said}"
            time.sleep(0.05)

    def wait_for_images(self, images: int) -> None:
        self.wait(lambda: self.images_saved() >= images)

    def images_saved(self) -> int:
        """By the newest checkpoint; 0 also while the store is away."""
        with contextlib.suppress(StorageError):
            return max(map(int, Run(open_storage(self.url)).checkpoints.names()), default=0)
        return 0

    def below(self, beginning: str) -> list[int]:
        """Its descendants whose command line begins so."""
        found = descendants(self.process.pid)
        return sorted(pid for pid in found if command_line(pid).startswith(beginning))

    def workers(self) -> list[int]:
        return self.below("ray::RayTrainWorker")

    def simulated_nodes(self) -> list[list[int]]:
        """The processes of each, without the first one, at which the command itself is."""
        raylets = [pid for pid in self.below("/") if "/raylet/raylet" in command_line(pid)]
        return [[pid, *descendants(pid)] for pid in raylets if "--head" not in command_line(pid)]


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    return ""


def descendants(pid: int) -> list[int]:
    """Processes that this one has started, and those that they have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])

    def is_below(one: int) -> bool:
        while one in parents and one != pid:
            one = parents[one]
        return one == pid

    return [one for one in parents if one != pid and is_below(one)]


def strike(pid: int, signal_number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def final_files(url: str) -> dict[str, bytes]:
    """Weights and optimizer state of the newest checkpoint."""
    checkpoint = Run(open_storage(url)).checkpoints.newest()
    assert checkpoint
    return checkpoint.files
