"""log.txt of a run: what its commands printed, on the store."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from infra.storage import Storage, StorageError, UserError, open_storage
from pipeline import cli
from pipeline.runs.log import LOG, RunLog
from pipeline.train import launch as train
from tests.support.datasets import make_dataset
from tests.support.training import config_for

HOUR_S = 3600.0
logger = logging.getLogger("pipeline.test")


def lines(store: Storage) -> list[str]:
    """Without date and time."""
    return [line.split(" ", 2)[2] for line in store.get(LOG).decode().splitlines()]


def test_the_lines_of_one_command_follow_those_of_another(store_url: str) -> None:
    store = open_storage(store_url)
    with RunLog(store, HOUR_S):
        logger.info("one\ntwo")
    with pytest.raises(UserError), RunLog(store, HOUR_S):
        logger.warning("three")
        raise UserError("the disk is full.")
    with pytest.raises(KeyboardInterrupt), RunLog(store, HOUR_S):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), RunLog(store, HOUR_S):
        _ = 1 / 0
    held = lines(store)
    assert held[:5] == ["one", "two", "three", "error: the disk is full.", "interrupted"]
    assert held[5].startswith("Traceback") and held[-1].startswith("ZeroDivisionError")
    time.strptime(store.get(LOG).decode()[:19], "%Y-%m-%d %H:%M:%S")


def test_it_is_on_the_store_before_the_end(tmp_path: Path) -> None:
    store = open_storage(tmp_path)
    deadline_s = time.monotonic() + 60
    with RunLog(store, 0.01) as log:
        log.add("one")
        while not store.size(LOG) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert lines(store) == ["one"]


def test_a_run_that_another_command_took_over_is_left_alone(tmp_path: Path) -> None:
    store = open_storage(tmp_path)

    def lost() -> None:
        raise UserError("another run has taken over")

    with RunLog(store, HOUR_S, lost) as log:
        log.add("from the dead")
    assert store.size(LOG) is None


def test_a_store_that_is_away_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_storage(tmp_path)
    put, tried = type(store).put, []

    def away(self: Any, name: str, data: bytes) -> Any:
        tried.append(name)
        if len(tried) < 3:
            raise StorageError("it is away.")
        return put(self, name, data)

    monkeypatch.setattr(type(store), "put", away)
    deadline_s = time.monotonic() + 60
    with RunLog(store, 0.01) as log:
        log.add("one")
        while len(tried) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert lines(store) == ["one"]


def test_what_a_training_prints_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "LOG_INTERVAL_S", 0.0)
    data = make_dataset(str(tmp_path / "data"))
    capsys.readouterr()
    config = config_for(data, tmp_path / "run", max_images=64)
    train.main(config)
    train.main(config.with_options(max_images=128))
    shown = capsys.readouterr()
    held = lines(open_storage(tmp_path / "run"))
    assert sorted(held) == sorted((shown.out + shown.err).splitlines())
    text = "\n".join(held)
    parts = ["data   ", "training: 64 of 64 ", "trained 64 images", "data   ", "resuming from 64 images", "epoch 2.0"]
    for part in parts:
        assert part in text
        text = text.partition(part)[2]
