"""Storage as a library: a folder or `s3://bucket/prefix` behind one small interface.

store = open_storage("s3://team/irae")
store.at("runs", "first").put("config.json", b"{}")

Importing it is cheap; Parquet (`infra.storage.parquet`) and fsspec (`filesystem`) load when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.storage.base import Entry, Storage, join_url
from infra.storage.errors import StorageError, UserError
from infra.storage.open import open_storage

if TYPE_CHECKING:
    from infra.storage.fsspec_access import filesystem

__all__ = ["Entry", "Storage", "StorageError", "UserError", "filesystem", "join_url", "open_storage"]


def __getattr__(name: str) -> Any:
    if name != "filesystem":
        raise AttributeError(name)
    from infra.storage.fsspec_access import filesystem

    return filesystem
