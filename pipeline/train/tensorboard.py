"""TensorBoard events of a run: written to a local folder, uploaded to the run's with each checkpoint."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.storage import Storage

FOLDER = "tensorboard"
COLUMNS = 8
"""Images side by side in a grid."""


class TensorBoardWriter:
    """Writes metrics and images from `images_seen` on. Without the tensorboard package it does nothing."""

    def __init__(self, store: Storage, images_seen: int) -> None:
        self.store = store.at(FOLDER)
        self._folder = Path(tempfile.mkdtemp(prefix="irae-tensorboard-"))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(self._folder), purge_step=images_seen + 1 if images_seen else None)
        # Also without a call of close: the writer's thread must stop before its folder is deleted.
        self.close = weakref.finalize(self, _close, self.writer, self._folder)

    def add(self, row: dict[str, Any]) -> None:
        """Every figure of the row, at its number of images seen."""
        for name, value in row.items():
            if self.writer and name != "images_seen":
                self.writer.add_scalar(name, value, row["images_seen"])

    def add_images(self, images: Sequence[Tensor], images_seen: int) -> None:
        """Rows of clean, degraded and restored images, (B, 3, H, W) each, as one grid."""
        if self.writer:
            rows = [torch.cat([*batch[:COLUMNS].float().clamp(0, 1).cpu()], dim=2) for batch in images]
            self.writer.add_image("clean, degraded, restored", torch.cat(rows, dim=1), images_seen)

    def upload(self) -> None:
        """Copy the event files to the run's folder."""
        if self.writer:
            self.writer.flush()
            for path in self._folder.iterdir():
                self.store.put(path.name, path.read_bytes())


def _close(writer: Any, folder: Path) -> None:
    if writer:
        writer.close()
    shutil.rmtree(folder, ignore_errors=True)
