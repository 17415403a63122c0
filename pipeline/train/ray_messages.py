"""Worker-to-driver events of a training on Ray: metrics, log records, errors, heartbeats."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from pipeline.train.loop import LogMetrics
from pipeline.train.watchdog import HangDetector

logger = logging.getLogger(__name__)

_CHECK_S = 2.0


class Listener:
    """Receives the workers' events in a thread, and kills workers that hang. Needs a connection to Ray.

    Events are (kind, content): "metrics" a row, "log" a log record, "error" a user's error, "failed" the reason why the
    group stopped, "heartbeat" (heartbeat, actor), "finished" the rank of a worker that is done, "close" the last one.
    """

    def __init__(self, log_metrics: LogMetrics) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.log_metrics = log_metrics
        self.error: str | None = None
        """The first user's error of a worker."""
        self._detector = HangDetector()
        self._actors: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        from ray.util.queue import Empty

        while True:
            try:
                kind, content = self.messages.get(timeout=_CHECK_S)
            except Empty:
                kind, content = "", None
            if kind == "close":
                return
            self._handle(kind, content)
            if time.monotonic() - (self._detector.checked_s or 0.0) >= _CHECK_S:
                self._check()

    def _handle(self, kind: str, content: Any) -> None:
        if kind == "metrics":
            self.log_metrics(content)
        elif kind == "log":
            logging.getLogger(content.name).handle(content)
        elif kind == "error":
            self.error = self.error or content
        elif kind == "failed":
            self._detector.workers.clear()  # another group will start
            self.error = None  # an error of the run, not of a machine, will come again
            logger.warning(f"{content}; resuming from the last checkpoint")
        elif kind == "heartbeat":
            heartbeat, self._actors[content[0].rank] = content
            self._detector.receive(heartbeat, time.monotonic())
        elif kind == "finished":
            self._detector.workers.pop(content, None)

    def _check(self) -> None:
        import ray

        for alert in self._detector.check(time.monotonic()):
            logger.warning(f"{alert.sentence}{'; it is killed' if alert.kill else ''}")
            if alert.kill:
                ray.kill(self._actors[alert.rank])

    def close(self) -> None:
        """Return when all events that were sent so far are handled."""
        self.messages.put(("close", None))
        self._thread.join()
