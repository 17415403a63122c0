"""What Ray's workers tell the command while they train: metrics, lines for the user, errors, and that they live."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from infra.storage import UserError
from pipeline.train.loop import LogMetrics
from pipeline.train.watchdog import HangDetector

logger = logging.getLogger(__name__)

_LOOK_S = 2.0


class Listener:
    """Takes the workers' messages in a thread, and ends workers that hang. Needs a connection to Ray.

    Messages are (kind, content): "row" metrics, "log" a log record, "error" a user's error, "failed" why a group ended,
    "beat" (beat, actor), "left" the rank of a worker that has ended as it should, "end" the last of all.
    """

    def __init__(self, log_metrics: LogMetrics) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.log_metrics = log_metrics
        self.error: str | None = None
        self._watch = HangDetector()
        self._actors: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        from ray.util.queue import Empty

        while True:
            try:
                kind, content = self.messages.get(timeout=_LOOK_S)
            except Empty:
                kind, content = "", None
            if kind == "end":
                return
            self._take(kind, content)
            if time.monotonic() - (self._watch.looked_s or 0.0) >= _LOOK_S:
                self._look()

    def _take(self, kind: str, content: Any) -> None:
        if kind == "row":
            self.log_metrics(content)
        elif kind == "log":
            logging.getLogger(content.name).handle(content)
        elif kind == "error":
            self.error = self.error or content
        elif kind == "failed":
            self._watch.clear()
            self.error = None  # what is wrong with the run and not with a machine will be told again
            logger.warning(f"{content}; going on from the last checkpoint")
        elif kind == "beat":
            beat, self._actors[content[0].rank] = content
            self._watch.heard(beat, time.monotonic())
        elif kind == "left":
            self._watch.left(content)

    def _look(self) -> None:
        import ray

        for trouble in self._watch.look(time.monotonic()):
            logger.warning(f"{trouble.sentence}{'; it is ended' if trouble.end else ''}")
            if trouble.end:
                ray.kill(self._actors[trouble.rank])

    def close(self) -> None:
        """All messages that were sent so far are handled."""
        self.messages.put(("end", None))
        self._thread.join()

    def raise_error(self) -> None:
        """The first error that a worker told of."""
        if self.error:
            raise UserError(self.error)
