"""The training loop on Ray workers, which Ray starts, monitors and restarts."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from infra.cluster import Node, ray_session
from infra.storage import UserError, open_storage
from infra.storage.retry import RETRY_DEADLINE_S, retry_with_backoff
from pipeline.config.checks import USER_ERRORS
from pipeline.config.logs import RankFilter, add_handler, remove_handler
from pipeline.config.train import TrainConfig
from pipeline.runs.checkpoints import Checkpoints
from pipeline.train.distributed import PeerFailedError, ProcessGroup, use_threads
from pipeline.train.loop import AssertLeaseHeld, LogMetrics, train
from pipeline.train.ray_messages import Listener
from pipeline.train.watchdog import Heartbeat, heartbeat_thread

MAX_RESTARTS = 3
"""Restarts without a new checkpoint in between, after which restarting does not help."""
COLLECTIVE_TIMEOUT_S = 4 * RETRY_DEADLINE_S
"""Timeout of a collective: the last resort, after the hang detector."""


def run_on_ray(config: TrainConfig, log_metrics: LogMetrics, assert_lease_held: AssertLeaseHeld) -> None:
    """Train on `nodes` x `workers_per_node` workers; `log_metrics` runs here. UserError with a worker's sentence."""
    with ray_session(
        config.cluster.nodes,
        at_least=config.cluster.min_nodes,
        wait_s=60 * config.cluster.wait_for_nodes,
        simulate=config.cluster.simulate_nodes,
    ) as nodes:
        listener = Listener(log_metrics)
        try:
            with tempfile.TemporaryDirectory(prefix="irae-ray-") as folder:
                trainer_of = lambda: make_trainer(config, nodes, listener.messages, assert_lease_held, folder)  # noqa: E731
                fit(trainer_of, config)
        finally:
            listener.close()
        if listener.error:
            raise UserError(listener.error)


def fit(trainer_of: Callable[[], Any], config: TrainConfig) -> None:
    """Run to the end; restarted without limit as long as there are new checkpoints in between."""
    assert config.out
    store = open_storage(config.out)

    def newest() -> str:
        return max(retry_with_backoff(lambda: Checkpoints(store).names(), store), default="")

    reached = newest()
    while True:
        try:
            trainer_of().fit()
            return
        except SystemExit:  # Ray's answer to Ctrl-C
            raise KeyboardInterrupt from None
        except (RayError, TrainingFailedError) as error:
            before, reached = reached, newest()
            if reached <= before:
                raise RuntimeError(
                    "the workers failed repeatedly without a new checkpoint; the last failure is shown above"
                ) from error


def make_trainer(
    config: TrainConfig, nodes: list[Node], messages: Any, assert_lease_held: AssertLeaseHeld, folder: str
) -> Any:
    """One group of equal workers on each node, fewer when nodes are lost. Ray's own folder stays almost empty."""
    per_node, gpus = workers_per_node(config, nodes)
    processors = max(1, min(node.processors for node in nodes) // per_node)
    most, least = config.cluster.nodes * per_node, (config.cluster.min_nodes or 1) * per_node
    workers: Any = (least, most) if least < most else most
    return TorchTrainer(
        run_worker,
        train_loop_config={"config": config, "messages": messages, "assert_lease_held": assert_lease_held},
        torch_config=TorchConfig(timeout_s=int(COLLECTIVE_TIMEOUT_S)),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus,
            resources_per_worker={"CPU": processors, **({"GPU": 1} if gpus else {})},
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name="train",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            callbacks=[failure_callback(messages)],
        ),
    )


def workers_per_node(config: TrainConfig, nodes: list[Node]) -> tuple[int, bool]:
    """Number of workers on each node, and whether each has a GPU."""
    gpus = min(node.gpus for node in nodes)
    if config.cluster.workers_per_node is None:
        return max(1, gpus), gpus > 0
    return config.cluster.workers_per_node, gpus >= config.cluster.workers_per_node


def failure_callback(messages: Any) -> Any:
    """A Ray callback, run in the controller's process, that reports which workers were lost."""

    class Failures(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            causes = {rank: getattr(e, "health_check_failure", e) for rank, e in worker_exceptions.items()}
            lost = sorted(rank for rank, error in causes.items() if isinstance(error, RayActorError))
            rank, error = min(causes.items())
            failed = f"rank {rank} failed ({str(error).strip().splitlines()[-1]})"
            messages.put(("failed", f"rank {', '.join(map(str, lost))} was lost" if lost else failed))

    return Failures()


class DriverHandler(QueueHandler):
    """Sends a worker's log records to the driver."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.put_nowait(("log", record))


@contextlib.contextmanager
def worker_logging(rank: int, messages: Any) -> Iterator[None]:
    """Inside, log records go to the driver: INFO of rank 0, warnings of all, with their rank."""
    handler = DriverHandler(messages)
    handler.addFilter(RankFilter(rank))
    add_handler(handler)
    try:
        yield
    finally:
        remove_handler(handler)


def run_worker(arguments: dict[str, Any]) -> None:
    """The function of each Ray worker. A user's error goes to the driver as an event: a restart would not fix it."""
    use_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    group = ProcessGroup.current(get_device())
    messages = arguments["messages"]
    actor = ray.get_runtime_context().current_actor

    def send(heartbeat: Heartbeat) -> None:
        messages.put(("heartbeat", (heartbeat, actor)))

    def log_metrics(row: dict[str, Any]) -> None:
        if group.is_first:
            messages.put(("metrics", row))
        if "val_psnr_db" in row:
            ray.train.report(row)

    try:
        with heartbeat_thread(group, send), worker_logging(group.rank, messages):
            train(arguments["config"], group, log_metrics, arguments["assert_lease_held"])
    except PeerFailedError:
        pass
    except USER_ERRORS as error:
        messages.put(("error", str(error)))
    messages.put(("finished", group.rank))
