"""The search as a user runs it: killed twice, finished, its winner trained again, its dashboard in a browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from infra.storage import open_storage
from pipeline.config.options import read_config
from pipeline.runs.folder import Run
from pipeline.tune.folder import SEARCH, STUDY, Home
from tests.support.browser import browse, needs_chromium
from tests.support.datasets import make_dataset

TRIALS = 5
SMALL = (
    "--width",
    "8",
    "--global-batch-size",
    "8",
    "--precision",
    "float32",
    "--max-images",
    "240",
    "--K-range",
    "1",
    "3",
)
SEARCHING = ("tune", "--name", "small", "--trials", str(TRIALS), *SMALL)


def start(*arguments: str, log: Path) -> subprocess.Popen[str]:
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]], stdout=file, stderr=file, text=True
        )


def run(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == code
    return done.stdout + done.stderr


def wait_for(what, process: subprocess.Popen[str]):  # type: ignore[no-untyped-def]
    """What it gives once it is true."""
    while not (found := what()):
        assert process.poll() is None, "it ended before"
        time.sleep(0.1)
    return found


def workers_of(pid: int) -> list[int]:
    """Processes below this one that run trials."""
    parents, found = {}, [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return [pid for pid in found if b"ray::ImplicitFunc" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A search whose driver and then whose workers were killed, and which then went on to its end."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("the processes of a search are found by /proc")
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRAE_STORE", str(folder))
        patch.setenv("IRAE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")  # so small a network gains nothing from more
        make_dataset(str(folder / "data" / "synthetic"))
        home, log = Home(open_storage(str(folder / "searches" / "small"))), folder / "log"

        def states() -> list[str]:
            try:
                return [trial.state.name for trial in home.study().trials]
            except ValueError:
                return []

        driver = start(*SEARCHING, log=log)
        wait_for(lambda: "COMPLETE" in states() or "PRUNED" in states(), driver)
        driver.kill()
        driver.wait()
        assert len(states()) < TRIALS or "RUNNING" in states()
        driver = start(*SEARCHING, log=log)
        for worker in wait_for(lambda: workers_of(driver.pid), driver):
            os.kill(worker, signal.SIGKILL)
        assert driver.wait() == 0, log.read_text()
        yield home


def test_a_search_killed_twice_ends_with_every_trial(home: Home) -> None:
    trials = home.study().trials
    assert [trial.number for trial in trials] == [*range(TRIALS)]
    for trial in trials:
        assert trial.state.name in ("COMPLETE", "PRUNED"), trial.user_attrs
        assert trial.state.name == "COMPLETE" or trial.user_attrs["reason"].startswith("cut at")
        assert len(trial.intermediate_values) >= 1
    assert sum(trial.user_attrs.get("worker_deaths", 0) for trial in trials) >= 1
    assert "trials" in (home.store.get("report/index.html")).decode()


def test_the_winner_trains_again_as_it_is_written(home: Home, tmp_path: Path) -> None:
    preset = tmp_path / "best.json"
    output = run("tune", "best", "--out", str(preset), "--repeats", "1")
    assert "with 2 seeds" in output and "standard deviation" in output
    best = max(trial.values[0] for trial in home.study().trials if trial.state.name == "COMPLETE")
    assert f"{best:.2f} dB" in output
    run("train", "--config", str(preset), "--no-ray", "--name", "again")
    held = Run(open_storage(os.environ["IRAE_STORE"] + "/runs/again")).read_json("best.json")
    assert held and held["val_psnr_db"] == pytest.approx(best, abs=0.05)
    assert read_config(preset).max_images == 240
    page = home.store.get("report/index.html").decode()
    for title in ("history", "Importance", "PSNR and parameters", "PSNR and speed", "Learning curves", "Parallel"):
        assert title in page
    assert "(cut)" in page or all(trial.state.name != "PRUNED" for trial in home.study().trials)
    assert not re.search(r'<script[^>]+src="', page), "needs no network"


def test_a_search_of_another_space_is_refused(home: Home) -> None:
    output = run(*SEARCHING, "--lr-range", "1e-4", "1e-3", code=2)
    assert "lr_range was" in output and "choose another --name" in output
    assert "no training configuration" in run("train", "--config", str(home.journal), code=2)


@contextmanager
def dashboard(*arguments: str, log: Path) -> Iterator[str]:
    """Address of a running dashboard."""
    process = start("tune", "dashboard", *arguments, log=log)
    try:
        found = wait_for(lambda: re.search(r"dashboard +(http://\S+)", log.read_text()), process)
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


@needs_chromium
def test_the_dashboard_shows_trials_and_a_plot(home: Home, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with dashboard("--port", str(port), log=tmp_path / "log") as address:
            assert f"port {port} is in use" in (tmp_path / "log").read_text()
            study = browse("--dump-dom", f"{address}dashboard/studies/0")
            assert "js-plotly-plot" in study and "val_psnr_db" in study
            trials = browse("--dump-dom", f"{address}dashboard/studies/0/trials")
            assert all(f"Trial {number}" in trials for number in range(TRIALS))
            page = browse("--dump-dom", address)
            assert "iframe" in page and "TensorBoard" in page and "/report" in page
            browse(f"--screenshot={tmp_path}/page.png", address)
            assert (tmp_path / "page.png").stat().st_size > 20_000, "not an empty page"


def test_the_dashboard_of_a_search_without_a_finished_trial(tmp_path: Path) -> None:
    home = Home(open_storage(str(tmp_path / "search")))
    with_nothing = run("tune", "dashboard", str(tmp_path / "search"), code=2)
    assert "is no search" in with_nothing
    home.store.put(SEARCH, b"{}")
    optuna.create_study(study_name=STUDY, storage=home.storage(), direction="maximize").ask().suggest_int("K", 1, 2)
    with dashboard(str(tmp_path / "search"), "--no-tensorboard", log=tmp_path / "log") as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
        for path in ("/", "/report", "/dashboard/studies/0", "/api/studies/0?after=0"):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200
        assert [trial["state"] for trial in json.loads(body)["trials"]] == ["Running"]


def test_other_machines_need_the_token(home: Home) -> None:
    from pipeline.tune.dashboard import Page, is_loopback

    assert is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("0.0.0.0")
    page, seen = Page(home, {}, "secret"), dict[str, Any]()

    def respond(status: str, headers: list[tuple[str, str]], *error: object) -> None:
        seen.update(status=status, headers=dict(headers))

    def get(path: str, **more: str) -> str:
        environ: dict[str, str] = {}
        setup_testing_defaults(environ)
        list(page({**environ, "PATH_INFO": path, **more}, respond))
        return seen["status"]

    for path in ("/", "/report", "/api/studies", "/dashboard/studies/0"):
        assert get(path).startswith("401")
        assert get(path, QUERY_STRING="token=wrong").startswith("401")
    assert get("/", QUERY_STRING="token=secret").startswith("200")
    cookie = seen["headers"]["Set-Cookie"].split(";")[0]
    assert get("/api/studies", HTTP_COOKIE=cookie, QUERY_STRING="").startswith("200")
