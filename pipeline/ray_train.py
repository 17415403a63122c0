"""The training loop on Ray workers, which Ray starts, watches and starts again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from infra.cluster import connected
from infra.storage import arrow_filesystem, join_url
from pipeline.config import TrainConfig

MAX_RESTARTS = 3


def run(config: TrainConfig, report: Callable[[dict[str, Any]], None]) -> None:
    """Train on `nodes` x `workers_per_node` workers; `report` gets each row of metrics, in this process.

    ValueError with the worker's own sentence when training cannot go on.
    """
    with connected(config.nodes) as processors:
        from ray.exceptions import RayError
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue

        assert config.out
        filesystem, path = arrow_filesystem(join_url(config.out, "ray"))
        messages = Queue(actor_options={"num_cpus": 0})
        listener = Listener(messages, report)
        per_node, gpus = workers_per_node(config)
        trainer = TorchTrainer(
            work,
            train_loop_config={"config": config, "messages": messages},
            scaling_config=ScalingConfig(
                num_workers=config.nodes * per_node,
                use_gpu=gpus,
                resources_per_worker={"CPU": max(1, min(processors) // per_node), **({"GPU": 1} if gpus else {})},
                placement_strategy="STRICT_SPREAD" if config.nodes > 1 and per_node == 1 else "SPREAD",
            ),
            run_config=RunConfig(
                name="train",
                storage_filesystem=filesystem,
                storage_path=path,
                failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            ),
        )
        try:
            trainer.fit()
        except RayError as error:
            raise RuntimeError("the workers failed again and again; the last failure is shown above") from error
        finally:
            listener.close()
        listener.raise_error()


def workers_per_node(config: TrainConfig) -> tuple[int, bool]:
    """How many workers each node runs, and whether each has a GPU."""
    import ray

    gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    on_gpus = sorted(gpus, reverse=True)[: config.nodes]
    if config.workers_per_node is None:
        return max(1, min(on_gpus)), min(on_gpus) > 0
    return config.workers_per_node, min(on_gpus) >= config.workers_per_node


def work(arguments: dict[str, Any]) -> None:
    """What each Ray worker runs. A user's error goes to the driver as a message: restarting would not mend it."""
    import os

    import ray.train
    from ray.train.torch import get_device

    from pipeline.distributed import OtherWorkerFailed, Team, use_threads
    from pipeline.loop import train

    use_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    team = Team.current(get_device())
    messages = arguments["messages"]

    def report(row: dict[str, Any]) -> None:
        if team.is_first:
            messages.put(("row", row))
        if "val_psnr_db" in row:
            ray.train.report(row)

    try:
        train(arguments["config"], team, report)
    except OtherWorkerFailed:
        return
    except ValueError as error:
        messages.put(("error", str(error)))


class Listener:
    """Takes the workers' messages in a thread of the driver."""

    def __init__(self, messages: Any, report: Callable[[dict[str, Any]], None]) -> None:
        self.messages, self.report = messages, report
        self.error: str | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            kind, content = self.messages.get()
            if kind == "end":
                return
            if kind == "row":
                self.report(content)
            elif self.error is None:
                self.error = content

    def close(self) -> None:
        """All messages that were sent so far are handled."""
        self.messages.put(("end", None))
        self._thread.join()

    def raise_error(self) -> None:
        """The first error that a worker told of."""
        if self.error:
            raise ValueError(self.error)
