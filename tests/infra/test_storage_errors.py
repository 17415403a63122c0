"""Errors of storage as sentences for users, without secrets."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.storage import Storage, StorageError, open_storage

POLL_S = 0.01
SECRET = "NeverShowThisSecret0123456789"


def _message(url: str, action: Callable[[Storage], object] = lambda store: store.check()) -> str:
    with pytest.raises(StorageError) as caught:
        action(open_storage(url))
    message = str(caught.value)
    assert "\n" not in message and SECRET not in message
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", SECRET) not in message
    return message


ACTIONS: list[Callable[[Storage], object]] = [
    lambda store: store.check(),
    lambda store: store.list(),
    lambda store: store.get("name"),
    lambda store: store.size("name"),
    lambda store: store.put("name", b""),
    lambda store: store.put_new("name", b""),
]


@pytest.mark.parametrize("action", ACTIONS)
def test_wrong_keys(s3_url: str, monkeypatch: pytest.MonkeyPatch, action: Callable[[Storage], object]) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert re.search(r"bucket 'irae'.* AWS_ACCESS_KEY_ID", _message(s3_url, action))


def test_unknown_keys_of_a_profile(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert "AWS_PROFILE" in _message(s3_url)
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[team]\naws_access_key_id = nobody\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert "look at AWS_PROFILE=team" in _message(s3_url)


@pytest.mark.parametrize("action", [action for i, action in enumerate(ACTIONS) if i != 3])
def test_a_missing_bucket(s3_url: str, action: Callable[[Storage], object]) -> None:
    message = _message("s3://no-such-bucket/runs", action)
    assert "no bucket 'no-such-bucket'" in message and "infra.local_s3 start --bucket no-such-bucket" in message


@pytest.mark.parametrize("action", ACTIONS)
def test_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch, action: Callable[[Storage], object]) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = _message(s3_url, action)
    assert "AWS_ACCESS_KEY_ID" in message and "AWS_PROFILE" in message


def test_an_endpoint_where_nobody_listens(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        message = _message(s3_url)
    assert endpoint in message and "AWS_ENDPOINT_URL" in message


def test_an_endpoint_that_never_answers(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        message = _message(s3_url)
        silent.setblocking(False)
        attempts = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                attempts += 1
    assert "ReadTimeoutError" in message and "AWS_ENDPOINT_URL" in message
    from infra.storage.s3 import s3_client

    config = s3_client(quick=True).meta.config
    pause_s = 1  # at most, before the second attempt
    assert attempts * max(config.connect_timeout, config.read_timeout) + pause_s < 10


def test_an_endpoint_without_scheme(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:8333")
    assert "AWS_ENDPOINT_URL must look like http://" in _message(s3_url)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "ExpiredToken", "have expired"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "is denied"),
        (400, "IllegalLocationConstraintException", "AWS_REGION"),
        (403, "QuotaExceeded", "no space left"),
        (503, "SlowDown", "too busy"),
        (418, "Teapot", "Teapot"),
    ],
)
def test_refusals_that_the_local_server_does_not_know(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str
) -> None:
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, args=[POLL_S], daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        message = _message(s3_url)
        server.shutdown()
    assert words in message and code in message


@pytest.mark.parametrize(
    "url", ["", "gs://bucket/x", "s3:/bucket/x", "s3://", "s3://B/x", "s3://bucket//x", "s3://bucket/../x"]
)
def test_urls_of_no_store(url: str) -> None:
    with pytest.raises(StorageError, match=re.escape(repr(url)) + r"|'\.\./x'|'/x'"):
        open_storage(url)


@pytest.mark.integration
def test_s3_without_boto3_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from infra.storage import open_storage, StorageError\n"
        "assert not {'botocore', 'pyarrow', 'fsspec'} & set(sys.modules), 'importing infra.storage must be cheap'\n"
        "try: open_storage('s3://bucket/x').check()\n"
        "except StorageError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "irae-pipeline[s3]" in shown


@contextlib.contextmanager
def _as_common_user() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_a_folder_of_someone_else() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with _as_common_user():
            for action in (ACTIONS[4], ACTIONS[5]):
                assert f"permission denied for {folder}" in _message(folder, action)
            assert f"permission denied for {folder}" in _message(f"{folder}/new")
            assert open_storage(folder).list() == []
            open_storage(folder).check()
        os.mkdir(f"{folder}/below")
        Path(folder, "below", "file").touch()
        os.chmod(f"{folder}/below", 0o000)
        with _as_common_user():
            for action in (lambda store: store.list(), lambda store: store.get("below/file")):
                assert f"permission denied for {folder}/below" in _message(folder, action)
        os.chmod(folder, 0o755)
        os.chmod(f"{folder}/below", 0o755)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "name").mkdir()
    for url in (str(tmp_path / "file"), f"{tmp_path}/file/below"):
        for action in (ACTIONS[0], ACTIONS[4], ACTIONS[5]):
            assert "needs a folder where there is a file" in _message(url, action)
    assert "is a folder where a file is needed" in _message(str(tmp_path), ACTIONS[4])
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.integration
def test_a_full_disk(tmp_path: Path) -> None:
    program = (
        "import os; from infra.storage import open_storage, StorageError\n"
        "try: open_storage('.').put('folder/file', bytes(200_000))\n"
        "except StorageError as error: print(error, os.listdir('folder'))\n"
    )
    disk = 'mount -t tmpfs -o size=64k none . && cd . && PYTHONPATH=$2 exec $0 -c "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", disk, sys.executable, program, os.getcwd()]
    try:
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs the program unshare")
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip("needs the right to mount a small disk")
    assert "no space left for " in result.stdout and "[]" in result.stdout, result.stderr
