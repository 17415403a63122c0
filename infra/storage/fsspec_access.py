"""fsspec filesystems for libraries that read storage themselves: Parquet, Ray Train, webdataset, folders of images.

Not for the shard reader's hot path, where `Storage.get` has bounded stalls. Not across a fork: the event loop of s3fs
does not exist in a child process, which must call `filesystem` itself.
"""

from __future__ import annotations

import functools
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from infra.storage.errors import StorageError
from infra.storage.open import open_storage
from infra.storage.s3 import CONFIG, S3Storage, client_key


def filesystem(url: str | Path) -> tuple[AbstractFileSystem, str]:
    """The filesystem of a storage URL, with S3Storage's credentials, and the URL's path in it (`bucket/prefix`)."""
    store = open_storage(url)
    if not isinstance(store, S3Storage):
        return LocalFileSystem(), store.url
    return _s3_filesystem(client_key()), store.url.removeprefix("s3://")


@functools.lru_cache(maxsize=4)
def _s3_filesystem(key: tuple[int, int]) -> AbstractFileSystem:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise StorageError("this needs s3fs: pip install 'irae-pipeline[s3]'") from error
    # fsspec's own cache does not notice a change of the environment.
    return S3FileSystem(config_kwargs=CONFIG, use_listings_cache=False, skip_instance_cache=True)
