"""python -m benchmarks.scaling: two workers with one thread each against one worker with one thread.

Three ways of training take turns, block after block, in the same two processes: one worker alone; both as one process
group, which share each global batch and all-reduce their gradients; both for themselves, without communication. All
train the same network on images of 64 px, with the training step and the all-reduce of the real loop.

`efficiency` is the images/s of the group over twice those of one worker alone. `machine_limit` is the same for the two
that work for themselves: what the machine itself loses when two of its cores are busy. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from irae.config import IRAEConfig
from irae.model import IRAE, on_device
from irae.noise import awgn
from pipeline.data.pairs import Pairs
from pipeline.train.distributed import FlatGradientBucket, ProcessGroup, use_threads
from pipeline.train.step import autocast, resolve_precision, train_step

WORKERS, SIDE, SIGMA_255 = 2, 64, 25.0
ALONE, GROUP, APART = "alone", "group", "apart"


class Worker:
    """A model of its own, and the data for any share of the batch."""

    def __init__(self, rank: int, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.rank, self.batch, self.device = rank, options.batch, torch.device("cpu")
        self.precision = resolve_precision(options.precision, self.device)
        self.model = on_device(IRAE(IRAEConfig(K=options.K)), self.device)
        self.clean = torch.rand(self.batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        sigmas, seeds = torch.full((self.batch,), SIGMA_255), torch.arange(self.batch)
        self.noisy = awgn(self.clean, sigmas, seeds)
        self.model.initialise(self.noisy)
        self.gradients = FlatGradientBucket(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)

    def step(self, group: ProcessGroup) -> None:
        share = slice(group.rank * self.batch // group.world_size, (group.rank + 1) * self.batch // group.world_size)
        train_step(
            self.model,
            self.optimizer,
            self.gradients,
            Pairs(self.clean[share], self.noisy[share]),
            group,
            global_batch_size=self.batch,
            micro_batch_size=self.batch,
            clip_norm=50.0,
            autocast=autocast(self.precision, self.device),
        )

    def images_per_sec(self, way: str, steps: int) -> float:
        """Images/s of all workers that train in this way; both workers call it at once."""
        group = ProcessGroup(self.rank, WORKERS if way == GROUP else 1, self.device)
        if way == APART:
            group = ProcessGroup(0, 1, self.device)
        dist.barrier()
        start_s = time.perf_counter()
        if way != ALONE or self.rank == 0:
            for _ in range(steps):
                self.step(group)
        # The group finishes together; the rates of two for themselves add up, whichever is faster.
        rate = torch.tensor(steps * self.batch / (time.perf_counter() - start_s), dtype=torch.float64)
        if way == GROUP:
            rate /= WORKERS
        if way == ALONE and self.rank:
            rate.zero_()
        dist.all_reduce(rate)
        return rate.item()


def measure(rank: int, options: argparse.Namespace, folder: Path) -> None:
    use_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS)
    worker = Worker(rank, options)
    rates: dict[str, list[float]] = {ALONE: [], GROUP: [], APART: []}
    for way in rates:
        worker.images_per_sec(way, 1)
    for round_number in range(options.rounds):
        ways = list(rates)
        for way in ways[round_number % 3 :] + ways[: round_number % 3]:
            rates[way].append(worker.images_per_sec(way, options.steps))
        if rank == 0:
            print({way: round(values[-1], 1) for way, values in rates.items()}, flush=True)
    if rank == 0:
        (folder / "rates.json").write_text(json.dumps(rates))
    dist.destroy_process_group()


def summary(rates: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Ratios within each round, so that slow moments of the machine weigh on both sides."""

    def ratio(way: str) -> float:
        pairs = zip(rates[way], rates[ALONE], strict=True)
        return statistics.median(of_two / (WORKERS * of_one) for of_two, of_one in pairs)

    return {
        "efficiency": round(ratio(GROUP), 3),
        "machine_limit": round(ratio(APART), 3),
        "images_per_sec": {way: round(statistics.median(values), 1) for way, values in rates.items()},
        "K": options.K,
        "global_batch_size": options.batch,
        "steps": options.steps,
        "rounds": options.rounds,
        "precision": resolve_precision(options.precision, torch.device("cpu")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Two workers against one.")
    parser.add_argument("--K", type=int, default=16)
    parser.add_argument("--batch", type=int, default=100, help="images of a global batch")
    parser.add_argument("--steps", type=int, default=1, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irae-scaling-") as folder:
        context = multiprocessing.get_context("spawn")
        others = [context.Process(target=measure, args=(r, options, Path(folder))) for r in range(WORKERS)]
        for process in others:
            process.start()
        for process in others:
            process.join()
            assert process.exitcode == 0
        rates = json.loads((Path(folder) / "rates.json").read_text())
    print(json.dumps(summary(rates, options)))


if __name__ == "__main__":
    main()
