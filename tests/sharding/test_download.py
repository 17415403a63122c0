"""Downloads from a small web server with faults: cuts, no ranges, web pages, wrong bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import sharding.download.over_http
from infra.storage import UserError
from sharding.download import download
from sharding.download.archives import ARCHIVES, Archive
from sharding.sources import open_source
from tests.support import ROOT

HTML = b"<!DOCTYPE html><html><body>Too many users have viewed this file recently.</body></html>"


class Site:
    """Serves `files`. Each request takes the next of `faults`: a number of bytes to cut after, or a word."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.ranges, self.gap_s = True, 0.0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append((self.path[1:], self.headers["Range"]))
                with contextlib.suppress(ConnectionError):  # the other side was killed, or has enough
                    site.answer(self, site.faults.pop(0) if site.faults else "")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, fault: int | str) -> None:
        data = self.files.get(handler.path[1:])
        if data is None or fault in ("404", "503"):
            return handler.send_error(503 if fault == "503" else 404)
        total, first, status = len(data), 0, 200
        if fault == "html":
            data = HTML
        elif self.ranges and handler.headers["Range"]:
            first, status = int(re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"])[1]), 206  # type: ignore[index]
            first += fault == "other range"
            if first >= total:
                return handler.send_error(416)
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html; charset=utf-8" if fault == "html" else "application/x-tar")
        if fault != "no length":
            handler.send_header("Content-Length", str(len(data) - first))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        handler.end_headers()
        body = data[first:][: fault if isinstance(fault, int) else None]
        for start in range(0, len(body), 4096):
            handler.wfile.write(body[start : start + 4096])
            time.sleep(self.gap_s)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sharding.download.over_http, "FIRST_PAUSE_S", 0.001)
    site = Site()
    yield site
    site.stop()


def jpeg(number: int) -> bytes:
    """Noise, so that it has some size."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def tgz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def mat(**arrays: list[int]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: np.array([values], np.uint16) for name, values in arrays.items()})
    return buffer.getvalue()


def tiny(source_name: str) -> dict[str, bytes]:
    """File name -> content: a data set of three images in its official archives."""
    pictures = {f"{number}": jpeg(number) for number in (1, 2, 3)}
    if source_name == "flowers":
        return {
            "setid.mat": mat(trnid=[1], valid=[2], tstid=[3]),
            "imagelabels.mat": mat(labels=[7, 7, 9]),
            "102flowers.tgz": tgz({f"jpg/image_0000{n}.jpg": data for n, data in pictures.items()}),
        }
    if source_name == "celeba":
        return {
            "list_eval_partition.txt": b"".join(b"00000%d.jpg %d\r\n" % (n, n - 1) for n in (1, 2, 3)),
            "img_align_celeba.zip": zipped({f"img_align_celeba/00000{n}.jpg": d for n, d in pictures.items()}),
        }
    rows = {"images": "{0} 001.Bird/{0}.jpg\n", "train_test_split": "{0} 1\n", "image_class_labels": "{0} 1\n"}
    lists = {
        f"CUB_200_2011/{name}.txt": "".join(row.format(n) for n in pictures).encode() for name, row in rows.items()
    }
    birds = {f"CUB_200_2011/images/001.Bird/{n}.jpg": data for n, data in pictures.items()}
    return {"CUB_200_2011.tgz": tgz({"attributes.txt": b"beside it", **lists, **birds})}


def entry(site: Site, name: str, data: bytes, holds: str | None = None) -> Archive:
    """A row of the table for a file that the site serves."""
    site.files[name] = data
    url, md5 = f"{site.url}/{name}", hashlib.md5(data).hexdigest()
    return Archive(name, url, len(data), md5, "http://example.org/page", holds)


def tiny_table(site: Site, source_name: str) -> dict[str, tuple[Archive, ...]]:
    data = tiny(source_name)
    assert data.keys() == {archive.name for archive in ARCHIVES[source_name]}
    return {source_name: tuple(entry(site, a.name, data[a.name], a.holds) for a in ARCHIVES[source_name])}


@pytest.fixture
def blob(site: Site) -> dict[str, tuple[Archive, ...]]:
    """A table with one file of some size, used as it is."""
    return {"blob": (entry(site, "blob.bin", np.random.default_rng(0).bytes(50_000)),)}


def problem(table: Mapping[str, tuple[Archive, ...]], folder: Path) -> str:
    """The error of a download that fails."""
    with pytest.raises(UserError) as caught:
        download(next(iter(table)), folder, table=table)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize("source_name", ["celeba", "cub", "flowers"])
def test_a_source_reads_what_was_downloaded(site: Site, tmp_path: Path, source_name: str) -> None:
    table, received = tiny_table(site, source_name), []
    root = download(source_name, tmp_path / "new", received.append, table)
    source = open_source(source_name, root)
    images = source.images()
    assert len(images) == 3 and all(source.pixels(i, source.read(i)).shape[2] == 3 for i in images)
    total = sum(archive.size_bytes for archive in table[source_name])
    assert received == sorted(received) and received[-1] == total
    assert not [path for path in root.rglob("*") if path.suffix == ".part" or "unpacking" in path.name]
    site.requests.clear()
    assert download(source_name, root, table=table) == root and not site.requests
    # Unpacked is unpacked: the archive is not needed any more.
    for archive in table[source_name]:
        if archive.holds:
            (root / archive.name).unlink()
    assert download(source_name, root, table=table) == root and not site.requests


def test_the_table_of_the_published_archives() -> None:
    archives = [archive for row in ARCHIVES.values() for archive in row]
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) and archive.size_bytes > 0 for archive in archives)
    assert len({archive.md5 for archive in archives}) == len({archive.url for archive in archives}) == len(archives)
    assert all(bool(archive.holds) == archive.name.endswith((".tgz", ".zip")) for archive in archives)


def test_a_cut_download_resumes_where_it_stopped(site: Site, blob: dict, tmp_path: Path) -> None:
    site.faults = [20_000, 10_000, "503", "404"]
    assert "404" in problem(blob, tmp_path)
    assert (tmp_path / "blob.bin.part").read_bytes() == site.files["blob.bin"][:30_000]
    download("blob", tmp_path, table=blob)
    assert (tmp_path / "blob.bin").read_bytes() == site.files["blob.bin"]
    assert [asked for _, asked in site.requests] == [None, "bytes=20000-", *["bytes=30000-"] * 3]


def test_attempts_are_bounded(site: Site, blob: dict, tmp_path: Path) -> None:
    site.faults = [1] * 100
    message = problem(blob, tmp_path)
    assert "stopped after 4 of 50,000 bytes" in message and "http://example.org/page" in message
    assert len(site.requests) == sharding.download.over_http.ATTEMPTS
    # Attempts that bring something do not count.
    big = {"big": (entry(site, "big.bin", bytes(10 * 2**20)),)}
    site.faults = [2**20 + 1] * 9
    download("big", tmp_path, table=big)


def test_a_server_without_ranges_sends_all_again(site: Site, blob: dict, tmp_path: Path) -> None:
    site.ranges, site.faults = False, [20_000, 30_000, "no length"]
    download("blob", tmp_path, table=blob)
    assert (tmp_path / "blob.bin").read_bytes() == site.files["blob.bin"]
    assert [asked for _, asked in site.requests] == [None, "bytes=20000-", "bytes=30000-"]


def test_another_range_than_asked_for_is_refused(site: Site, blob: dict, tmp_path: Path) -> None:
    site.faults = [20_000, "other range"]
    assert "Content-Range bytes 20001-49999/50000, but should with bytes 20000-" in problem(blob, tmp_path)
    download("blob", tmp_path, table=blob)


def test_a_web_page_is_no_archive(site: Site, tmp_path: Path) -> None:
    table = tiny_table(site, "celeba")
    site.faults = ["html"]
    message = problem(table, tmp_path)
    assert "web page (HTML) in place of list_eval_partition.txt" in message
    assert "download list_eval_partition.txt, img_align_celeba.zip by hand from http://example.org/page" in message
    assert not (tmp_path / "list_eval_partition.txt").exists()
    # As advised: by hand, into the folder.
    for name, data in site.files.items():
        (tmp_path / name).write_bytes(data)
    site.requests.clear()
    assert len(open_source("celeba", download("celeba", tmp_path, table=table)).images()) == 3 and not site.requests


def test_a_web_page_in_the_middle_costs_nothing(site: Site, blob: dict, tmp_path: Path) -> None:
    site.faults = [20_000, "html"]
    assert "web page" in problem(blob, tmp_path)
    assert (tmp_path / "blob.bin.part").stat().st_size == 20_000
    download("blob", tmp_path, table=blob)


def test_wrong_bytes_are_removed(site: Site, blob: dict, tmp_path: Path) -> None:
    right = site.files["blob.bin"]
    site.files["blob.bin"] = wrong = bytes([right[0] ^ 1]) + right[1:]
    message = problem(blob, tmp_path)
    assert hashlib.md5(wrong).hexdigest() in message and hashlib.md5(right).hexdigest() in message
    assert not [path.name for path in tmp_path.iterdir() if "blob" in path.name]
    site.files["blob.bin"] = right[:-1]
    assert "Content-Length 49999, but should with 50000" in problem(blob, tmp_path)
    site.faults = ["no length"] * 9
    assert "answers 416" in problem(blob, tmp_path) and not (tmp_path / "blob.bin").exists()


def test_a_damaged_or_overlong_part_is_found(site: Site, blob: dict, tmp_path: Path) -> None:
    (tmp_path / "blob.bin.part").write_bytes(bytes(20_000))
    assert "MD5" in problem(blob, tmp_path) and not (tmp_path / "blob.bin.part").exists()
    (tmp_path / "blob.bin.part").write_bytes(bytes(60_000))
    download("blob", tmp_path, table=blob)
    assert (tmp_path / "blob.bin").read_bytes() == site.files["blob.bin"]


def test_a_wrong_local_archive_is_named_and_kept(site: Site, blob: dict, tmp_path: Path) -> None:
    for data, found in ((b"own", "3 bytes"), (bytes(50_000), hashlib.md5(bytes(50_000)).hexdigest())):
        (tmp_path / "blob.bin").write_bytes(data)
        assert found in problem(blob, tmp_path) and (tmp_path / "blob.bin").read_bytes() == data
    assert not site.requests


def test_without_a_network(site: Site, blob: dict, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        for host in (dead, "no-such-host.invalid"):
            table = {"blob": (Archive("blob.bin", f"http://{host}/b", 9, "0" * 32, "http://example.org/page"),)}
            message = problem(table, tmp_path)
            assert f"http://{host}/b" in message and f"put it into {tmp_path}" in message


def test_a_folder_that_cannot_be_written(site: Site, blob: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert str(tmp_path / "file") in problem(blob, tmp_path / "file" / "below")
    with pytest.raises(UserError, match="only for celeba, cub, flowers"):
        download("synthetic", tmp_path)


COMMAND = """
import sys
from pathlib import Path
from sharding.download import download
from sharding.download.archives import Archive
name, url, size, md5, folder = sys.argv[1:]
download("blob", Path(folder), table={"blob": (Archive(name, url, int(size), md5, "page"),)})
"""


@pytest.mark.integration
def test_a_killed_download_is_resumed_and_a_second_one_refused(site: Site, blob: dict, tmp_path: Path) -> None:
    archive, site.gap_s = blob["blob"][0], 0.1
    arguments = [archive.name, archive.url, str(archive.size_bytes), archive.md5, str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], cwd=ROOT)
    part = tmp_path / "blob.bin.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size >= 8192):
        time.sleep(0.01)
    assert "another download" in problem(blob, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept_bytes, site.gap_s = part.stat().st_size, 0.0
    assert 8192 <= kept_bytes < 50_000
    download("blob", tmp_path, table=blob)
    assert site.requests[1:] == [("blob.bin", f"bytes={kept_bytes}-")]
    assert (tmp_path / "blob.bin").read_bytes() == site.files["blob.bin"]


# Unpacking


def test_interrupted_unpacking_is_redone(site: Site, tmp_path: Path) -> None:
    table = tiny_table(site, "flowers")
    download("flowers", tmp_path, table=table)
    shutil.rmtree(tmp_path / "jpg")
    left = tmp_path / ".102flowers.tgz.unpacking/jpg"  # as a kill leaves it
    left.mkdir(parents=True)
    (left / "image_00009.jpg").write_bytes(b"half")
    assert len(open_source("flowers", download("flowers", tmp_path, table=table)).images()) == 3
    assert not left.parent.exists()


def test_a_folder_of_another_origin_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    assert "leaving out --download" in problem(tiny_table(site, "flowers"), tmp_path) and not site.requests
    (tmp_path / "jpg/.unpacked").write_text("0" * 32)  # from another edition of the archive
    assert "leaving out --download" in problem(tiny_table(site, "flowers"), tmp_path) and not site.requests
    assert [path.name for path in (tmp_path / "jpg").iterdir()] == [".unpacked"]


def link(target: str) -> bytes:
    """An archive with the folder x and a link in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("x/link")
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)
    return buffer.getvalue()


def damaged(data: bytes) -> bytes:
    """One byte in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


NOISE = np.random.default_rng(0).bytes(9999)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("dots.tgz", tgz({"x/a": b"", "../../outside": b"evil"})),
        ("absolute-link.tgz", link("/etc/passwd")),
        ("link.tgz", link("../../../outside")),
        ("cut.tgz", tgz({"x/a": NOISE})[:5000]),
        ("cut.zip", zipped({"x/a": NOISE})[:-20]),
        ("damaged.zip", damaged(zipped({"x/a": NOISE}))),
        ("neither.tgz", b"neither tar nor zip"),
        ("neither.zip", b"neither tar nor zip"),
        ("other.tgz", tgz({"y/a": b""})),
        ("file.tgz", tgz({"x": b"a file"})),
    ],
)
def test_a_bad_archive_leaves_nothing(site: Site, tmp_path: Path, name: str, data: bytes) -> None:
    folder = tmp_path / "deep" / "folder"
    assert str(folder / name) in problem({"evil": (entry(site, name, data, "x"),)}, folder)
    assert sorted(path.name for path in folder.iterdir()) == [".download.lock", name]
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("member", ["../../outside", "/tmp/outside"])
def test_a_zip_cannot_write_outside_of_its_folder(site: Site, tmp_path: Path, member: str) -> None:
    folder = tmp_path / "deep" / "folder"
    download("evil", folder, table={"evil": (entry(site, "evil.zip", zipped({"x/a": b"", member: b"evil"}), "x"),)})
    assert sorted(path.name for path in (folder / "x").iterdir()) == [".unpacked", "a"]
    assert not list(tmp_path.rglob("outside")) and not Path("/tmp/outside").exists()
