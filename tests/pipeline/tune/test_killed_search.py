"""A search as a user runs it: its driver and its workers are killed, it resumes, its best trial is trained again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.storage import UserError, open_storage
from pipeline.config.options import read_config
from pipeline.runs.folder import Run
from pipeline.tune.folder import StudyFolder
from tests.support.datasets import make_dataset
from tests.support.training import command_line, descendants, strike

pytestmark = pytest.mark.integration

TRIALS = 5
SMALL = ["--width", "8", "--global-batch-size", "8", "--precision", "float32", "--max-images", "240"]
SEARCH = ["tune", "--name", "small", "--trials", str(TRIALS), *SMALL, "--K-range", "1", "3"]


def start(*arguments: str, log: Path) -> subprocess.Popen[str]:
    with log.open("a") as file:
        command = [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]]
        return subprocess.Popen(command, stdout=file, stderr=file, text=True)


def run(*arguments: str, code: int = 0) -> str:
    """Output of a command that ends with this exit code."""
    command = [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], log: Path) -> Any:
    """The condition's value once it is true, while the process runs."""
    while not (value := condition()):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    return value


def states(folder: StudyFolder) -> list[str]:
    try:
        return [trial.state.name for trial in folder.study().trials]
    except UserError:
        return []


def written_ns(path: Path) -> dict[str, int]:
    """When each file below was written."""
    return {str(file): file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyFolder, str]]:
    """Folder and log of a search whose driver and then whose workers were killed, and which finished nevertheless."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("the processes of a search are found by /proc")
    path = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRAE_STORE", str(path))
        patch.setenv("IRAE_CACHE", str(path / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")  # so small a network gains nothing from more
        make_dataset(str(path / "data" / "synthetic"))
        folder, log = StudyFolder(open_storage(str(path / "searches" / "small"))), path / "log"
        driver = start(*SEARCH, log=log)
        wait_for(lambda: {"COMPLETE", "PRUNED"} & {*states(folder)}, driver, log)
        driver.kill()
        driver.wait()
        before = folder.study().trials
        finished = [trial for trial in before if trial.state.is_finished()]
        assert len(finished) < TRIALS
        files = [written_ns(path / "searches" / "small" / "trials" / f"{trial.number:04d}") for trial in finished]
        driver = start(*SEARCH, log=log)
        workers = wait_for(
            lambda: [pid for pid in descendants(driver.pid) if command_line(pid).startswith("ray::ImplicitFunc")],
            driver,
            log,
        )
        for worker in workers:
            strike(worker)
        assert driver.wait() == 0, log.read_text()
        after = folder.study().trials
        for trial, written in zip(finished, files, strict=True):
            assert after[trial.number] == trial, "a finished trial is kept"
            assert written_ns(path / "searches" / "small" / "trials" / f"{trial.number:04d}") == written
        for trial in before:
            assert after[trial.number].params.items() >= trial.params.items()
        yield folder, log.read_text()


def test_a_killed_search_finishes_every_trial_once(killed: tuple[StudyFolder, str]) -> None:
    folder, log = killed
    trials = folder.study().trials
    assert [trial.number for trial in trials] == [*range(TRIALS)]
    for trial in trials:
        assert trial.state.name in ("COMPLETE", "PRUNED"), trial.user_attrs
        assert trial.state.name == "COMPLETE" or trial.user_attrs["reason"].startswith("in the lower half")
        assert len(trial.intermediate_values) >= 1
        assert len(re.findall(rf"^trial {trial.number}: (?:\d|pruned|failed)", log, re.MULTILINE)) <= 1
    assert "its worker died; it resumes from its last checkpoint" in log
    assert "trials" in folder.store.get("report/index.html").decode()


def test_the_best_trial_is_reproduced_by_its_configuration(killed: tuple[StudyFolder, str], tmp_path: Path) -> None:
    folder, _ = killed
    preset = tmp_path / "best.json"
    output = run("tune", "best", "--out", str(preset), "--repeats", "1")
    assert "with 2 seeds" in output and "standard deviation" in output
    best = max(trial.values[0] for trial in folder.study().trials if trial.state.name == "COMPLETE")
    assert f"{best:.2f} dB" in output
    run("train", "--config", str(preset), "--no-ray", "--name", "again")
    held = Run(open_storage(os.environ["IRAE_STORE"] + "/runs/again")).read_json("best.json")
    assert held and held["val_psnr_db"] == pytest.approx(best, abs=0.05)
    assert read_config(preset).budget.max_images == 240
    page = folder.store.get("report/index.html").decode()
    for title in ("history", "Importance", "PSNR and parameters", "PSNR and speed", "Learning curves", "Parallel"):
        assert title in page
    assert "(pruned)" in page or all(trial.state.name != "PRUNED" for trial in folder.study().trials)
    assert not re.search(r'<script[^>]+src="', page), "needs no network"


def test_a_search_of_another_space_is_refused(killed: tuple[StudyFolder, str]) -> None:
    folder, _ = killed
    output = run(*SEARCH, "--lr-range", "1e-4", "1e-3", code=2)
    assert "lr_range was" in output and "choose another --name" in output
    assert "--against is now --second-objective" in run(*SEARCH, "--against", "parameters", code=2)
    assert "no training configuration" in run("train", "--config", str(folder.journal), code=2)


def test_trials_of_several_workers_that_diverge_have_failed_with_a_reason(tmp_path: Path) -> None:
    """Their driver passes the workers' error on; a restart would meet it again."""
    data, url = make_dataset(str(tmp_path / "data")), str(tmp_path / "search")
    options = ["--trials", "1", "--lr-range", "1e29", "1e30", "--workers-per-node", "2", "--clip-norm", "1e30"]
    output = run("tune", "--data", data, "--out", url, *SMALL, *options)
    (trial,) = StudyFolder(open_storage(url)).study().trials
    assert trial.state.name == "FAIL" and "the loss is" in trial.user_attrs["reason"]
    assert f"failed, {trial.user_attrs['reason']}" in output and "its worker died" not in output
    assert "UserError: the loss is" in (tmp_path / "search" / "trials" / "0000" / "failure.txt").read_text()
