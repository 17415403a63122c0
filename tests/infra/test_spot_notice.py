"""The notice of a spot preemption, from the guard to the workers of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.spot_notice import PreemptionNotice, notice_file


def test_the_notice_reaches_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notice = PreemptionNotice()
    assert not notice.poll()
    notice_file().touch()
    assert notice.poll()
    assert not notice.poll()  # one checkpoint is enough
