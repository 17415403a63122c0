"""A search's folder on the store: search.json, journal.log, trials/ (runs), best.json, report/.

The journal is Optuna's: the parameters, curve, state and values of every trial. Optuna appends to it, so on a store
that cannot append (S3) it is a local file, which is uploaded at each event.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from infra.storage import Storage, UserError
from pipeline.config.environment import cache_folder
from pipeline.runs.find import find_in, open_checked
from pipeline.tune.config import comparable

SEARCHES, SEARCH, JOURNAL, REPORT = "searches", "search.json", "journal.log", "report/index.html"
STUDY = "search"
"""Name of the study in the journal."""
REASON = "reason"
"""Attribute of a pruned or failed trial: why."""
UPLOAD_INTERVAL_S = 10.0
"""Least time between two uploads of the journal while no trial starts or finishes."""


def find_search(search: str | None) -> StudyFolder:
    """The given search (URL or name), or the only one that the store has. Raises UserError otherwise."""
    advice = "start one with `python -m pipeline.tune`"
    folder = StudyFolder(open_checked(find_in(search, SEARCHES, SEARCH, "its name", advice)))
    if folder.identity() is None:
        raise UserError(f"{folder.store.url} is no search: it has no {SEARCH}; {advice}.")
    return folder


class StudyFolder:
    """Reads and writes one search's folder."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        on_disk = store.local_path(JOURNAL)
        cached = cache_folder() / SEARCHES / hashlib.sha256(store.url.encode()).hexdigest()[:16] / JOURNAL
        self.journal = on_disk or cached
        self.is_remote = on_disk is None
        self._uploaded_s, self._uploaded_bytes = 0.0, -1

    def identity(self) -> dict[str, Any] | None:
        """search.json, or None before the search has started."""
        try:
            return json.loads(self.store.get(SEARCH))
        except FileNotFoundError:
            return None

    def start_or_resume(self, identity: dict[str, Any]) -> None:
        """Write search.json, or compare with it. Raises UserError when it is another search's."""
        stored = self.identity()
        if stored is None:
            self.journal.unlink(missing_ok=True)
            self.store.put(SEARCH, json.dumps(identity, indent=1).encode())
            return
        old, new = comparable(stored), comparable(identity)
        differing = [f"{key} was {old.get(key)!r} and is now {new[key]!r}" for key in new if old.get(key) != new[key]]
        if differing:
            raise UserError(
                f"the search {self.store.url} was started with other settings ({'; '.join(differing)}); repeat those "
                "to resume it, or choose another --name."
            )

    def download(self) -> None:
        """Download the journal where the store's is longer than the local copy; a journal only grows."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        size_bytes = self.store.size(JOURNAL) if self.is_remote else None
        if size_bytes is not None and (not self.journal.exists() or size_bytes > self.journal.stat().st_size):
            self.store.get_file(JOURNAL, self.journal)

    def truncate_partial_record(self) -> None:
        """Cut off a last line that a killed writer did not finish. The caller holds the search's lease."""
        self.download()
        if self.journal.exists():
            records = self.journal.read_bytes()
            os.truncate(self.journal, records.rfind(b"\n") + 1)

    def upload(self, now: bool = True) -> None:
        """Copy a remote search's journal to its store; not `now`: unless that was done within UPLOAD_INTERVAL_S."""
        if not self.is_remote or not (now or time.monotonic() - self._uploaded_s > UPLOAD_INTERVAL_S):
            return
        records = self.journal.read_bytes()
        if len(records) != self._uploaded_bytes:
            self.store.put(JOURNAL, records)
            self._uploaded_s, self._uploaded_bytes = time.monotonic(), len(records)

    def storage(self) -> JournalStorage:
        """The journal as Optuna's storage."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of multivariate TPE
        self.download()
        return JournalStorage(JournalFileBackend(str(self.journal)))

    def study(self) -> optuna.Study:
        """The search's study, to be read. Raises UserError before its first trial."""
        try:
            return optuna.load_study(study_name=STUDY, storage=self.storage())
        except KeyError:
            raise UserError(f"the search {self.store.url} has no trial yet; let `pipeline.tune` run first.") from None


def state_text(state: TrialState) -> str:
    """A trial's state in words: running, finished, pruned, failed, waiting."""
    return {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed"}.get(state, state.name.lower())


def curve(trial: FrozenTrial) -> dict[int, float]:
    """Best PSNR so far (dB) by images seen, in order. Optuna keeps no curve for two objectives: an attribute does."""
    values = trial.intermediate_values or {int(k): v for k, v in trial.user_attrs.get("curve", {}).items()}
    return dict(sorted(values.items()))
