"""A run's folder: config.json, metrics.parquet, best.json, metrics.json, log.txt, checkpoints/, tensorboard/."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage
from infra.storage.parquet import read_parquet
from pipeline.runs.checkpoints import Checkpoints, read_json, write_json

METRICS, CONFIG = "metrics.parquet", "config.json"


class Run:
    """Reads and writes a run's folder."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        self.checkpoints = Checkpoints(store)

    @property
    def url(self) -> str:
        return self.store.url

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None when it is missing."""
        return read_json(self.store, name)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        write_json(self.store, name, value)

    def read_metrics(self, until_images: int) -> list[dict[str, Any]]:
        """Rows of metrics.parquet up to this number of images."""
        try:
            rows = read_parquet(self.store, METRICS).to_pylist()
        except FileNotFoundError:
            return []
        return [row for row in rows if row["images_seen"] <= until_images]

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        sink = io.BytesIO()
        pq.write_table(pa.table({c: [row.get(c) for row in rows] for c in columns}), sink)
        self.store.put(METRICS, sink.getvalue())
