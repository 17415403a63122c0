"""TensorBoard's curves of a run."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from infra.storage import open_storage
from pipeline.train.tensorboard import TensorBoardWriter

pytest.importorskip("tensorboard")


@pytest.mark.parametrize("closed", [True, False])
def test_its_thread_ends_before_its_folder_goes(tmp_path: Path, closed: bool) -> None:
    """Also when nobody closed it: a thread would go on to write into a folder that is gone."""
    before = {*threading.enumerate()}
    board = TensorBoardWriter(open_storage(str(tmp_path)), images_seen=0)
    board.add({"images_seen": 1, "loss": 0.5})
    board.upload()
    assert [path for path in (tmp_path / "tensorboard").iterdir() if path.stat().st_size > 0]
    folder = board._folder
    assert folder.exists() and {*threading.enumerate()} - before
    if closed:
        board.close()
    del board
    gc.collect()
    assert not {*threading.enumerate()} - before and not folder.exists()
