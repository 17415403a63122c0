"""fsspec's access to both kinds of storage, and Parquet read through it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from multiprocessing import get_context

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.local_s3.server import LocalS3
from infra.storage import StorageError, UserError, filesystem, open_storage
from infra.storage.parquet import read_parquet
from tests.support.tcp_proxy import TcpProxy

pytest.importorskip("s3fs")
SHARED = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@SHARED
@given(data=st.binary(max_size=3000), name=st.sampled_from(["a", "folder/a b", "folder/below/ä"]))
def test_both_accesses_see_the_same_files(store_url: str, data: bytes, name: str) -> None:
    store = open_storage(store_url)
    files, folder = filesystem(store_url)
    store.put(name, data)
    assert files.cat_file(f"{folder}/{name}") == data
    assert files.find(folder) == [f"{folder}/{entry.name}" for entry in store.list()]
    files.pipe_file(f"{folder}/{name}", data[::-1])
    assert store.get(name) == data[::-1]


def test_a_change_of_the_environment_is_noticed(
    s3_url: str, s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(s3_url).put("file", b"content")
    files, folder = filesystem(s3_url)
    assert files is filesystem(s3_url)[0] and files.cat_file(f"{folder}/file") == b"content"
    with TcpProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        changed, _ = filesystem(s3_url)
        assert changed is not files and changed.cat_file(f"{folder}/file") == b"content" and proxy.bytes_sent > 0
        proxy.shutdown()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert filesystem(s3_url)[0].cat_file(f"{folder}/file") == b"content"


def _read_in_child(url: str, name: str) -> bytes:
    files, folder = filesystem(url)
    return files.cat_file(f"{folder}/{name}")


def test_a_forked_child_makes_its_own(s3_url: str) -> None:
    open_storage(s3_url).put("file", b"content")
    assert _read_in_child(s3_url, "file") == b"content"
    with get_context("fork").Pool(2) as pool:
        assert pool.starmap_async(_read_in_child, [(s3_url, "file")] * 4).get(60) == [b"content"] * 4


def test_stock_webdataset_reads_shards_of_s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    webdataset = pytest.importorskip("webdataset")
    files, _ = filesystem(s3_url)
    monkeypatch.setitem(webdataset.gopen_schemes, "s3", lambda url, mode, bufsize: files.open(url, mode))
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i in range(5):
            member = tarfile.TarInfo(f"{i}.txt")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"%d" % i))
    open_storage(s3_url).put("train-00000.tar", sink.getvalue())
    samples = webdataset.WebDataset(f"{s3_url}/train-00000.tar", shardshuffle=False)
    assert [sample["txt"] for sample in samples] == [b"%d" % i for i in range(5)]


RAY = """
import os, sys
import pyarrow.fs
from infra.storage import filesystem
files, path = filesystem(sys.argv[1])
import ray.train
checkpoint = ray.train.Checkpoint(path, filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files)))
with checkpoint.as_directory() as folder:
    print(sorted(os.listdir(folder)), open(f"{folder}/state.json").read())
"""


@pytest.mark.integration
def test_ray_reads_a_checkpoint_through_it(store_url: str) -> None:
    """In a process of its own, since Ray reads its settings at import."""
    pytest.importorskip("ray")
    store = open_storage(store_url)
    store.put("model.safetensors", b"weights")
    store.put("state.json", b"{}")
    result = subprocess.run([sys.executable, "-c", RAY, store_url], capture_output=True, text=True)
    assert result.stdout.strip() == "['model.safetensors', 'state.json'] {}", result.stderr


# ---- Parquet


@SHARED
@given(
    columns=st.lists(st.sampled_from("abcd"), unique=True, min_size=1) | st.none(),
    rows=st.integers(0, 50),
    group=st.integers(1, 20),
)
def test_columns_come_back(store_url: str, columns: list[str] | None, rows: int, group: int) -> None:
    table = pa.table({name: [f"{name}{i}" for i in range(rows)] for name in "abcd"})
    store = open_storage(store_url)
    store.put("folder/table.parquet", _parquet(table, row_group_size=group))
    assert read_parquet(store, "folder/table.parquet", columns) == (table if columns is None else table.select(columns))


def test_absent_and_damaged_files(store_url: str) -> None:
    store = open_storage(store_url)
    whole = _parquet(pa.table({"a": list(range(1000))}))
    pieces = {
        "empty": b"",
        "begin": b"PAR1",
        "half": whole[: len(whole) // 2],
        "other": whole.replace(b"\x15", b"\x16"),
    }
    for name, data in pieces.items():
        store.put(name, data)
    for columns in (None, ["a"]):
        with pytest.raises(FileNotFoundError, match="absent"):
            read_parquet(store, "absent", columns)
        for name in pieces:
            with pytest.raises(UserError, match=f"{store.url}/{name} is damaged"):
                read_parquet(store, name, columns)


def test_of_s3_only_the_columns_are_downloaded(
    s3_url: str, s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [os.urandom(1 << 10) for _ in range(30 << 10)]
    table = pa.table({"wide": wide, "narrow": list(range(len(wide)))})
    open_storage(s3_url).put("table.parquet", _parquet(table))
    with TcpProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert read_parquet(open_storage(s3_url), "table.parquet", ["narrow"]) == table.select(["narrow"])
        proxy.shutdown()
    assert 0 < proxy.bytes_sent < sum(map(len, wide)) / 5


def test_errors_of_s3fs_are_errors_of_storage(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_storage(s3_url).put("table.parquet", _parquet(pa.table({"a": [1]})))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        read_parquet(open_storage(s3_url), "table.parquet", ["a"])


def test_a_command_that_exits_at_once_does_not_abort(s3_url: str) -> None:
    open_storage(s3_url).put("table.parquet", _parquet(pa.table({"a": list(range(10_000))})))
    program = (
        "import sys; from infra.storage import open_storage; from infra.storage.parquet import read_parquet\n"
        "store = open_storage(sys.argv[1])\n"
        "for columns in (None, ['a']): assert read_parquet(store, 'table.parquet', columns).num_rows == 10_000\n"
        "sys.exit(7)\n"
    )
    for _ in range(5):
        result = subprocess.run([sys.executable, "-c", program, s3_url], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (7, "")
