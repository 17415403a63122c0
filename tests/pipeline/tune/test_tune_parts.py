"""Parts of the search, without a cluster: space, memory, journal, searcher, errors."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from infra.storage import open_storage
from irae.config import IRAEConfig
from irae.model import IRAE, parameter_count
from pipeline.config.train import TrainConfig
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import STUDY, Home
from pipeline.tune.memory import BASE_MB, predicted_mb
from pipeline.tune.prepare import resolve
from pipeline.tune.search import room_for, too_large
from pipeline.tune.space import base_point, suggest, trial_config
from tests.support.datasets import make_dataset

BASE = TrainConfig(model=IRAEConfig(K=2, width=8), global_batch_size=8, max_images=160, precision="float32", ray=False)
CONFIG = TuneConfig(base=BASE, K_range=(1, 3), batches=(8, 16), scale_mins=(0.25, 0.5), widths=(8, 16), trials=5)


def drawn(config: TuneConfig, count: int, epochs: float = 5.0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(count)]
    for trial in trials:
        suggest(config, trial, epochs)
    return [trial.params for trial in trials]


def test_every_point_of_the_space_is_a_training_configuration() -> None:
    """Valid, in the ranges, with the parameters of its own schedule and of no other."""
    points = drawn(CONFIG, 300)
    assert {point["lr_schedule"] for point in points} == set(CONFIG.lr_schedules)
    for point in points:
        config = trial_config(CONFIG, point, 7, "/searches/x")
        assert not config.problems()
        assert (config.model.K, config.model.L, config.lr) == (point["K"], point["L"], point["lr"])
        assert (config.global_batch_size, config.model.width) == (point["global_batch_size"], point["width"])
        assert config.out == "/searches/x/trials/0007" and config.validate_images == 40
        others = {f"{name}_" for name in CONFIG.lr_schedules if name != point["lr_schedule"]}
        assert not [name for name in point if any(name.startswith(other) for other in others)]
        for name, value in point.items():
            if name.startswith(f"{point['lr_schedule']}_"):
                assert getattr(config, f"lr_{name.partition('_')[2]}") == value


def test_the_base_is_a_point_of_the_space() -> None:
    study = optuna.create_study()
    study.enqueue_trial(base_point(CONFIG))
    trial = study.ask()
    suggest(CONFIG, trial, 1.0)
    config = trial_config(CONFIG, trial.params, 0, "/searches/x")
    assert config.model == dataclasses.replace(BASE.model, scale_min=0.5)
    assert (config.lr, config.lr_schedule, config.global_batch_size) == (
        BASE.lr,
        BASE.lr_schedule,
        BASE.global_batch_size,
    )


def test_all_problems_of_a_space_are_told_at_once(tmp_path: Path) -> None:
    data = make_dataset(str(tmp_path / "data"))
    config = dataclasses.replace(
        CONFIG,
        K_range=(5, 2),
        L_range=(1, 5),
        lr_range=(0.0, 1e-3),
        lr_schedules=(),
        batches=(0, 8),
        base=dataclasses.replace(BASE, data=data, max_images=None),
    )
    with pytest.raises(ValueError) as error:
        resolve(config)
    for text in ("--K-range 5 2 is the wrong way round", "--lr-range begins at 0", "--lr-schedules is empty", "--L 5"):
        assert text in str(error.value)
    assert "give --max-images" in str(error.value) and "--batches holds 0" in str(error.value)
    point = TuneConfig(K_range=(2, 2), L_range=(1, 1), lr_range=(1e-3, 1e-3), lr_schedules=("constant",), base=BASE)
    with pytest.raises(ValueError, match="one point only"):
        resolve(dataclasses.replace(point, base=dataclasses.replace(BASE, data=data)))


def test_predicted_memory_is_what_a_step_takes() -> None:
    """Against the largest resident size of a real step, and as it must grow."""
    config = TrainConfig(model=IRAEConfig(K=6, L=2, width=64), global_batch_size=32)
    measured_mb = float(
        subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", "6", "0"], check=True, capture_output=True, text=True
        ).stdout
    )
    assert 0.8 < (predict(config) - BASE_MB) / measured_mb < 1.4
    larger = dataclasses.replace(config, model=IRAEConfig(K=12, L=2, width=64))
    assert predict(larger) - BASE_MB == pytest.approx(2 * (predict(config) - BASE_MB), rel=0.05)
    kept = [predict(dataclasses.replace(c, reversible=True)) for c in (config, larger)]
    assert kept[1] - kept[0] < 20 and kept[1] < predict(config)
    assert predict(dataclasses.replace(config, micro_batch_size=8)) < predict(config)


def predict(config: TrainConfig) -> float:
    return predicted_mb(config, parameter_count(IRAE(config.model)), 64)


NODE = {"CPU": 4.0, "memory": 8e9}


def test_room_is_what_the_nodes_hold() -> None:
    assert room_for(CONFIG, [NODE, NODE], None).concurrent == 5, "as many as there are trials"
    two_each = dataclasses.replace(CONFIG, cpus_per_trial=2, trials=99)
    assert room_for(two_each, [NODE, NODE], None).concurrent == 4
    assert room_for(two_each, [NODE], None).worker_mb == pytest.approx(0.9 * 4000)
    with_gpu = room_for(CONFIG, [{**NODE, "GPU": 2.0}, NODE], 80e3)
    assert (with_gpu.concurrent, with_gpu.resources["GPU"]) == (2, 1.0)
    group = dataclasses.replace(CONFIG, base=dataclasses.replace(BASE, ray=True, nodes=2))
    assert room_for(group, [NODE] * 5, None).concurrent == 2
    assert room_for(group, [NODE] * 5, None).resources["CPU"] == 0, "the workers need whole nodes"
    for refused, nodes in (
        (dataclasses.replace(CONFIG, concurrent=9), [NODE, NODE]),
        (dataclasses.replace(CONFIG, cpus_per_trial=5), [NODE]),
        (dataclasses.replace(CONFIG, gpus_per_trial=1), [NODE]),
        (group, [NODE]),
    ):
        with pytest.raises(ValueError, match="--concurrent"):
            room_for(refused, nodes, None)


def test_a_trial_that_cannot_fit_is_told_why() -> None:
    point = drawn(CONFIG, 1)[0]
    assert too_large(CONFIG, point, 64, limit_mb=1e6) is None
    assert "needs about" in (too_large(CONFIG, {**point, "K": 3, "width": 8}, 64, limit_mb=100) or "")


def test_journal_is_mirrored_and_a_torn_line_is_mended(store_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "one"))
    home = Home(open_storage(store_url))
    home.claim({"space": 1})
    study = optuna.create_study(study_name=STUDY, storage=home.storage())
    study.ask().suggest_float("x", 0, 1)
    home.mirror()
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "other machine"))
    other = Home(open_storage(store_url))
    other.mend()
    assert [trial.params for trial in other.study().trials] == [trial.params for trial in study.trials]
    whole = other.journal.read_bytes()
    other.journal.write_bytes(whole + b'{"op_code": 5, "wor')
    other.mend()
    assert other.journal.read_bytes() == whole
    assert other.study().ask().number == 1


def test_a_search_belongs_to_its_space_and_data(tmp_path: Path) -> None:
    home = Home(open_storage(str(tmp_path / "search")))
    home.claim({**CONFIG.identity(), "dataset": "a"})
    home.claim({**dataclasses.replace(CONFIG, trials=50, concurrent=3).identity(), "dataset": "a"})
    with pytest.raises(ValueError, match="K_range was .* and is now"):
        home.claim({**dataclasses.replace(CONFIG, K_range=(1, 9)).identity(), "dataset": "a"})
    with pytest.raises(ValueError, match="dataset was 'a' and is now 'b'.*choose another --name"):
        home.claim({**CONFIG.identity(), "dataset": "b"})


def apart(check: Callable[[Path], None], folder: Path) -> None:
    """Run in a process of its own: Ray may be imported once only before its settings are made."""
    process = multiprocessing.get_context("spawn").Process(target=check, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0, "the process's own message is above"


def test_searcher_accounts_for_every_trial(tmp_path: Path) -> None:
    apart(check_searcher, tmp_path)


def searcher_in(folder: Path, config: TuneConfig = CONFIG, **changes: Any):  # type: ignore[no-untyped-def]
    from pipeline.tune.searcher import JournalSearch

    home = Home(open_storage(str(folder)))
    home.mend()
    parts: dict[str, Any] = {
        "draw": lambda trial: suggest(config, trial, 5.0),
        "unfit": lambda params: None,
        "failure": lambda number: None,
        "show": lambda text: None,
        "first": base_point(config),
    }
    return JournalSearch(config, home, **{**parts, **changes})


def result(images: int, psnr_db: float, finished: bool = False) -> dict[str, Any]:
    figures = {"parameters": 100, "images_per_sec": 5.0, "peak_memory_mb": 1.0}
    return {"images_seen": images, "val_psnr_db": psnr_db, "finished": finished, **figures}


def check_searcher(folder: Path) -> None:
    """Finished, cut, failed, lost again and again, too large; the driver dies in between; then there are no more."""
    from ray.tune.search import Searcher

    search = searcher_in(folder / "a", failure=lambda number: "the loss is nan" if number == 1 else None)
    points = {name: search.suggest(name) for name in "abc"}
    assert points["a"]["params"]["lr"] == BASE.lr, "the base comes first"
    search.on_trial_result("a", result(40, 20.0))
    search.on_trial_complete("a", result(160, 25.0, finished=True))
    search.on_trial_complete("b", error=True)
    search.on_trial_result("c", result(40, 21.0))

    again = searcher_in(folder / "a")  # the driver was killed
    lost = again.suggest("c2")
    assert lost == points["c"], "the trial that ran goes on with its number and parameters"
    assert again.study.trials[2].intermediate_values == {40: 21.0}
    for attempt in range(4):
        assert again.left == 3
        again.on_trial_complete(f"c{attempt + 2}", error=True)  # its worker was killed
        if attempt < 3:
            assert again.suggest(f"c{attempt + 3}") == points["c"]
    again.unfit = lambda params: "needs a lot"
    assert again.suggest("d") == Searcher.FINISHED
    states = [(trial.state.name, trial.user_attrs.get("reason")) for trial in again.study.trials]
    assert states == [
        ("COMPLETE", None),
        ("FAIL", "the loss is nan"),
        ("FAIL", "its worker died 4 times"),
        ("PRUNED", "needs a lot"),
        ("PRUNED", "needs a lot"),
    ]
    assert again.study.trials[0].intermediate_values == {40: 20.0, 160: 25.0} and again.study.best_value == 25.0
    check_same_after_restart(folder)
    check_asha(folder)
    check_two_objectives(folder)
    check_failure_is_kept(folder)


def check_same_after_restart(folder: Path) -> None:
    """The points do not depend on how often the driver died."""
    points = []
    for name, restarts in (("calm", False), ("rough", True)):
        search = searcher_in(folder / name)
        for number in range(5):
            point = search.suggest(str(number))
            search.on_trial_complete(str(number), result(160, 20.0 + point["params"]["K"], finished=True))
            if restarts:
                search = searcher_in(folder / name)
        points.append([trial.params for trial in search.study.trials])
    assert points[0] == points[1]
    assert len({str(point) for point in points[0]}) == 5


def check_asha(folder: Path) -> None:
    """It remembers what earlier drivers saw."""
    from types import SimpleNamespace

    from pipeline.tune.searcher import JournalASHA

    search = searcher_in(folder / "asha")
    for number, psnr_db in enumerate((24.0, 26.0)):
        search.suggest(str(number))
        search.on_trial_result(str(number), result(40, psnr_db))
        search.on_trial_complete(str(number), result(160, psnr_db, finished=True))
    for number, (psnr_db, action) in enumerate(((23.0, "STOP"), (27.0, "CONTINUE")), start=2):
        asha = JournalASHA(CONFIG, searcher_in(folder / "asha").study)
        trial = SimpleNamespace(trial_id="new", config={"number": search.suggest(str(number))["number"]})
        asha.on_trial_add(None, trial)
        assert asha.on_trial_result(None, trial, result(40, psnr_db)) == action


def check_two_objectives(folder: Path) -> None:
    search = searcher_in(folder / "two", dataclasses.replace(CONFIG, against="parameters"))
    for number in range(5):
        search.suggest(str(number))
        search.on_trial_result(str(number), result(40, 20.0))
        search.on_trial_complete(str(number), result(160, 20.0 + number, finished=number != 2))
    assert [trial.state.name for trial in search.study.trials].count("COMPLETE") == 4
    assert search.study.trials[1].values == [21.0, 100]
    assert [trial.number for trial in search.study.best_trials] == [4]
    from pipeline.tune.plots import write_report

    write_report(search.home)


def check_failure_is_kept(folder: Path) -> None:
    """What the training itself says is told from the death of a worker."""
    from pipeline.tune.trial import failure_of, run_trial

    data = make_dataset(str(folder / "data"))
    config = dataclasses.replace(CONFIG, base=dataclasses.replace(BASE, data=data, clip_norm=math.inf))
    point = {"K": 1, "L": 1, "lr": 1e30, "lr_schedule": "constant"}
    with pytest.raises(ValueError):
        run_trial({"number": 3, "params": point}, tune_config=config, search_url=str(folder))
    assert "the loss is" in (failure_of(str(folder / "trials" / "0003")) or "")
    assert failure_of(str(folder / "trials" / "0004")) is None
