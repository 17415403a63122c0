"""The local S3 server through its real command line, and its promises: data survive, nothing leaks."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.local_s3 import seaweedfs
from infra.local_s3.server import LocalS3
from infra.storage import StorageError, open_storage

pytest.importorskip("boto3")


@pytest.fixture
def server(s3_server: LocalS3, tmp_path: Path) -> Iterator[LocalS3]:
    """Another server than the one of the session, not yet started."""
    server = LocalS3(tmp_path / "own")
    yield server
    server.kill()


def _use(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)


def _sockets_left(server: LocalS3) -> list[str]:
    ports = json.loads((server.folder / "server.json").read_text())["ports"].values()
    numbers = "|".join(f"{port}|{port + 10000}" for port in ports)
    return [name for name in os.listdir("/tmp") if re.fullmatch(rf"seaweedfs-.*-({numbers})\.sock", name)]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line with a folder named by the environment, as a user of a shell has it."""
    result = subprocess.run([sys.executable, "-m", "infra.local_s3", *arguments], capture_output=True, text=True)
    assert "Traceback" not in result.stderr
    return result


def test_the_commands_one_after_the_other(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRAE_LOCAL_S3_DIR", str(server.folder))
    assert _run("status").returncode == 3
    before = _run("env")
    assert before.returncode == 2 and before.stdout == "" and "local_s3 start" in before.stderr
    started = _run("start", "--bucket", "irae", "second")
    assert started.returncode == 0 and 'eval "$(python -m infra.local_s3 env)"' in started.stdout, started.stderr
    pid = server.pid
    again = _run("start", "--bucket", "third")
    assert (again.stdout, server.pid) == (started.stdout, pid)
    status = _run("status")
    assert status.returncode == 0 and server.endpoint in status.stdout

    shell = subprocess.run(
        ["sh", "-c", f'export AWS_PROFILE=other; eval "$({sys.executable} -m infra.local_s3 env)"; env'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    variables = dict(line.split("=", 1) for line in shell.splitlines() if line.startswith("AWS_"))
    assert variables.items() >= server.env().items() and "AWS_PROFILE" not in variables
    _use(server, monkeypatch)
    for bucket in ("irae", "second", "third"):
        open_storage(f"s3://{bucket}").put("file", b"x")

    secret = server.env()["AWS_SECRET_ACCESS_KEY"]
    for file in (path for path in server.folder.rglob("*") if path.is_file() and path.name != "s3.json"):
        assert secret.encode() not in file.read_bytes(), file
    stopped = _run("stop")
    assert stopped.returncode == 0 and f"process {pid}" in stopped.stdout and server.pid is None
    assert not _sockets_left(server)
    assert "no local S3 server runs" in _run("stop").stdout and _run("status").returncode == 3
    assert not any(secret in result.stdout + result.stderr for result in (started, again, status, stopped))


def test_only_the_owner_may_read_the_keys(s3_server: LocalS3) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (s3_server.folder, s3_server.folder / "s3.json")}
    assert list(modes.values()) == [0o700, 0o600]
    assert (s3_server.folder / ".gitignore").read_text() == "*\n"


def test_a_power_cut_loses_nothing(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    _use(server, monkeypatch)
    store = open_storage("s3://irae/runs")
    files = {f"{i}": os.urandom(1 + 100_000 * i) for i in range(10)}
    for name, data in files.items():
        store.put(name, data)
    before = server.env()
    assert _sockets_left(server)
    server.kill()
    assert server.pid is None and not _sockets_left(server)
    with pytest.raises(StorageError, match="cannot be reached"):
        store.check()
    again = LocalS3(server.folder)
    again.start()
    assert again.env() == before
    assert {entry.name: store.get(entry.name) for entry in store.list()} == files


@pytest.mark.usefixtures("s3_server")  # it skips where there is no server
def test_servers_that_start_at_once_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [LocalS3(tmp_path / name) for name in "abc"]
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(LocalS3.start, servers))
        assert len({server.endpoint for server in servers}) == len({server.pid for server in servers}) == 3
        for server in servers:
            _use(server, monkeypatch)
            assert open_storage("s3://irae").list() == []
            open_storage("s3://irae").put("file", b"x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", servers[0].endpoint)
        with pytest.raises(StorageError, match="does not accept the keys"):
            open_storage("s3://irae").check()
    finally:
        for server in servers:
            server.kill()


def test_a_port_taken_at_the_last_moment(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = seaweedfs.choose_ports({})["s3"]
    looked: list[int] = []

    def look_too_early_once(port: int) -> bool:
        looked.append(port)
        return len(looked) == 1 or look(port)

    look = seaweedfs._is_free
    monkeypatch.setattr(seaweedfs, "_is_free", look_too_early_once)
    monkeypatch.setattr(seaweedfs, "PREFERRED_S3_PORT", taken)
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        server.start()
    assert looked[0] == taken and server.endpoint != f"http://127.0.0.1:{taken}"


def test_one_folder_has_one_server(server: LocalS3) -> None:
    with ThreadPoolExecutor(3) as threads:
        starts = [threads.submit(_run, "start", "--dir", server.folder) for _ in range(3)]
    assert len({start.result().stdout for start in starts}) == 1, [start.result() for start in starts]
    assert f"process {server.pid}" in starts[0].result().stdout


def _listening(pid: int) -> list[tuple[str, int]]:
    """Address in hexadecimal, as the kernel prints it, and port of each TCP socket that a process listens on."""
    own = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the kernel's table of sockets under /proc")
def test_it_listens_on_loopback_and_gives_nothing_without_keys(s3_server: LocalS3, s3_url: str) -> None:
    open_storage(s3_url).put("file", b"private")
    assert s3_server.pid is not None
    listening = _listening(s3_server.pid)
    assert len(listening) >= 5 and {address for address, _ in listening} == {"0100007F"}
    path = s3_url.removeprefix("s3://") + "/file"
    for _, port in listening:
        for url in (f"http://127.0.0.1:{port}/{path}", f"http://127.0.0.1:{port}/buckets/{path}"):
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    assert b"private" not in answer.read(), url
            except (urllib.error.URLError, OSError):
                pass  # refused, or no HTTP


def test_stop_spares_a_process_that_has_the_old_number(server: LocalS3) -> None:
    server.start()
    server.kill()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            state = json.loads((server.folder / "server.json").read_text())
            (server.folder / "server.json").write_text(json.dumps(state | {"pid": other.pid}))
            assert server.pid is None
            assert "no local S3 server runs" in _run("stop", "--dir", server.folder).stdout
            assert other.poll() is None
        finally:
            other.kill()


def test_a_server_that_cannot_start_shows_its_log(server: LocalS3) -> None:
    server.start()
    pid = server.pid
    state = server.folder / "server.json"
    known = state.read_text()
    try:
        state.unlink()  # the data are still in use by the running one
        result = _run("start", "--dir", server.folder)
        assert result.returncode == 2 and "did not start" in result.stderr and "weed.log ends:" in result.stderr
        assert len(result.stderr.splitlines()) > 2
    finally:
        state.write_text(known)
    assert server.pid == pid


def test_user_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StorageError, match="is not empty"):
        LocalS3(tmp_path).start()
    with pytest.raises(StorageError, match="is not empty|needs a folder|cannot be used"):
        LocalS3(tmp_path / "photo.jpg").start()
    assert os.listdir(tmp_path) == ["photo.jpg"]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(StorageError, match=r"irae-pipeline\[local-s3\]"):
        seaweedfs.program()


def test_a_bucket_with_a_bad_name(s3_server: LocalS3) -> None:
    result = _run("start", "--dir", s3_server.folder, "--bucket", "Not_Good")
    assert result.returncode == 2 and "'Not_Good'" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.integration
def test_help_needs_no_boto3() -> None:
    program = (
        "import runpy, sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        "sys.argv = ['local_s3', '--help']; runpy.run_module('infra.local_s3', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0 and "start" in result.stdout
