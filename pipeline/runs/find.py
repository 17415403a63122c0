"""Data sets and runs by name below IRAE_STORE."""

from __future__ import annotations

from infra.storage import Storage, UserError, join_url, open_storage
from pipeline.config.environment import store_url

DATA, RUNS = "data", "runs"


def data_url(name: str) -> str:
    """Default URL of a data set of this name."""
    return join_url(store_url(), DATA, name)


def run_url(name: str) -> str:
    """Default URL of a run of this name."""
    return join_url(store_url(), RUNS, name)


def find_data(data: str | None) -> str:
    """The given data set (URL or name), or the only one that the store has. UserError otherwise."""
    return find_in(data, DATA, "dataset.json", "--data", "make one with `python -m pipeline.shard`")


def find_run(run: str | None) -> str:
    """The given run (URL or name), or the only one that the store has. UserError otherwise."""
    return find_in(run, RUNS, "config.json", "--run", "train one with `python -m pipeline.train`")


def find_in(given: str | None, folder: str, marker: str, option: str, advice: str) -> str:
    """URL of what was given (URL or name), or of the only folder below IRAE_STORE/folder with the marker file."""
    store = open_storage(join_url(store_url(), folder))
    if given is not None:
        return given if is_path_or_url(given) else store.at(given).url
    names = [name for name in store.folders() if store.size(f"{name}/{marker}") is not None]
    if not names:
        raise UserError(f"there is nothing in {store.url}; {advice}, or give its URL with {option} URL.")
    if len(names) > 1:
        raise UserError(f"{store.url} holds {', '.join(names)}; say which one with {option}.")
    return store.at(names[0]).url


def is_path_or_url(text: str) -> bool:
    """Whether the text is a path or URL, and no name: it has a slash."""
    return "/" in text


def open_checked(url: str) -> Storage:
    """The storage at the URL; UserError within ten seconds when it cannot be reached."""
    store = open_storage(url)
    store.check()
    return store
