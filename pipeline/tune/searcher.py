"""Ray Tune's OptunaSearch and ASHA over a journal that outlives them.

The journal alone says what has been: no state of Ray Tune is kept. A trial that was interrupted, by the death of the
driver or of its worker, waits in the journal with its number, its parameters and its curve, is handed out again, and
goes on from the last checkpoint of its run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from pipeline.tune.config import QUARTERS, TuneConfig
from pipeline.tune.folder import STUDY, Home, curve

PSNR, IMAGES, FINISHED = "val_psnr_db", "images_seen", "finished"
OBJECTIVES = {"none": (), "parameters": ("parameters",), "images-per-sec": ("images_per_sec",)}
DIRECTIONS = {PSNR: "maximize", "parameters": "minimize", "images_per_sec": "maximize"}
ATTRIBUTES = ("parameters", "images_per_sec", "images_seen", "peak_memory_mb")
MAX_DEATHS = 3
"""So often a trial's worker may die before the trial counts as failed."""
REASON, DEATHS = "reason", "worker_deaths"


def metrics_of(config: TuneConfig) -> list[str]:
    """The objectives, PSNR first."""
    return [PSNR, *OBJECTIVES[config.against]]


def sampler_for(config: TuneConfig, number: int) -> BaseSampler:
    """What draws this trial: a function of seed, number and the finished trials, so that a restart changes nothing."""
    seed = int.from_bytes(hashlib.sha256(f"{config.base.seed} {number}".encode()).digest()[:4], "little")
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    startup = max(4, min(10, config.trials // 3))
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)


class JournalSearch(OptunaSearch):
    """Hands out waiting trials, then new ones, until the search has all that were asked for.

    `draw` fills a trial with parameters; `unfit` says why one with these parameters cannot run, if so; `failure` what
    the worker of a trial told before it ended, if anything; `show` is given a line for each trial that ends,
    and an empty one now and then.
    """

    def __init__(
        self,
        config: TuneConfig,
        home: Home,
        *,
        draw: Callable[[Trial], None],
        unfit: Callable[[dict[str, Any]], str | None],
        failure: Callable[[int], str | None],
        show: Callable[[str], None],
        first: dict[str, Any] | None,
    ) -> None:
        self.config, self.home = config, home
        self.draw, self.unfit, self.failure, self.show = draw, unfit, failure, show
        metrics = metrics_of(config)
        modes = ["max" if DIRECTIONS[m] == "maximize" else "min" for m in metrics]
        several = len(metrics) > 1
        super().__init__(
            draw,
            metric=metrics if several else PSNR,
            mode=modes if several else "max",
            study_name=STUDY,
            storage=home.storage(),
            sampler=sampler_for(config, 0),
        )
        self.study: optuna.Study = self._ot_study  # type: ignore[assignment]
        self.study.set_metric_names(metrics)
        self.running: dict[str, Trial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._wait(trial._trial_id)
        if first and not self.study.trials:
            self.study.enqueue_trial(first)
        self.home.mirror()

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes its searcher down; nothing of this one is ever read back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def _wait(self, trial_id: int) -> None:
        self.study._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def stop(self) -> None:
        """Trials that are not finished wait for the next run."""
        for trial in self.running.values():
            self._wait(trial._trial_id)
        self.running.clear()
        self.home.mirror()

    @property
    def left(self) -> int:
        """Trials that have not ended, the ones that were not begun yet included."""
        ended = sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))
        return max(0, self.config.trials - ended)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's parameters and number; None: none just now; FINISHED: none any more."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waits = any(trial.state == TrialState.WAITING for trial in trials)
            if not waits and len(trials) >= self.config.trials:
                return None if self.running else Searcher.FINISHED
            self.study.sampler = sampler_for(self.config, len(trials))
            trial = self.study.ask()
            self.draw(trial)
            reason = self.unfit(trial.params)
            if reason is None:
                self.running[trial_id] = trial
                self.home.mirror()
                return {"number": trial.number, "params": trial.params}
            self._end(trial, TrialState.PRUNED, reason=reason)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note a point of the curve."""
        self._note(self.running[trial_id], result)
        self.home.mirror(now=False)
        self.show("")

    def _note(self, trial: Trial, result: dict[str, Any]) -> None:
        """The figures so far, and the best PSNR by images seen."""
        for name in ATTRIBUTES:
            trial.set_user_attr(name, result[name])
        if self.config.against == "none":
            if result[IMAGES] not in self.study.trials[trial.number].intermediate_values:
                trial.report(result[PSNR], result[IMAGES])
        else:  # Optuna keeps no curves for several objectives
            trial.set_user_attr("curve", {**trial.user_attrs.get("curve", {}), str(result[IMAGES]): result[PSNR]})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Finished, cut, failed with its message, or, where only the worker died, to be handed out again."""
        trial = self.running.pop(trial_id)
        if result and not error:
            self._end_with(trial, result)
            return
        message = self.failure(trial.number)
        deaths = trial.user_attrs.get(DEATHS, 0) + 1
        if message is None and deaths <= MAX_DEATHS:
            trial.set_user_attr(DEATHS, deaths)
            self._wait(trial._trial_id)
            self.home.mirror()
            self.show(f"trial {trial.number}: its worker died; it goes on from its last checkpoint")
        else:
            self._end(trial, TrialState.FAIL, reason=message or f"its worker died {deaths} times")

    def _end_with(self, trial: Trial, result: dict[str, Any]) -> None:
        """A trial that ran to its end has values; one that ASHA cut has only its curve."""
        self._note(trial, result)
        if result.get(FINISHED):
            self._end(trial, TrialState.COMPLETE, [result[m] for m in metrics_of(self.config)])
        else:
            self._end(trial, TrialState.PRUNED, reason=f"cut at {result[IMAGES]:,} images")

    def _end(
        self, trial: Trial, state: TrialState, values: list[float] | None = None, reason: str | None = None
    ) -> None:
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, values, state=state)
        self.home.mirror()
        text = f"{values[0]:.2f} dB" if values else f"{state.name.lower()}, {reason}"
        self.show(f"trial {trial.number}: {text} ({describe(trial.params)})")


def describe(params: dict[str, Any]) -> str:
    """Parameters in a line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )


class JournalASHA(ASHAScheduler):
    """ASHA that knows what earlier runs of the search, and a trial's earlier worker, have seen."""

    def __init__(self, config: TuneConfig, study: optuna.Study) -> None:
        assert config.base.max_images
        budget = config.base.max_images
        super().__init__(
            time_attr=IMAGES,
            metric=PSNR,
            mode="max",
            max_t=budget,
            grace_period=max(1, budget // QUARTERS),
            reduction_factor=2,
        )
        self.curve = lambda number: curve(study.trials[number])
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._replay(SimpleNamespace(trial_id=f"earlier-{trial.number}"), trial.number)

    def _replay(self, ray_trial: Any, number: int) -> None:
        for images, psnr_db in self.curve(number).items():
            self._brackets[0].on_result(ray_trial, images, psnr_db)

    def __getstate__(self) -> dict[str, Any]:
        """See JournalSearch."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial that goes on was judged before up to where it was."""
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, trial.config["number"])
