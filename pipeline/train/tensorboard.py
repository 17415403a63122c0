"""TensorBoard curves and pictures of a run: in a local folder, copied to the run's with each checkpoint."""

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
"""Images side by side in a picture."""


class TensorBoardWriter:
    """Takes rows of metrics from `images_seen` on. Without the tensorboard package it does nothing."""

    def __init__(self, store: Storage, images_seen: int) -> None:
        self.store = store.at(FOLDER)
        self._folder = Path(tempfile.mkdtemp(prefix="irae-tensorboard-"))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(self._folder), purge_step=images_seen + 1 if images_seen else None)
        # Also for a board that nobody closed: its writer's thread must end before its folder goes.
        self.close = weakref.finalize(self, _end, self.writer, self._folder)

    def add(self, row: dict[str, Any]) -> None:
        """Every figure of the row, at its number of images seen."""
        for name, value in row.items():
            if self.writer and name != "images_seen":
                self.writer.add_scalar(name, value, row["images_seen"])

    def add_images(self, pictures: Sequence[Tensor], images_seen: int) -> None:
        """Rows of clean, degraded and restored images, (B, 3, H, W) each, as one picture."""
        if self.writer:
            rows = [torch.cat([*images[:COLUMNS].float().clamp(0, 1).cpu()], dim=2) for images in pictures]
            self.writer.add_image("clean, degraded, restored", torch.cat(rows, dim=1), images_seen)

    def upload(self) -> None:
        """Copy the event files to the store."""
        if self.writer:
            self.writer.flush()
            for path in self._folder.iterdir():
                self.store.put(path.name, path.read_bytes())


def _end(writer: Any, folder: Path) -> None:
    if writer:
        writer.close()
    shutil.rmtree(folder, ignore_errors=True)
