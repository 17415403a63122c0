"""Checkpoints of a run: checkpoints/<images>/ with safetensors and, written last, state.json; best.json names the best.

A checkpoint exists when its state.json exists, which holds the SHA-256 of every other file in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from infra.storage import Storage, UserError

STATE, CHECKPOINTS, BEST = "state.json", "checkpoints", "best.json"


@dataclass(frozen=True)
class Checkpoint:
    """Files and state of a run after some number of images, which is its name."""

    name: str
    files: dict[str, bytes]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints in a run's folder. The folder is listed once: only the holder of the run's lease changes it."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        if self._names is None:
            entries = (entry.name for entry in self.store.list(f"{CHECKPOINTS}/"))
            self._names = sorted(name.split("/")[1] for name in entries if name.endswith(f"/{STATE}"))
        return self._names

    def save(self, files: dict[str, bytes], state: dict[str, Any]) -> str:
        """Put the files, then state.json, which commits the checkpoint; returns its name."""
        name = f"{state['images_seen']:012d}"
        folder = self.store.at(CHECKPOINTS, name)
        for file, data in files.items():
            folder.put(file, data)
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        folder.put(STATE, json.dumps({**state, "files": hashes}, indent=1).encode())
        self._names = sorted({*self.names(), name})
        return name

    def load(self, name: str) -> Checkpoint:
        """UserError when a file of it is missing or damaged."""
        folder = self.store.at(CHECKPOINTS, name)
        try:
            state = json.loads(folder.get(STATE))
            files = {file: folder.get(file) for file in state["files"]}
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise UserError(f"the checkpoint {folder.url} is incomplete ({error}); choose another one.") from None
        for file, sha256 in state["files"].items():
            if hashlib.sha256(files[file]).hexdigest() != sha256:
                raise UserError(f"the checkpoint file {folder.url}/{file} is damaged; choose an earlier checkpoint.")
        return Checkpoint(name, files, state)

    def newest(self) -> Checkpoint | None:
        """The newest undamaged one, None when none was saved. UserError when all are damaged."""
        problem: UserError | None = None
        for name in reversed(self.names()):
            try:
                return self.load(name)
            except UserError as error:
                problem = error
        if problem:
            raise problem
        return None

    def resolve(self, choice: str) -> Checkpoint:
        """`best`, `last` or a name. UserError when the run has none."""
        best = self.best()
        if choice == "best" and best:
            return self.load(best["checkpoint"])
        if choice in ("best", "last"):
            newest = self.newest()
            if newest is None:
                raise UserError(
                    f"there is no checkpoint in {self.store.url}; train first (`python -m pipeline.train`)."
                )
            return newest
        if choice not in self.names():
            raise UserError(f"{self.store.url} has no checkpoint {choice!r}; it has {', '.join(self.names())}.")
        return self.load(choice)

    def best(self) -> dict[str, Any] | None:
        """Name and validation PSNR of the best checkpoint: {checkpoint, val_psnr_db}; None before any validation."""
        return read_json(self.store, BEST)

    def update_best(self, name: str, psnr_db: float) -> None:
        """Record the checkpoint as the best, unless one that still exists validated better."""
        best = self.best()
        if best is None or psnr_db >= best["val_psnr_db"] or best["checkpoint"] not in self.names():
            write_json(self.store, BEST, {"checkpoint": name, "val_psnr_db": psnr_db})

    def prune(self, keep: int) -> None:
        """Delete all complete checkpoints but the newest `keep` and the best."""
        best = self.best()
        for name in self.names()[:-keep]:
            if best is None or name != best["checkpoint"]:
                folder = self.store.at(CHECKPOINTS, name)
                folder.delete(STATE)  # first, so that an interrupted deletion leaves no checkpoint
                for entry in folder.list():
                    folder.delete(entry.name)
                self._names = [other for other in self.names() if other != name]


def read_json(store: Storage, name: str) -> dict[str, Any] | None:
    """A JSON file, or None when it is missing."""
    try:
        return json.loads(store.get(name))
    except FileNotFoundError:
        return None


def write_json(store: Storage, name: str, value: dict[str, Any]) -> None:
    store.put(name, json.dumps(value, indent=1).encode())
