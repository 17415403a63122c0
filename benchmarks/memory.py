"""python -m benchmarks.memory: peak memory and time of a training step, ordinary and reversible, over K.

Memory is the median over three processes of the largest resident size during the steps minus that just before them
(the heap's layout changes it by a tenth). Times are taken in one process, alternating.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import torch

from irae.config import IRAEConfig
from irae.model import IRAE, on_device

BATCH, SIDE, WIDTH = 32, 64, 64
DEPTHS = (16, 64)
REPEATS = 5
PROCESSES = 3


def make_step(K: int, reversible: bool):  # type: ignore[no-untyped-def]
    """A function that runs forward and backward once."""
    torch.manual_seed(0)
    model = on_device(IRAE(IRAEConfig(K=K, L=2, width=WIDTH)), torch.device("cpu"))
    model.use_reversible(reversible)
    images = torch.rand(BATCH, SIDE, SIDE, 3).permute(0, 3, 1, 2)

    def step() -> None:
        model.zero_grad(set_to_none=False)
        (model(images) - 0.5).abs().mean().backward()

    return model, step


def resident_mb(which: str) -> float:
    """This process's resident size (Linux): VmRSS is the current one, VmHWM the largest so far.

    getrusage's maximum includes the size of the parent process.
    """
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_memory(K: int, reversible: bool) -> float:
    """Peak during two steps, MB above the size before them, which includes weights and gradients."""
    model, step = make_step(K, reversible)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before_mb = resident_mb("VmRSS")
    for _ in range(2):
        step()
    return resident_mb("VmHWM") - before_mb


def memory_of(K: int, reversible: bool) -> float:
    """Median of `measure_memory` in three processes."""
    command = [sys.executable, "-m", "benchmarks.memory", str(K), str(int(reversible))]
    runs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(PROCESSES))
    return statistics.median(float(run.stdout) for run in runs)


def time_ratio(K: int) -> float:
    """Time of a reversible step over that of an ordinary one: median of alternating pairs."""
    steps = [make_step(K, reversible)[1] for reversible in (False, True)]
    ratios = []
    for _ in range(REPEATS + 1):
        seconds = []
        for step in steps:
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios[1:])


def main() -> None:
    rows = []
    for K in DEPTHS:
        row = {
            "K": K,
            "ordinary_mb": memory_of(K, False),
            "reversible_mb": memory_of(K, True),
            "time_ratio": time_ratio(K),
        }
        print({name: round(value, 2) for name, value in row.items()}, flush=True)
        rows.append(row)
    first, last = rows[0], rows[-1]
    result = {
        "batch": BATCH,
        "side": SIDE,
        "width": WIDTH,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "memory_ratio_k64_k16": last["reversible_mb"] / first["reversible_mb"],
        "memory_saved_k16": first["ordinary_mb"] / first["reversible_mb"],
        "time_ratio_reversible": first["time_ratio"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure_memory(int(sys.argv[1]), sys.argv[2] == "1"))
    else:
        main()
