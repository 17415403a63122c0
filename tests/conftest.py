"""Fixtures that several rooms share, the marks of the tiers, and the guard that keeps the quick tier quick."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a worker has one processor
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from infra.local_s3 import seaweedfs
from infra.local_s3.server import LocalS3
from infra.storage import StorageError
from pipeline.config.logs import configure_logging
from tests.support.browser import needs_chromium
from tests.support.datasets import make_dataset
from tests.support.ports import reserved_port

configure_logging()
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")  # no test asserts a time
# No test may meet the developer's own account.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ |= {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}

INTEGRATION_FIXTURES = {"s3_server", "s3_url", "own_s3_server"}
SLOW_PROGRAMS = re.compile(r"(?:^|[\s/])(?:python[\d.]*|weed|chrom\w+|google-chrome|ray|raylet|gcs_server)(?=\s|$)")
"""Programs, or words of a shell script, that a test of the quick tier may not start."""
CHAOS = Path(__file__).parent / "chaos"
_guarded_test: str | None = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the S3 server or the browser, and the short forms of campaigns, are integration tests."""
    for item in items:
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        uses_server = (
            INTEGRATION_FIXTURES & set(getattr(item, "fixturenames", ())) or parameters.get("store_url") == "s3"
        )
        if uses_server or needs_chromium.mark in item.iter_markers() or CHAOS in item.path.parents:
            item.add_marker("integration")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes are named by their count: those of an archive may hold the time, and workers need equal names."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Guards a test, and the fixtures that it starts, unless it is marked."""
    global _guarded_test
    marked = any(item.get_closest_marker(mark) for mark in ("integration", "chaos"))
    _guarded_test = None if marked else item.nodeid
    try:
        return (yield)
    finally:
        _guarded_test = None


def _refuse_slow_programs(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and _guarded_test:
        command = " ".join(map(os.fsdecode, arguments[1]))
        if SLOW_PROGRAMS.search(command):
            pytest.fail(f"{_guarded_test} starts a program of the integration tests: {command}")


sys.addaudithook(_refuse_slow_programs)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small synthetic data set (make_dataset), not to be changed."""
    return make_dataset(str(tmp_path_factory.mktemp("data") / "synthetic"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """A running S3 server with the bucket irae."""
    with running(LocalS3(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture
def own_s3_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    """A server that the test may kill and start again at the same port; the environment leads to it."""
    with reserved_port() as port:
        monkeypatch.setattr(seaweedfs, "PREFERRED_S3_PORT", port)
        with running(LocalS3(tmp_path / "s3")) as server:
            use(server, monkeypatch)
            yield server


@contextmanager
def running(server: LocalS3) -> Iterator[LocalS3]:
    """The server, killed at the end. Skips the test where it cannot be installed."""
    pytest.importorskip("boto3")
    try:
        seaweedfs.program()
    except StorageError as error:
        pytest.skip(str(error))
    server.start()
    try:
        yield server
    finally:
        server.kill()  # sooner done than stop


def use(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_url(s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An unused URL on the S3 server; the environment leads to it."""
    use(s3_server, monkeypatch)
    return f"s3://irae/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An unused URL of each kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(request.getfixturevalue("tmp_path") / "store")
