"""The searcher and the scheduler over the journal, driven as Ray Tune drives them."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.tune.folder import STUDY
from pipeline.tune.plots import write_plots
from tests.pipeline.tune.common import BASE, CONFIG, TWO_OBJECTIVES, result, start_or_resume

pytestmark = pytest.mark.integration  # Ray is imported


def states(search) -> list[tuple[str, str | None]]:  # type: ignore[no-untyped-def]
    return [(trial.state.name, trial.user_attrs.get("reason")) for trial in search.study.trials]


def test_the_base_is_the_first_trial(tmp_path: Path) -> None:
    assert start_or_resume(tmp_path).suggest("a")["params"]["lr"] == BASE.optimization.lr


def test_every_end_of_a_trial_is_told_to_optuna(tmp_path: Path) -> None:
    search = start_or_resume(tmp_path)
    for trial_id in "abcd":
        search.suggest(trial_id)
        search.on_trial_result(trial_id, result(40, 20.0))
    search.on_trial_complete("a", result(160, 25.0, finished=True))
    search.on_trial_complete("b", result(80, 21.0))
    search.on_trial_complete("c", result(40, 20.0, failure="the loss is nan"))
    search.on_trial_complete("d", error=True)
    assert states(search) == [
        ("COMPLETE", None),
        ("PRUNED", "in the lower half at 80 images"),
        ("FAIL", "the loss is nan"),
        ("FAIL", "its worker died 4 times"),
    ]
    curves = [trial.intermediate_values for trial in search.study.trials]
    assert curves == [{40: 20.0, 160: 25.0}, {40: 20.0, 80: 21.0}, {40: 20.0}, {40: 20.0}]
    assert search.study.best_value == 25.0 and search.finished_trials == 4


def test_a_killed_search_resumes_its_running_trials_and_keeps_the_finished_ones(tmp_path: Path) -> None:
    killed = start_or_resume(tmp_path)
    points = {trial_id: killed.suggest(trial_id) for trial_id in "abc"}
    killed.on_trial_complete("a", result(160, 25.0, finished=True))
    killed.on_trial_complete("b", result(80, 21.0))
    killed.on_trial_result("c", result(40, 20.0))
    before = killed.study.trials
    with killed.folder.journal.open("ab") as journal:
        journal.write(b'{"op_code": 5, "wor')  # it died while it wrote
    search = start_or_resume(tmp_path)
    assert [state for state, _ in states(search)] == ["COMPLETE", "PRUNED", "WAITING"]
    assert search.suggest("c again") == points["c"], "number and hyperparameters stay"
    assert search.study.trials[:2] == before[:2]
    assert search.study.trials[2].intermediate_values == {40: 20.0}
    search.on_trial_complete("c again", result(160, 24.0, finished=True))
    assert search.study.trials[2].intermediate_values == {40: 20.0, 160: 24.0}
    assert search.suggest("d")["number"] == 3


def test_an_interrupted_search_leaves_no_trial_running(tmp_path: Path) -> None:
    search = start_or_resume(tmp_path)
    search.suggest("a")
    search.stop()
    assert [state for state, _ in states(search)] == ["WAITING"]


def test_the_search_ends_with_the_trials_that_were_asked_for(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    search = start_or_resume(tmp_path)
    for number in range(CONFIG.trials):
        assert search.suggest(str(number))["number"] == number
    assert search.suggest("one more") == Searcher.FINISHED
    assert start_or_resume(tmp_path).suggest("0 again")["number"] == 0


def test_trials_that_exceed_the_memory_are_pruned_before_they_start(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    search = start_or_resume(tmp_path, exceeds_memory=lambda params: "needs a lot")
    assert search.suggest("a") == Searcher.FINISHED
    assert states(search) == [("PRUNED", "needs a lot")] * CONFIG.trials


def test_the_sampled_points_do_not_depend_on_restarts(tmp_path: Path) -> None:
    points = []
    for restarts in (False, True):
        path = tmp_path / str(restarts)
        search = start_or_resume(path)
        for number in range(CONFIG.trials):
            point = search.suggest(str(number))
            if restarts:
                search = start_or_resume(path)
                assert search.suggest(str(number)) == point
            search.on_trial_complete(str(number), result(160, 20.0 + point["params"]["K"], finished=True))
        points.append([trial.params for trial in search.study.trials])
    assert points[0] == points[1]
    assert len({str(point) for point in points[0]}) == CONFIG.trials


def test_requeue_is_what_optuna_asks_for_next(tmp_path: Path) -> None:
    """The one use of a storage's methods that Optuna means for itself."""
    from pipeline.tune.searcher import requeue

    storage = start_or_resume(tmp_path).storage
    study = optuna.load_study(study_name=STUDY, storage=storage)
    first, second = study.ask(), study.ask()
    first.suggest_float("x", 0, 1)
    requeue(storage, first.number)
    assert study.trials[first.number].state == TrialState.WAITING
    again = study.ask()
    assert (again.number, again.params) == (first.number, first.params)
    assert study.ask().number == second.number + 1


def test_two_objectives_have_values_curves_and_plots(tmp_path: Path) -> None:
    search = start_or_resume(tmp_path, TWO_OBJECTIVES)
    for number in range(CONFIG.trials):
        search.suggest(str(number))
        search.on_trial_result(str(number), result(40, 20.0))
        search.on_trial_complete(str(number), result(160, 20.0 + number, finished=number != 2))
    assert [state for state, _ in states(search)].count("COMPLETE") == 4
    assert search.study.trials[1].values == [21.0, 100]
    assert search.study.trials[1].user_attrs["curve"] == {"40": 20.0, "160": 21.0}
    assert [trial.number for trial in search.study.best_trials] == [4]
    write_plots(search.folder)
    page = search.folder.store.get("report/index.html").decode()
    assert page.count("Best Trial") >= 2 and "No plot yet" not in page, "a Pareto front for parameters and for speed"


def test_ray_tune_can_store_the_searcher(tmp_path: Path) -> None:
    """Its copy works, but has no display."""
    search = start_or_resume(tmp_path, show_progress=print)
    copy = pickle.loads(pickle.dumps(search))
    assert copy.suggest("a")["number"] == 0
    copy.on_trial_complete("a", result(160, 25.0, finished=True))
    assert start_or_resume(tmp_path).finished_trials == 1


@pytest.mark.parametrize(("psnr_db", "decision"), [(23.0, "STOP"), (27.0, "CONTINUE")])
def test_asha_compares_with_the_trials_of_killed_searches(tmp_path: Path, psnr_db: float, decision: str) -> None:
    from pipeline.tune.searcher import ResumedASHA

    search = start_or_resume(tmp_path)
    for number, earlier_db in enumerate((24.0, 26.0)):
        search.suggest(str(number))
        search.on_trial_result(str(number), result(40, earlier_db))
        search.on_trial_complete(str(number), result(160, earlier_db, finished=True))
    asha = ResumedASHA(CONFIG, start_or_resume(tmp_path).study.trials)
    trial = SimpleNamespace(trial_id="new", config={"number": 2})
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, result(40, psnr_db)) == decision


def test_asha_does_not_judge_a_resumed_trial_twice_at_one_budget(tmp_path: Path) -> None:
    from pipeline.tune.searcher import ResumedASHA

    search = start_or_resume(tmp_path)
    for number, psnr_db in enumerate((20.0, 26.0, 27.0)):
        search.suggest(str(number))
        search.on_trial_result(str(number), result(40, psnr_db))
        if number:
            search.on_trial_complete(str(number), result(160, psnr_db, finished=True))
    asha = ResumedASHA(CONFIG, start_or_resume(tmp_path).study.trials)
    resumed = SimpleNamespace(trial_id="resumed", config={"number": 0})
    asha.on_trial_add(None, resumed)
    assert asha.on_trial_result(None, resumed, result(40, 20.0)) == "CONTINUE", "it passed that before the others"
    assert asha.on_trial_result(None, resumed, result(80, 20.0)) == "CONTINUE", "nobody else was measured at a half"
