"""Storage as a library: a folder or `s3://bucket/prefix` behind one small interface.

store = open_storage("s3://team/irae")
store.at("runs", "first").put("config.json", b"{}")
"""

from infra.storage.base import Entry, Storage, check_name, folder_of, join_url
from infra.storage.errors import StorageError, UserError
from infra.storage.open import open_storage

__all__ = ["Entry", "Storage", "StorageError", "UserError", "check_name", "folder_of", "join_url", "open_storage"]
