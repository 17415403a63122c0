"""Storage for all tests: a folder, and a real S3 server that runs while the tests do."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from infra.local_s3 import seaweedfs
from infra.local_s3.server import LocalS3
from infra.storage import StorageError
from pipeline.config.logs import configure_logging

configure_logging()
# No test may meet the developer's own account.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ |= {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """A running S3 server with the bucket irae."""
    pytest.importorskip("boto3")
    try:
        seaweedfs.program()
    except StorageError as error:
        pytest.skip(str(error))
    server = LocalS3(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()  # sooner done than stop


@pytest.fixture
def s3_url(s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place on the S3 server; the environment leads to it."""
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    return f"s3://irae/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(request.getfixturevalue("tmp_path") / "store")
