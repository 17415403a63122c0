"""A run's folder on the store: config.json, metrics.parquet, best.json, log.txt, checkpoints/<images>/, tensorboard/.

A checkpoint exists when its state.json exists: written last, with the hash of every other file in it.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage, UserError
from infra.storage.parquet import read_table

STATE, CHECKPOINTS, METRICS, BEST, CONFIG = "state.json", "checkpoints", "metrics.parquet", "best.json", "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at one point of a run."""

    name: str
    files: dict[str, bytes]
    state: dict[str, Any]


class Run:
    """Reads and writes one run's folder."""

    def __init__(self, store: Storage) -> None:
        self.store = store

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None."""
        try:
            return json.loads(self.store.get(name))
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        self.store.put(name, json.dumps(value, indent=1).encode())

    def save_checkpoint(self, files: dict[str, bytes], state: dict[str, Any]) -> str:
        """Put the files, then state.json, which makes the checkpoint exist; returns its name."""
        name = f"{state['images_seen']:012d}"
        folder = self.store.at(CHECKPOINTS, name)
        for file, data in files.items():
            folder.put(file, data)
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        folder.put(STATE, json.dumps({**state, "files": hashes}, indent=1).encode())
        return name

    def checkpoints(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        entries = {entry.name for entry in self.store.list(f"{CHECKPOINTS}/")}
        return sorted(name.split("/")[1] for name in entries if name.endswith(f"/{STATE}"))

    def load_checkpoint(self, name: str) -> Checkpoint:
        """ValueError when a file of it is missing or is not what was saved."""
        folder = self.store.at(CHECKPOINTS, name)
        try:
            state = json.loads(folder.get(STATE))
            files = {file: folder.get(file) for file in state["files"]}
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise UserError(f"the checkpoint {folder.url} is not whole ({error}); choose another one.") from None
        for file, sha256 in state["files"].items():
            if hashlib.sha256(files[file]).hexdigest() != sha256:
                raise UserError(f"the checkpoint file {folder.url}/{file} is damaged; choose an earlier checkpoint.")
        return Checkpoint(name, files, state)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest one that is whole, or None when none was ever saved. ValueError when all are damaged."""
        names = self.checkpoints()
        problem: ValueError | None = None
        for name in reversed(names):
            try:
                return self.load_checkpoint(name)
            except ValueError as error:
                problem = error
        if problem:
            raise problem
        return None

    def resolve_checkpoint(self, choice: str) -> Checkpoint:
        """`best`, `last` or a name. ValueError when the run has none."""
        best = self.read_json(BEST)
        if choice == "best" and best:
            return self.load_checkpoint(best["checkpoint"])
        if choice in ("best", "last"):
            newest = self.newest_checkpoint()
            if newest is None:
                raise UserError(
                    f"there is no checkpoint in {self.store.url}; train first (`python -m pipeline.train`)."
                )
            return newest
        if choice not in self.checkpoints():
            raise UserError(f"{self.store.url} has no checkpoint {choice!r}; it has {', '.join(self.checkpoints())}.")
        return self.load_checkpoint(choice)

    def update_best(self, checkpoint: str, psnr_db: float) -> None:
        """Note the checkpoint as the best one, unless one that is still there validated better."""
        held = self.read_json(BEST)
        if held is None or psnr_db >= held["val_psnr_db"] or held["checkpoint"] not in self.checkpoints():
            self.write_json(BEST, {"checkpoint": checkpoint, "val_psnr_db": psnr_db})

    def prune_checkpoints(self, keep: int) -> None:
        """Delete all complete checkpoints but the newest `keep` and the best."""
        best = self.read_json(BEST)
        for name in self.checkpoints()[:-keep]:
            if best is None or name != best["checkpoint"]:
                self.delete_checkpoint(name)

    def delete_checkpoint(self, name: str) -> None:
        """state.json goes first, so that what is left half-way counts as no checkpoint."""
        folder = self.store.at(CHECKPOINTS, name)
        folder.delete(STATE)
        for entry in folder.list():
            folder.delete(entry.name)

    def read_metrics(self, until_images: int) -> list[dict[str, Any]]:
        """Rows of metrics.parquet up to this point of the run."""
        try:
            rows = read_table(self.store.get(METRICS)).to_pylist()
        except FileNotFoundError:
            return []
        return [row for row in rows if row["images_seen"] <= until_images]

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        sink = io.BytesIO()
        pq.write_table(pa.table({c: [row.get(c) for row in rows] for c in columns}), sink)
        self.store.put(METRICS, sink.getvalue())
