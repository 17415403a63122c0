"""Data sets and runs by name: where they are when a command is not told."""

from __future__ import annotations

from infra.storage import Storage, UserError, join_url, open_storage
from pipeline.config.environment import store_url

DATA, RUNS = "data", "runs"


def data_url(name: str) -> str:
    """Where a data set of this name goes by default."""
    return join_url(store_url(), DATA, name)


def run_url(name: str) -> str:
    """Where a run of this name goes by default."""
    return join_url(store_url(), RUNS, name)


def find_data(data: str | None) -> str:
    """The given data set (URL or name), or the only one that the store has. ValueError otherwise."""
    return find_in(data, DATA, "dataset.json", "--data", "make one with `python -m pipeline.shard`")


def find_run(run: str | None) -> str:
    """The given run (URL or name), or the only one that the store has. ValueError otherwise."""
    return find_in(run, RUNS, "config.json", "--run", "train one with `python -m pipeline.train`")


def find_in(given: str | None, folder: str, marker: str, option: str, advice: str) -> str:
    """URL of what was given (URL or name), or of the only thing below IRAE_STORE/folder that has the marker file."""
    store = open_storage(join_url(store_url(), folder))
    if given is not None:
        return given if is_path_or_url(given) else store.at(given).url
    names = [name for name in store.folders() if store.size(f"{name}/{marker}") is not None]
    if not names:
        raise UserError(f"there is nothing in {store.url}; {advice}, or say where with {option} URL.")
    if len(names) > 1:
        raise UserError(f"{store.url} holds {', '.join(names)}; say which one with {option}.")
    return store.at(names[0]).url


def is_path_or_url(place: str) -> bool:
    """A place rather than a name: it has a slash or a scheme."""
    return "/" in place


def open_checked(url: str) -> Storage:
    """The store at the URL, known to be reachable: ValueError within ten seconds otherwise."""
    store = open_storage(url)
    store.check()
    return store
