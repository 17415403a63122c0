"""A search's folder: the journal on each kind of store, and the identity of its search."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from infra.storage import UserError, open_storage
from pipeline.config.presets import PRESETS
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import JOURNAL, SEARCH, STUDY, StudyFolder, curve
from tests.pipeline.tune.common import CONFIG

FIRST_VERSION = Path(__file__).parent / "first_version_search"
IDENTITY = {**CONFIG.identity(), "dataset": "a"}


def test_the_journal_survives_the_machine_and_a_partial_record(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "one"))
    folder = StudyFolder(open_storage(store_url))
    folder.start_or_resume(IDENTITY)
    study = optuna.create_study(study_name=STUDY, storage=folder.storage())
    study.ask().suggest_float("x", 0, 1)
    folder.upload()
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path / "other machine"))
    other = StudyFolder(open_storage(store_url))
    other.truncate_partial_record()
    assert [trial.params for trial in other.study().trials] == [trial.params for trial in study.trials]
    records = other.journal.read_bytes()
    other.journal.write_bytes(records + b'{"op_code": 5, "wor')
    other.truncate_partial_record()
    assert other.journal.read_bytes() == records
    assert other.study().ask().number == 1


def test_uploads_between_events_wait_for_their_interval(s3_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("IRAE_CACHE", str(tmp_path))
    folder = StudyFolder(open_storage(s3_url))
    study = optuna.create_study(study_name=STUDY, storage=folder.storage())
    folder.upload()
    size_bytes = folder.store.size(JOURNAL)
    study.ask()
    folder.upload(now=False)
    assert folder.store.size(JOURNAL) == size_bytes
    folder.upload()
    assert folder.store.size(JOURNAL) == folder.journal.stat().st_size


def test_a_search_belongs_to_its_space_and_data(tmp_path: Path) -> None:
    folder = StudyFolder(open_storage(str(tmp_path / "search")))
    folder.start_or_resume(IDENTITY)
    folder.start_or_resume({**IDENTITY, **dataclasses.replace(CONFIG, trials=50, concurrent=3).identity()})
    with pytest.raises(UserError, match="K_range was .* and is now"):
        folder.start_or_resume({**IDENTITY, **dataclasses.replace(CONFIG, K_range=(1, 9)).identity()})
    other_lr = dataclasses.replace(CONFIG, base=CONFIG.base.with_options(lr=0.5))
    with pytest.raises(UserError, match="lr was 0.001 and is now 0.5"):
        folder.start_or_resume({**IDENTITY, **other_lr.identity()})
    with pytest.raises(UserError, match="dataset was 'a' and is now 'b'.*choose another --name"):
        folder.start_or_resume({**IDENTITY, "dataset": "b"})


def test_a_search_of_the_first_version_is_resumed(tmp_path: Path) -> None:
    """It was killed in its fourth trial; its options have their first names, and its base lacks newer ones."""
    folder = StudyFolder(open_storage(shutil.copytree(FIRST_VERSION, tmp_path / "search")))
    base = PRESETS["laptop"].with_options(width=8, global_batch_size=8, precision="float32", max_images=240)
    config = TuneConfig(base=base.with_options(max_minutes=None), K_range=(1, 3), trials=6)
    identity = {**config.identity(), "dataset": json.loads((FIRST_VERSION / SEARCH).read_text())["dataset"]}
    folder.start_or_resume(identity)
    with pytest.raises(UserError, match="second_objective was 'none' and is now 'parameters'"):
        folder.start_or_resume({**identity, "second_objective": "parameters"})
    trials = folder.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE", "RUNNING"]
    assert trials[1].user_attrs["reason"] == "cut at 64 images"
    assert curve(trials[1]) == {64: pytest.approx(20.60, abs=0.01)}
    assert max(curve(trials[2]).values()) == trials[2].values[0]
