"""Counts of storage requests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from infra.storage.local import FileStorage


def count_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count every `get` and `list` of local storages by (method, full name) from now on."""
    counts: Counter[tuple[str, str]] = Counter()
    for method in ("get", "list"):
        original = getattr(FileStorage, method)

        def counted(
            self: FileStorage, name: str = "", *rest: Any, _method: str = method, _original: Any = original
        ) -> Any:
            counts[_method, f"{self.url}/{name}"] += 1
            return _original(self, name, *rest)

        monkeypatch.setattr(FileStorage, method, counted)
    return counts
