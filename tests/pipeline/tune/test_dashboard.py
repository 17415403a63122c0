"""The dashboard's command: over HTTP and in a browser."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from infra.storage import open_storage
from pipeline.tune.folder import SEARCH, STUDY, StudyFolder
from tests.support.browser import browse, needs_chromium

pytestmark = pytest.mark.integration


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.tune", "dashboard", *arguments]


def error_of(*arguments: str) -> str:
    """Standard error of a dashboard that does not start."""
    process = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    return process.stderr


@contextmanager
def dashboard(url: str, log: Path) -> Iterator[str]:
    """Address of a running dashboard."""
    with log.open("w") as file:
        process = subprocess.Popen(command(url, "--port", str(free_port())), stdout=file, stderr=file)
    try:
        while not (found := re.search(r"dashboard +(http://127.0.0.1:\d+)/", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def trials_at(address: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}/api/studies/0?after=0", timeout=30) as answer:
        return json.load(answer)["trials"]


def start_search(url: str) -> tuple[StudyFolder, optuna.Study]:
    """A search with one running trial."""
    folder = StudyFolder(open_storage(url))
    folder.store.put(SEARCH, b"{}")
    study = optuna.create_study(study_name=STUDY, storage=folder.storage(), direction="maximize")
    study.set_metric_names(["val_psnr_db"])
    study.ask().suggest_int("K", 1, 2)
    folder.upload()
    return folder, study


def test_it_shows_a_search_without_a_finished_trial_and_follows_it(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk and on S3, where the dashboard runs on another machine than the search."""
    assert "is no search" in error_of(store_url)
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "searching"))
    folder, study = start_search(store_url)
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "watching"))
    with dashboard(store_url, tmp_path / "log") as address:
        assert [trial["state"] for trial in trials_at(address)] == ["Running"]
        study.tell(0, 25.0)
        folder.upload()
        while [trial["state"] for trial in trials_at(address)] != ["Complete"]:
            time.sleep(0.2)


def test_an_idle_connection_does_not_block_it(tmp_path: Path) -> None:
    start_search(str(tmp_path))
    with dashboard(str(tmp_path), tmp_path / "log") as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):
            assert len(trials_at(address)) == 1


def test_it_refuses_a_port_in_use_and_options_that_it_no_longer_has(tmp_path: Path) -> None:
    start_search(str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be opened" in error_of(str(tmp_path), "--port", str(port))
    assert "ssh -L" in error_of(str(tmp_path), "--host", "0.0.0.0")
    assert "tensorboard --logdir" in error_of(str(tmp_path), "--tensorboard")


@needs_chromium
def test_a_browser_shows_trials_and_a_plot(tmp_path: Path) -> None:
    _, study = start_search(str(tmp_path))
    study.tell(0, 25.0)
    for number in (1, 2):
        trial = study.ask()
        trial.suggest_int("K", 1, 2)
        study.tell(trial, 25.0 + number)
    with dashboard(str(tmp_path), tmp_path / "log") as address:
        page = browse("--dump-dom", f"{address}/dashboard/studies/0")
        assert "js-plotly-plot" in page and "val_psnr_db" in page
        page = browse("--dump-dom", f"{address}/dashboard/studies/0/trials")
        assert all(f"Trial {number}" in page for number in range(3))
