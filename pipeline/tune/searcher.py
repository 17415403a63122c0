"""Ray Tune's searcher and ASHA over Optuna's journal, which outlives them.

The journal alone is the state of a search: none of Ray Tune's is read back. A trial that a killed search left running
returns to Optuna's queue with its number, parameters and curve; its run resumes from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from infra.storage import StorageError
from infra.storage.retry import retry_with_backoff
from pipeline.tune.config import QUARTERS, TuneConfig
from pipeline.tune.folder import REASON, STUDY, StudyFolder, curve, state_text
from pipeline.tune.space import base_point, describe, suggest

logger = logging.getLogger(__name__)

PSNR, IMAGES, FINISHED, FAILURE = "val_psnr_db", "images_seen", "finished", "failure"
DIRECTIONS = {"parameters": StudyDirection.MINIMIZE}
"""Directions of the objectives that are not maximized."""
ATTRIBUTES = ("parameters", "images_per_sec", "images_seen", "peak_memory_mb")
MAX_WORKER_FAILURES = 3
"""Restarts of a trial whose worker died, in one run of the search; after one more the trial has failed."""


def sampler_for(config: TuneConfig, number: int) -> BaseSampler:
    """Sampler of one trial: a function of seed, number and the finished trials, so that a restart changes nothing."""
    seed = int.from_bytes(hashlib.sha256(f"{config.base.seed} {number}".encode()).digest()[:4], "little")
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    startup = max(4, min(10, config.trials // 3))
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)


def requeue(storage: BaseStorage, number: int) -> None:
    """Return a running trial to the queue, from which `Study.ask` takes it before it makes a new one.

    `Study` has no such call; its storage has, public but meant for Optuna itself.
    """
    trial_id = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(STUDY), number)
    storage.set_trial_state_values(trial_id, TrialState.WAITING)


class JournalSearch(Searcher):
    """Suggests the trials in the queue, then new ones, until the journal has as many as were asked for.

    `epochs`: budget of a trial. `exceeds_memory`: says why a trial with these parameters cannot run, or None.
    `show_progress` is called with the number of finished trials.
    """

    def __init__(
        self,
        config: TuneConfig,
        folder: StudyFolder,
        *,
        epochs: float,
        exceeds_memory: Callable[[dict[str, Any]], str | None],
        show_progress: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.folder, self.epochs = config, folder, epochs
        self.exceeds_memory, self.show_progress = exceeds_memory, show_progress
        self.metrics, self.storage = [PSNR], folder.storage()
        if config.second_objective != "none":
            self.metrics.append(config.second_objective.replace("-", "_"))
        self.study = optuna.create_study(
            study_name=STUDY,
            storage=self.storage,
            directions=[DIRECTIONS.get(metric, StudyDirection.MAXIMIZE) for metric in self.metrics],
            load_if_exists=True,
        )
        self.study.set_metric_names(self.metrics)
        self.running: dict[str, Trial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            requeue(self.storage, trial.number)
        if config.sampler == "tpe" and not self.study.trials:
            self.study.enqueue_trial(base_point(config))
        self._upload()

    def __getstate__(self) -> dict[str, Any]:
        """Without the display, which stays in this process: Ray Tune stores a copy of its searcher."""
        return {**self.__dict__, "show_progress": None}

    def save(self, checkpoint_path: str) -> None:
        """An empty file, which Ray Tune moves: the journal is the state."""
        Path(checkpoint_path).touch()

    def stop(self) -> None:
        """Requeue the trials that still run, for the next run of the search."""
        for trial in self.running.values():
            requeue(self.storage, trial.number)
        self.running.clear()
        retry_with_backoff(self.folder.upload, self.folder.store)

    @property
    def finished_trials(self) -> int:
        """Number of trials that are complete, pruned or failed."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def suggest(self, trial_id: str) -> Any:
        """Number and parameters of the next trial, or FINISHED."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            is_queue_empty = all(trial.state != TrialState.WAITING for trial in trials)
            if is_queue_empty and len(trials) >= self.config.trials:
                return Searcher.FINISHED
            self.study.sampler = sampler_for(self.config, len(trials))
            trial = self.study.ask()
            suggest(self.config, trial, self.epochs)
            reason = self.exceeds_memory(trial.params)
            if reason is None:
                self.running[trial_id] = trial
                self._upload()
                return {"number": trial.number, "params": trial.params}
            self._tell(trial, TrialState.PRUNED, reason=reason)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a validation."""
        self._record(self.running[trial_id], result)
        self._upload(now=False)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the trial's final state: complete, pruned by the scheduler, or failed."""
        trial = self.running.pop(trial_id)
        if error or not result:
            self._tell(trial, TrialState.FAIL, reason=f"its worker died {MAX_WORKER_FAILURES + 1} times")
            return
        self._record(trial, result)
        if FAILURE in result:
            self._tell(trial, TrialState.FAIL, reason=result[FAILURE])
        elif result[FINISHED]:
            self._tell(trial, TrialState.COMPLETE, [result[metric] for metric in self.metrics])
        else:
            self._tell(trial, TrialState.PRUNED, reason=f"in the lower half at {result[IMAGES]:,} images")

    def _record(self, trial: Trial, result: dict[str, Any]) -> None:
        """Store the measurements so far, and the best PSNR as a point of the curve."""
        for name in ATTRIBUTES:
            trial.set_user_attr(name, result[name])
        points = curve(self.study.get_trials(deepcopy=False)[trial.number])
        if FAILURE in result or result[IMAGES] in points:
            return
        if len(self.metrics) == 1:
            trial.report(result[PSNR], result[IMAGES])
        else:
            trial.set_user_attr("curve", {**points, result[IMAGES]: result[PSNR]})

    def _tell(
        self, trial: Trial, state: TrialState, values: list[float] | None = None, reason: str | None = None
    ) -> None:
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, values, state=state)
        self._upload()
        result = f"{values[0]:.2f} dB" if values else f"{state_text(state)}, {reason}"
        logger.info(f"trial {trial.number}: {result} ({describe(trial.params)})")
        if self.show_progress:
            self.show_progress(self.finished_trials)

    def _upload(self, now: bool = True) -> None:
        """Upload the journal; where the store is away, the next event uploads it."""
        try:
            self.folder.upload(now)
        except StorageError as error:
            logger.warning(f"{error}; the search continues, and uploads its journal at the next event")


class ResumedASHA(ASHAScheduler):
    """ASHA that has seen the curves of earlier runs of the search, also those of the trials that resume."""

    def __init__(self, config: TuneConfig, trials: list[FrozenTrial]) -> None:
        super().__init__(
            time_attr=IMAGES,
            metric=PSNR,
            mode="max",
            max_t=config.trial_images,
            grace_period=max(1, config.trial_images // QUARTERS),
            reduction_factor=2,
        )
        self.curves = {trial.number: curve(trial) for trial in trials}
        for number in (trial.number for trial in trials if trial.state.is_finished()):
            self.on_trial_add(None, SimpleNamespace(trial_id=f"earlier-{number}", config={"number": number}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add the trial with its earlier curve. Decisions on that were made when it was measured."""
        super().on_trial_add(tune_controller, trial)
        for images, psnr_db in self.curves.get(trial.config["number"], {}).items():
            self.on_trial_result(tune_controller, trial, {IMAGES: images, PSNR: psnr_db})


class WorkerFailureLog(Callback):
    """Logs each restart of a trial whose worker died."""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        logger.warning(f"trial {trial.config['number']}: its worker died; it resumes from its last checkpoint")
