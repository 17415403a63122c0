"""A search's folder on the store: search.json, journal.log, trials/ (runs), best.json, report/.

The journal is Optuna's: everything about every trial. It is written where it can be appended to: in the folder itself
on a disk, otherwise in a local file, which is copied to the store at each event.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

from infra.storage import Storage, UserError, join_url
from pipeline.config.environment import cache_folder, store_url
from pipeline.runs.find import find_in, open_checked

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SEARCHES, SEARCH, JOURNAL = "searches", "search.json", "journal.log"
STUDY = "search"
MIRROR_S = 10.0
"""Results of running trials reach the store at most this often; the ends of trials at once."""


def search_url(name: str) -> str:
    """Where a search of this name goes by default."""
    return join_url(store_url(), SEARCHES, name)


def find_search(search: str | None) -> Home:
    """The given search (URL or name), or the only one that the store has. ValueError otherwise."""
    advice = "begin one with `python -m pipeline.tune`"
    home = Home(open_checked(find_in(search, SEARCHES, SEARCH, "its name", advice)))
    if home.identity() is None:
        raise UserError(f"{home.store.url} is no search: it has no {SEARCH}; {advice}.")
    return home


class Home:
    """Reads and writes one search's folder."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        held_here = store.local_path(JOURNAL)
        place = hashlib.sha256(store.url.encode()).hexdigest()[:16]
        self.journal = held_here or cache_folder() / SEARCHES / place / JOURNAL
        self.is_mirrored = held_here is None
        self._mirrored_at, self._mirrored_bytes = 0.0, -1

    def identity(self) -> dict[str, Any] | None:
        """search.json, or None for a search that is still to begin."""
        try:
            return json.loads(self.store.get(SEARCH))
        except FileNotFoundError:
            return None

    def claim(self, identity: dict[str, Any]) -> None:
        """Begin the search, or go on with one of the same identity. ValueError when it is another one."""
        ours = json.loads(json.dumps(identity))
        held = self.identity()
        if held is None:
            self.journal.unlink(missing_ok=True)
            self.store.put(SEARCH, json.dumps(ours, indent=1).encode())
        elif differing := _differing(held, ours):
            raise UserError(
                f"the search {self.store.url} was begun with other settings ({'; '.join(differing)}); repeat those to "
                "go on with it, or choose another --name."
            )

    def fetch(self) -> None:
        """Bring the local journal up to what the store has; a journal only grows."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        held = self.store.size(JOURNAL) if self.is_mirrored else None
        if held is not None and (not self.journal.exists() or held > self.journal.stat().st_size):
            self.store.get_file(JOURNAL, self.journal)

    def mend(self) -> None:
        """Cut off a last line that a killed writer left half written. Only for who holds the search."""
        self.fetch()
        if self.journal.exists():
            whole = self.journal.read_bytes().rpartition(b"\n")
            if whole[2]:
                os.truncate(self.journal, len(whole[0]) + len(whole[1]))

    def mirror(self, now: bool = True) -> None:
        """Copy the journal to the store, if it is not there already; not `now`: unless that was done just before."""
        if not self.is_mirrored or not (now or time.monotonic() - self._mirrored_at > MIRROR_S):
            return
        content = self.journal.read_bytes()
        if len(content) != self._mirrored_bytes:
            self.store.put(JOURNAL, content)
            self._mirrored_at, self._mirrored_bytes = time.monotonic(), len(content)

    def storage(self):  # type: ignore[no-untyped-def]
        """Optuna's view of the journal."""
        quiet_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.fetch()
        return JournalStorage(JournalFileBackend(str(self.journal)))

    def study(self) -> Study:
        """The search's study, to be read. ValueError before its first trial."""
        import optuna

        try:
            return optuna.load_study(study_name=STUDY, storage=self.storage())
        except KeyError:
            raise UserError(f"the search {self.store.url} has no trial yet; let `pipeline.tune` run first.") from None


def _differing(held: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What is not equal, in words; groups of settings are looked into."""
    found: list[str] = []
    for name, value in ours.items():
        before = held.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            found += _differing(before, value)
        elif before != value:
            found.append(f"{name} was {before!r} and is now {value!r}")
    return found


def quiet_optuna() -> None:
    """No line for each trial, no note that multivariate sampling is experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def curve(trial: FrozenTrial) -> dict[int, float]:
    """Best PSNR so far (dB) by images seen."""
    held = trial.intermediate_values or {int(k): v for k, v in trial.user_attrs.get("curve", {}).items()}
    return dict(sorted(held.items()))
