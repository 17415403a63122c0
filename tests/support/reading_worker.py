"""A rank that reads without training, `-m tests.support.reading_worker URL CACHE OUT GENERATION RANK WORLD_SIZE STEPS`.

A step is consumed when rank 0 has its keys from all ranks and commits the loader's state to OUT/state.json.
OUT/consumed/STEP holds the keys of a step in the order of the ranks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from infra.storage import open_storage
from sharding import Dataset, Loader, ShardReader

GLOBAL_BATCH = 12
POLL_S, STEP_S = 0.002, 0.01


def write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def read_state(out: Path) -> dict[str, Any] | None:
    path = out / "state.json"
    return json.loads(path.read_text()) if path.exists() else None


def make_loader(url: str, cache: Path, rank: int, world_size: int, state: dict[str, Any] | None) -> Loader:
    """The same order for every worker of a test: windows of 2 shards in 2 partitions, with a cache that evicts."""
    dataset = Dataset.open(open_storage(url))
    limit = 9 * max(shard["bytes"] for shard in dataset.shards)
    reader = ShardReader(dataset, "train", cache, cache_bytes=limit)
    loader = Loader(
        reader,
        global_batch_size=GLOBAL_BATCH,
        rank=rank,
        world_size=world_size,
        seed=5,
        shuffle_window_shards=2,
        num_canonical_partitions=2,
    )
    if state:
        loader.load_state_dict(state)
    return loader


def main(url: str, cache: Path, out: Path, generation: str, rank: int, world_size: int, steps: int) -> None:
    loader = make_loader(url, cache, rank, world_size, read_state(out))
    mine = out / generation
    for step in range(loader.state_dict()["images_seen"] // GLOBAL_BATCH, steps):
        write_whole(mine / f"{step}-{rank}", "\n".join(loader.next().keys))
        time.sleep(STEP_S)
        if rank == 0:
            paths = [mine / f"{step}-{other}" for other in range(world_size)]
            while not all(path.exists() for path in paths):
                time.sleep(POLL_S)
            write_whole(out / "consumed" / str(step), "\n".join(path.read_text() for path in paths))
            write_whole(out / "state.json", json.dumps(loader.state_dict()))
        else:
            while (state := read_state(out)) is None or state["images_seen"] < loader.state_dict()["images_seen"]:
                time.sleep(POLL_S)


if __name__ == "__main__":
    url, cache, out, generation, rank, world_size, steps = sys.argv[1:]
    main(url, Path(cache), Path(out), generation, int(rank), int(world_size), int(steps))
